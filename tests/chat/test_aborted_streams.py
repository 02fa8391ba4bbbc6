"""What is on record of a stream that ends early: all that came so far, whole or not."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chat.storage.base import InteractionRecord, Status
from providers.base import Completion, CompletionRequest, Delta
from providers.deadline import Deadline
from providers.errors import DeadlineExceeded, ProviderError, ProviderFailed
from tests.client import ApiClient
from tests.factories import FakeProvider, all_records

pytestmark = pytest.mark.django_db(transaction=True)

SIGNED = {"google": {"thought_signature": "CpYB+/=="}}
PIECES: list[dict[str, Any]] = [
    {"reasoning_content": "Lis"},
    {"reasoning_content": "boa?", "reasoning_details": [{"type": "reasoning.text", "text": "Lis"}]},
    {"reasoning_details": [{"type": "reasoning.text", "text": "boa?"}], "content": "I lo"},
    {"content": "ok."},
    {
        "tool_calls": [
            {
                "index": 0,
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city":'},
                "extra_content": SIGNED,
            }
        ]
    },
    {"tool_calls": [{"index": 0, "function": {"arguments": ' "Lis'}}]},
]
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Lis'},
    "extra_content": SIGNED,
}


class Early(FakeProvider):
    """A provider that gives the pieces, then waits and fails."""

    outcome: ProviderError
    wait = 0

    def stream(
        self, request: CompletionRequest, deadline: Deadline
    ) -> Iterator[Delta | Completion]:
        yield from map(Delta, PIECES)
        deadline.sleep(self.wait)
        raise self.outcome


def assert_kept(record: InteractionRecord) -> None:
    assert (record.response, record.tool_calls) == ("I look.", (CALL,))
    assert record.message == {
        "reasoning_content": "Lisboa?",
        "reasoning_details": [{"type": "reasoning.text", "text": "Lisboa?"}],
    }


def ask(api: ApiClient) -> Any:
    body = {"messages": [{"role": "user", "content": "Hi"}], "model": "default", "stream": True}
    return api.post("/v1/chat/completions", body)


def test_pieces_before_a_disconnect_are_stored(
    api: ApiClient, use_provider: Callable[[Any], None]
) -> None:
    provider = Early(DeadlineExceeded("It came to its end."))
    provider.wait = 20
    use_provider(provider)
    response = ask(api)
    for line in response.streaming_content:
        if b'\\"Lis' in line:  # the last piece
            break
    response.close()
    [record] = all_records()
    assert record.status is Status.ABORTED
    assert_kept(record)


def test_pieces_before_a_vendor_failure_are_stored(
    api: ApiClient, use_provider: Callable[[Any], None]
) -> None:
    use_provider(Early(ProviderFailed("It broke off.", retry=False)))
    assert b"It broke off" in b"".join(ask(api))
    [record] = all_records()
    assert (record.status, record.error and record.error.code) == (Status.ERROR, "provider_error")
    assert_kept(record)
    shown = api.get(f"/v1/interactions/{record.interaction_id}").json()
    assert shown["tool_calls"] == [CALL]
