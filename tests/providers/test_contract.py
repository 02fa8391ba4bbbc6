"""The contract of all providers, whatever the vendor's dialect."""

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from providers import build
from providers.base import Completion, Provider, Usage
from providers.errors import (
    AddressUnknown,
    ContentFiltered,
    DeadlineExceeded,
    EmptyAnswer,
    ModelUnavailable,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderOverloaded,
    RequestRejected,
)
from providers.transport import MAX_BODY_BYTES
from tests.providers.factories import (
    KEY,
    PROMPT,
    REQUEST,
    ErrorSummary,
    complete,
    error_summary,
    raised_error,
    summarize,
)
from tests.stub_vendor import SOON, StubVendor


def _openai(text: Any, finish: str, usage: tuple[Any, Any, Any], model: Any) -> dict[str, Any]:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {
        "model": model,
        "choices": [{"message": {"content": text}, "finish_reason": finish}],
        "usage": dict(zip(names, usage, strict=True)),
    }


def _gemini(text: Any, finish: str, usage: tuple[Any, Any, Any], model: Any) -> dict[str, Any]:
    reasons = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
    names = ("promptTokenCount", "candidatesTokenCount", "totalTokenCount")
    return {
        "modelVersion": model,
        "candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": reasons[finish]}],
        "usageMetadata": dict(zip(names, usage, strict=True)),
    }


def _bedrock(text: Any, finish: str, usage: tuple[Any, Any, Any], model: Any) -> dict[str, Any]:
    reasons = {"stop": "end_turn", "length": "max_tokens", "content_filter": "content_filtered"}
    names = ("inputTokens", "outputTokens", "totalTokens")
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
        "stopReason": reasons[finish],
        "usage": dict(zip(names, usage, strict=True)),
        "trace": {"promptRouter": {"invokedModelId": model}},
    }


def _openai_error(_status: int, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": message, "code": message, "param": message}}


def _gemini_error(status: int, message: str) -> dict[str, Any]:
    details = [{"@type": message, "reason": message, "retryDelay": message}]
    return {"error": {"code": status, "message": message, "status": message, "details": details}}


def _bedrock_error(_status: int, message: str) -> dict[str, Any]:
    return {"__type": message, "message": message, "originalMessage": message}


@dataclass(frozen=True)
class Dialect:
    name: str
    body: Callable[[Any, str, tuple[Any, Any, Any], Any], dict[str, Any]]
    error: Callable[[int, str], dict[str, Any]]

    def answer(
        self,
        text: Any = "Hello.",
        finish: str = "stop",
        usage: tuple[Any, Any, Any] = (9, 5, 14),
        model: Any = "model-1-of-today",
    ) -> dict[str, Any]:
        return self.body(text, finish, usage, model)


DIALECTS = [
    Dialect("openai", _openai, _openai_error),
    Dialect("openrouter", _openai, _openai_error),
    Dialect("gemini", _gemini, _gemini_error),
    Dialect("bedrock", _bedrock, _bedrock_error),
]

HELLO = Completion(
    message={"content": "Hello."},
    model="model-1-of-today",
    finish_reason="stop",
    usage=Usage(prompt_tokens=9, completion_tokens=5, total_tokens=14),
)


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    chosen: Dialect = request.param
    return chosen


@pytest.fixture
def provider(stub_vendor: StubVendor, dialect: Dialect) -> Provider:
    return build(dialect.name, {"api_key": KEY, "base_url": stub_vendor.url, "model": "model-1"})


def test_an_answer_becomes_a_completion(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.reply(dialect.answer())
    assert complete(provider) == HELLO


def test_a_provider_knows_its_name_and_its_model(dialect: Dialect, provider: Provider):
    assert (provider.name, provider.model) == (dialect.name, "model-1")


def test_a_connection_is_used_again(stub_vendor: StubVendor, dialect: Dialect, provider: Provider):
    stub_vendor.reply(dialect.answer())
    # In a new thread: its pool has no connection of another test.
    with ThreadPoolExecutor(1) as thread:
        assert [thread.submit(complete, provider).result() for _ in range(3)] == [HELLO] * 3
    assert (stub_vendor.connections, len(stub_vendor.requests)) == (1, 3)


def test_many_threads_ask_at_once(stub_vendor: StubVendor, dialect: Dialect, provider: Provider):
    stub_vendor.reply(dialect.answer(), delay=0.05)
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(lambda _: complete(provider), range(64)))
    assert answers == [HELLO] * 64


def test_a_total_that_is_missing_is_the_sum(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.reply(dialect.answer(usage=(9, 5, None)))
    assert complete(provider).usage == Usage(prompt_tokens=9, completion_tokens=5, total_tokens=14)


@pytest.mark.parametrize("nonsense", [-1, 2**53 + 1, 1.5, True, "9", [], {}, 10**99])
def test_an_invalid_count_is_unknown(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, nonsense: Any
):
    stub_vendor.reply(dialect.answer(usage=(nonsense, 5, nonsense)))
    assert complete(provider).usage == Usage(completion_tokens=5)


@pytest.mark.parametrize("model", ["", " ", "x" * 257, "a\nb", 7, None, ["m"], {"id": "m"}])
def test_an_invalid_model_name_means_the_requested_model(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, model: Any
):
    stub_vendor.reply(dialect.answer(model=model))
    assert complete(provider) == HELLO._replace(model="model-1")


def test_lone_surrogates_in_an_answer_are_replaced(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.reply(dialect.answer("a\ud800 \udc00b \ud83e\udd86 \u2028 é"))
    assert complete(provider).text == "a\ufffd \ufffdb 🦆 \u2028 é"


def test_an_answer_that_ends_by_length_may_be_empty(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.reply(dialect.answer("", "length"))
    assert complete(provider) == HELLO._replace(message={}, finish_reason="length")


def test_an_answer_may_end_by_its_length(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.reply(dialect.answer("Hel", "length"))
    assert complete(provider) == HELLO._replace(message={"content": "Hel"}, finish_reason="length")


def test_a_filtered_answer_with_text_is_an_answer(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.reply(dialect.answer("Hel", "content_filter"))
    assert complete(provider) == HELLO._replace(
        message={"content": "Hel"}, finish_reason="content_filter"
    )


def test_a_filtered_answer_without_text_is_an_error(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.reply(dialect.answer("", "content_filter"))
    assert error_summary(provider) == ErrorSummary(ContentFiltered)


@pytest.mark.parametrize("text", ["", None, [], {}, 7])
def test_an_empty_answer_is_asked_for_once_more(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, text: Any
):
    stub_vendor.reply(dialect.answer(text))
    error = raised_error(provider)
    assert (type(error), error.retry, error.max_retries, error.fallback) == (
        EmptyAnswer,
        True,
        1,
        True,
    )


STATUSES = {
    400: ErrorSummary(RequestRejected),
    401: ErrorSummary(ProviderMisconfigured),
    402: ErrorSummary(ProviderMisconfigured),
    403: ErrorSummary(ProviderMisconfigured),
    404: ErrorSummary(ModelUnavailable),
    405: ErrorSummary(ModelUnavailable),
    408: ErrorSummary(ProviderFailed, retry=True),
    409: ErrorSummary(ProviderFailed),
    410: ErrorSummary(ModelUnavailable),
    413: ErrorSummary(RequestRejected),
    418: ErrorSummary(ProviderFailed),
    422: ErrorSummary(RequestRejected),
    429: ErrorSummary(ProviderOverloaded, retry=True),
    499: ErrorSummary(ProviderFailed),
    500: ErrorSummary(ProviderFailed, retry=True),
    501: ErrorSummary(ProviderFailed, retry=True),
    502: ErrorSummary(ProviderFailed, retry=True),
    503: ErrorSummary(ProviderOverloaded, retry=True),
    504: ErrorSummary(ProviderFailed, retry=True),
    524: ErrorSummary(ProviderFailed, retry=True),
    529: ErrorSummary(ProviderOverloaded, retry=True),
    599: ErrorSummary(ProviderFailed, retry=True),
    301: ErrorSummary(ProviderMisconfigured),
    307: ErrorSummary(ProviderMisconfigured),
}

BODIES: list[Any] = [
    [{"error": {"code": 1, "message": "no"}}],
    [1, "two", None],
    {"error": "no"},
    {"error": 7},
    {"error": {"code": [], "message": {"a": 1}, "metadata": 7, "details": 7}},
    {"error": {"details": [7, {"violations": [7], "reason": 7, "retryDelay": 7}]}},
    {"detail": "no"},
    {"detail": [{"loc": 7}]},
]
# A server without the address answers them, which knows nothing of models.
NO_OBJECTS: list[Any] = [
    *("404 page not found", "<html><body>Bad gateway</body></html>", b""),
    *(b'{"error": {"mess', "null"),
]


@pytest.mark.parametrize("status", STATUSES)
def test_the_status_decides_retry_and_fallback(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, status: int
):
    for body in (dialect.error(status, "no such luck"), *BODIES):
        stub_vendor.clear()
        stub_vendor.reply(body, status=status)
        error = raised_error(provider)
        assert summarize(error) == STATUSES[status]
        assert error.reason.startswith(f"HTTP {status}")


@pytest.mark.parametrize("status", STATUSES)
def test_a_vendor_that_answers_without_an_object_does_not_know_the_address(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, status: int
):
    missing = STATUSES[status].kind is ModelUnavailable
    expected = ErrorSummary(AddressUnknown) if missing else STATUSES[status]
    for body in NO_OBJECTS:
        stub_vendor.clear()
        stub_vendor.reply(body, status=status)
        error = raised_error(provider)
        assert summarize(error) == expected
        assert error.reason.startswith(f"HTTP {status}")


@pytest.mark.parametrize("status", [429, 503, 500, 408])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("40", 40.0),
        ("1.5", 1.5),
        ("0", 0.0),
        ("-3", 0.0),
        ("999999999", 86400.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Fri, 31 Dec 2100 23:59:59 GMT", 86400.0),
        ("Fri, 31 Dec 2100 23:59:59 -0000", 86400.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("Fri, 99 Foo 99999 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_kept(
    stub_vendor: StubVendor,
    dialect: Dialect,
    provider: Provider,
    status: int,
    value: str,
    seconds: float | None,
):
    stub_vendor.reply(dialect.error(status, "busy"), status=status, headers={"Retry-After": value})
    assert raised_error(provider).retry_after == seconds


def test_an_error_never_quotes_the_prompt_the_key_or_the_vendor(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    for status in STATUSES:
        message = f"Your key {KEY} asked: {PROMPT}"
        stub_vendor.clear()
        stub_vendor.reply(
            dialect.error(status, message), status=status, headers={"x-error": message}
        )
        error = raised_error(provider)
        shown = f"{error} {error!r} {error.args} {error.reason}"
        assert KEY not in shown
        assert "swallow" not in shown
        redirects = 300 <= status <= 399  # its body is not read
        said = "" if redirects else f"Your key [KEY] asked: {PROMPT}"
        assert error.vendor_message == said


@pytest.mark.parametrize(
    ("kind", "message"),
    [("text/plain", "upstream connect error"), ("text/html", ""), ("application/json", "")],
)
def test_an_error_in_plain_text_has_a_message(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, kind: str, message: str
):
    body = b"upstream connect error\n"
    stub_vendor.reply(body, status=503, headers={"content-type": kind})
    error = raised_error(provider)
    assert (error.reason, error.vendor_message) == ("HTTP 503", message)


def test_a_context_that_is_too_long_has_our_own_sentence(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    for words in ("This model's maximum context length is 8192", "The input token count (9) …"):
        stub_vendor.clear()
        stub_vendor.reply(dialect.error(400, words), status=400)
        error = raised_error(provider)
        assert type(error) is RequestRejected
        assert str(error) == (
            "The provider rejected the request: the context is too long for the model."
        )


GARBLED = ErrorSummary(ProviderFailed)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe\x00",
        b"not JSON",
        b'{"choices": [{"message": {"con',
        b"null",
        b"[]",
        b"[" * 100_000,
        b'"text"',
        b"7",
        b"{}",
        b'{"x": 1e99999999999999999999}',
        b'{"x": ' + b"9" * 5000 + b"}",
        b'{"choices": null, "candidates": null}',
        b'{"choices": {}, "candidates": {}}',
        b'{"choices": [null], "candidates": [null]}',
    ],
)
def test_an_unusable_body_falls_back_without_retry(
    stub_vendor: StubVendor, provider: Provider, body: bytes
):
    stub_vendor.reply(body)
    assert error_summary(provider) == GARBLED


def test_html_is_refused_even_when_it_is_valid_json(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.reply(dialect.answer(), headers={"content-type": "Text/HTML; charset=utf-8"})
    assert error_summary(provider) == GARBLED


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", ""])
def test_a_json_body_is_read_whatever_its_content_type(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, content_type: str
):
    stub_vendor.reply(dialect.answer(), headers={"content-type": content_type})
    assert complete(provider) == HELLO


def test_an_error_inside_a_success_counts_by_its_own_status(
    stub_vendor: StubVendor, provider: Provider
):
    by_code = {
        429: ErrorSummary(ProviderOverloaded, retry=True),
        401: ErrorSummary(ProviderMisconfigured),
    }
    for code, expected in by_code.items():
        stub_vendor.clear()
        stub_vendor.reply({"error": {"code": code, "message": "no"}})
        assert error_summary(provider) == expected


def test_an_unknown_error_inside_a_success_is_a_provider_failure(
    stub_vendor: StubVendor, provider: Provider
):
    for error in ("no", True, {"code": "server_error"}, {"code": 7}, ["no"]):
        stub_vendor.clear()
        stub_vendor.reply({"error": error})
        assert error_summary(provider) == ErrorSummary(ProviderFailed, retry=True)


def test_a_refused_connection_is_retried(dialect: Dialect):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options = {"api_key": KEY, "base_url": f"http://127.0.0.1:{port}", "model": "model-1"}
    assert error_summary(build(dialect.name, options)) == ErrorSummary(ProviderFailed, retry=True)


def test_a_connection_reset_before_the_answer_is_retried(
    stub_vendor: StubVendor, provider: Provider
):
    stub_vendor.reset()
    assert error_summary(provider) == ErrorSummary(ProviderFailed, retry=True)


def test_a_connection_closed_before_the_answer_is_retried(
    stub_vendor: StubVendor, provider: Provider
):
    stub_vendor.send(b"")
    assert error_summary(provider) == ErrorSummary(ProviderFailed, retry=True)


def test_a_response_that_is_not_http_falls_back_without_retry(
    stub_vendor: StubVendor, provider: Provider
):
    stub_vendor.send(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
    assert error_summary(provider) == ErrorSummary(ProviderFailed)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_truncated_answer_falls_back_without_retry(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, chunked: bool
):
    stub_vendor.reply(dialect.answer(), chunked=chunked, cut=20)
    assert error_summary(provider) == GARBLED


def test_a_chunked_answer_is_an_answer(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.reply(dialect.answer(), chunked=True)
    assert complete(provider) == HELLO


def test_an_answer_over_the_size_limit_is_refused(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.reply(dialect.answer("x" * (MAX_BODY_BYTES + 1)))
    assert error_summary(provider) == GARBLED


def test_a_slow_answer_within_the_deadline_is_an_answer(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.reply(dialect.answer(), head_pace=(40, 0.01), body_pace=(40, 0.01))
    assert complete(provider) == HELLO


@pytest.mark.parametrize(
    "slowness",
    [
        {"delay": 30.0},
        {"head_pace": (1, 0.2)},
        {"body_pace": (1, 0.2)},
        {"body_pace": (1, 0.2), "chunked": True},
    ],
    ids=["silence", "trickled head", "trickled body", "trickled chunks"],
)
def test_the_deadline_holds_however_the_vendor_delays(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, slowness: dict[str, Any]
):
    stub_vendor.reply(dialect.answer(), **slowness)
    started = time.monotonic()
    assert error_summary(provider, seconds=0.3) == ErrorSummary(DeadlineExceeded)
    assert 0.29 < time.monotonic() - started < SOON


def test_the_deadline_holds_for_an_error_too(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.reply(dialect.error(500, "no"), status=500, body_pace=(1, 0.05))
    assert error_summary(provider, seconds=0.2) == ErrorSummary(DeadlineExceeded)


def test_after_a_deadline_the_next_request_is_answered(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.reply(dialect.answer("late"), delay=1.0)
    stub_vendor.reply(dialect.answer())
    assert error_summary(provider, seconds=0.5) == ErrorSummary(DeadlineExceeded)
    assert complete(provider) == HELLO


def test_nothing_is_sent_after_the_deadline(stub_vendor: StubVendor, provider: Provider):
    assert error_summary(provider, seconds=0.0) == ErrorSummary(DeadlineExceeded)
    assert stub_vendor.requests == []


def test_a_lone_surrogate_in_a_prompt_is_rejected(stub_vendor: StubVendor, provider: Provider):
    message = {**REQUEST.messages[0], "content": "a\ud800b"}
    assert error_summary(provider, REQUEST._replace(messages=(message,))) == ErrorSummary(
        RequestRejected
    )
    assert stub_vendor.requests == []
