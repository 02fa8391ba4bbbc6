"""The contract of all providers' streams, and what is special to each dialect."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers import build
from providers.accumulator import joined
from providers.answer_errors import CONTENT_FIELDS
from providers.base import Completion, Delta, Provider, Usage
from providers.deadline import Deadline
from providers.errors import (
    ContentFiltered,
    DeadlineExceeded,
    EmptyAnswer,
    ModelUnavailable,
    ProviderError,
    ProviderFailed,
    ProviderMisconfigured,
    ProviderOverloaded,
    RequestRejected,
)
from tests import bedrock_frames
from tests.providers.factories import (
    KEY,
    REQUEST,
    ErrorSummary,
    complete,
    counting,
    load_recording,
    read_deltas,
    read_failing_stream,
    read_stream,
    summarize,
)
from tests.stub_vendor import DONE, FINISH, SOON, StubVendor, chunk

SSE = {"content-type": "text/event-stream"}
TOOLS = [{"type": "function", "function": {"name": "get_weather"}}]
MODEL = "model-1-of-today"
HELLO = Completion(
    message={"content": "Hello."},
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
    """How a vendor writes a piece of text, the finish reason and the token counts."""

    name: str
    payload: Callable[[str | None, str | None, int | None], dict[str, Any]]
    end: str
    noise: str | bytes = ": waiting\n\n"

    def event(
        self, text: str | None = None, finish: str | None = None, tokens: int | None = None
    ) -> str:
        return f"data: {json.dumps(self.payload(text, finish, tokens))}\n\n"

    def events(self, *texts: str, finish: str = "stop") -> list[str]:
        """Return a complete stream of these pieces."""
        return [*map(self.event, texts), self.event(None, finish, 5), self.end]


class Frames(Dialect):
    """Bedrock's frames, in place of server-sent events."""

    def event(
        self, text: str | None = None, finish: str | None = None, tokens: int | None = None
    ) -> Any:
        reasons = {"stop": "end_turn", "length": "max_tokens", "content_filter": "content_filtered"}
        usage = {"inputTokens": 9, "outputTokens": tokens, "totalTokens": 14} if tokens else None
        router = {"invokedModelId": f"arn:aws:bedrock:us-east-1::foundation-model/{MODEL}"}
        frames = [
            text and bedrock_frames.delta(text=text),
            finish and bedrock_frames.event("messageStop", stopReason=reasons[finish]),
            bedrock_frames.event("metadata", usage=usage, trace={"promptRouter": router}),
        ]
        return b"".join(filter(None, frames))


OPENAI = Dialect("openai", _openai, DONE)
OPENROUTER = Dialect("openrouter", _openai, DONE)
GEMINI = Dialect("gemini", _gemini, "")
BEDROCK = Frames("bedrock", _openai, "", bedrock_frames.event("messageStart", role="assistant"))
SSE_DIALECTS = [OPENAI, OPENROUTER, GEMINI]
DIALECTS = [*SSE_DIALECTS, BEDROCK]

only_sse = pytest.mark.parametrize(
    "dialect", SSE_DIALECTS, ids=lambda each: each.name, indirect=True
)


def make_provider(name: str, stub_vendor: StubVendor) -> Provider:
    return build(name, {"api_key": KEY, "base_url": stub_vendor.url, "model": "model-1"})


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    chosen: Dialect = request.param
    return chosen


@pytest.fixture
def provider(stub_vendor: StubVendor, dialect: Dialect) -> Provider:
    return make_provider(dialect.name, stub_vendor)


@pytest.fixture
def openai(stub_vendor: StubVendor) -> Provider:
    return make_provider("openai", stub_vendor)


# --- Complete streams -----------------------------------------------------------------------------


def test_a_stream_yields_its_pieces_then_the_completion(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.stream(dialect.events("Hel", "lo", "."))
    assert read_stream(provider) == (["Hel", "lo", "."], HELLO)


def test_a_stream_is_requested_with_usage(stub_vendor: StubVendor, openai: Provider):
    stub_vendor.stream(OPENAI.events("Hello."))
    read_stream(openai)
    asked = stub_vendor.requests[0]
    assert asked.json["stream"] is True
    assert asked.json["stream_options"] == {"include_usage": True}
    assert asked.headers["accept"] == "text/event-stream"


def test_gemini_is_asked_for_server_sent_events(stub_vendor: StubVendor):
    stub_vendor.stream(GEMINI.events("Hello."))
    read_stream(make_provider("gemini", stub_vendor))
    assert stub_vendor.requests[0].path == "/models/model-1:streamGenerateContent?alt=sse"


def test_each_piece_is_yielded_before_the_next_one_arrives(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    first, *rest = dialect.events("Hel", "lo.")
    stub_vendor.stream([first, *rest], gap=[0, 30, *[0] * len(rest)])
    stream = provider.stream(REQUEST, Deadline(20))
    assert next(stream).message == {"content": "Hel"}
    assert not stub_vendor.client_disconnected.is_set()
    stream.close()  # type: ignore[attr-defined]
    assert stub_vendor.client_disconnected.wait(SOON)


RECORDED = {
    "gemini_stream_success": Completion(
        message={
            "content": "Cześć, świecie",
            "extra_content": {"google": {"thought_signature": "EqsFCqgFAb4+9vvt"}},
        },
        model="gemini-3.8-flash",
        finish_reason="stop",
        usage=Usage(prompt_tokens=9, completion_tokens=66, total_tokens=75, reasoning_tokens=60),
    ),
    "openrouter_stream_success": Completion(
        message={"content": "Zażółć gęślą 🦆"},
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
        extras={"provider": "Google AI Studio", "choice": {"native_finish_reason": "STOP"}},
    ),
    "openai_stream_usage": Completion(
        message={"content": "Hello!"},
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
def test_recorded_streams_are_read_in_pieces_of_any_size(
    stub_vendor: StubVendor, name: str, size: int
):
    recorded = load_recording(name)
    stub_vendor.stream(split(recorded["raw_sse"].encode(), size), headers=recorded["headers"])
    _, completion = read_stream(make_provider(name.partition("_")[0], stub_vendor))
    expected = RECORDED[name]
    cost = completion.usage.cost_usd if expected.usage.cost_usd is None else None
    assert completion == expected._replace(
        usage=replace(expected.usage, cost_usd=cost or expected.usage.cost_usd)
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("size", [1, 2, 3, 100_000])
@only_sse
def test_lines_may_end_in_any_way(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, end: str, size: int
):
    data = "".join(dialect.events("Hel", "lo.")).replace("\n", end).encode()
    stub_vendor.stream(split(data, size))
    assert read_stream(provider)[1] == HELLO


ODD = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg 🦆"


def raw(event: str) -> str:
    """Return the event with its characters unescaped."""
    payload = json.loads(event.removeprefix("data: "))
    return f"data: {json.dumps(payload, ensure_ascii=False)}\n\n"


@only_sse
def test_a_token_is_not_cut_where_only_python_sees_a_line_end(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    event = raw(dialect.event(ODD))
    assert "\u2028" in event
    for size in (1, 100_000):
        stub_vendor.clear()
        stub_vendor.stream([*split(event.encode(), size), *dialect.events()])
        assert read_stream(provider)[0] == [ODD]


@only_sse
def test_text_is_utf_8_whatever_the_header_says(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.stream(
        [raw(dialect.event("é🦆")), *dialect.events()],
        headers={"content-type": "text/event-stream; charset=latin-1"},
    )
    assert read_stream(provider)[0] == ["é🦆"]


@pytest.mark.parametrize("size", [1, 100_000])
@only_sse
def test_a_byte_order_mark_is_ignored(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, size: int
):
    data = b"\xef\xbb\xbf" + "".join(dialect.events("Hello.")).encode()
    stub_vendor.stream(split(data, size))
    assert read_stream(provider)[1] == HELLO


@only_sse
def test_comments_and_other_fields_are_ignored(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    first, *rest = dialect.events("Hello.")
    noise = [": waiting\n\n", ":\n\n", "retry: 10\n\n", "id: 7\n\n", "event: ping\n\n", "\n\n"]
    stub_vendor.stream([*noise, "id: 8\nevent: message\n", first, *noise, *rest, *noise])
    assert read_stream(provider)[1] == HELLO


@only_sse
def test_the_data_of_an_event_may_have_several_lines(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    def spread(event: str) -> str:
        if not event.startswith("data: {"):
            return event
        lines = json.dumps(json.loads(event.removeprefix("data: ")), indent=1).splitlines()
        return "".join(f"data:{line}\n" for line in lines) + "\n"

    stub_vendor.stream([spread(event) for event in dialect.events("Hel", "lo.")])
    assert read_stream(provider)[1] == HELLO


@only_sse
def test_the_last_event_may_lack_its_blank_line(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    events = [event for event in dialect.events("Hello.") if event != dialect.end]
    stub_vendor.stream(["".join(events).rstrip()])
    assert read_stream(provider)[1] == HELLO


@pytest.mark.parametrize("kind", ["Text/Event-Stream", "text/plain", ""])
def test_a_stream_is_read_whatever_its_content_type(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, kind: str
):
    stub_vendor.stream(dialect.events("Hello."), headers={"content-type": kind})
    assert read_stream(provider)[1] == HELLO


def test_repeated_counts_replace_earlier_ones(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    events = [dialect.event("Hel", None, 2), dialect.event("lo.", None, 4)]
    stub_vendor.stream([*events, dialect.event(None, "stop", 5), dialect.event(), dialect.end])
    assert read_stream(provider)[1] == HELLO


def test_usage_may_come_after_the_end_with_a_second_finish(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    events = [dialect.event("Hello."), dialect.event(None, "stop")]
    stub_vendor.stream([*events, dialect.event(None, "stop", 5), dialect.end])
    assert read_stream(provider)[1] == HELLO


def test_the_first_finish_reason_counts(stub_vendor: StubVendor, openai: Provider):
    stub_vendor.stream([OPENAI.event("Hel"), OPENAI.event(None, "length"), *OPENAI.events()])
    assert read_stream(openai)[1].finish_reason == "length"


def test_a_stream_without_usage_has_unknown_usage(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.stream([dialect.event("Hello."), dialect.event(None, "stop"), dialect.end])
    assert read_stream(provider)[1] == HELLO._replace(usage=Usage())


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
    ],
    ids=json.dumps,
)
@only_sse
def test_events_without_text_yield_nothing(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, nothing: dict[str, Any]
):
    event = f"data: {json.dumps(nothing)}\n\n"
    stub_vendor.stream([event, *dialect.events("Hello."), event])
    pieces, completion = read_stream(provider)
    assert (pieces, completion._replace(extras={})) == (["Hello."], HELLO)


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_other_finish_reasons_end_a_stream(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, finish: str
):
    stub_vendor.stream(dialect.events("Hel", finish=finish))
    assert read_stream(provider)[1] == HELLO._replace(
        message={"content": "Hel"}, finish_reason=finish
    )


def test_a_stream_that_ends_by_length_may_be_empty(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.stream(dialect.events(finish="length"))
    assert read_stream(provider) == ([], HELLO._replace(message={}, finish_reason="length"))


def test_lone_surrogates_in_a_stream_are_replaced(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.stream(dialect.events("a\ud800", "b"))
    assert read_stream(provider)[0] == ["a", "\ufffdb"]


def test_the_connection_is_used_again(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.stream(dialect.events("Hello."))
    with ThreadPoolExecutor(1) as thread:
        for _ in range(3):
            assert thread.submit(read_stream, provider).result()[1] == HELLO
    assert (stub_vendor.connections, len(stub_vendor.requests)) == (1, 3)


def test_a_stream_that_stays_open_after_its_end_marker_is_closed(
    stub_vendor: StubVendor, openai: Provider
):
    stub_vendor.stream([*OPENAI.events("Hello."), ": more"], gap=[0, 0, 0, 30])
    assert read_stream(openai)[1] == HELLO
    assert stub_vendor.client_disconnected.wait(SOON)


def test_two_streams_in_one_thread_keep_their_deadlines(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.stream(dialect.events("Hel", "lo."))
    first = provider.stream(REQUEST, Deadline(5))
    assert next(first).message == {"content": "Hel"}
    assert read_stream(provider)[1] == HELLO
    assert list(first)[-1] == HELLO


# --- The end of a stream --------------------------------------------------------------------------

LINGERING = {
    "silent": [""],
    "with comments and empty chunks": [": waiting\n\n", chunk(choices=[], model=MODEL)] * 50,
}


@pytest.mark.parametrize("how", LINGERING)
@only_sse
def test_a_stream_ends_soon_after_its_finish_reason(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, how: str
):
    events = [dialect.event("Hello."), dialect.event(None, "stop"), dialect.event(None, None, 5)]
    rest = LINGERING[how]
    gap = 30 if len(rest) == 1 else 0.1
    stub_vendor.stream([*events, *rest], gap=[*[0.2] * len(events), *[gap] * len(rest)])
    started = time.monotonic()
    assert read_stream(provider)[1]._replace(extras={}) == HELLO
    assert time.monotonic() - started < 4.0
    assert stub_vendor.client_disconnected.wait(SOON)


def test_text_after_a_finish_reason_prolongs_the_stream(stub_vendor: StubVendor, openai: Provider):
    events = [OPENAI.event(text, "stop") for text in ("H", "e", "l", "lo.")]
    stub_vendor.stream([*events, OPENAI.event(None, "stop", 5), DONE], gap=0.6)
    assert read_stream(openai)[1] == HELLO


@pytest.mark.parametrize(
    "end", [f"data: {json.dumps({'error': {'code': 500}})}\n\n", 'data: {"broken', "data: {}}\n\n"]
)
@only_sse
def test_an_error_after_the_finish_reason_is_ignored(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, end: str
):
    for cut in (True, False):
        stub_vendor.clear()
        stub_vendor.stream([dialect.event("Hello."), dialect.event(None, "stop", 5), end], cut=cut)
        assert read_stream(provider)[1] == HELLO


@pytest.mark.parametrize("marker", ["data:[DONE]", "data:  [DONE] ", "data: [DONE]\t"])
def test_the_end_marker_may_have_spaces(stub_vendor: StubVendor, openai: Provider, marker: str):
    stub_vendor.stream([*OPENAI.events("Hello.")[:-1], f"{marker}\n\n", ""], gap=[0, 0, 0, 30])
    started = time.monotonic()
    assert read_stream(openai)[1] == HELLO
    assert time.monotonic() - started < 1.0


def test_groq_reports_usage_in_its_own_place(stub_vendor: StubVendor, openai: Provider):
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "queue_time": 0.1}
    stub_vendor.stream(
        [
            OPENAI.event("Hello."),
            chunk(choices=[], x_groq={"id": "req_1"}, model=MODEL),
            OPENAI.event(None, "stop"),
            chunk(choices=[], x_groq={"usage": usage}, model=MODEL),
            DONE,
        ]
    )
    assert read_stream(openai)[1] == HELLO


# --- Choices and extras ---------------------------------------------------------------------------


def test_all_choices_of_a_stream_are_looked_through(stub_vendor: StubVendor, openai: Provider):
    def choice(index: int, finish: str | None = None, **delta: Any) -> str:
        return chunk(choices=[{"index": index, "delta": delta, "finish_reason": finish}])

    arguments = [{"index": 0, "function": {"arguments": '{"n":1}'}}]
    stub_vendor.stream(
        [
            choice(0, role="assistant", content="Wait."),
            choice(1, role="assistant", tool_calls=[{"index": 0, **call("a", "first", "")}]),
            choice(0, "stop"),
            choice(1, content="Another answer.", tool_calls=arguments),
            choice(1, "tool_calls"),
            DONE,
        ]
    )
    completion = read_deltas(openai)[1]
    calls = [call("a", "first", '{"n":1}')]
    assert completion.message == {"content": "Wait.", "tool_calls": calls}
    assert completion.finish_reason == "tool_calls"


def test_choices_of_one_chunk_may_each_have_a_call(stub_vendor: StubVendor, openai: Provider):
    calls = [call("a", "first", "{}"), call("b", "second", "{}")]
    choices = [{"index": n, "delta": {"tool_calls": [each]}} for n, each in enumerate(calls)]
    stub_vendor.stream([chunk(choices=choices), FINISH, DONE])
    deltas, completion = read_deltas(openai)
    shown = [{"index": number, **each} for number, each in enumerate(calls)]
    assert deltas == [{"tool_calls": shown}]
    assert completion.message == {"tool_calls": calls}


def test_one_choice_may_be_in_a_chunk_twice(stub_vendor: StubVendor, openai: Provider):
    choices = [{"index": 0, "delta": {"content": text}} for text in ("Hel", "lo")]
    stub_vendor.stream([chunk(choices=choices), FINISH, DONE])
    deltas, completion = read_deltas(openai)
    assert (deltas, completion.text) == ([{"content": "Hello"}], "Hello")


@pytest.mark.parametrize("indexes", [(None, 0), (0, None)])
def test_a_choice_without_an_index_is_the_first(
    stub_vendor: StubVendor, openai: Provider, indexes: tuple[int | None, ...]
):
    pieces = [chunk(choices=[{"index": n, "delta": {"content": "Hi"}}]) for n in indexes]
    stub_vendor.stream([*pieces, FINISH, DONE])
    assert read_deltas(openai)[1].text == "HiHi"


def test_extras_are_shown_when_they_change(stub_vendor: StubVendor, openai: Provider):
    def piece(text: str, **extras: Any) -> str:
        choice = {"index": 0, "delta": {"content": text}, "logprobs": extras.pop("logprobs", None)}
        return chunk(choices=[choice], **extras)

    def logprobs(token: str) -> dict[str, Any]:
        return {"content": [{"token": token, "logprob": -0.5}]}

    sources = ["https://example.org"]
    stub_vendor.stream(
        [
            chunk(choices=[], prompt_filter_results=[]),  # Azure's first chunk
            chunk(choices=[{"index": 0, "finish_reason": None}], system_fingerprint="fp"),
            piece("Hel", system_fingerprint="fp", logprobs=logprobs("Hel"), service_tier=None),
            piece("lo", system_fingerprint="fp", logprobs=logprobs("lo")),
            piece(".", system_fingerprint="fp", citations=sources),
            chunk(choices=[], system_fingerprint="fp", citations=sources),
            FINISH,
            DONE,
        ]
    )
    *deltas, completion = openai.stream(REQUEST, Deadline(20))
    first = {"prompt_filter_results": [], "system_fingerprint": "fp", "logprobs": logprobs("Hel")}
    assert deltas == [
        Delta({"content": "Hel"}, first, "stand-in-1"),
        Delta({"content": "lo"}, {"logprobs": logprobs("lo")}),
        Delta({"content": "."}, {"citations": sources}),
    ]
    assert isinstance(completion, Completion)
    both = {"content": logprobs("Hel")["content"] + logprobs("lo")["content"]}
    assert completion.extras == {**first, "citations": sources, "logprobs": both}


def test_extras_alone_do_not_begin_an_answer(stub_vendor: StubVendor, openai: Provider):
    stub_vendor.stream([chunk(choices=[], provider="x"), f"data: {json.dumps(OVERLOADED)}\n\n"])
    with pytest.raises(ProviderOverloaded):
        next(openai.stream(REQUEST, Deadline(20)))


@pytest.mark.parametrize(
    "delta",
    [
        {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]},
        {"audio": {"id": "audio_1", "data": "aGk="}},
        {"content": "Hi.", "annotations": [{"type": "url_citation", "url_citation": {}}]},
    ],
    ids=lambda delta: next(iter(delta)),
)
def test_images_audio_and_annotations_are_streamed(
    stub_vendor: StubVendor, openai: Provider, delta: dict[str, Any]
):
    stub_vendor.stream([chunk(choices=[{"index": 0, "delta": delta}]), FINISH, DONE])
    deltas, completion = read_deltas(openai)
    assert (deltas, completion.message) == ([delta], delta)


def test_nuls_are_replaced(stub_vendor: StubVendor, openai: Provider):
    stub_vendor.stream(OPENAI.events("a\0", "b"))
    assert read_stream(openai)[0] == ["a\ufffd", "b"]


# --- Thoughts and tools ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "thoughts"),
    [
        ("<think>Hm.</think>Hello.", "Hm."),
        ("<think>Hm.</think>\n\nHello.", "Hm."),
        (" \n<think>Hm.\n</think> Hello.", "Hm.\n"),
        ("<think></think>Hello.", ""),
        ("<think>One.</think><think>Two.</think>\n<think>\n</think>Hello.", "One.Two.\n"),
    ],
)
def test_thoughts_in_tags_are_reasoning_content_however_they_are_split(
    stub_vendor: StubVendor, openai: Provider, text: str, thoughts: str
):
    message = {"reasoning_content": thoughts, "content": "Hello."}
    for size in (1, 2, 3, 7, 100):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        stub_vendor.clear()
        stub_vendor.stream(OPENAI.events(*pieces))
        assert read_stream(openai)[1] == HELLO._replace(
            message={name: value for name, value in message.items() if value}
        )


@pytest.mark.parametrize("text", ["<", "<thin", "<b>Hi", " \n Hi", "<<think>", "a <think> b"])
def test_text_that_only_resembles_thoughts_is_shown(
    stub_vendor: StubVendor, openai: Provider, text: str
):
    stub_vendor.stream(OPENAI.events(*text))
    assert read_stream(openai)[1].text == text


def test_thoughts_without_text_are_no_answer(stub_vendor: StubVendor, openai: Provider):
    stub_vendor.stream(OPENAI.events("<think>", "I wonder"))
    pieces, error = read_failing_stream(openai)
    assert (pieces, summarize(error)) == ([], ErrorSummary(EmptyAnswer, retry=True))


def test_reasoning_is_streamed_as_it_comes(stub_vendor: StubVendor, openai: Provider):
    delta = {"reasoning": "Hm.", "reasoning_content": "Hm.", "reasoning_details": [{"text": "Hm."}]}
    stub_vendor.stream([chunk(choices=[{"delta": delta}]), *OPENAI.events("Hello.")])
    deltas, completion = read_deltas(openai)
    assert deltas == [delta, {"content": "Hello."}]
    assert completion == HELLO._replace(message={**delta, "content": "Hello."})


def called(*calls: dict[str, Any]) -> str:
    return chunk(choices=[{"index": 0, "delta": {"tool_calls": list(calls)}}])


def call(id_: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


WITH_TOOLS = REQUEST._replace(parameters={"tools": TOOLS})


@pytest.mark.parametrize("size", [1, 2, 3, 100_000])
def test_a_recorded_tool_call_is_assembled(stub_vendor: StubVendor, openai: Provider, size: int):
    recorded = load_recording("openai_stream_tool_call")
    stub_vendor.stream(split(recorded["raw_sse"].encode(), size))
    pieces, completion = read_stream(openai, WITH_TOOLS)
    assert (pieces, completion.finish_reason) == ([], "tool_calls")
    assert completion.message["tool_calls"] == [call("call_a1", "get_weather", '{"city":"Łódź"}')]


def test_tool_calls_are_separated_by_their_index(stub_vendor: StubVendor, openai: Provider):
    stub_vendor.stream(
        [
            called({"index": 1, **call("b", "second", "")}, {"index": 0, **call("a", "first", "")}),
            called({"index": 0, "function": {"arguments": '{"n":'}}),
            called({"index": 1, "function": {"arguments": '{"m":2}'}}),
            called({"index": 0, "function": {"arguments": "1}"}}),
            *OPENAI.events(finish="tool_calls"),
        ]
    )
    calls = [call("a", "first", '{"n":1}'), call("b", "second", '{"m":2}')]
    assert read_stream(openai, WITH_TOOLS)[1].message["tool_calls"] == calls


def test_tool_calls_without_an_index_are_whole(stub_vendor: StubVendor, openai: Provider):
    calls = [call("a", "first", '{"n":1}'), call("b", "second", '{"m":2}')]
    stub_vendor.stream([called(*calls), *OPENAI.events()])
    assert read_stream(openai, WITH_TOOLS)[1].message["tool_calls"] == calls


def test_tool_calls_may_be_one_object(stub_vendor: StubVendor, openai: Provider):
    deltas = [{"tool_calls": {"index": 0, **call("", "f", text)}} for text in ('{"n":', "1}")]
    chunks = [chunk(choices=[{"index": 0, "delta": delta}]) for delta in deltas]
    stub_vendor.stream([*chunks, *OPENAI.events()])
    [found] = read_stream(openai, WITH_TOOLS)[1].message["tool_calls"]
    assert found == call(found["id"], "f", '{"n":1}')


@pytest.mark.parametrize("finish", ["tool_calls", "stop", "length"])
@pytest.mark.parametrize("arguments", ['{"city":"Os', "{}}", "Oslo", '{"x":NaN}', "[-Infinity]"])
def test_a_tool_call_with_broken_arguments_is_an_error(
    stub_vendor: StubVendor, openai: Provider, finish: str, arguments: str
):
    broken = {"index": 0, **call("a", "get_weather", arguments)}
    stub_vendor.stream([called(broken), *OPENAI.events(finish=finish)])
    request, reported = counting(WITH_TOOLS)
    _, error = read_failing_stream(openai, request)
    assert (summarize(error), reported) == (ErrorSummary(ProviderFailed), [HELLO.usage])


def test_a_tool_call_without_a_name_is_an_error(stub_vendor: StubVendor, openai: Provider):
    nameless = {"index": 0, "id": "b", "function": {"arguments": '{"x": 1}'}}
    named = called({"index": 0, **call("a", "add", "{}")})
    stub_vendor.stream([named, called(nameless), *OPENAI.events(finish="tool_calls")])
    _, error = read_failing_stream(openai, WITH_TOOLS)
    assert summarize(error) == ErrorSummary(ProviderFailed)


# --- Failing streams ------------------------------------------------------------------------------


def test_the_end_marker_may_be_missing_after_a_finish_reason(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    for chunked in (True, False):
        stub_vendor.clear()
        stub_vendor.stream(
            [dialect.event("Hello."), dialect.event(None, "stop", 5)], chunked=chunked
        )
        assert read_stream(provider)[1] == HELLO


def test_an_answer_without_a_finish_reason_may_be_incomplete(
    stub_vendor: StubVendor, openai: Provider
):
    stub_vendor.stream([OPENAI.event("Hello.", None, 5), DONE])
    assert read_stream(openai)[1] == HELLO._replace(finish_reason="length")


@pytest.mark.parametrize("end", ["", ": bye\n\n", "data: ", 'data: {"choices": [{"del'])
@pytest.mark.parametrize("chunked", [True, False])
@only_sse
def test_a_body_that_ends_early_is_a_truncated_stream(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, end: str, chunked: bool
):
    stub_vendor.stream(
        [dialect.event("Hel"), end] if end else [dialect.event("Hel")], chunked=chunked
    )
    pieces, error = read_failing_stream(provider)
    assert (pieces, summarize(error)) == (["Hel"], ErrorSummary(ProviderFailed))
    assert error.fallback


def test_a_connection_that_closes_early_is_a_truncated_stream(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.stream([dialect.event("Hel"), dialect.event("lo")], cut=True)
    pieces, error = read_failing_stream(provider)
    assert (pieces, summarize(error)) == (["Hel", "lo"], ErrorSummary(ProviderFailed))
    assert str(error) == "The provider broke off its answer."


def test_after_a_cut_the_next_request_is_answered(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.stream([dialect.event("Hel")], cut=True)
    stub_vendor.stream(dialect.events("Hello."))
    read_failing_stream(provider)
    assert read_stream(provider)[1] == HELLO


@pytest.mark.parametrize("size", [1, 2, 3, 100_000])
@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("openrouter_stream_mid_error", "Partial answ", ErrorSummary(ProviderFailed, retry=True)),
        ("gemini_stream_mid_error", "Partial", ErrorSummary(ProviderOverloaded, retry=True)),
        ("compat_stream_error", "Par", ErrorSummary(ProviderFailed, retry=True)),
    ],
)
def test_recorded_errors_in_mid_stream_are_raised(
    stub_vendor: StubVendor, name: str, text: str, expected: ErrorSummary, size: int
):
    recorded = load_recording(name)
    stub_vendor.stream(split(recorded["raw_sse"].encode(), size), headers=recorded["headers"])
    vendor_name = name.partition("_")[0].replace("compat", "openai")
    pieces, error = read_failing_stream(make_provider(vendor_name, stub_vendor))
    assert ("".join(pieces), summarize(error)) == (text, expected)


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
        f"error: {json.dumps(OVERLOADED['error'])}\n\ndata: [DONE]\n\n",
    ],
    ids=["event", "then done", "named", "list", "bare", "bare list", "llama.cpp's field"],
)
@only_sse
def test_an_error_event_is_raised_before_and_after_the_first_piece(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, event: str
):
    for texts in ([], ["Hel"]):
        stub_vendor.clear()
        stub_vendor.stream([*map(dialect.event, texts), event])
        pieces, error = read_failing_stream(provider)
        assert (pieces, summarize(error)) == (texts, ErrorSummary(ProviderOverloaded, retry=True))
        assert error.reason.startswith("HTTP 503")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"message": "busy", "code": 503}, ErrorSummary(ProviderOverloaded, retry=True)),
        (
            {"message": "slow down", "code": "rate_limit_exceeded"},
            ErrorSummary(ProviderOverloaded, retry=True),
        ),
        (
            {"object": "error", "message": "busy", "code": 503},
            ErrorSummary(ProviderOverloaded, retry=True),
        ),
        (
            {"object": "error", "type": "BadRequestError", "code": 400},
            ErrorSummary(RequestRejected),
        ),
        ({"detail": "Internal error"}, ErrorSummary(ProviderFailed, retry=True)),
        ({"message": "no", "code": "content_filter"}, ErrorSummary(ContentFiltered)),
    ],
    ids=str,
)
def test_a_flat_error_is_raised(
    stub_vendor: StubVendor, openai: Provider, event: dict[str, Any], expected: ErrorSummary
):
    stub_vendor.stream([OPENAI.event("Hel"), f"data: {json.dumps(event)}\n\n", DONE])
    pieces, error = read_failing_stream(openai)
    assert (pieces, summarize(error)) == (["Hel"], expected)
    stub_vendor.clear()
    stub_vendor.reply(event)
    with pytest.raises(ProviderError) as caught:
        complete(openai)
    assert summarize(caught.value) == expected


@pytest.mark.parametrize("data", ['{"message": "no"}', '{"status": "failed"}', "no", '"no"', ""])
@only_sse
def test_an_event_named_error_is_raised(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, data: str
):
    event = f"event: error\ndata: {data}\n\n"
    stub_vendor.stream([dialect.event("Hel"), event, *dialect.events("lo.")])
    pieces, error = read_failing_stream(provider)
    assert (pieces, summarize(error)) == (["Hel"], ErrorSummary(ProviderFailed, retry=True))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("size", [1, 2, 5, 100_000])
def test_an_error_field_is_raised_however_it_is_split(
    stub_vendor: StubVendor, openai: Provider, end: str, size: int
):
    error = {"code": 400, "message": "error: too long", "type": "invalid_request_error"}
    text = OPENAI.event("Hel") + f"error: {json.dumps(error)}\n\ndata: [DONE]\n\n"
    stub_vendor.stream(split(text.replace("\n", end).encode(), size))
    pieces, raised = read_failing_stream(openai)
    assert (pieces, summarize(raised)) == (["Hel"], ErrorSummary(RequestRejected))
    assert raised.vendor_message == "error: too long"


@pytest.mark.parametrize("size", [1, 2, 5, 100_000])
def test_the_text_of_an_answer_may_look_like_an_error_field(
    stub_vendor: StubVendor, openai: Provider, size: int
):
    text = "error: {error:\nerror: an error:"
    stub_vendor.stream(split("".join([*OPENAI.events("error:", text), DONE]).encode(), size))
    assert "".join(read_stream(openai)[0]) == f"error:{text}"


def test_a_failed_finish_reason_in_a_stream_is_raised(stub_vendor: StubVendor, openai: Provider):
    stub_vendor.stream([OPENAI.event("Hel"), OPENAI.event(None, "error"), DONE])
    pieces, error = read_failing_stream(openai)
    assert (pieces, summarize(error)) == (["Hel"], ErrorSummary(ProviderFailed, retry=True))


def test_an_error_inside_a_choice_is_raised(stub_vendor: StubVendor, openai: Provider):
    broken = chunk(choices=[{"delta": {"content": ""}, "error": {"code": 429}}])
    stub_vendor.stream([OPENAI.event("Hel"), broken, DONE])
    assert summarize(read_failing_stream(openai)[1]) == ErrorSummary(ProviderOverloaded, retry=True)


@pytest.mark.parametrize(
    "data", ["null", "7", '"text"', "[]", "[null]", "not JSON", "[" * 10_000, "ping", "[DONE"]
)
@only_sse
def test_event_data_other_than_an_object_is_ignored(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, data: str
):
    stub_vendor.stream([dialect.event("Hel"), f"data: {data}\n\n", *dialect.events("lo.")])
    assert read_stream(provider) == (["Hel", "lo."], HELLO)


@pytest.mark.parametrize("data", ['{"x": 1e99999999999999999999}', '{"choices": [{"del', "{{}"])
@only_sse
def test_a_broken_object_is_an_error(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, data: str
):
    stub_vendor.stream([dialect.event("Hel"), f"data: {data}\n\n", *dialect.events("lo.")])
    pieces, error = read_failing_stream(provider)
    assert (pieces, summarize(error)) == (["Hel"], ErrorSummary(ProviderFailed))


def test_a_stream_without_text_is_no_answer(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.stream(dialect.events())
    pieces, error = read_failing_stream(provider)
    assert (pieces, summarize(error)) == ([], ErrorSummary(EmptyAnswer, retry=True))


def test_a_filtered_answer_without_text_is_an_error(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    stub_vendor.stream(dialect.events(finish="content_filter"))
    assert summarize(read_failing_stream(provider)[1]) == ErrorSummary(ContentFiltered)


def test_a_blocked_prompt_is_filtered(stub_vendor: StubVendor):
    block = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}}
    stub_vendor.stream([f"data: {json.dumps(block)}\r\n\r\n"])
    assert summarize(read_failing_stream(make_provider("gemini", stub_vendor))[1]) == ErrorSummary(
        ContentFiltered
    )


def test_a_refusal_is_an_answer(stub_vendor: StubVendor, openai: Provider):
    refusals = [chunk(choices=[{"delta": {"refusal": text}}]) for text in ("I can", "not.")]
    stub_vendor.stream([*refusals, *OPENAI.events()])
    deltas, completion = read_deltas(openai)
    assert deltas == [{"refusal": "I can"}, {"refusal": "not."}]
    assert completion == HELLO._replace(message={"refusal": "I cannot."})


STATUSES = {
    400: ErrorSummary(RequestRejected),
    401: ErrorSummary(ProviderMisconfigured),
    404: ErrorSummary(ModelUnavailable),
    429: ErrorSummary(ProviderOverloaded, retry=True),
    500: ErrorSummary(ProviderFailed, retry=True),
    503: ErrorSummary(ProviderOverloaded, retry=True),
    307: ErrorSummary(ProviderMisconfigured),
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("headers", [{}, SSE], ids=["JSON", "event stream"])
def test_the_status_of_a_stream_decides_retry_and_fallback(
    stub_vendor: StubVendor, provider: Provider, status: int, headers: dict[str, str]
):
    stub_vendor.reply({"error": {"message": "no", "code": status}}, status=status, headers=headers)
    pieces, error = read_failing_stream(provider)
    assert (pieces, summarize(error)) == ([], STATUSES[status])


def test_retry_after_of_a_stream_is_kept(stub_vendor: StubVendor, provider: Provider):
    stub_vendor.reply({"error": {}}, status=429, headers={"Retry-After": "40"})
    assert read_failing_stream(provider)[1].retry_after == 40.0


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
def test_an_unusable_body_falls_back_without_retry(
    stub_vendor: StubVendor, provider: Provider, body: str, kind: str
):
    stub_vendor.reply(body, headers={"content-type": kind})
    pieces, error = read_failing_stream(provider)
    assert (pieces, summarize(error), error.fallback) == ([], ErrorSummary(ProviderFailed), True)


OPENAI_PLAIN = {
    "model": MODEL,
    "choices": [{"message": {"content": "Hello."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
}
GEMINI_PLAIN = {
    "candidates": [{"content": {"parts": [{"text": "Hello."}]}, "finishReason": "STOP"}],
    "modelVersion": MODEL,
    "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14},
}
BEDROCK_PLAIN = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hello."}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 9, "outputTokens": 5, "totalTokens": 14},
    "trace": {"promptRouter": {"invokedModelId": MODEL}},
}
PLAIN = {
    "openai": OPENAI_PLAIN,
    "openrouter": OPENAI_PLAIN,
    "gemini": GEMINI_PLAIN,
    "bedrock": BEDROCK_PLAIN,
}


@pytest.mark.parametrize("headers", [{}, SSE, {"content-type": "text/plain"}])
def test_an_answer_that_is_not_streamed_is_accepted(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, headers: dict[str, str]
):
    stub_vendor.reply(PLAIN[dialect.name], headers=headers)
    assert read_stream(provider) == (["Hello."], HELLO)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "text/plain", ""])
@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("requested", ["plain", "stream"])
@only_sse
def test_a_stream_is_an_answer_whatever_was_requested_and_its_label(
    stub_vendor: StubVendor,
    dialect: Dialect,
    provider: Provider,
    kind: str,
    size: int,
    requested: str,
):
    data = "".join([": hi\n\n", *dialect.events("Hel", "lo.")]).encode()
    stub_vendor.stream(split(data, size), headers={"content-type": kind})
    answer = complete(provider) if requested == "plain" else read_stream(provider)[1]
    assert answer == HELLO


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_mislabelled_stream_is_not_waited_for(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, kind: str
):
    first, *rest = dialect.events("Hel", "lo.")
    stub_vendor.stream(
        [first, *rest], gap=[0, 30, *[0] * len(rest)], headers={"content-type": kind}
    )
    stream = provider.stream(REQUEST, Deadline(20))
    assert next(stream).message == {"content": "Hel"}
    stream.close()  # type: ignore[attr-defined]


def test_an_error_that_is_not_streamed_is_raised(stub_vendor: StubVendor, provider: Provider):
    stub_vendor.reply(OVERLOADED)
    assert summarize(read_failing_stream(provider)[1]) == ErrorSummary(
        ProviderOverloaded, retry=True
    )


def test_a_connection_reset_before_the_answer_is_retried(
    stub_vendor: StubVendor, provider: Provider
):
    stub_vendor.reset()
    assert summarize(read_failing_stream(provider)[1]) == ErrorSummary(ProviderFailed, retry=True)


def test_an_answer_over_the_size_limit_is_refused(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider
):
    event = dialect.event("x" * 4_000_000)
    stub_vendor.stream([event] * 9)
    pieces, error = read_failing_stream(provider, seconds=30)
    assert 1 < len(pieces) < 9
    assert summarize(error) == ErrorSummary(ProviderFailed)


# --- Deadline and cancellation --------------------------------------------------------------------


def raw_bytes(event: str | bytes) -> bytes:
    return event.encode() if isinstance(event, str) else event


ENDLESS: dict[str, Callable[[Dialect], list[str | bytes]]] = {
    "pieces": lambda dialect: [dialect.event("Hel")] * 200,
    "comments": lambda dialect: [dialect.event("Hel"), *[dialect.noise] * 200],
    "bytes": lambda dialect: [dialect.event("Hel"), *split(raw_bytes(dialect.event("lo")), 1)],
    "silence": lambda dialect: [dialect.event("Hel")],
}


@pytest.mark.parametrize("what", ENDLESS)
def test_the_deadline_holds_while_pieces_keep_arriving(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, what: str
):
    events = ENDLESS[what](dialect)
    stub_vendor.stream([*events, ""], gap=[0, *[0.05] * (len(events) - 1), 30])
    started = time.monotonic()
    pieces, error = read_failing_stream(
        provider, seconds=1.0
    )  # in which the first piece has to come
    assert summarize(error) == ErrorSummary(DeadlineExceeded)
    assert pieces[0] == "Hel"
    assert 0.99 < time.monotonic() - started < SOON
    assert stub_vendor.client_disconnected.wait(SOON)


@pytest.mark.parametrize("what", ENDLESS)
def test_another_thread_ends_the_call_to_the_vendor(
    stub_vendor: StubVendor, dialect: Dialect, provider: Provider, what: str
):
    events = ENDLESS[what](dialect)
    stub_vendor.stream([*events, ""], gap=[0, *[0.05] * (len(events) - 1), 30])
    deadline = Deadline(30)
    begun = threading.Event()

    def read() -> ProviderError | None:
        try:
            for _ in provider.stream(REQUEST, deadline):
                begun.set()
        except ProviderError as exc:
            return exc
        return None

    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(read)
        assert begun.wait(SOON)
        deadline.cancel()
        assert stub_vendor.client_disconnected.wait(SOON)
        assert isinstance(reading.result(), DeadlineExceeded)


def test_another_thread_ends_the_wait_for_the_head_of_the_answer(
    stub_vendor: StubVendor, provider: Provider
):
    stub_vendor.reply(OPENAI_PLAIN, delay=30)
    deadline = Deadline(30)
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(list, provider.stream(REQUEST, deadline))
        while not stub_vendor.requests:
            time.sleep(0.01)
        deadline.cancel()
        assert isinstance(reading.exception(timeout=SOON), DeadlineExceeded)


# --- Any bytes ------------------------------------------------------------------------------------

OPTIONS = {"api_key": KEY, "base_url": "http://localhost", "model": "model-1"}
VENDORS = ("openai", "openrouter", "gemini", "bedrock")


def read_bytes(name: str, pieces: list[bytes]) -> list[Delta | Completion]:
    """Return what a provider reads from these bytes of a body."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, headers={"content-type": "text/event-stream"}, content=iter(pieces)
        )

    provider = build(name, OPTIONS, httpx.MockTransport(answer))
    return list(provider.stream(REQUEST, Deadline(5)))


def cuts(data: bytes) -> st.SearchStrategy[list[bytes]]:
    places = st.lists(st.integers(0, len(data)), max_size=30, unique=True).map(sorted)
    return places.map(
        lambda at: [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True) if b > a]
    )


GOOD = {name.partition("_")[0]: str(load_recording(name)["raw_sse"]) for name in RECORDED}


@pytest.mark.parametrize("name", GOOD)
@given(data=st.data(), end=st.sampled_from(["\n", "\r\n", "\r"]), mark=st.booleans())
def test_any_split_of_a_stream_gives_the_same_answer(
    name: str, data: st.DataObject, end: str, mark: bool
):
    text = GOOD[name].replace("\r\n", "\n").replace("\n", end)
    whole = b"\xef\xbb\xbf" * mark + text.encode()
    assert read_bytes(name, data.draw(cuts(whole))) == read_bytes(name, [GOOD[name].encode()])


lines = st.sampled_from(
    [b"data: ", b"data:", b": ", b"event: error", b"id: 1", b"retry: x", b"\n", b"\r", b"\r\n\r\n"]
    + [b"{", b"}", b'{"choices": [', b'{"error": ', b"null", b"[DONE]", b"\xff", b"\xef\xbb\xbf"]
    + [event.encode() for dialect in SSE_DIALECTS for event in dialect.events("Hel", "lo.")]
    + bedrock_frames.text_stream("Hel", "lo.")
)


def check_stream(name: str, pieces: list[bytes]) -> None:
    try:
        *deltas, completion = read_bytes(name, pieces)
    except ProviderError:
        return
    assert isinstance(completion, Completion)
    told = [delta.message for delta in deltas if isinstance(delta, Delta)]
    assert joined(told) == completion.message
    assert orjson.dumps([completion.message, completion.extras])
    assert completion.finish_reason == "length" or CONTENT_FIELDS & completion.message.keys()


@pytest.mark.parametrize("name", VENDORS)
@given(pieces=st.lists(lines | st.binary(max_size=20), max_size=12))
def test_any_bytes_give_a_completion_or_a_provider_error(name: str, pieces: list[bytes]):
    check_stream(name, pieces)


NAMES = (
    *("choices", "delta", "content", "finish_reason", "error", "code", "usage", "tool_calls"),
    *("function", "name", "index", "candidates", "parts", "text", "finishReason", "model"),
    *("functionCall", "args", "thought", "thoughtSignature", "inlineData", "mimeType", "data"),
)
payloads = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=8),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inside, max_size=4)
    ),
    max_leaves=12,
)


parts = st.fixed_dictionaries(
    {},
    optional={
        "text": payloads,
        "thought": payloads,
        "thoughtSignature": payloads,
        "functionCall": payloads
        | st.fixed_dictionaries({}, optional={"name": payloads, "args": payloads, "id": payloads}),
        "inlineData": payloads
        | st.fixed_dictionaries({"mimeType": st.just("image/png"), "data": payloads}),
    },
)
gemini_events = st.lists(parts, max_size=3).map(
    lambda parts: {"candidates": [{"content": {"parts": parts}}]}
)


@pytest.mark.parametrize("name", VENDORS)
@given(events=st.lists(payloads | gemini_events, max_size=4))
def test_any_json_gives_a_completion_or_a_provider_error(name: str, events: list[Any]):
    data = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    end = GEMINI if name == "gemini" else OPENAI
    check_stream(name, data + [event.encode() for event in end.events("x")])
