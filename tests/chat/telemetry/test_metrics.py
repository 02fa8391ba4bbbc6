"""Metrics in CloudWatch's embedded format: members of the one line that each request leaves."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import jsonschema
import pytest

from chat.telemetry import metrics
from chat.telemetry.metrics import METRICS
from providers.base import Completion, Usage
from providers.router import Attempt
from tests.client import ApiClient
from tests.deployment.configuration import local_values
from tests.factories import ANSWERED, KEY, FakeProvider, store_record
from tests.lambda_events import v2
from tests.server_process import ROOT, base_environment
from tests.stub_vendor import DONE, FINISH, OPENAI_ANSWER, USAGE, StubVendor, chunk

# A stream is asked for in a thread of its own, which has to see what is in the database.
pytestmark = pytest.mark.django_db(transaction=True)

Log = Callable[[], list[dict[str, Any]]]

# The specification: what an object of `_aws` must hold, and that it may hold nothing else.
NAME = {"type": "string", "minLength": 1, "maxLength": 1024, "pattern": "[!-~]"}
UNITS = """
    Seconds Microseconds Milliseconds Percent Count Count/Second None
    Bytes Kilobytes Megabytes Gigabytes Terabytes Bits Kilobits Megabits Gigabits Terabits
    Bytes/Second Kilobytes/Second Megabytes/Second Gigabytes/Second Terabytes/Second
    Bits/Second Kilobits/Second Megabits/Second Gigabits/Second Terabits/Second
""".split()  # noqa: SIM905
DEFINITION = {
    "type": "object",
    "required": ["Name"],
    "properties": {
        "Name": NAME,
        "Unit": {"enum": UNITS},
        "StorageResolution": {"enum": [1, 60]},
    },
    "additionalProperties": False,
}
DIRECTIVE = {
    "type": "object",
    "required": ["Namespace", "Dimensions", "Metrics"],
    "properties": {
        "Namespace": NAME,
        "Dimensions": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "array", "maxItems": 30, "uniqueItems": True, "items": NAME},
        },
        "Metrics": {"type": "array", "minItems": 1, "maxItems": 100, "items": DEFINITION},
    },
    "additionalProperties": False,
}
DOCUMENT = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                "Timestamp": {"type": "integer", "minimum": 1_700_000_000_000},
                "CloudWatchMetrics": {"type": "array", "minItems": 1, "items": DIRECTIVE},
            },
            "additionalProperties": False,
        }
    },
}
DIMENSION = {"type": "string", "minLength": 1, "maxLength": 1024}
VALUE = {
    "oneOf": [
        {"type": "number"},
        {"type": "array", "minItems": 1, "maxItems": 100, "items": {"type": "number"}},
    ]
}

Found = dict[tuple[str, ...], dict[str, Any]]


def extracted(line: dict[str, Any]) -> Found:
    """The metrics that CloudWatch finds in a line, by the values of their dimensions."""
    jsonschema.validate(line, DOCUMENT)
    found: Found = {}
    for directive in line["_aws"]["CloudWatchMetrics"]:
        assert directive["Namespace"] == "ServerlessChatApi"
        for names in directive["Dimensions"]:
            for name in names:
                jsonschema.validate(line[name], DIMENSION)
            of_set = found.setdefault(tuple(line[name] for name in names), {})
            for definition in directive["Metrics"]:
                jsonschema.validate(line[definition["Name"]], VALUE)
                assert definition["Name"] not in of_set
                of_set[definition["Name"]] = line[definition["Name"]]
    return found


@pytest.fixture
def metered(change_settings: Callable[..., None], log_lines: Log) -> Callable[[], Found]:
    """The metrics of the only line that is logged from now on. Cold starts are a process's own."""
    change_settings(METRICS=True, SERVICE_NAME="function-1")

    def only() -> Found:
        [line] = log_lines()
        found = extracted(line)
        found["function-1",].pop("ColdStarts", None)
        return found

    return only


ANSWER = Completion(
    message={"content": "Hello"},
    model="model-1",
    finish_reason="stop",
    usage=Usage(prompt_tokens=9, completion_tokens=41, cost_usd=Decimal("0.000104")),
)


def test_an_answer_has_its_latency_tokens_and_cost(
    api: ApiClient, metered: Callable[[], Found], use_provider: Callable[[Any], None]
):
    use_provider(FakeProvider(ANSWER))
    assert api.chat().status_code == 200
    assert metered() == {
        ("function-1",): {
            "Requests": 1,
            "Latency": ANY,
            "PromptTokens": 9,
            "CompletionTokens": 41,
            "CostUSD": 0.000104,
        },
        ("function-1", FakeProvider.name): {"ProviderLatency": [ANY]},
    }


def test_unknown_values_are_left_out(
    api: ApiClient, metered: Callable[[], Found], use_provider: Callable[[Any], None]
):
    use_provider(
        FakeProvider(
            Completion(message={"content": "Hello"}, model="model-1", finish_reason="stop")
        )
    )
    api.chat()
    assert metered()["function-1",] == {"Requests": 1, "Latency": ANY}


def test_a_failure_counts_by_its_code_and_its_vendor(
    api: ApiClient, metered: Callable[[], Found], vendor: StubVendor
):
    vendor.reply({"error": {"code": "insufficient_quota", "message": "no"}}, status=429)
    assert api.chat().status_code == 503
    assert metered() == {
        ("function-1",): {"Requests": 1, "Errors": 1, "Latency": ANY, "ProviderErrors": 1},
        ("function-1", "provider_unavailable"): {"Errors": 1},
        ("function-1", "openai"): {"ProviderErrors": 1, "ProviderLatency": [ANY]},
    }


def test_a_fallback_is_no_error_and_shows_the_vendor_that_failed(
    api: ApiClient,
    metered: Callable[[], Found],
    vendor: StubVendor,
    change_settings: Callable[..., None],
):
    options = {"api_key": "k", "base_url": f"{vendor.url}/v1", "model": "model-1"}
    change_settings(PROVIDERS={"openai": options, "mock": {}})
    vendor.reply({"error": {"code": "insufficient_quota", "message": "no"}}, status=429)
    assert api.chat("two words").json()["provider"] == "mock"
    found = metered()
    assert found["function-1",] | {"CostUSD": ANY} == {
        "Requests": 1,
        "Latency": ANY,
        "ProviderErrors": 1,
        "Fallbacks": 1,
        "PromptTokens": 2,
        "CompletionTokens": 4,
        "CostUSD": ANY,
    }
    assert found["function-1", "openai"] == {"ProviderErrors": 1, "ProviderLatency": [ANY]}
    assert len(found) == 2


def test_each_attempt_that_failed_counts(change_settings: Callable[..., None]):
    change_settings(METRICS=True)
    attempts = [
        Attempt(provider=provider, model="m", outcome=outcome, latency_ms=latency)
        for provider, outcome, latency in (
            ("openai", "provider_error", 5),
            ("openai", "provider_timeout", 6),
            ("gemini", "provider_unavailable", 7),
            ("mock", "content_filtered", 8),
        )
    ]
    assert metrics.outcome_metrics(Usage(), attempts, "openai") == {
        "Provider": "openai",
        "ProviderLatency": [5, 6],
        "ProviderErrors": 3,
        "Fallbacks": 1,
    }


def test_content_that_is_refused_is_not_the_vendor_s_error(
    api: ApiClient, metered: Callable[[], Found]
):
    assert api.chat("mock:filter").status_code == 422
    assert metered() == {
        ("function-1",): {"Requests": 1, "Errors": 1, "Latency": ANY},
        ("function-1", "content_filtered"): {"Errors": 1},
        ("function-1", "mock"): {"ProviderLatency": [ANY]},
    }


def test_a_refusal_has_no_latency(api: ApiClient, metered: Callable[[], Found]):
    api.chat(7)
    assert metered() == {
        ("function-1",): {"Requests": 1, "Errors": 1},
        ("function-1", "validation_error"): {"Errors": 1},
    }


def test_a_replayed_answer_costs_nothing(
    api: ApiClient, change_settings: Callable[..., None], log_lines: Log
):
    change_settings(METRICS=True, SERVICE_NAME="function-1")
    for _ in range(2):
        api.chat(headers={"Idempotency-Key": "key-1"})
    assert extracted(log_lines()[1]) == {("function-1",): {"Requests": 1, "Latency": ANY}}


def test_a_stream_has_one_line_with_all_of_it(
    api: ApiClient, metered: Callable[[], Found], vendor: StubVendor
):
    vendor.stream([chunk("Hel"), chunk("lo"), FINISH, USAGE, DONE])
    response = api.chat(stream=True)
    b"".join(response.streaming_content)
    response.close()
    found = metered()
    usage = OPENAI_ANSWER["usage"]
    assert found["function-1",] == {
        "Requests": 1,
        "Latency": ANY,
        "PromptTokens": usage["prompt_tokens"],
        "CompletionTokens": usage["completion_tokens"],
    }
    assert found["function-1", "openai"] == {"ProviderLatency": [ANY]}


def test_a_stream_that_breaks_off_is_an_error(
    api: ApiClient, metered: Callable[[], Found], vendor: StubVendor
):
    vendor.stream([chunk("Hel")])
    response = api.chat(stream=True)
    b"".join(response.streaming_content)
    response.close()
    assert response.status_code == 200
    assert metered()["function-1",] == {
        "Requests": 1,
        "Errors": 1,
        "Latency": ANY,
        "PromptTokens": 3,  # estimated
        "CompletionTokens": 1,
        "ProviderErrors": 1,
    }


def test_reads_have_no_metrics(
    api: ApiClient, change_settings: Callable[..., None], log_lines: Log
):
    change_settings(METRICS=True)
    store_record(ANSWERED)
    api.get("/v1/health")
    api.get(f"/v1/interactions/{ANSWERED.interaction_id}")
    assert len(log_lines()) == 2
    assert not any("_aws" in line or "Requests" in line for line in log_lines())


def test_without_metrics_the_line_has_none(api: ApiClient, log_lines: Log):
    api.chat()
    api.chat(7)
    assert len(log_lines()) == 2
    members = {"_aws", "emf", "Service", "Code", "Provider", *METRICS}
    assert not any(members & line.keys() for line in log_lines())


@pytest.mark.parametrize("prompt", ["swordfish", "swordfish mock:fail", "swordfish mock:filter"])
def test_the_metrics_have_no_content(
    api: ApiClient,
    require_api_key: list[str],
    change_settings: Callable[..., None],
    log_lines: Log,
    prompt: str,
):
    change_settings(METRICS=True)
    api.chat(prompt, headers={"X-API-Key": KEY}, system="trombone")
    api.chat(prompt, headers={"X-API-Key": "sk-unknown-kazoo"})
    assert [bool(extracted(line)) for line in log_lines()] == [True, True]
    for said in ("swordfish", "trombone", "kazoo", "You said", KEY):
        assert said not in json.dumps(log_lines())


# --- Terraform ------------------------------------------------------------------------------------


def watched() -> set[tuple[str, tuple[str, ...]]]:
    """Names and dimensions of our metrics that alarms and the dashboard use."""
    values = local_values()
    assert values["metrics"] == metrics.NAMESPACE
    assert values["service"].keys() == {"Service"}
    alarms = [each for each in values["alarms"].values() if each["namespace"] == "${local.metrics}"]
    assert {each["dimensions"] for each in alarms} == {"${local.service}"}
    names, line = values["service_metric"].split(" : ")
    assert line == 'name => [local.metrics, name, "Service", local.name]}}'
    drawn = {*re.findall(r'"(\w+)"', names), *(each["metric"] for each in alarms)}
    searches = re.findall(
        r'SEARCH\(\\?\'\{\$\{local\.metrics\},([\w,]+)\} MetricName="(\w+)"', str(values["graphs"])
    )
    assert len(searches) == str(values["graphs"]).count("SEARCH(")
    return {(name, ("Service",)) for name in drawn} | {
        (name, tuple(dimensions.split(","))) for dimensions, name in searches
    }


def test_the_alarms_and_the_dashboard_use_the_metrics_that_there_are():
    ours = {(name, each) for name, metric in METRICS.items() for each in metric.dimensions}
    assert watched() == ours


def test_the_documented_log_lines_have_the_documented_metrics():
    text = (ROOT / "docs/operations.md").read_text()
    lines = [json.loads(line) for line in re.findall(r"```json\n(.+?)\n```", text, re.DOTALL)]
    *metered, read = lines
    named = [{name for each in extracted(line).values() for name in each} for line in metered]
    answered, fallback, failed, refused = named
    assert "ProviderErrors" not in answered
    assert {"Fallbacks", "ProviderErrors"} <= fallback
    assert {"Errors", "ProviderErrors"} <= failed
    assert refused == {"Requests", "Errors"}
    assert "_aws" not in read
    table = text.split("| metric |")[1].split("\n\n")[0]
    documented = re.findall(r"(?m)^\| (`.+?) \|", table)
    assert re.findall(r"\w+", " ".join(documented)) == list(METRICS)


# --- On Lambda ------------------------------------------------------------------------------------

RUN = """
import json, os, sys
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from chatproject.lambda_handler import handler
from tests.lambda_events import Context
for event in json.load(sys.stdin):
    handler(event, Context())
"""
TRACE = "1-67891233-abcdef012345678912345678"
OTHER_TRACE = "1-67891234-abcdef012345678912345678"


def on_lambda(folder: Path, *events: dict[str, Any], **variables: str) -> list[str]:
    """What the function logs of the events."""
    environment = {
        **base_environment(),
        "ENV_FILE": os.devnull,
        "DJANGO_SETTINGS_MODULE": "chatproject.settings",
        "AWS_LAMBDA_FUNCTION_NAME": "serverless-chat-api-dev",
        "STORAGE": "sqlite",
        "DATABASE_PATH": str(folder / "chat.db"),
        "SECRET_KEY": "tests",
        "_X_AMZN_TRACE_ID": f"Root={TRACE};Parent=53995c3f42cd8ad8;Sampled=0;Lineage=1:a:0",
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(events),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [line for line in done.stderr.splitlines() if "/v1/chat" in line]


def chat(**headers: str) -> dict[str, Any]:
    return v2(body={"userId": "u", "prompt": "two words"}, headers=headers)


def test_on_lambda_each_chat_is_metered_and_the_first_of_a_process_is_a_cold_start(tmp_path: Path):
    lines = on_lambda(tmp_path, chat(), chat(**{"x-amzn-trace-id": f"Root={OTHER_TRACE}"}))
    first, second = (json.loads(line) for line in lines)
    service = ("serverless-chat-api-dev",)
    assert extracted(first)[service]["ColdStarts"] == 1
    assert "ColdStarts" not in extracted(second)[service]
    assert (first["trace_id"], second["trace_id"]) == (TRACE, OTHER_TRACE)


def test_lines_for_people_have_no_metrics(tmp_path: Path):
    [line] = on_lambda(tmp_path, chat(), LOG_FORMAT="simple")
    assert re.search(r"INFO POST /v1/chat 200 \d+\.\d ms .*request_id=[\w-]+$", line)
    assert "_aws" not in line


def test_metrics_can_be_turned_off_on_lambda(tmp_path: Path):
    [line] = on_lambda(tmp_path, chat(), METRICS="false")
    assert "_aws" not in json.loads(line)


# --- The trace ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        f"Root={TRACE}",
        f"Root={TRACE};Parent=53995c3f42cd8ad8;Sampled=1",
        f"Self=1-67891234-12456789abcdef012345678a;Root={TRACE}",
        f"Sampled=?; Root={TRACE}; Own=1",
    ],
)
def test_the_line_has_the_trace_of_the_header(api: ApiClient, log_lines: Log, header: str):
    api.get("/v1/health", headers={"X-Amzn-Trace-Id": header})
    assert log_lines()[0]["trace_id"] == TRACE


@pytest.mark.parametrize(
    "header",
    [
        "",
        TRACE,
        "Root=",
        f"Root={TRACE}0",
        f"Root={TRACE.upper()}",
        f"NotRoot={TRACE}",
        'Root=1-67891233-"swordfish"',
        f"{'Own=1;' * 100}Root={TRACE}",
    ],
)
def test_an_invalid_trace_header_is_not_logged(api: ApiClient, log_lines: Log, header: str):
    api.get("/v1/health", headers={"X-Amzn-Trace-Id": header})
    assert "trace_id" not in log_lines()[0]
