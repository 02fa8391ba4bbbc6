"""The API on DynamoDB, in a new process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from chat.storage.dynamodb.tables import InteractionTable, StateTable
from tests.dynamodb_local import botocore_client, variables
from tests.server_process import user_in_fresh_window

ASK = """
import json, sys, django
django.setup()
from django.test import Client
http = Client()
answers = []
for method, path, body, headers in json.loads(sys.argv[1]):
    data = json.dumps(body) if body else ""
    answer = http.generic(method, path, data, "application/json", headers=headers)
    body = answer.content.decode() if hasattr(answer, "content") else ""
    answers.append([answer.status_code, dict(answer.headers), body])
print(json.dumps(answers))
"""

QUESTION = {
    "userId": "user123",
    "prompt": "Olá!",
    "system": "Be brief.",
    "temperature": 0.1,
    "metadata": {"ticket": "7"},
}


@pytest.fixture
def ask(dynamodb: str) -> Callable[..., list[Any]]:
    """Send requests to the API on DynamoDB."""

    def send(*requests: Any, **environment: str) -> list[Any]:
        command = [sys.executable, "-c", ASK, json.dumps(requests)]
        environment = {
            **variables(dynamodb),
            "DJANGO_SETTINGS_MODULE": "chatproject.settings",
            "ENV_FILE": os.devnull,
            "SECRET_KEY": "tests",
            "ALLOWED_HOSTS": "testserver",
            "STORAGE": "dynamodb",
            "TABLE_NAME": InteractionTable.Meta.table_name,
            "STATE_TABLE_NAME": StateTable.Meta.table_name,
            **environment,
        }
        ran = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=60
        )
        answers: list[Any] = json.loads(ran.stdout)
        return answers

    return send


def test_a_chat_leaves_an_item_with_every_attribute(ask: Callable[..., list[Any]]) -> None:
    ((status, _, body),) = ask(
        ["POST", "/v1/chat", QUESTION, {"X-Request-ID": "request-1"}], RETENTION_DAYS="30"
    )
    assert status == 200
    answer = json.loads(body)
    (item,) = botocore_client().scan(TableName=InteractionTable.Meta.table_name)["Items"]
    assert item["interaction_id"] == item["conversation_id"] == {"S": answer["interaction_id"]}
    assert item["created_at"] == {"S": answer["timestamp"]}
    assert item["owner_user"] == {"S": "default#user123"}
    assert item["prompt"] == {"S": "Olá!"}
    assert item["system"] == {"S": "Be brief."}
    assert item["response"] == {"S": answer["response"]}
    assert item["parameters"] == {"S": '{"temperature":0.1}'}
    assert item["metadata"] == {"S": '{"ticket":"7"}'}
    assert item["request_id"] == {"S": "request-1"}
    assert item["status"] == {"S": "ok"}
    assert item["total_tokens"] == {"N": str(answer["usage"]["total_tokens"])}
    assert item["cost_usd"] == {"S": "0"}
    assert int(item["expires_at"]["N"]) > 1_700_000_000 + 30 * 86_400
    expected = {"schema", "write_id", "owner", "user_id", "deadline_at", "provider", "model"}
    expected |= {"finish_reason", "cached", "latency_ms", "attempts", "prompt_tokens"}
    assert expected <= item.keys()


def test_a_repeated_idempotency_key_replays_the_answer(ask: Callable[..., list[Any]]) -> None:
    keyed = {"Idempotency-Key": "key-1"}
    requests = [["POST", "/v1/chat", QUESTION, keyed]] * 2
    other = ["POST", "/v1/chat", {**QUESTION, "prompt": "Another"}, keyed]
    first, second, third = ask(*requests, other)
    assert (first[0], second[0], third[0]) == (200, 200, 422)
    assert first[2] == second[2]
    assert second[1]["Idempotency-Replayed"] == "true"
    assert len(botocore_client().scan(TableName=InteractionTable.Meta.table_name)["Items"]) == 1


def test_requests_are_counted_and_limited(ask: Callable[..., list[Any]]) -> None:
    # Processes begin slowly, and over the end of a minute counting would begin anew.
    request = ["POST", "/v1/chat", {**QUESTION, "userId": user_in_fresh_window()}, {}]
    (first,) = ask(request, RATE_LIMIT_PER_MINUTE="3")
    answers = ask(*[request] * 3, RATE_LIMIT_PER_MINUTE="3")
    assert [answer[0] for answer in [first, *answers]] == [200, 200, 200, 429]
    assert [answer[1]["X-RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
    (more,) = ask(request, RATE_LIMIT_PER_MINUTE="3")
    assert more[0] == 429


def test_an_answer_is_cached_and_read_back(ask: Callable[..., list[Any]]) -> None:
    request = ["POST", "/v1/chat", QUESTION, {}]
    first, second = ask(request, request, ENABLE_CACHE="true")
    assert [json.loads(answer[2])["cached"] for answer in (first, second)] == [False, True]
    path = f"/v1/interactions/{json.loads(second[2])['interaction_id']}"
    ((status, _, body),) = ask(["GET", path, None, {}])
    assert (status, json.loads(body)["status"]) == (200, "ok")


def test_pages_are_served_and_the_admin_is_not(ask: Callable[..., list[Any]]) -> None:
    paths = ["/v1/health", "/v1/ready", "/docs", "/redoc", "/openapi.json", "/"]
    script = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"
    answers = ask(*(["GET", path, None, {}] for path in [*paths, script, "/admin/"]))
    assert [answer[0] for answer in answers] == [200] * 7 + [404]


def test_an_outage_is_answered_at_once_and_as_a_problem(ask: Callable[..., list[Any]]) -> None:
    chat, ready = ask(
        ["POST", "/v1/chat", QUESTION, {}],
        ["GET", "/v1/ready", None, {}],
        AWS_ENDPOINT_URL_DYNAMODB="http://127.0.0.1:9",
    )
    assert chat[0] == ready[0] == 503
    assert json.loads(chat[2])["code"] == "storage_unavailable"
    assert json.loads(ready[2])["checks"] == {
        "storage": "The storage is unreachable",
        "provider": "ok",
    }
