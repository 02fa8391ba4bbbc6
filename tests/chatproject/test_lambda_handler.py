"""The Lambda handler, called by each front."""

import base64
import gzip
import json
import logging
import time
from dataclasses import replace
from urllib.parse import quote
from uuid import uuid4

import pytest

from chat.models import Interaction
from chatproject import lambda_handler
from tests.factories import ANSWERED, store_record
from tests.lambda_events import Context, function_url, load_balancer, v1, v2

pytestmark = pytest.mark.django_db(transaction=True)

QUESTION = {"userId": "user123", "prompt": "Olá!"}
TALK = ANSWERED.conversation_id
FRONTS = [v1, v2, function_url, load_balancer]


@pytest.fixture(autouse=True)
def any_host(settings):
    settings.ALLOWED_HOSTS = ["*"]


def ask(event, **context):
    answer = lambda_handler.handler(event, Context(**context))
    json.dumps(answer)  # Lambda does
    return answer["statusCode"], json.loads(answer["body"])


def headers(answer):
    """Return an answer's headers; a 1.0 answer has lists of values if the event had them."""
    single = answer.get("headers") or {
        name: values[-1] for name, values in answer["multiValueHeaders"].items()
    }
    return {name.lower(): value for name, value in single.items()}


@pytest.fixture
def seen(monkeypatch):
    """Return the WSGI environments that the replaced application receives."""
    environs = []

    def application(environ, start_response):
        environs.append(environ)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b"{}"]

    monkeypatch.setattr(lambda_handler, "application", application)
    return environs


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("encoded", [False, True], ids=["text", "base64"])
def test_each_front_is_answered(front, encoded):
    status, body = ask(front(body=QUESTION, encoded=encoded))
    assert (status, body["prompt"], body["response"]) == (200, "Olá!", "You said: Olá!")
    assert Interaction.objects.get().response == "You said: Olá!"


@pytest.mark.parametrize("front", FRONTS)
def test_an_answer_to_head_has_no_body(front):
    answer = lambda_handler.handler(front(method="HEAD", path="/v1/health"), Context())
    assert (answer["statusCode"], answer["body"]) == (200, "")


@pytest.mark.parametrize(
    "event",
    [
        {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}},
        {"source": "aws.scheduler"},
        {"source": "serverless-plugin-warmup"},
        {"warmup": True},
    ],
)
def test_an_event_that_keeps_the_process_warm_does_not_reach_django(event, seen, caplog):
    caplog.set_level(logging.INFO, "chatproject")
    answer = lambda_handler.handler(event, Context())
    assert (answer["statusCode"], answer["body"], seen) == (200, "", [])
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "kept warm")
    ]


@pytest.mark.parametrize("front", FRONTS)
def test_each_front_takes_a_compressed_body(front):
    event = front(headers={"content-encoding": "gzip"})
    content = gzip.compress(json.dumps(QUESTION).encode())
    event |= {"body": base64.b64encode(content).decode(), "isBase64Encoded": True}
    status, body = ask(event)
    assert (status, body["prompt"]) == (200, "Olá!")


@pytest.mark.parametrize("front", FRONTS)
def test_errors_are_problem_details_on_each_front(front):
    answer = lambda_handler.handler(front(body="{"), Context())
    assert answer["statusCode"] == 400
    assert answer["isBase64Encoded"] is False
    assert json.loads(answer["body"])["code"] == "malformed_json"
    assert headers(answer)["content-type"] == "application/problem+json"
    assert headers(answer)["x-request-id"]


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("user", ["José Silva", "a#b?c", "100 %", "🦆"])
def test_each_front_finds_the_records_of_a_user(front, user):
    store_record(replace(ANSWERED, user_id=user))
    for path in (user, quote(user)):
        status, body = ask(front(path=f"/v1/users/{path}/interactions", method="GET"))
        assert (status, [item["userId"] for item in body["items"]]) == (200, [user])


def test_the_stage_of_an_http_api_is_not_part_of_the_path():
    status, body = ask(v2(path="/prod/v1/health", method="GET", stage="prod"))
    assert (status, body["status"]) == (200, "healthy")
    status, body = ask(v2(path="/production", method="GET", stage="prod"))
    assert status == 404


@pytest.mark.parametrize(
    ("event", "prefix"),
    [
        (v1(path="/", method="GET"), "/prod"),
        (v1(path="/", method="GET", base_path="/api"), "/api"),
        (v2(path="/prod/", method="GET", stage="prod"), "/prod"),
        (v2(path="/", method="GET"), ""),
    ],
    ids=["REST stage", "REST base path", "HTTP stage", "HTTP default"],
)
def test_links_keep_the_stage_or_the_base_path(event, prefix):
    event["headers"]["x-forwarded-proto"] = "https"
    event.get("multiValueHeaders", {})["x-forwarded-proto"] = ["https"]
    status, body = ask(event)
    assert status == 200
    assert body["links"]["docs"] == f"https://abc.example.org{prefix}/docs"


@pytest.mark.parametrize("base_path", ["", "/api"])
@pytest.mark.parametrize("user", ["alice", "José Silva", "100 %", "🦆"])
def test_a_rest_api_finds_each_path_with_and_without_a_base_path(base_path, user):
    store_record(replace(ANSWERED, user_id=user))
    event = v1(path=f"/v1/users/{quote(user)}/interactions", method="GET", base_path=base_path)
    decoded = event["pathParameters"] | {"proxy": f"v1/users/{user}/interactions"}
    for each in (event, event | {"pathParameters": decoded}):
        status, body = ask(each)
        assert (status, [item["userId"] for item in body["items"]]) == (200, [user])


def page(path, accept="*/*", **where):
    event = v1(path=path, method="GET", headers={"accept": accept}, **where)
    answer = lambda_handler.handler(event, Context())
    assert answer["statusCode"] == 200
    return answer["body"]


def test_the_pages_of_one_process_have_the_prefix_of_each_request():
    for where, prefix in (
        ({}, "/prod"),
        ({"base_path": "/api"}, "/api"),
        ({"stage": "dev"}, "/dev"),
    ):
        assert f'href="{prefix}/static/drf_spectacular_sidecar/' in page("/docs", **where)
        assert f'"{prefix}/openapi.json"' in page("/docs", **where)
        assert f'src="{prefix}/static/drf_spectacular_sidecar/' in page("/redoc", **where)
        document = json.loads(page("/openapi.json", **where))
        assert document["servers"] == [{"url": prefix}]
        assert f'"{prefix}/static/chat/playground/' in page("/", accept="text/html", **where)


@pytest.mark.parametrize("front", FRONTS)
def test_a_header_says_that_the_answer_is_whole(front):
    answer = lambda_handler.handler(front(path="/v1/health", method="GET"), Context())
    assert headers(answer)["x-response-mode"] == "buffered"


@pytest.mark.parametrize("front", FRONTS)
def test_the_callers_address_cannot_be_forged(front, seen):
    forged = "203.0.113.9, 192.0.2.1" if front is load_balancer else "203.0.113.9"
    lambda_handler.handler(front(body=QUESTION, headers={"x-forwarded-for": forged}), Context())
    assert seen[0]["REMOTE_ADDR"] == "192.0.2.1"


def test_cookies_arrive(seen):
    lambda_handler.handler(v2(), Context())
    assert seen[0]["HTTP_COOKIE"] == "a=1;b=2"


def test_a_missing_host_is_taken_from_the_context():
    event = v2(path="/v1/health", method="GET")
    del event["headers"]["host"]
    assert ask(event)[0] == 200


@pytest.mark.parametrize("missing", ["headers", "rawQueryString", "cookies", "body"])
@pytest.mark.parametrize("how", ["absent", "null"])
def test_optional_fields_of_an_event_may_be_missing(missing, how):
    event = v2(path="/v1/health", method="GET")
    event[missing] = None
    if how == "absent":
        del event[missing]
    del event["requestContext"]["http"]["sourceIp"]
    assert ask(event)[0] == 200


def test_null_multi_value_headers_do_not_hide_the_headers():
    assert ask(v1(body=QUESTION) | {"multiValueHeaders": None})[0] == 200


@pytest.mark.parametrize("front", FRONTS)
def test_any_path_is_answered(front):
    assert ask(front(path="/v1/日本語/é/%00", method="GET"))[0] == 404


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"version": "3.0"},
        {"source": "aws.s3"},
        {"path": "/v1/health"},
        {"version": "2.0", "rawPath": "/"},
        None,
        5,
        "manage",
        ["manage"],
        v2() | {"requestContext": None},
        v2() | {"body": "%%%", "isBase64Encoded": True},
        v2() | {"body": 5},
        v2() | {"body": "\ud800"},
        v1() | {"httpMethod": None},
        v1() | {"multiValueHeaders": {"host": None}},
        v2() | {"rawPath": 5},
    ],
    ids=repr,
)
def test_a_poisoned_event_is_answered_and_the_next_one_works(event):
    status, body = ask(event)
    assert 400 <= status <= 500
    assert body["code"]
    assert ask(v2(path="/v1/health", method="GET"))[0] == 200


@pytest.mark.parametrize("body", ["%%%", "e30", "e30=\n", "é", "\ud800", "e30=e30="])
@pytest.mark.parametrize("event", [v1, v2])
def test_a_body_that_is_not_valid_base64_is_a_bad_request(event, body):
    answer = lambda_handler.handler(event() | {"body": body, "isBase64Encoded": True}, Context())
    assert answer["statusCode"] == 400
    assert answer["headers"] == {
        "content-type": "application/problem+json",
        "x-request-id": "8f507cfc-example",
    }
    assert json.loads(answer["body"]) == {
        "type": "urn:problem:malformed_json",
        "title": "The body is not JSON",
        "status": 400,
        "detail": "The event's body is not valid base64.",
        "code": "malformed_json",
        "request_id": "8f507cfc-example",
        "errors": [],
    }


def test_a_failure_outside_django_is_logged_with_the_request_id(monkeypatch, caplog):
    def broken(environ, start_response):
        raise RuntimeError("boom")

    monkeypatch.setattr(lambda_handler, "application", broken)
    status, body = ask(v2())
    assert (status, body["code"], body["request_id"]) == (500, "internal_error", "8f507cfc-example")
    (record,) = caplog.records
    assert (record.request_id, record.levelname) == ("8f507cfc-example", "ERROR")
    assert "boom" not in json.dumps(body)


@pytest.mark.parametrize(
    ("text", "status"),
    [("x" * 5_900_000, 200), ("x" * 6_100_000, 500), ("🦆" * 490_000, 200), ("🦆" * 510_000, 500)],
    ids=["just fits", "too long", "just fits, escaped", "too long, escaped"],
)
def test_an_answer_too_large_for_lambda_is_an_error(monkeypatch, text, status):
    def large(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [text.encode()]

    monkeypatch.setattr(lambda_handler, "application", large)
    assert lambda_handler.handler(v2(), Context())["statusCode"] == status


@pytest.mark.parametrize(
    "character", ["x", "é", "問", "🦆", '"', "\x01"], ids=["x", "é", "問", "🦆", "quote", "control"]
)
@pytest.mark.parametrize("list_of", ["users/alice/interactions", "conversations/" + TALK])
def test_the_longest_list_fits_into_lambdas_limit(character, list_of):
    for _ in range(30):  # more than 6 MB
        store_record(
            replace(
                ANSWERED,
                interaction_id=str(uuid4()),
                conversation_id=TALK,
                prompt=character * 200_000,
                response=character * 24_000,
            )
        )
    listed, cursor = [], ""
    while cursor is not None:
        query = f"limit=100&cursor={cursor}" if cursor else "limit=100"
        status, body = ask(v2(path=f"/v1/{list_of}", method="GET", query=query))
        assert status == 200
        listed += [item["interaction_id"] for item in body["items"]]
        cursor = body["next_cursor"]
    assert len(listed) == len(set(listed)) == 30


def test_the_deadline_leaves_time_to_settle():
    started = time.monotonic()
    status, body = ask(v2(body={**QUESTION, "prompt": "mock:delay=20"}), seconds=1.9)
    assert (status, body["code"]) == (504, "provider_timeout")
    assert time.monotonic() - started < 1.9
    record = Interaction.objects.get()
    assert (record.status, record.attempts) == ("error", [])  # less is left than to settle takes


def test_a_management_command_is_run():
    answer = lambda_handler.handler({"manage": ["check"]}, Context())
    assert answer["exit_code"] == 0
    assert "no issues" in answer["output"]


def test_a_created_key_is_shown_to_the_caller_only(log_lines):
    made = lambda_handler.handler({"manage": ["create_api_key", "app"]}, Context())
    key = made["output"].split()[0]
    assert (made["exit_code"], key[:4]) == (0, "sca_")
    listed = lambda_handler.handler({"manage": ["list_api_keys"]}, Context())
    assert key[:20] in listed["output"]
    assert key not in listed["output"] + str(log_lines())


@pytest.mark.parametrize(
    "arguments",
    [[], ["shell"], ["flush", "--no-input"], "check", ["check", 5], None, {"check": 1}],
    ids=repr,
)
def test_other_commands_are_refused(arguments):
    answer = lambda_handler.handler({"manage": arguments}, Context())
    assert answer["exit_code"] == 2
    assert answer["output"]


@pytest.mark.parametrize(("words", "code"), [(["--nonsense"], 1), (["--help"], 0)])
def test_a_command_returns_its_exit_code(words, code):
    answer = lambda_handler.handler({"manage": ["check", *words]}, Context())
    assert answer["exit_code"] == code
    assert answer["output"]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["check", "--nonsense"], 1, "Error: unrecognized arguments: --nonsense"),
        (["revoke_api_key", f"sca_{'0' * 16}_{'a' * 64}"], 1, "Unknown API key."),
        (["revoke_api_key", "x", f"sca_{'0' * 16}_{'a' * 64}"], 1, "[KEY]"),
        (["shell"], 2, "Commands here: check, "),
    ],
)
def test_a_failing_command_is_logged_without_secrets(log_lines, words, code, sentence):
    answer = lambda_handler.handler({"manage": words}, Context())
    assert answer["exit_code"] == code
    (line,) = log_lines()
    assert (line["level"], line["message"]) == ("ERROR", "a command failed")
    assert (line["command"], line["exit_code"]) == (words[0], code)
    assert sentence in line["output"]
    assert "a" * 64 not in str(line)


def test_an_unexpected_error_of_a_command_is_logged_with_its_traceback(log_lines, settings):
    settings.PROVIDERS = None
    answer = lambda_handler.handler({"manage": ["check_providers"]}, Context())
    assert answer == {"exit_code": 1, "output": "AttributeError\n"}
    (line,) = log_lines()
    assert (line["command"], line["output"]) == ("check_providers", "AttributeError")
    assert "Traceback" in line["exc_info"]


def test_a_scheduled_command_that_fails_is_an_error_of_the_function():
    event = {"manage": ["check", "--nonsense"], "scheduled": True}
    with pytest.raises(lambda_handler.CommandFailed, match="exit code 1"):
        lambda_handler.handler(event, Context())
    assert lambda_handler.handler({**event, "manage": ["check"]}, Context())["exit_code"] == 0


@pytest.mark.parametrize("front", FRONTS)
def test_commands_cannot_be_reached_over_http(front):
    status, body = ask(front(body={"manage": ["check"]}))
    assert (status, body["code"]) == (400, "validation_error")
    event = front(body=QUESTION) | {"manage": ["check"]}
    assert ask(event)[0] == 200
