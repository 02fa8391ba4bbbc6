"""What a cold start of the Lambda function imports."""

import json
import subprocess
import sys
from typing import Any

import certifi

ENVIRONMENT = {
    "AWS_LAMBDA_FUNCTION_NAME": "chat",
    "AWS_REGION": "eu-west-1",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "ENV_FILE": "/dev/null",
    "SECRET_KEY": "tests",
}
OPTIONAL = {"click", "django.contrib.postgres", "requests", "ssl", "uritemplate", "yaml"}
IMPORTED = """
import json, sys
from chatproject.lambda_handler import handler
print(json.dumps([name for name, module in sys.modules.items() if module]))
"""
DOCUMENTED = """
import json
from chatproject.lambda_handler import handler
from tests.lambda_events import Context, v2
print(handler(v2(path="/openapi.json", method="GET"), Context())["body"])
"""
FOUND = """
from chatproject.lambda_handler import settings
import requests, ssl, yaml
print(f'"{settings.TRANSPORT_OPTIONS["ca_file"]}"')
"""


def run(program: str, **variables: str) -> Any:
    """Return what a program in a fresh process prints, parsed as JSON."""
    command, environment = [sys.executable, "-c", program], ENVIRONMENT | variables
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def test_a_cold_start_imports_no_optional_parts() -> None:
    assert not {*OPTIONAL, "django.contrib.admin"} & set(run(IMPORTED))


def test_the_openapi_document_is_complete() -> None:
    assert "/v1/conversations/{conversation_id}" in run(DOCUMENTED)["paths"]


def test_the_settings_and_later_imports_find_the_optional_parts() -> None:
    assert run(FOUND, SSL_CERT_FILE=certifi.where()) == certifi.where()
