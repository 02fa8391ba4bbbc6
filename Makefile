# Everything runs in .venv, made with PYTHON (3.11 or newer) from the locked requirements. Steps with
# nothing to do are skipped.

PYTHON ?= python3
VENV := .venv
FUNCTION ?= serverless-chat-api-$(ENV):live
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
SUPPORTED := $(shell $(PYTHON) -c 'import sys; print("yes" if sys.version_info >= (3, 11) else "")' 2>/dev/null)
MADE := $(VENV)/made-with-$(VERSION)

# aws uses the region of the environment's file, whatever its own configuration.
VARIABLES = terraform/environments/$(ENV).tfvars
REGION = $(shell sed -n 's/^region *= *"\(.*\)"/\1/p' $(VARIABLES) 2>/dev/null)
IN_REGION = $(if $(REGION),AWS_REGION=$(REGION) AWS_DEFAULT_REGION=$(REGION))
CHECKOV := checkov==3.3.30
PIP_AUDIT := pip-audit==2.10.1

.DEFAULT_GOAL := help
.PHONY: help run dev test bench lint lint-terraform audit fmt lock docker-env deploy secret logs manage destroy clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-16s %s\n", $$1, $$2 }'

run: $(VENV)/local ## Set up and serve the API on port 8000 (API_HOST, API_PORT)
	@$(BIN)/python manage.py serve

dev: $(VENV)/dev ## Set up all that development needs
	@echo "Ready. 'make test' runs the tests, 'make run' the API; settings go into .env (see .env.example)."

test: $(VENV)/dev ## Run all tests, with coverage
	@$(BIN)/python -m tests.clients.installation 2>/dev/null & # the tests report what fails
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --cov --cov-report=term

bench: $(VENV)/dev ## Run the benchmarks, or a part: make bench ONLY=server
	@$(BIN)/python -m benchmarks $(ONLY)

lint: style types layers django files ## Check style, types, layers, configuration, OpenAPI schema, Dockerfile, workflows

.PHONY: style types layers django files
style: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy chatproject chat providers

layers: $(VENV)/dev
	$(BIN)/lint-imports

django: $(VENV)/dev
	$(BIN)/python manage.py check --deploy --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null

files: $(VENV)/dev
	$(BIN)/hadolint Dockerfile
	$(BIN)/actionlint
	$(BIN)/zizmor --offline --quiet .github

lint-terraform: $(VENV)/dev ## Check terraform/ (needs terraform and the internet)
	terraform -chdir=terraform fmt -check -recursive
	terraform -chdir=terraform init -backend=false -input=false
	terraform -chdir=terraform validate
	terraform -chdir=terraform test
	$(BIN)/uv tool run $(CHECKOV) --directory terraform --framework terraform --compact --quiet

audit: $(VENV)/dev ## Look for known vulnerabilities of the packages (needs the internet)
	@for name in local lambda dev clients; do \
	  $(BIN)/uv tool run $(PIP_AUDIT) --disable-pip --require-hashes --requirement requirements/$$name.txt || exit 1; \
	done

fmt: $(VENV)/dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/dev ## Lock the requirements (requirements/*.in -> *.txt, with hashes)
	@for name in base local lambda dev clients; do \
	  echo "locking requirements/$$name.txt"; \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-strip-extras --custom-compile-command "make lock" \
	    --output-file requirements/$$name.txt requirements/$$name.in || exit 1; \
	done

docker-env: ## Serve the API in a container, on DynamoDB Local (needs Docker)
	@docker compose version >/dev/null 2>&1 || { echo "Docker with Compose is needed: 'docker compose' does not run."; exit 1; }
	docker compose up --build

deploy: environment ## Deploy this commit: make deploy ENV=dev
	@$(PYTHON) scripts/deploy.py $(ENV) $(if $(CI),--yes)

secret: environment ## Store a secret in SSM: make secret ENV=dev NAME=OPENROUTER_API_KEY
	@test -n "$(NAME)" || { echo "Say which: make secret ENV=$(ENV) NAME=OPENROUTER_API_KEY"; exit 1; }
	@$(IN_REGION) $(PYTHON) scripts/put_secret.py $(ENV) $(NAME)

logs: environment ## Follow the log of a deployment: make logs ENV=prod
	@$(IN_REGION) aws logs tail /aws/lambda/serverless-chat-api-$(ENV) --follow --since 10m --format short

manage: environment ## Run a management command on Lambda: make manage ENV=prod CMD="create_tables"
	@test -n "$(CMD)" || { echo 'Say what: make manage ENV=$(ENV) CMD="create_tables"'; exit 1; }
	@$(IN_REGION) $(PYTHON) scripts/manage_on_lambda.py "$(FUNCTION)" $(CMD)

destroy: environment ## Remove a deployment and its records, after a question: make destroy ENV=dev
	@terraform -chdir=terraform init -input=false -reconfigure -backend-config=environments/$(ENV).s3.tfbackend
	@terraform -chdir=terraform destroy -var-file=environments/$(ENV).tfvars -var=image_digest=

.PHONY: environment
environment:
	@test -n "$(ENV)" || { echo "Say where: ENV=dev, ENV=staging or ENV=prod."; exit 1; }
	@aws --version 2>/dev/null | grep -q '^aws-cli/2' || { echo "Version 2 of the aws command line tool is needed."; exit 1; }

clean: ## Remove .venv and caches; records and .env stay
	rm -rf $(VENV) .cache .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache staticfiles tests/clients/node/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@if [ -z "$(VERSION)" ]; then \
	  echo "Python 3.11 or newer is needed, and '$(PYTHON)' does not run. Install it, or name one: make PYTHON=python3.13 …"; exit 1; fi
	@if [ -z "$(SUPPORTED)" ]; then \
	  echo "Python 3.11 or newer is needed; '$(PYTHON)' is $(VERSION). Name another: make PYTHON=python3.13 …"; exit 1; fi
	@echo "Making $(VENV) with Python $(VERSION)"
	@$(PYTHON) -m venv --clear $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt install python$(VERSION)-venv"; exit 1; }
	@touch $@

$(VENV)/%: requirements/%.txt $(MADE)
	@echo "Installing requirements/$*.txt"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $< || { \
	  echo "The packages could not be installed: is a package index reachable?"; exit 1; }
	@touch $@
