"""Secrets in AWS, read from a stub of its services over real sockets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server_process import base_environment
from tests.stub_vendor import StubVendor

ROOT = Path(__file__).parent.parent.parent
PARAMETERS = {
    "Parameters": [
        {"Name": "/chat/gemini", "ARN": "arn:aws:ssm:::parameter/chat/gemini", "Value": "key-1\n"},
        {"Name": "/chat/keys", "ARN": "arn:aws:ssm:::parameter/chat/keys", "Value": "a,b"},
    ],
    "InvalidParameters": [],
}
SECRETS = {
    "SecretValues": [
        {"Name": "chat/secret", "ARN": "arn:aws:secretsmanager:::x", "SecretString": "s3cret"}
    ],
    "Errors": [],
}


@pytest.fixture
def aws():
    with StubVendor() as aws:
        yield aws


def settings(aws, **variables):
    """Load the settings with these variables in a new process."""
    environment = {
        **base_environment(),
        "ENV_FILE": os.devnull,
        "AWS_ENDPOINT_URL": aws.url,
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "access",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_SESSION_TOKEN": "session",
        "SECRET_KEY": "tests",
        **variables,
    }
    program = (
        "import json; from chatproject import settings as s;"
        "print(json.dumps([s.GEMINI_API_KEY, s.API_KEYS, s.SECRET_KEY, s.LLM_PROVIDER]))"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_parameters_are_read_in_one_signed_request(aws):
    aws.reply(PARAMETERS)
    done = settings(aws, GEMINI_API_KEY_SSM="/chat/gemini", API_KEYS_SSM="/chat/keys")
    assert json.loads(done.stdout) == ["key-1", ["a", "b"], "tests", "gemini"]
    (request,) = aws.requests
    assert request.json == {"Names": ["/chat/gemini", "/chat/keys"], "WithDecryption": True}
    assert request.headers["x-amz-target"] == "AmazonSSM.GetParameters"
    assert request.headers["x-amz-security-token"] == "session"
    assert "/eu-west-1/ssm/aws4_request" in request.headers["authorization"]


def test_secrets_are_read_in_one_signed_request(aws):
    aws.reply(SECRETS)
    done = settings(aws, SECRET_KEY="", SECRET_KEY_SECRET="arn:aws:secretsmanager:::x")
    assert json.loads(done.stdout) == ["", [], "s3cret", "mock"]
    (request,) = aws.requests
    assert request.json == {"SecretIdList": ["arn:aws:secretsmanager:::x"]}
    assert request.headers["x-amz-target"] == "secretsmanager.BatchGetSecretValue"


def test_a_variable_takes_precedence_over_its_parameter(aws):
    aws.reply(PARAMETERS)
    done = settings(aws, GEMINI_API_KEY="mine", GEMINI_API_KEY_SSM="/chat/gemini")
    assert json.loads(done.stdout)[0] == "mine"


def test_without_such_variables_no_request_is_sent(aws):
    assert settings(aws).returncode == 0
    assert aws.requests == []


def test_throttled_requests_are_retried(aws):
    throttled = {"__type": "com.amazonaws.ssm#ThrottlingException"}
    aws.reply(throttled, status=400)
    aws.reply(PARAMETERS)
    assert settings(aws, GEMINI_API_KEY_SSM="/chat/gemini").returncode == 0
    assert len(aws.requests) == 2


NO_VALUE = (
    "GEMINI_API_KEY: no value at /chat/gemini. Check the name, the region and the permissions."
)


@pytest.mark.parametrize(
    ("answer", "status", "calls", "sentence"),
    [
        ({"Parameters": []}, 200, 1, NO_VALUE),
        ({"__type": "x#AccessDeniedException"}, 400, 1, "ssm answered 400 AccessDeniedException."),
        ({}, 503, 4, "ssm answered 503"),
    ],
    ids=["missing", "denied", "down"],
)
def test_an_unreadable_secret_stops_the_start_with_an_error(aws, answer, status, calls, sentence):
    aws.reply(answer, status=status)
    done = settings(aws, GEMINI_API_KEY_SSM="/chat/gemini")
    assert done.returncode != 0
    assert sentence in done.stderr.splitlines()[-1]
    assert "hidden" not in done.stderr
    assert len(aws.requests) == calls


def test_an_unreachable_service_stops_the_start_with_an_error():
    with StubVendor() as gone:
        pass
    done = settings(gone, GEMINI_API_KEY_SSM="/chat/gemini")
    assert done.stderr.splitlines()[-1].endswith("ssm cannot be reached.")


def test_the_error_says_that_region_or_credentials_are_missing(aws):
    done = settings(aws, GEMINI_API_KEY_SSM="/chat/gemini", AWS_REGION="", AWS_DEFAULT_REGION="")
    assert "ssm needs AWS_REGION and credentials." in done.stderr
