"""What the streams of all vendors have in common, and what each dialect has of its own."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers import build, connections
from providers.base import Completion, Deadline, Provider, Usage
from providers.errors import (
    ContentFiltered,
    DeadlineExceeded,
    ModelUnavailable,
    ProviderError,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderOverloaded,
    RequestRejected,
)
from tests.providers.factories import KEY, QUESTION, Failure, broken_off, load, pieces_of
from tests.stub_vendor import DONE, FINISH, SOON, StubVendor, chunk

SSE = {"content-type": "text/event-stream"}
TOOLS = [{"type": "function", "function": {"name": "get_weather"}}]
MODEL = "model-1-of-today"
HELLO = Completion(
    text="Hello.",
    model=MODEL,
    finish_reason="stop",
    usage=Usage(prompt_tokens=9, completion_tokens=5, total_tokens=14),
)


def _openai(text: str | None, finish: str | None, completion_tokens: int | None) -> dict[str, Any]:
    usage = {"prompt_tokens": 9, "completion_tokens": completion_tokens, "total_tokens": 14}
    return {
        "model": MODEL,
        "choices": [
            {"delta": {"role": "assistant", "content": text}, "finish_reason": finish},
        ],
        "usage": usage if completion_tokens else None,
    }


def _gemini(text: str | None, finish: str | None, completion_tokens: int | None) -> dict[str, Any]:
    usage = {"promptTokenCount": 9, "candidatesTokenCount": completion_tokens}
    reasons = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY", None: None}
    candidate = {"content": {"parts": [{"text": text}]}, "finishReason": reasons[finish]}
    return {
        "modelVersion": MODEL,
        "candidates": [{name: value for name, value in candidate.items() if value}],
        "usageMetadata": usage | {"totalTokenCount": 14} if completion_tokens else None,
    }


@dataclass(frozen=True)
class Dialect:
    """How a vendor says a piece of text, the reason to finish, and the tokens until now."""

    name: str
    payload: Callable[[str | None, str | None, int | None], dict[str, Any]]
    end: str

    def event(
        self, text: str | None = None, finish: str | None = None, tokens: int | None = None
    ) -> str:
        return f"data: {json.dumps(self.payload(text, finish, tokens))}\n\n"

    def events(self, *texts: str, finish: str = "stop") -> list[str]:
        """A good stream of these pieces."""
        return [*map(self.event, texts), self.event(None, finish, 5), self.end]


OPENAI = Dialect("openai", _openai, DONE)
OPENROUTER = Dialect("openrouter", _openai, DONE)
GEMINI = Dialect("gemini", _gemini, "")
DIALECTS = [OPENAI, OPENROUTER, GEMINI]


def made(name: str, vendor: StubVendor) -> Provider:
    return build(name, {"api_key": KEY, "base_url": vendor.url, "model": "model-1"})


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    chosen: Dialect = request.param
    return chosen


@pytest.fixture
def provider(vendor: StubVendor, dialect: Dialect) -> Provider:
    return made(dialect.name, vendor)


@pytest.fixture
def openai(vendor: StubVendor) -> Provider:
    return made("openai", vendor)


def failure(error: ProviderError) -> Failure:
    return Failure(type(error), error.retry, error.retry_after)


# --- A good stream --------------------------------------------------------------------------------


def test_pieces_come_as_they_are_and_then_the_answer(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    vendor.stream(dialect.events("Hel", "lo", "."))
    assert pieces_of(provider) == (["Hel", "lo", "."], replace(HELLO, usage=pieces_usage(dialect)))


def pieces_usage(dialect: Dialect) -> Usage:
    return HELLO.usage


def test_a_stream_is_asked_for(vendor: StubVendor, openai: Provider):
    vendor.stream(OPENAI.events("Hello."))
    pieces_of(openai)
    asked = vendor.requests[0]
    assert asked.json["stream"] is True
    assert asked.json["stream_options"] == {"include_usage": True}
    assert asked.headers["accept"] == "text/event-stream"


def test_gemini_is_asked_for_events(vendor: StubVendor):
    vendor.stream(GEMINI.events("Hello."))
    pieces_of(made("gemini", vendor))
    assert vendor.requests[0].path == "/models/model-1:streamGenerateContent?alt=sse"


def test_a_piece_is_there_before_the_next_one_is_sent(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    first, *rest = dialect.events("Hel", "lo.")
    vendor.stream([first, *rest], gap=[0, 30, *[0] * len(rest)])
    stream = provider.stream(QUESTION, Deadline(20))
    assert next(stream) == "Hel"
    assert not vendor.client_disconnected.is_set()
    stream.close()  # type: ignore[attr-defined]
    assert vendor.client_disconnected.wait(SOON)


RECORDED = {
    "gemini_stream_success": Completion(
        text="Cześć, świecie",
        model="gemini-3.8-flash",
        finish_reason="stop",
        usage=Usage(prompt_tokens=9, completion_tokens=66, total_tokens=75, reasoning_tokens=60),
    ),
    "openrouter_stream_success": Completion(
        text="Zażółć gęślą 🦆",
        model="google/gemini-3.5-flash-lite",
        finish_reason="stop",
        usage=Usage(
            prompt_tokens=21,
            completion_tokens=9,
            total_tokens=30,
            cached_tokens=0,
            reasoning_tokens=0,
            cost_usd=Decimal("0.0000288"),
        ),
    ),
    "openai_stream_usage": Completion(
        text="Hello!",
        model="gemini-3.8-flash",
        finish_reason="stop",
        usage=Usage(
            prompt_tokens=9,
            completion_tokens=2,
            total_tokens=11,
            cached_tokens=0,
            reasoning_tokens=0,
        ),
    ),
}


def split(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 100_000])
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_streams_are_read_in_pieces_of_any_size(vendor: StubVendor, name: str, size: int):
    recorded = load(name)
    vendor.stream(split(recorded["raw_sse"].encode(), size), headers=recorded["headers"])
    _, completion = pieces_of(made(name.partition("_")[0], vendor))
    expected = RECORDED[name]
    cost = completion.usage.cost_usd if expected.usage.cost_usd is None else None
    assert completion == replace(
        expected, usage=replace(expected.usage, cost_usd=cost or expected.usage.cost_usd)
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("size", [1, 2, 3, 100_000])
def test_lines_may_end_in_any_way(
    vendor: StubVendor, dialect: Dialect, provider: Provider, end: str, size: int
):
    data = "".join(dialect.events("Hel", "lo.")).replace("\n", end).encode()
    vendor.stream(split(data, size))
    assert pieces_of(provider)[1] == HELLO


ODD = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg 🦆"


def raw(event: str) -> str:
    """The event with its characters as they are, and not as escapes."""
    payload = json.loads(event.removeprefix("data: "))
    return f"data: {json.dumps(payload, ensure_ascii=False)}\n\n"


def test_a_token_is_not_cut_where_only_python_sees_a_line_end(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    event = raw(dialect.event(ODD))
    assert "\u2028" in event
    for size in (1, 100_000):
        vendor.clear()
        vendor.stream([*split(event.encode(), size), *dialect.events()])
        assert pieces_of(provider)[0] == [ODD]


def test_text_is_utf_8_whatever_the_header_says(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    vendor.stream(
        [raw(dialect.event("é🦆")), *dialect.events()],
        headers={"content-type": "text/event-stream; charset=latin-1"},
    )
    assert pieces_of(provider)[0] == ["é🦆"]


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_byte_order_mark_is_no_text(
    vendor: StubVendor, dialect: Dialect, provider: Provider, size: int
):
    data = b"\xef\xbb\xbf" + "".join(dialect.events("Hello.")).encode()
    vendor.stream(split(data, size))
    assert pieces_of(provider)[1] == HELLO


def test_comments_and_other_fields_are_no_data(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    first, *rest = dialect.events("Hello.")
    noise = [": waiting\n\n", ":\n\n", "retry: 10\n\n", "id: 7\n\n", "event: ping\n\n", "\n\n"]
    vendor.stream([*noise, "id: 8\nevent: message\n", first, *noise, *rest, *noise])
    assert pieces_of(provider)[1] == HELLO


def test_the_data_of_an_event_may_have_several_lines(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    def spread(event: str) -> str:
        if not event.startswith("data: {"):
            return event
        lines = json.dumps(json.loads(event.removeprefix("data: ")), indent=1).splitlines()
        return "".join(f"data:{line}\n" for line in lines) + "\n"

    vendor.stream([spread(event) for event in dialect.events("Hel", "lo.")])
    assert pieces_of(provider)[1] == HELLO


def test_the_last_event_may_lack_its_blank_line(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    events = [event for event in dialect.events("Hello.") if event != dialect.end]
    vendor.stream(["".join(events).rstrip()])
    assert pieces_of(provider)[1] == HELLO


@pytest.mark.parametrize("kind", ["Text/Event-Stream", "text/plain", ""])
def test_a_stream_is_one_whatever_it_calls_itself(
    vendor: StubVendor, dialect: Dialect, provider: Provider, kind: str
):
    vendor.stream(dialect.events("Hello."), headers={"content-type": kind})
    assert pieces_of(provider)[1] == HELLO


def test_counts_that_are_repeated_replace_and_never_add(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    events = [dialect.event("Hel", None, 2), dialect.event("lo.", None, 4)]
    vendor.stream([*events, dialect.event(None, "stop", 5), dialect.event(), dialect.end])
    assert pieces_of(provider)[1] == HELLO


def test_usage_may_come_after_the_end_with_a_second_finish(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    events = [dialect.event("Hello."), dialect.event(None, "stop")]
    vendor.stream([*events, dialect.event(None, "stop", 5), dialect.end])
    assert pieces_of(provider)[1] == HELLO


def test_the_first_reason_to_finish_counts(vendor: StubVendor, openai: Provider):
    vendor.stream([OPENAI.event("Hel"), OPENAI.event(None, "length"), *OPENAI.events()])
    assert pieces_of(openai)[1].finish_reason == "length"


def test_without_usage_it_is_unknown(vendor: StubVendor, dialect: Dialect, provider: Provider):
    vendor.stream([dialect.event("Hello."), dialect.event(None, "stop"), dialect.end])
    assert pieces_of(provider)[1] == replace(HELLO, usage=Usage())


@pytest.mark.parametrize(
    "nothing",
    [
        {},
        {"choices": None},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {}}]},
        {"choices": [{"delta": {"content": None, "role": "assistant"}}]},
        {"choices": [{"delta": {"content": 7}}], "usage": 7},
        {"choices": [{"delta": {"tool_calls": [None, 7, {}]}}]},
        {"candidates": None, "usageMetadata": None},
        {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}}]},
        {"candidates": [{"content": {"parts": [{"thoughtSignature": "x"}, None]}}]},
    ],
    ids=json.dumps,
)
def test_events_without_text_are_passed_over(
    vendor: StubVendor, dialect: Dialect, provider: Provider, nothing: dict[str, Any]
):
    event = f"data: {json.dumps(nothing)}\n\n"
    vendor.stream([event, *dialect.events("Hello."), event])
    assert pieces_of(provider) == (["Hello."], HELLO)


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_a_stream_may_end_otherwise(
    vendor: StubVendor, dialect: Dialect, provider: Provider, finish: str
):
    vendor.stream(dialect.events("Hel", finish=finish))
    assert pieces_of(provider)[1] == replace(HELLO, text="Hel", finish_reason=finish)


def test_the_answer_may_be_empty_for_want_of_length(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    vendor.stream(dialect.events(finish="length"))
    assert pieces_of(provider) == ([], replace(HELLO, text="", finish_reason="length"))


def test_halves_of_surrogate_pairs_can_be_encoded(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    vendor.stream(dialect.events("a\ud800", "b"))
    assert pieces_of(provider)[0] == ["a\ufffd", "b"]


def test_the_connection_is_used_again(vendor: StubVendor, dialect: Dialect, provider: Provider):
    vendor.stream(dialect.events("Hello."))
    with ThreadPoolExecutor(1) as thread:
        for _ in range(3):
            assert thread.submit(pieces_of, provider).result()[1] == HELLO
    assert (vendor.connections, len(vendor.requests)) == (1, 3)


def test_what_does_not_end_after_its_end_marker_is_left(vendor: StubVendor, openai: Provider):
    vendor.stream([*OPENAI.events("Hello."), ": more"], gap=[0, 0, 0, 30])
    assert pieces_of(openai)[1] == HELLO
    assert vendor.client_disconnected.wait(SOON)


def test_two_streams_in_one_thread_keep_their_deadlines(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    vendor.stream(dialect.events("Hel", "lo."))
    first = provider.stream(QUESTION, Deadline(5))
    assert next(first) == "Hel"
    assert pieces_of(provider)[1] == HELLO
    assert list(first)[-1] == HELLO


# --- Thoughts and tools ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "<think>Hm.</think>Hello.",
        "<think>Hm.</think>\n\nHello.",
        " \n<think>Hm.\n</think> Hello.",
        "<think></think>Hello.",
        "<think>One.</think><think>Two.</think>\n<think>\n</think>Hello.",
    ],
)
def test_thoughts_are_not_shown_however_they_are_cut(
    vendor: StubVendor, openai: Provider, text: str
):
    for size in (1, 2, 3, 7, 100):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        vendor.clear()
        vendor.stream(OPENAI.events(*pieces))
        assert pieces_of(openai)[1] == HELLO


@pytest.mark.parametrize("text", ["<", "<thin", "<b>Hi", " \n Hi", "<<think>", "a <think> b"])
def test_what_only_looks_like_thoughts_is_shown(vendor: StubVendor, openai: Provider, text: str):
    vendor.stream(OPENAI.events(*text))
    assert pieces_of(openai)[1].text == text


def test_thoughts_alone_are_no_answer(vendor: StubVendor, openai: Provider):
    vendor.stream(OPENAI.events("<think>", "I wonder"))
    pieces, error = broken_off(openai)
    assert (pieces, failure(error)) == ([], Failure(ProviderFailed))


def test_reasoning_beside_the_answer_is_not_shown(vendor: StubVendor, openai: Provider):
    delta = {"reasoning": "Hm.", "reasoning_content": "Hm.", "reasoning_details": [{"text": "Hm."}]}
    vendor.stream([chunk(choices=[{"delta": delta}]), *OPENAI.events("Hello.")])
    assert pieces_of(openai)[0] == ["Hello."]


def called(*calls: dict[str, Any]) -> str:
    return chunk(choices=[{"index": 0, "delta": {"tool_calls": list(calls)}}])


def call(id_: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


WITH_TOOLS = replace(QUESTION, options={"tools": TOOLS})


@pytest.mark.parametrize("size", [1, 2, 3, 100_000])
def test_a_recorded_call_of_a_tool_is_put_together(vendor: StubVendor, openai: Provider, size: int):
    recorded = load("openai_stream_tool_call")
    vendor.stream(split(recorded["raw_sse"].encode(), size))
    pieces, completion = pieces_of(openai, WITH_TOOLS)
    assert (pieces, completion.finish_reason) == ([], "tool_calls")
    assert completion.tool_calls == (call("call_a1", "get_weather", '{"city":"Łódź"}'),)


def test_calls_are_told_apart_by_their_index(vendor: StubVendor, openai: Provider):
    vendor.stream(
        [
            called({"index": 1, **call("b", "second", "")}, {"index": 0, **call("a", "first", "")}),
            called({"index": 0, "function": {"arguments": '{"n":'}}),
            called({"index": 1, "function": {"arguments": '{"m":2}'}}),
            called({"index": 0, "function": {"arguments": "1}"}}),
            *OPENAI.events(finish="tool_calls"),
        ]
    )
    calls = (call("a", "first", '{"n":1}'), call("b", "second", '{"m":2}'))
    assert pieces_of(openai, WITH_TOOLS)[1].tool_calls == calls


def test_calls_without_an_index_are_whole(vendor: StubVendor, openai: Provider):
    calls = (call("a", "first", '{"n":1}'), call("b", "second", '{"m":2}'))
    vendor.stream([called(*calls), *OPENAI.events()])
    assert pieces_of(openai, WITH_TOOLS)[1].tool_calls == calls


# --- Streams that go wrong ------------------------------------------------------------------------


def test_an_end_marker_may_be_missing_after_a_reason_to_finish(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    for chunked in (True, False):
        vendor.clear()
        vendor.stream([dialect.event("Hello."), dialect.event(None, "stop", 5)], chunked=chunked)
        assert pieces_of(provider)[1] == HELLO


def test_a_reason_to_finish_may_be_missing_before_an_end_marker(
    vendor: StubVendor, openai: Provider
):
    vendor.stream([OPENAI.event("Hello.", None, 5), DONE])
    assert pieces_of(openai)[1] == HELLO


@pytest.mark.parametrize("end", ["", ": bye\n\n", "data: ", 'data: {"choices": [{"del'])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_ends_before_the_answer_is_broken_off(
    vendor: StubVendor, dialect: Dialect, provider: Provider, end: str, chunked: bool
):
    vendor.stream([dialect.event("Hel"), end] if end else [dialect.event("Hel")], chunked=chunked)
    pieces, error = broken_off(provider)
    assert (pieces, failure(error)) == (["Hel"], Failure(ProviderFailed))
    assert error.fallback


def test_a_connection_that_is_cut_is_broken_off(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    vendor.stream([dialect.event("Hel"), dialect.event("lo")], cut=True)
    pieces, error = broken_off(provider)
    assert (pieces, failure(error)) == (["Hel", "lo"], Failure(ProviderFailed))
    assert str(error) == "The provider broke off its answer."


def test_after_a_cut_the_next_request_is_answered(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    vendor.stream([dialect.event("Hel")], cut=True)
    vendor.stream(dialect.events("Hello."))
    broken_off(provider)
    assert pieces_of(provider)[1] == HELLO


@pytest.mark.parametrize("size", [1, 2, 3, 100_000])
@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("openrouter_stream_mid_error", "Partial answ", Failure(ProviderFailed, retry=True)),
        ("gemini_stream_mid_error", "Partial", Failure(ProviderOverloaded, retry=True)),
        ("compat_stream_error", "Par", Failure(ProviderFailed, retry=True)),
    ],
)
def test_recorded_errors_in_mid_stream_are_told(
    vendor: StubVendor, name: str, text: str, expected: Failure, size: int
):
    recorded = load(name)
    vendor.stream(split(recorded["raw_sse"].encode(), size), headers=recorded["headers"])
    vendor_name = name.partition("_")[0].replace("compat", "openai")
    pieces, error = broken_off(made(vendor_name, vendor))
    assert ("".join(pieces), failure(error)) == (text, expected)


OVERLOADED = {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}


@pytest.mark.parametrize(
    "event",
    [
        f"data: {json.dumps(OVERLOADED)}\n\n",
        f"data: {json.dumps(OVERLOADED)}\n\ndata: [DONE]\n\n",
        f"event: error\ndata: {json.dumps(OVERLOADED)}\n\n",
        f"data: {json.dumps([OVERLOADED])}\n\n",
        json.dumps(OVERLOADED, indent=2),
        json.dumps([OVERLOADED], indent=2) + "\r\n\r\n",
    ],
    ids=["event", "then done", "named", "list", "bare", "bare list"],
)
def test_an_error_is_told_in_any_form_before_and_after_the_first_piece(
    vendor: StubVendor, dialect: Dialect, provider: Provider, event: str
):
    for texts in ([], ["Hel"]):
        vendor.clear()
        vendor.stream([*map(dialect.event, texts), event])
        pieces, error = broken_off(provider)
        assert (pieces, failure(error)) == (texts, Failure(ProviderOverloaded, retry=True))
        assert error.reason.startswith("HTTP 503")


def test_an_error_that_is_only_a_reason_to_finish_is_told(vendor: StubVendor, openai: Provider):
    vendor.stream([OPENAI.event("Hel"), OPENAI.event(None, "error"), DONE])
    pieces, error = broken_off(openai)
    assert (pieces, failure(error)) == (["Hel"], Failure(ProviderFailed, retry=True))


def test_an_error_inside_a_choice_is_told(vendor: StubVendor, openai: Provider):
    broken = chunk(choices=[{"delta": {"content": ""}, "error": {"code": 429}}])
    vendor.stream([OPENAI.event("Hel"), broken, DONE])
    assert failure(broken_off(openai)[1]) == Failure(ProviderOverloaded, retry=True)


@pytest.mark.parametrize(
    "data",
    [
        "null",
        "7",
        '"text"',
        "[]",
        "[null]",
        "not JSON",
        "[" * 10_000,
        '{"x": 1e99999999999999999999}',
    ],
)
def test_an_event_that_is_no_object_is_an_error(
    vendor: StubVendor, dialect: Dialect, provider: Provider, data: str
):
    vendor.stream([dialect.event("Hel"), f"data: {data}\n\n", *dialect.events("lo.")])
    pieces, error = broken_off(provider)
    assert (pieces, failure(error)) == (["Hel"], Failure(ProviderFailed))


def test_a_stream_without_text_is_no_answer(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    vendor.stream(dialect.events())
    pieces, error = broken_off(provider)
    assert (pieces, failure(error)) == ([], Failure(ProviderFailed))


def test_a_filter_that_leaves_nothing_is_an_error(
    vendor: StubVendor, dialect: Dialect, provider: Provider
):
    vendor.stream(dialect.events(finish="content_filter"))
    assert failure(broken_off(provider)[1]) == Failure(ContentFiltered)


def test_a_blocked_prompt_is_filtered(vendor: StubVendor):
    block = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}}
    vendor.stream([f"data: {json.dumps(block)}\r\n\r\n"])
    assert failure(broken_off(made("gemini", vendor))[1]) == Failure(ContentFiltered)


def test_a_refusal_without_text_is_filtered(vendor: StubVendor, openai: Provider):
    vendor.stream([chunk(choices=[{"delta": {"refusal": "No."}}]), FINISH, DONE])
    assert failure(broken_off(openai)[1]) == Failure(ContentFiltered)


STATUSES = {
    400: Failure(RequestRejected),
    401: Failure(ProviderMisconfigured),
    404: Failure(ModelUnavailable),
    429: Failure(ProviderOverloaded, retry=True),
    500: Failure(ProviderFailed, retry=True),
    503: Failure(ProviderOverloaded, retry=True),
    307: Failure(ProviderMisconfigured),
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("headers", [{}, SSE], ids=["JSON", "event stream"])
def test_a_status_before_the_stream_decides_who_is_asked_next(
    vendor: StubVendor, provider: Provider, status: int, headers: dict[str, str]
):
    vendor.reply({"error": {"message": "no", "code": status}}, status=status, headers=headers)
    pieces, error = broken_off(provider)
    assert (pieces, failure(error)) == ([], STATUSES[status])


def test_the_hint_when_to_come_back_is_kept(vendor: StubVendor, provider: Provider):
    vendor.reply({"error": {}}, status=429, headers={"Retry-After": "40"})
    assert broken_off(provider)[1].retry_after == 40.0


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("<h1>Log in</h1>", "text/html"),
        ("<h1>Log in</h1>", "text/event-stream"),
        ("null", "application/json"),
        ("", "application/json"),
        ("", "text/event-stream"),
    ],
)
def test_what_is_no_stream_goes_to_the_next_provider(
    vendor: StubVendor, provider: Provider, body: str, kind: str
):
    vendor.reply(body, headers={"content-type": kind})
    pieces, error = broken_off(provider)
    assert (pieces, failure(error), error.fallback) == ([], Failure(ProviderFailed), True)


PLAIN = {
    "model": MODEL,
    "choices": [{"message": {"content": "Hello."}, "finish_reason": "stop"}],
    "candidates": [{"content": {"parts": [{"text": "Hello."}]}, "finishReason": "STOP"}],
    "modelVersion": MODEL,
    "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
    "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14},
}


def test_an_answer_may_come_at_once_whatever_was_asked(vendor: StubVendor, provider: Provider):
    vendor.reply(PLAIN)
    assert pieces_of(provider) == (["Hello."], HELLO)


def test_an_error_may_come_at_once_as_a_success(vendor: StubVendor, provider: Provider):
    vendor.reply(OVERLOADED)
    assert failure(broken_off(provider)[1]) == Failure(ProviderOverloaded, retry=True)


def test_a_connection_that_is_reset_before_the_answer_is_tried_again(
    vendor: StubVendor, provider: Provider
):
    vendor.reset()
    assert failure(broken_off(provider)[1]) == Failure(ProviderFailed, retry=True)


def test_an_answer_has_a_largest_size(vendor: StubVendor, dialect: Dialect, provider: Provider):
    event = dialect.event("x" * 1_000_000)
    vendor.stream([event] * 9)
    pieces, error = broken_off(provider, seconds=30)
    assert 1 < len(pieces) < 9
    assert failure(error) == Failure(ProviderFailed)


# --- The deadline, and a word to stop -------------------------------------------------------------

ENDLESS: dict[str, Callable[[Dialect], list[str]]] = {
    "pieces": lambda dialect: [dialect.event("Hel")] * 200,
    "comments": lambda dialect: [dialect.event("Hel"), *[": waiting\n\n"] * 200],
    "bytes": lambda dialect: [dialect.event("Hel"), *dialect.event("lo")],
    "silence": lambda dialect: [dialect.event("Hel")],
}


@pytest.mark.parametrize("what", ENDLESS)
def test_the_deadline_holds_whatever_keeps_coming(
    vendor: StubVendor, dialect: Dialect, provider: Provider, what: str
):
    events = ENDLESS[what](dialect)
    vendor.stream([*events, ""], gap=[0, *[0.05] * (len(events) - 1), 30])
    started = time.monotonic()
    pieces, error = broken_off(provider, seconds=1.0)  # in which the first piece has to come
    assert failure(error) == Failure(DeadlineExceeded)
    assert pieces[0] == "Hel"
    assert 0.99 < time.monotonic() - started < SOON
    assert vendor.client_disconnected.wait(SOON)


@pytest.mark.parametrize("what", ENDLESS)
def test_another_thread_ends_the_call_to_the_vendor(
    vendor: StubVendor, dialect: Dialect, provider: Provider, what: str
):
    events = ENDLESS[what](dialect)
    vendor.stream([*events, ""], gap=[0, *[0.05] * (len(events) - 1), 30])
    deadline = Deadline(30)
    begun = threading.Event()

    def read() -> ProviderError | None:
        try:
            for _ in provider.stream(QUESTION, deadline):
                begun.set()
        except ProviderError as exc:
            return exc
        return None

    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(read)
        assert begun.wait(SOON)
        deadline.cancel()
        assert vendor.client_disconnected.wait(SOON)
        assert isinstance(reading.result(), DeadlineExceeded)


def test_another_thread_ends_the_wait_for_the_head_of_the_answer(
    vendor: StubVendor, provider: Provider
):
    vendor.reply(PLAIN, delay=30)
    deadline = Deadline(30)
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(list, provider.stream(QUESTION, deadline))
        while not vendor.requests:
            time.sleep(0.01)
        deadline.cancel()
        assert isinstance(reading.exception(timeout=SOON), DeadlineExceeded)


# --- Anything at all ------------------------------------------------------------------------------

VENDORS = {
    name: build(name, {"api_key": KEY, "base_url": "http://localhost", "model": "model-1"})
    for name in ("openai", "openrouter", "gemini")
}


def read_bytes(name: str, pieces: list[bytes]) -> list[str | Completion]:
    """What a provider makes of these bytes, as they come out of the socket."""

    class Wire(connections.Connection):
        def __init__(self) -> None:
            pass

        answered = True

        def send(self, data: bytes, deadline: Deadline) -> None:
            self.deadline = deadline

        def head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
            return 200, [(b"content-type", b"text/event-stream")]

        def body(self) -> Iterator[bytes]:
            return iter(pieces)

        def keep(self) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "take", lambda origin, deadline: Wire())
        return list(VENDORS[name].stream(QUESTION, Deadline(5)))


def cuts(data: bytes) -> st.SearchStrategy[list[bytes]]:
    places = st.lists(st.integers(0, len(data)), max_size=30, unique=True).map(sorted)
    return places.map(
        lambda at: [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True) if b > a]
    )


GOOD = {name.partition("_")[0]: str(load(name)["raw_sse"]) for name in RECORDED}


@pytest.mark.parametrize("name", GOOD)
@given(data=st.data(), end=st.sampled_from(["\n", "\r\n", "\r"]), mark=st.booleans())
def test_any_cut_of_a_good_stream_gives_the_same(
    name: str, data: st.DataObject, end: str, mark: bool
):
    text = GOOD[name].replace("\r\n", "\n").replace("\n", end)
    whole = b"\xef\xbb\xbf" * mark + text.encode()
    assert read_bytes(name, data.draw(cuts(whole))) == read_bytes(name, [GOOD[name].encode()])


lines = st.sampled_from(
    [b"data: ", b"data:", b": ", b"event: error", b"id: 1", b"retry: x", b"\n", b"\r", b"\r\n\r\n"]
    + [b"{", b"}", b'{"choices": [', b'{"error": ', b"null", b"[DONE]", b"\xff", b"\xef\xbb\xbf"]
    + [event.encode() for dialect in DIALECTS for event in dialect.events("Hel", "lo.")]
)


@pytest.mark.parametrize("name", VENDORS)
@given(pieces=st.lists(lines | st.binary(max_size=20), max_size=12))
def test_any_bytes_are_survived(name: str, pieces: list[bytes]):
    try:
        *texts, completion = read_bytes(name, pieces)
    except ProviderError:
        return
    assert isinstance(completion, Completion)
    assert "".join(map(str, texts)) == completion.text
    assert completion.text.encode() or completion.finish_reason == "length"


NAMES = (
    *("choices", "delta", "content", "finish_reason", "error", "code", "usage", "tool_calls"),
    *("function", "name", "index", "candidates", "parts", "text", "finishReason", "model"),
)
payloads = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=8),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inside, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("name", VENDORS)
@given(events=st.lists(payloads, max_size=4))
def test_any_json_is_survived(name: str, events: list[Any]):
    data = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    try:
        *texts, completion = read_bytes(name, data + [e.encode() for e in OPENAI.events("x")])
    except ProviderError:
        return
    assert isinstance(completion, Completion)
    assert "".join(map(str, texts)) == completion.text
