"""`"stream": true` on `/v1/chat`: events, records and failures."""

import gc
import json
import re
import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import ANY

import pytest
from django.http import HttpResponse
from pytest_django import Settings

from chat.api import streaming
from chat.models import Interaction
from chat.storage.base import InteractionRecord, Status
from providers.base import Completion, CompletionRequest, Provider
from providers.deadline import Deadline
from tests.client import ApiClient, status_and_code
from tests.factories import FailingSettleStore, FakeProvider, VanishingStore, all_records
from tests.stub_vendor import DONE, FINISH, OPENAI_ANSWER, SOON, USAGE, StubVendor, chunk

pytestmark = pytest.mark.django_db(transaction=True)

Log = Callable[[], list[dict[str, Any]]]
Event = tuple[str, dict[str, Any]]

HELLO = [chunk("Hel"), chunk("lo "), chunk("there."), FINISH, USAGE, DONE]
BROKEN = f"data: {json.dumps({'error': {'code': 503, 'message': 'the secret of the vendor'}})}\n\n"


def body_of(response: HttpResponse) -> str:
    assert response.status_code == 200
    assert response["Content-Type"] == "text/event-stream; charset=utf-8"
    return b"".join(response.streaming_content).decode()


def events_of(response: HttpResponse) -> list[Event]:
    """Parse the events of a stream; fail on any other form."""
    *blocks, rest = body_of(response).split("\n\n")
    assert rest == ""
    events = []
    for block in blocks:
        if block.startswith(":"):
            continue
        match = re.fullmatch(r"event: ([a-z]+)\ndata: (.+)", block)
        assert match, block
        events.append((match[1], json.loads(match[2])))
    return events


def text_of(events: list[Event]) -> str:
    return "".join(data["text"] for name, data in events if name == "delta")


def ask(api: ApiClient, prompt: str = "Olá!", **fields: Any) -> HttpResponse:
    return api.chat(prompt, stream=True, **fields)


def only_record() -> InteractionRecord:
    [record] = all_records()
    return record


@pytest.fixture
def fallback_vendor() -> Any:
    with StubVendor() as stub:
        yield stub


@pytest.fixture
def both_vendors(
    vendor: StubVendor, fallback_vendor: StubVendor, change_settings: Callable[..., None]
) -> None:
    """Configure two vendors: the second is the fallback of the first."""
    change_settings(
        PROVIDERS={
            name: {"api_key": "sk-of-the-vendor", "base_url": f"{asked.url}/v1", "model": model}
            for name, asked, model in (
                ("openai", vendor, "model-1"),
                ("openrouter", fallback_vendor, "model-2"),
            )
        }
    )


# --- A stream -------------------------------------------------------------------------------------


def test_a_stream_has_deltas_and_then_the_whole_answer(api: ApiClient, vendor: StubVendor):
    vendor.stream(HELLO)
    events = events_of(ask(api))
    assert events == [
        ("delta", {"text": "Hel"}),
        ("delta", {"text": "lo "}),
        ("delta", {"text": "there."}),
        ("done", ANY),
    ]
    assert events[-1][1] == {
        "interaction_id": ANY,
        "userId": "alice",
        "prompt": "Olá!",
        "response": "Hello there.",
        "model": "stand-in-1",
        "timestamp": ANY,
        "reasoning": None,
        "conversation_id": events[-1][1]["interaction_id"],
        "previous_interaction_id": None,
        "provider": "openai",
        "finish_reason": "stop",
        "cached": False,
        "latency_ms": ANY,
        "metadata": {},
        "usage": {
            **OPENAI_ANSWER["usage"],
            "cached_tokens": None,
            "reasoning_tokens": None,
            "cost_usd": None,
        },
    }


def test_the_done_event_equals_the_record(api: ApiClient, vendor: StubVendor):
    vendor.stream(HELLO)
    _, done = events_of(ask(api))[-1]
    record = api.get(f"/v1/interactions/{done['interaction_id']}").json()
    attempt = {"provider": "openai", "model": "model-1", "outcome": "ok", "latency_ms": ANY}
    attempt["usage"] = done["usage"]
    assert record == done | {"status": "ok", "error": None, "attempts": [attempt]}


def test_the_done_event_equals_a_plain_answer(api: ApiClient):
    _, done = events_of(ask(api, "two words", metadata={"a": "b"}, temperature=0.5))[-1]
    plain = api.chat("two words", metadata={"a": "b"}, temperature=0.5).json()
    own = {"interaction_id", "conversation_id", "timestamp", "latency_ms"}
    assert done.keys() == plain.keys()
    assert {k: v for k, v in done.items() if k not in own} == {
        k: v for k, v in plain.items() if k not in own
    }


def test_a_delta_is_sent_at_once(api: ApiClient, vendor: StubVendor):
    vendor.stream([chunk("Hel"), *HELLO], gap=[0, 30, *[0] * 5])
    response = ask(api)
    assert next(iter(response.streaming_content)) == b'event: delta\ndata: {"text":"Hel"}\n\n'
    assert not vendor.client_disconnected.is_set()
    assert only_record().status is Status.PENDING
    response.close()


def test_pieces_that_are_there_together_are_sent_together(api: ApiClient, vendor: StubVendor):
    more = threading.Event()
    together = "".join(chunk(text) for text in ("Hel", "lo ", "there"))
    vendor.stream([together, chunk("."), FINISH, DONE], gap=[0, more, 0, 0])
    stream = iter(ask(api).streaming_content)
    assert next(stream) == b'event: delta\ndata: {"text":"Hel"}\n\n'
    assert next(stream) == b"".join(
        b'event: delta\ndata: {"text":"%b"}\n\n' % text for text in (b"lo ", b"there")
    )
    more.set()
    assert next(stream) == b'event: delta\ndata: {"text":"."}\n\n'
    assert next(stream).startswith(b"event: done\n")
    assert list(stream) == []


def test_unicode_line_separators_are_escaped(api: ApiClient):
    text = "a\nb\r\nc\u2028d\u2029e\u0085f 🦆"
    response = ask(api, text)
    body = body_of(response)
    assert not re.search("[\r\u2028\u2029\u0085]", body)
    lines = [line for line in body.splitlines() if line.startswith("data: ")]
    assert json.loads(lines[-1].removeprefix("data: "))["response"] == f"You said: {text}"


@pytest.mark.parametrize("accept", ["text/event-stream", "text/event-stream, */*", "*/*"])
def test_an_event_stream_is_acceptable(api: ApiClient, accept: str):
    events = events_of(ask(api, headers={"Accept": accept}))
    assert text_of(events) == "You said: Olá!"


def test_accepting_a_stream_without_asking_for_one_returns_json(api: ApiClient):
    response = api.chat(headers={"Accept": "text/event-stream"})
    assert response.json()["response"] == "You said: Olá!"


@pytest.mark.parametrize("value", [False, None])
def test_stream_false_returns_json(api: ApiClient, value: bool | None):
    assert api.chat(stream=value).json()["response"] == "You said: Olá!"


def test_a_stream_has_the_headers_of_every_answer(api: ApiClient):
    response = ask(api, headers={"X-Request-ID": "mine"})
    assert response["X-Request-ID"] == "mine"
    assert (response["Cache-Control"], response["X-Accel-Buffering"]) == ("no-cache", "no")
    assert int(response["X-RateLimit-Limit"]) - 1 == int(response["X-RateLimit-Remaining"])
    assert re.fullmatch(r"storage;dur=[\d.]+, (.*, )?total;dur=[\d.]+", response["Server-Timing"])
    assert "Content-Length" not in response
    assert "Idempotency-Replayed" not in response
    body_of(response)


def test_an_answer_cut_by_length_may_be_empty(api: ApiClient):
    [(name, done)] = events_of(ask(api, "mock:length"))
    assert (name, done["response"], done["finish_reason"]) == ("done", "", "length")


def test_a_conversation_is_streamed(api: ApiClient, vendor: StubVendor):
    vendor.stream(HELLO)
    _, first = events_of(ask(api))[-1]
    _, second = events_of(ask(api, "And now?", previous_interaction_id=first["interaction_id"]))[-1]
    assert second["conversation_id"] == first["interaction_id"]
    said = [message["content"] for message in vendor.requests[-1].json["messages"]]
    assert said == ["Olá!", "Hello there.", "And now?"]


class ClosingProvider(FakeProvider):
    """A provider whose call closes another request's stream, as the garbage collector may do."""

    def __init__(self, other: HttpResponse) -> None:
        answer = Completion(message={"content": "Hi"}, model="mock-1", finish_reason="stop")
        super().__init__(answer)
        self.other = other

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        self.other.close()
        return super().complete(request, deadline)


def test_a_stream_that_is_collected_during_another_leaves_that_one_whole(
    api: ApiClient, use_provider: Callable[[Provider], None]
):
    abandoned = ask(api, "one two")
    next(iter(abandoned.streaming_content))
    use_provider(ClosingProvider(abandoned))
    assert text_of(events_of(ask(api))) == "Hi"
    assert {record.status for record in all_records()} == {Status.OK, Status.ABORTED}


# --- What is there already ------------------------------------------------------------------------


@pytest.mark.parametrize("again_streamed", [True, False])
@pytest.mark.parametrize("first_streamed", [True, False])
def test_a_replay_is_the_same_plain_or_streamed(
    api: ApiClient, first_streamed: bool, again_streamed: bool
):
    def whole(response: HttpResponse, streamed: bool) -> dict[str, Any]:
        if not streamed:
            body: dict[str, Any] = response.json()
            return body
        events = events_of(response)
        assert text_of(events) == "You said: Olá!"
        return events[-1][1]

    key = {"Idempotency-Key": "key-1"}
    first = api.chat(stream=first_streamed, headers=key)
    expected = whole(first, first_streamed)
    again = api.chat(stream=again_streamed, headers=key)
    assert again["Idempotency-Replayed"] == "true"
    assert whole(again, again_streamed) == expected
    assert "Idempotency-Replayed" not in first
    assert len(all_records()) == 1


def test_a_key_whose_stream_still_runs_is_in_flight(api: ApiClient, vendor: StubVendor):
    vendor.stream([chunk("Hel"), chunk("lo")], gap=[0, 30])
    key = {"Idempotency-Key": "key-1"}
    running = ask(api, headers=key)
    assert status_and_code(ask(api, headers=key)) == (409, "idempotency_in_flight")
    running.close()


def test_a_key_whose_stream_was_aborted_may_be_retried(api: ApiClient, vendor: StubVendor):
    vendor.stream([chunk("Hel"), chunk("lo")], gap=[0, 30])
    vendor.stream(HELLO)
    key = {"Idempotency-Key": "key-1"}
    ask(api, headers=key).close()
    assert text_of(events_of(ask(api, headers=key))) == "Hello there."
    assert only_record().status is Status.OK


def test_a_cached_answer_is_streamed(api: ApiClient, vendor: StubVendor, settings: Settings):
    settings.ENABLE_CACHE = True
    vendor.stream(HELLO)
    _, first = events_of(ask(api))[-1]
    events = events_of(ask(api))
    assert events == [("delta", {"text": "Hello there."}), ("done", ANY)]
    done = events[-1][1]
    assert (done["cached"], done["response"]) == (True, first["response"])
    assert len(vendor.requests) == 1


# --- Failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("mock:fail", (502, "provider_error")),
        ("mock:fail=400", (400, "provider_rejected")),
        ("mock:fail=429", (503, "provider_unavailable")),
        ("mock:fail=timeout", (504, "provider_timeout")),
        ("mock:filter", (422, "content_filtered")),
        ("mock:empty", (502, "provider_error")),
    ],
)
def test_a_failure_before_the_first_delta_has_its_own_status(
    api: ApiClient, prompt: str, expected: tuple[int, str]
):
    response = ask(api, prompt)
    assert status_and_code(response) == expected
    record = only_record()
    assert (record.status, record.response) == (Status.ERROR, None)
    assert record.error
    assert record.error.code == expected[1]


def test_an_invalid_request_for_a_stream_is_a_400(api: ApiClient):
    assert status_and_code(ask(api, "")) == (400, "validation_error")
    assert status_and_code(ask(api, model="unknown")) == (400, "validation_error")
    assert status_and_code(api.chat(stream="perhaps")) == (400, "validation_error")
    assert all_records() == []


def test_a_vendor_that_stays_silent_is_a_timeout(
    api: ApiClient, vendor: StubVendor, settings: Settings
):
    settings.STREAM_TIMEOUT_SECONDS = 0.5
    vendor.stream([chunk("late")], gap=30)
    assert status_and_code(ask(api)) == (504, "provider_timeout")
    assert only_record().status is Status.ERROR


def detailed(text: str, **fields: Any) -> str:
    details = [{"type": "reasoning.text", "text": text, "index": 0}]
    return chunk(choices=[{"index": 0, "delta": {"reasoning_details": details, **fields}}])


@pytest.mark.parametrize("plain", [True, False])
def test_thoughts_in_details_are_shown_once(api: ApiClient, vendor: StubVendor, plain: bool):
    thoughts = [detailed(text, **({"reasoning": text} if plain else {})) for text in ("H", "m.")]
    again = [detailed("Hm.")] if plain else []
    vendor.stream([*thoughts, *again, chunk("Hi."), FINISH, DONE])
    *events, (_, whole) = events_of(ask(api))
    shown = [
        ("reasoning", {"text": "H"}),
        ("reasoning", {"text": "m."}),
        ("delta", {"text": "Hi."}),
    ]
    assert (events, whole["reasoning"]) == (shown, "Hm.")


def test_a_failure_after_the_first_delta_is_an_event(
    api: ApiClient, vendor: StubVendor, log_lines: Log
):
    vendor.stream([chunk("Hel"), chunk("lo"), BROKEN, DONE])
    response = ask(api)
    events = events_of(response)
    assert events == [("delta", {"text": "Hel"}), ("delta", {"text": "lo"}), ("error", ANY)]
    assert events[-1][1] == {
        "type": "urn:problem:provider_unavailable",
        "title": ANY,
        "status": 503,
        "detail": "The provider is overloaded.",
        "code": "provider_unavailable",
        "request_id": response["X-Request-ID"],
        "errors": [],
    }
    record = only_record()
    assert (record.status, record.response) == (Status.ERROR, "Hello")
    assert record.error
    assert record.error.code == "provider_unavailable"
    assert [attempt.outcome for attempt in record.attempts] == ["provider_unavailable"]
    [line] = log_lines()
    assert (line["status"], line["code"]) == (200, "provider_unavailable")


def test_a_stream_that_breaks_off_is_an_event(api: ApiClient):
    events = events_of(ask(api, "one two mock:break three"))
    assert [name for name, _ in events][-1] == "error"
    assert events[-1][1]["code"] == "provider_error"
    assert only_record().response == text_of(events)


def test_the_deadline_in_mid_stream_is_an_event(
    api: ApiClient, vendor: StubVendor, settings: Settings
):
    settings.STREAM_TIMEOUT_SECONDS = 1.0  # the first delta must arrive in time
    vendor.stream([chunk("Hel"), *[": waiting\n\n"] * 600], gap=[0, *[0.05] * 600])
    events = events_of(ask(api))
    assert [name for name, _ in events] == ["delta", "error"]
    assert events[-1][1]["code"] == "provider_timeout"
    record = only_record()
    assert (record.status, record.response) == (Status.ERROR, "Hel")
    assert vendor.client_disconnected.wait(SOON)


def test_a_vendor_that_falls_silent_in_mid_stream_is_a_timeout(
    api: ApiClient, vendor: StubVendor, settings: Settings, log_lines: Log
):
    settings.STREAM_IDLE_SECONDS = 0.5
    vendor.stream([chunk("Hel"), chunk("lo")], gap=[0, 30])
    events = events_of(ask(api))
    assert [name for name, _ in events] == ["delta", "error"]
    assert events[-1][1]["code"] == "provider_timeout"
    record = only_record()
    assert (record.status, record.response) == (Status.ERROR, "Hel")
    assert [attempt.outcome for attempt in record.attempts] == ["provider_timeout"]
    assert vendor.client_disconnected.wait(SOON)
    [line] = log_lines()
    assert line["reason"] == "timed_out_reading"


@pytest.mark.parametrize("word", [chunk("a"), ": waiting\n\n"], ids=["text", "comment"])
def test_a_stream_lasts_as_long_as_the_vendor_says_something(
    api: ApiClient, vendor: StubVendor, settings: Settings, word: str
):
    settings.REQUEST_TIMEOUT_SECONDS = settings.STREAM_IDLE_SECONDS = 1.0
    vendor.stream([*[word] * 30, chunk("b"), FINISH, DONE], gap=0.05)
    name, done = events_of(ask(api))[-1]
    assert (name, done["response"].lstrip("a")) == ("done", "b")


@pytest.mark.usefixtures("both_vendors")
def test_a_silent_vendor_is_replaced_before_the_first_delta(
    api: ApiClient, vendor: StubVendor, fallback_vendor: StubVendor, settings: Settings
):
    settings.STREAM_IDLE_SECONDS = 1.0
    vendor.reply(OPENAI_ANSWER, delay=30)
    fallback_vendor.stream(HELLO)
    events = events_of(ask(api))
    assert (text_of(events), events[-1][1]["provider"]) == ("Hello there.", "openrouter")
    assert (len(vendor.requests), len(fallback_vendor.requests)) == (1, 1)
    attempts = [(attempt.provider, attempt.outcome) for attempt in only_record().attempts]
    assert attempts == [("openai", "provider_timeout"), ("openrouter", "ok")]


def test_streams_that_fall_silent_open_the_circuit(
    api: ApiClient, vendor: StubVendor, change_settings: Callable[..., None]
):
    change_settings(CIRCUIT_BREAKER_THRESHOLD=2, STREAM_IDLE_SECONDS=0.5)
    vendor.stream([chunk("Hel"), chunk("lo")], gap=[0, 30])
    for _ in range(2):
        assert [name for name, _ in events_of(ask(api))] == ["delta", "error"]
    assert status_and_code(ask(api)) == (503, "provider_unavailable")
    assert len(vendor.requests) == 2


def test_a_plain_answer_may_be_silent_for_longer(
    api: ApiClient, vendor: StubVendor, settings: Settings
):
    settings.STREAM_IDLE_SECONDS = settings.STREAM_TIMEOUT_SECONDS = 0.2
    vendor.reply(OPENAI_ANSWER, delay=0.6)
    assert api.chat().status_code == 200


@pytest.mark.usefixtures("both_vendors")
def test_openai_chunks_name_the_answering_model(
    api: ApiClient, vendor: StubVendor, fallback_vendor: StubVendor
):
    vendor.stream([": waiting\n\n", 'data: {"choices": []}\n\n'])
    fallback_vendor.stream([chunk("Hello.", model=None), FINISH, DONE])
    body = {"model": "default", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    response = api.post("/v1/chat/completions", body)
    written = b"".join(response.streaming_content).decode()
    assert '"model":"model-2"' in written
    assert '"model":"model-1"' not in written


@pytest.mark.usefixtures("both_vendors")
def test_fallback_happens_before_the_first_delta(
    api: ApiClient, vendor: StubVendor, fallback_vendor: StubVendor
):
    vendor.stream([": waiting\n\n", 'data: {"choices": []}\n\n'])
    fallback_vendor.stream(HELLO)
    events = events_of(ask(api))
    assert (text_of(events), events[-1][1]["provider"]) == ("Hello there.", "openrouter")
    assert (len(vendor.requests), len(fallback_vendor.requests)) == (1, 1)
    attempts = [(attempt.provider, attempt.outcome) for attempt in only_record().attempts]
    assert attempts == [("openai", "provider_error"), ("openrouter", "ok")]


@pytest.mark.usefixtures("both_vendors")
def test_no_fallback_after_the_first_delta(
    api: ApiClient, vendor: StubVendor, fallback_vendor: StubVendor
):
    vendor.stream([chunk("Hel")], cut=True)
    assert [name for name, _ in events_of(ask(api))] == ["delta", "error"]
    assert (len(vendor.requests), len(fallback_vendor.requests)) == (1, 0)


@pytest.mark.usefixtures("both_vendors")
def test_a_partial_answer_is_recorded_with_its_provider(
    api: ApiClient, vendor: StubVendor, fallback_vendor: StubVendor
):
    vendor.reply({"error": {}}, status=401)
    fallback_vendor.stream([chunk("Hel")], cut=True)
    events_of(ask(api))
    record = only_record()
    assert (record.provider, record.model, record.response) == ("openrouter", "model-2", "Hel")


def test_a_retry_happens_before_the_first_delta(api: ApiClient, vendor: StubVendor):
    vendor.reply({"error": {}}, status=503, headers={"Retry-After": "0"})
    vendor.stream(HELLO)
    assert text_of(events_of(ask(api))) == "Hello there."
    assert len(vendor.requests) == 2


def test_repeatedly_broken_streams_open_the_circuit(
    api: ApiClient, vendor: StubVendor, change_settings: Callable[..., None]
):
    change_settings(CIRCUIT_BREAKER_THRESHOLD=2)
    vendor.stream([chunk("Hel"), BROKEN])
    for _ in range(2):
        assert [name for name, _ in events_of(ask(api))] == ["delta", "error"]
    assert status_and_code(ask(api)) == (503, "provider_unavailable")
    assert len(vendor.requests) == 2


def test_long_answers_do_not_open_the_circuit(
    api: ApiClient, vendor: StubVendor, change_settings: Callable[..., None]
):
    change_settings(CIRCUIT_BREAKER_THRESHOLD=2, STREAM_TIMEOUT_SECONDS=1.0)
    vendor.stream([chunk("Hel"), chunk("lo")], gap=[0, 30])
    for _ in range(3):
        assert [name for name, _ in events_of(ask(api))] == ["delta", "error"]
    assert len(vendor.requests) == 3


def test_an_unrecorded_streamed_answer_is_marked(
    api: ApiClient, vendor: StubVendor, use_store: Callable[[type], None], log_lines: Log
):
    use_store(FailingSettleStore)
    vendor.stream(HELLO)
    events = events_of(ask(api))
    assert text_of(events) == "Hello there."
    assert events[-1][1]["recorded"] is False
    [lost, _] = log_lines()
    assert lost["record"]["response"] == "Hello there."


def test_an_answer_whose_record_was_erased_is_still_streamed(
    api: ApiClient, use_store: Callable[[type], None]
):
    use_store(VanishingStore)
    assert events_of(ask(api))[-1][1]["recorded"] is False
    assert not Interaction.objects.exists()


class Broken(VanishingStore):
    """A store with a bug."""

    def claim(self, record: InteractionRecord) -> InteractionRecord | None:
        raise RuntimeError("a bug")


def test_an_unexpected_exception_is_an_error_event_and_logged_once(
    api: ApiClient, use_store: Callable[[type], None], log_lines: Log
):
    use_store(Broken)
    assert status_and_code(ask(api)) == (500, "internal_error")
    errors = [
        line for line in log_lines() if line["level"] == "ERROR" and line["logger"] == "chat.errors"
    ]
    assert [line["message"] for line in errors] == ["unhandled RuntimeError"]


# --- Who goes away, and who waits -----------------------------------------------------------------


def test_a_disconnected_client_s_answer_is_settled_as_aborted(
    api: ApiClient, vendor: StubVendor, log_lines: Log
):
    vendor.stream([chunk("Hel"), chunk("lo "), chunk("there.")], gap=[0, 0, 30])
    response = ask(api)
    stream = iter(response.streaming_content)
    assert [next(stream), next(stream)][1] == b'event: delta\ndata: {"text":"lo "}\n\n'
    response.close()
    record = only_record()
    assert (record.status, record.response, record.error) == (Status.ABORTED, "Hello ", None)
    assert [attempt.outcome for attempt in record.attempts] == ["aborted"]
    assert vendor.client_disconnected.wait(SOON)
    [line] = log_lines()
    assert line["code"] == "aborted"


def test_a_client_may_leave_between_two_pieces_that_are_there(api: ApiClient, log_lines: Log):
    response = ask(api, "one two three")  # from the mock, which waits for nothing
    assert next(iter(response.streaming_content)) == b'event: delta\ndata: {"text":"You"}\n\n'
    response.close()
    record = only_record()
    assert (record.status, record.response) == (Status.ABORTED, "You")
    [line] = log_lines()
    assert line["code"] == "aborted"


def test_a_whole_answer_is_ok_even_if_its_client_has_left(
    api: ApiClient, vendor: StubVendor, log_lines: Log
):
    vendor.stream([chunk("Hel"), chunk("lo") + FINISH + USAGE + DONE])
    response = ask(api)
    stream = iter(response.streaming_content)
    assert [next(stream), next(stream)][1] == b'event: delta\ndata: {"text":"lo"}\n\n'
    response.close()
    record = only_record()
    assert (record.status, record.response) == (Status.OK, "Hello")
    assert record.usage.total_tokens
    [line] = log_lines()
    assert "code" not in line


def test_a_read_stream_leaves_nothing_to_the_garbage_collector(api: ApiClient, vendor: StubVendor):
    def streams() -> int:
        return sum(type(each) is streaming.EventStream for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = streams()
        response = ask(api)
        assert streams() == before + 1
        body_of(response)
        response.close()
        del response
        assert streams() == before
    finally:
        gc.enable()


def test_heartbeats_keep_a_silent_stream_alive(
    api: ApiClient, vendor: StubVendor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0.05)
    holds = [threading.Event(), threading.Event()]
    vendor.stream([chunk("Hel"), chunk("lo"), FINISH, DONE], gap=[*holds, 0, 0])
    stream = iter(ask(api).streaming_content)
    for hold, text in zip(holds, ("Hel", "lo"), strict=True):
        assert [next(stream) for _ in range(3)] == [b": waiting\n\n"] * 3
        hold.set()
        rest = (item for item in stream if item != b": waiting\n\n")
        assert next(rest) == b'event: delta\ndata: {"text":"%b"}\n\n' % text.encode()
    assert [item for item in stream if item != b": waiting\n\n"][-1].startswith(b"event: done\n")


def test_vendor_comments_are_not_passed_on(
    api: ApiClient, vendor: StubVendor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0.1)
    vendor.stream([*[": PROCESSING\n\n"] * 1000, chunk("Hello")], gap=0.02)
    response = ask(api)
    assert next(iter(response.streaming_content)) == b": waiting\n\n"
    response.close()


def test_a_failure_after_a_heartbeat_is_an_event(
    api: ApiClient, vendor: StubVendor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0.1)
    hold = threading.Event()
    vendor.reply({"error": {}}, status=401, delay=hold)
    response = ask(api)  # begins with a heartbeat
    hold.set()
    [(name, problem)] = events_of(response)
    assert (name, problem["status"], problem["code"]) == ("error", 502, "provider_error")


# --- The log --------------------------------------------------------------------------------------


def test_a_stream_logs_one_line_at_its_end(api: ApiClient, vendor: StubVendor, log_lines: Log):
    vendor.stream(HELLO)
    response = ask(api, headers={"X-Request-ID": "mine"})
    assert log_lines() == []
    _, done = events_of(response)[-1]
    [line] = log_lines()
    assert line == {
        "timestamp": ANY,
        "level": "INFO",
        "logger": "chat.request",
        "message": "request",
        "request_id": "mine",
        "method": "POST",
        "route": "/v1/chat",
        "status": 200,
        "latency_ms": ANY,
        "owner": "default",
        "interaction_id": done["interaction_id"],
        "provider": "openai",
        "model": "stand-in-1",
        "prompt_tokens": 9,
        "completion_tokens": 5,
    }
