# Everything runs in .venv, which is made with PYTHON (3.11 or newer) and filled from the locked,
# hashed requirements. Each step is skipped when there is nothing to do.

PYTHON ?= python3
VENV := .venv
FUNCTION ?= serverless-chat-api-$(ENV)
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
SUPPORTED := $(shell $(PYTHON) -c 'import sys; print("yes" if sys.version_info >= (3, 11) else "")' 2>/dev/null)
MADE := $(VENV)/made-with-$(VERSION)

.DEFAULT_GOAL := help
.PHONY: help run dev test lint fmt lock docker-env manage clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

run: $(VENV)/local ## Set up and serve the API on port 8000 (API_HOST, API_PORT)
	@$(BIN)/python manage.py serve

dev: $(VENV)/dev ## Set up all that development needs
	@echo "Ready. 'make test' runs the tests, 'make run' the API; settings go into .env (see .env.example)."

test: $(VENV)/dev ## Run all tests, with coverage
	$(BIN)/python -m pytest --numprocesses auto --cov --cov-report=term

lint: $(VENV)/dev ## Check style, types, migrations, configuration and the OpenAPI schema
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy chatproject chat providers
	$(BIN)/python manage.py check --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null

fmt: $(VENV)/dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/dev ## Lock the requirements anew (requirements/*.in -> *.txt, with hashes)
	@for name in base local lambda dev; do \
	  echo "locking requirements/$$name.txt"; \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras \
	    --no-emit-index-url --custom-compile-command "make lock" \
	    --output-file requirements/$$name.txt requirements/$$name.in || exit 1; \
	done

docker-env: ## Serve the API in a container, on DynamoDB Local (needs Docker)
	@docker compose version >/dev/null 2>&1 || { echo "Docker with Compose is needed: 'docker compose' does not run."; exit 1; }
	docker compose up --build

manage: ## Run a management command on Lambda: make manage ENV=prod CMD="create_tables"
	@command -v aws >/dev/null || { echo "The aws command line tool is needed."; exit 1; }
	@test -n "$(ENV)" -a -n "$(CMD)" || { echo 'Say where and what: make manage ENV=prod CMD="create_tables"'; exit 1; }
	@$(PYTHON) scripts/manage_on_lambda.py "$(FUNCTION)" $(CMD)

clean: ## Remove the virtual environment and what tools left (records and .env stay)
	rm -rf $(VENV) .cache .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache staticfiles
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
