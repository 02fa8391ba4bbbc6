"""Spans sent by OTLP, from the server and from Lambda, without content."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from tests.lambda_events import v2
from tests.otlp_collector import Collector, Span
from tests.server_process import ROOT, Server, base_environment, reserve_port
from tests.stub_vendor import DONE, FINISH, USAGE, StubVendor, chunk

AT_ONCE = {"OTEL_BSP_SCHEDULE_DELAY": "20"}
NEVER = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
REFUSED = {"error": {"code": "insufficient_quota", "message": "swordfish"}}


@dataclass
class Traced:
    """A server, its vendor, and the collector of its traces."""

    server: Server
    vendor: StubVendor
    collector: Collector

    def chat(self, count: int, prompt: str = "Olá!", **options: Any) -> tuple[Any, list[Span]]:
        """Return the answer to a chat and its spans below ours, the server's first."""
        trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
        headers = {"traceparent": f"00-{trace_id}-{span_id}-01", **options.pop("headers", {})}
        response = self.server.chat(prompt, headers=headers, **options)
        spans = self.collector.trace(trace_id, count)
        assert spans[0].parent_id == span_id
        assert {span.parent_id for span in spans[1:]} <= {spans[0].span_id}
        return response, spans


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    with StubVendor() as vendor, Collector() as collector:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-team=blue",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
            "OPENAI_BASE_URL": f"{vendor.url}/v1",
            "OPENAI_MODEL": "model-1",
            "GEMINI_API_KEY": "sk-of-the-vendor",
            "GEMINI_BASE_URL": f"{vendor.url}/v1beta",
            "GEMINI_MODEL": "model-2",
            "LLM_PROVIDER": "openai",
            "CIRCUIT_BREAKER_THRESHOLD": "1000",
            "RATE_LIMIT_PER_MINUTE": "0",
            "REQUIRE_API_KEY": "true",
            "API_KEYS": "sk-of-ours",
        }
        with Server(folder, **variables, **AT_ONCE) as server:
            yield Traced(server, vendor, collector)


@pytest.fixture
def traced(running: Traced) -> Traced:
    running.vendor.clear()
    return running


KEY = {"X-API-Key": "sk-of-ours"}


def test_a_chat_is_a_span_and_its_call_of_the_vendor_another(traced: Traced) -> None:
    options = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "stop": ["piccolo"]}
    response, [server, client] = traced.chat(2, headers={**KEY, "X-Request-ID": "mine"}, **options)
    answer = response.json()
    assert (server.name, server.kind, server.status) == ("POST /v1/chat", "SERVER", "UNSET")
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat",
        "http.response.status_code": 200,
        "http.response.header.x-request-id": ["mine"],
        "url.scheme": "http",
        "url.path": "/v1/chat",
        "chat.interaction_id": answer["interaction_id"],
    }
    assert (client.name, client.kind, client.status) == ("chat model-1", "CLIENT", "UNSET")
    assert client.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "model-1",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.max_tokens": 7,
        "gen_ai.conversation.id": answer["conversation_id"],
        "gen_ai.response.model": "stand-in-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 5,
        "server.address": "127.0.0.1",
        "server.port": traced.vendor.port,
    }
    assert 0 < client.seconds < server.seconds


def test_resource_attributes_come_from_the_variables(traced: Traced) -> None:
    _, [server, _] = traced.chat(2, headers=KEY)
    assert server.service["service.name"] == "serverless-chat-api"
    assert server.service["service.version"] == settings.VERSION
    assert server.service["deployment.environment.name"] == "test"
    assert traced.collector.headers[-1]["x-team"] == "blue"


def test_a_stream_is_a_span_until_its_end(traced: Traced) -> None:
    traced.vendor.stream([chunk("Hel"), chunk("lo"), FINISH, USAGE, DONE], gap=0.02)
    response, [server, client] = traced.chat(2, headers=KEY, stream=True)
    assert "event: done" in response.text
    assert client.attributes["gen_ai.request.stream"] is True
    assert client.attributes["gen_ai.usage.output_tokens"] == 5
    first = client.attributes["gen_ai.response.time_to_first_chunk"]
    assert 0.02 <= first < client.seconds < server.seconds
    assert client.seconds >= 0.1


def test_a_stream_that_breaks_off_is_an_error(traced: Traced) -> None:
    traced.vendor.stream([chunk("Hel")])
    response, [server, client] = traced.chat(2, headers=KEY, stream=True)
    assert response.status_code == 200
    assert [span.status for span in (server, client)] == ["ERROR", "ERROR"]
    assert [span.attributes["error.type"] for span in (server, client)] == ["provider_error"] * 2


def test_each_try_and_each_vendor_has_a_span(traced: Traced) -> None:
    traced.vendor.reply("busy", status=503, headers={"retry-after": "0"})
    traced.vendor.reply(REFUSED, status=429)
    traced.vendor.reply(
        {"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}
    )
    response, [server, *calls] = traced.chat(4, headers=KEY)
    assert response.json()["provider"] == "gemini"
    assert [
        (
            span.name,
            span.attributes["gen_ai.provider.name"],
            span.status,
            span.attributes.get("error.type"),
            span.message,
        )
        for span in calls
    ] == [
        ("chat model-1", "openai", "ERROR", "provider_unavailable", "HTTP 503"),
        ("chat model-1", "openai", "ERROR", "provider_unavailable", "HTTP 429 insufficient_quota"),
        ("chat model-2", "gcp.gemini", "UNSET", None, ""),
    ]
    assert server.status == "UNSET"


def test_a_failure_is_an_error_of_the_request(traced: Traced) -> None:
    traced.vendor.reply(REFUSED, status=401)
    response, [server, *calls] = traced.chat(3, headers=KEY)
    assert response.status_code == 502
    assert (server.status, server.attributes["error.type"]) == ("ERROR", "provider_error")
    assert server.attributes["http.response.status_code"] == 502
    assert len(calls) == 2


def test_a_client_error_does_not_mark_the_span_as_failed(traced: Traced) -> None:
    response, [server] = traced.chat(1)
    assert response.status_code == 401
    assert (server.status, "error.type" in server.attributes) == ("UNSET", False)


def test_a_disconnect_is_traced_as_aborted(traced: Traced) -> None:
    traced.vendor.stream([chunk("Hel"), *[chunk("lo")] * 500], gap=0.02)
    trace_id = secrets.token_hex(16)
    headers = {**KEY, "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    body = {"userId": "u", "prompt": "hi", "stream": True}
    with traced.server.client.stream("POST", "/v1/chat", json=body, headers=headers) as response:
        next(response.iter_raw())
    _, client = traced.collector.trace(trace_id, 2)
    assert client.attributes["error.type"] == "aborted"


def test_spans_hold_neither_content_nor_user_ids(traced: Traced) -> None:
    said = {"system": "trombone", "metadata": {"ticket": "kazoo"}, "stop": ["piccolo"]}
    traced.chat(2, "swordfish", user="tuba", headers=KEY, **said)
    traced.vendor.reply({"error": {"message": "swordfish"}}, status=400)
    traced.chat(2, "swordfish", user="tuba", headers=KEY, **said)
    for path in ("/v1/users/tuba/interactions?cursor=kazoo", "/swordfish?trombone=kazoo"):
        trace_id = secrets.token_hex(16)
        headers = {**KEY, "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
        traced.server.client.get(path, headers=headers)
        traced.collector.trace(trace_id, 1)
    sent = b"".join(traced.collector.bodies)
    assert b"/v1/users/<str:user_id>/interactions" in sent
    words = ("swordfish", "trombone", "kazoo", "piccolo", "tuba", "sk-of", "stand-in.", "Hello")
    for word in words:
        assert word.encode() not in sent


ROOT_ID, PARENT = "1-67891233-abcdef01234567891234{}", "53995c3f42cd8ad8"


@pytest.mark.parametrize(
    ("rest", "parent"),
    [
        ("", ""),
        (f";Parent={PARENT};Sampled=1", PARENT),
        (f";Parent={PARENT};Sampled=0;Lineage=1:a:0", ""),  # which X-Ray does not keep
    ],
)
def test_an_aws_trace_is_continued(traced: Traced, rest: str, parent: str) -> None:
    root = ROOT_ID.format(secrets.token_hex(2))
    traced.server.chat(headers={**KEY, "X-Amzn-Trace-Id": f"Root={root}{rest}"})
    server, client = traced.collector.trace(root[2:].replace("-", ""), 2)
    assert (server.parent_id, client.parent_id) == (parent, server.span_id)


def test_a_traceparent_header_takes_precedence_over_the_aws_trace(traced: Traced) -> None:
    root = ROOT_ID.format("5678")
    _, spans = traced.chat(2, headers={**KEY, "X-Amzn-Trace-Id": f"Root={root}"})
    assert len(spans) == 2


def test_the_log_line_has_the_trace_id(traced: Traced) -> None:
    _, [server, _] = traced.chat(2, headers={**KEY, "X-Request-ID": "found-by-its-id"})
    [line] = [
        line for line in traced.server.log.read_text().splitlines() if "found-by-its-id" in line
    ]
    assert json.loads(line)["trace_id"] == server.trace_id


def test_an_unsampled_trace_sends_no_spans(traced: Traced) -> None:
    trace_id = secrets.token_hex(16)
    headers = {**KEY, "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-00"}
    assert traced.server.chat(headers=headers).status_code == 200
    traced.chat(2, headers=KEY)
    assert trace_id not in {span.trace_id for span in traced.collector.spans}


# --- The ends of the process ----------------------------------------------------------------------


def test_a_stop_sends_the_remaining_spans(tmp_path: Path) -> None:
    with Collector() as collector:
        variables = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces",
            "OTEL_SERVICE_NAME": "mine",
            "WEB_CONCURRENCY": "1",
            **NEVER,
        }
        with Server(tmp_path, **variables) as server:
            assert server.chat().status_code == 200
            assert collector.spans == []
    assert {span.name for span in collector.spans} >= {"POST /v1/chat", "chat mock-1"}
    assert collector.spans[0].service["service.name"] == "mine"


def test_an_unreachable_endpoint_is_logged_once_and_delays_no_request(tmp_path: Path) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5",
        "WEB_CONCURRENCY": "1",
        **AT_ONCE,
    }
    with (
        reserve_port() as down,
        Server(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=address(down), **variables) as server,
    ):
        for _ in range(3):
            assert server.chat().status_code == 200
            _until(lambda: "Failed to export" in server.log.read_text())
            time.sleep(0.1)  # for the next batch to fail as well
        server.signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
    assert server.log.read_text().count("Failed to export") == 1
    assert "Traceback" not in server.log.read_text()


def address(down: socket.socket) -> str:
    return f"http://127.0.0.1:{down.getsockname()[1]}"


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- Lambda ---------------------------------------------------------------------------------------

FUNCTION = """
import json, os, sys
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from chatproject.lambda_handler import handler
from tests.lambda_events import Context
for line in sys.stdin:
    print(handler(json.loads(line), Context())["statusCode"], flush=True)
"""
TRACE = "1-67891233-abcdef012345678912345678"


class Function:
    """Start a process of the function that is ready for events."""

    def __init__(self, folder: Path, **variables: str) -> None:
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
        self.process = subprocess.Popen(
            [sys.executable, "-c", FUNCTION],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=ROOT,
            text=True,
        )

    def chat(self) -> int:
        assert self.process.stdin
        assert self.process.stdout
        event = v2(body={"userId": "u", "prompt": "two words"})
        self.process.stdin.write(json.dumps(event) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def __enter__(self) -> "Function":
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.communicate(timeout=60)


def test_on_lambda_the_spans_are_sent_before_the_answer(tmp_path: Path) -> None:
    with (
        Collector() as collector,
        Function(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **NEVER) as function,
    ):
        assert function.chat() == 200
        server, client = collector.spans  # the handler's own warming up is not among them
        assert (server.name, client.name) == ("POST /v1/chat", "chat mock-1")
        assert server.trace_id == client.trace_id == TRACE[2:].replace("-", "")
        assert (server.parent_id, client.parent_id) == ("", server.span_id)
        assert server.service["service.name"] == "serverless-chat-api-dev"


def test_on_lambda_a_hanging_endpoint_delays_no_answer_and_loses_no_span(
    tmp_path: Path,
) -> None:
    patient = {"OTEL_EXPORTER_OTLP_TIMEOUT": "600", **NEVER}
    with (
        Collector() as collector,
        Function(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **patient) as function,
    ):
        collector.paused.set()
        assert [function.chat() for _ in range(3)] == [200, 200, 200]
        assert collector.spans == []
        collector.paused.clear()
        assert len(collector.trace(TRACE[2:].replace("-", ""), 6)) == 6


def test_on_lambda_an_unreachable_endpoint_fails_no_request(tmp_path: Path) -> None:
    with (
        reserve_port() as down,
        Function(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=address(down)) as function,
    ):
        assert [function.chat() for _ in range(2)] == [200, 200]


# --- Off ------------------------------------------------------------------------------------------

IMPORTED = """
import sys
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.test import Client
question = {"userId": "u", "prompt": "hi"}
assert Client().post("/v1/chat", question, "application/json").status_code == 200
print([name for name in sys.modules if name.startswith(("opentelemetry", "google.protobuf"))])
"""


@pytest.mark.parametrize(
    "variables",
    [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_SDK_DISABLED": "true"}],
    ids=["no endpoint", "disabled"],
)
def test_without_an_endpoint_opentelemetry_is_not_imported(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    environment = {
        **base_environment(),
        "ENV_FILE": os.devnull,
        "DJANGO_SETTINGS_MODULE": "chatproject.settings",
        "DATABASE_PATH": str(tmp_path / "chat.db"),
        "ALLOWED_HOSTS": "testserver",
        **variables,
    }
    command = [sys.executable, "-c", IMPORTED]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
