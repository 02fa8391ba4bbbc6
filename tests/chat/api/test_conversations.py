"""Conversations and histories over HTTP, on both stores."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import pytest

from chat.storage import backend
from chat.storage.base import Status
from providers.base import Completion, CompletionRequest, Usage
from providers.deadline import Deadline
from tests.client import ApiClient, field_errors, problem, status_and_code
from tests.factories import ALICE, ANSWERED, BOB, PENDING, FakeProvider, store_record
from tests.stub_vendor import StubVendor

ID = ANSWERED.interaction_id


@pytest.fixture(params=["sqlite", "dynamodb"])
def storage(request: pytest.FixtureRequest, change_settings: Callable[..., None]) -> str:
    """Run the test on each store."""
    name: str = request.param
    if name == "dynamodb":
        request.getfixturevalue("dynamodb")
    change_settings(STORAGE=name, RATE_LIMIT_PER_MINUTE=0)
    return name


class RecallingProvider(FakeProvider):
    """A provider that recalls a name from the messages it receives."""

    def __init__(self) -> None:
        self.asked: list[CompletionRequest] = []

    def complete(self, request: CompletionRequest, deadline: Deadline) -> Completion:
        self.asked.append(request)
        told = re.findall(r"my name is (\w+)", " ".join(m["content"] for m in request.messages))
        return Completion(
            message={"content": told[-1] if told else "I do not know."},
            model=request.model,
            finish_reason="stop",
            usage=Usage(cost_usd=Decimal(0)),
        )


@pytest.fixture
def recaller(use_provider: Callable[[Any], None]) -> RecallingProvider:
    provider = RecallingProvider()
    use_provider(provider)
    return provider


def texts_of(request: CompletionRequest) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in request.messages]


def turn(api: ApiClient, prompt: str, after: dict[str, Any] | None = None, **options: Any) -> Any:
    previous = {"previous_interaction_id": after["interaction_id"]} if after else {}
    response = api.chat(prompt, **previous, **options)
    assert response.status_code == 200, response.content
    return response.json()


def test_a_turn_is_sent_with_the_earlier_turns(
    api: ApiClient, storage: str, recaller: RecallingProvider
) -> None:
    first = turn(api, "my name is Ada", system="Be brief.")
    second = turn(api, "and my age is 36", first)
    third = turn(api, "who am I?", second)
    assert third["response"] == "Ada"
    assert texts_of(recaller.asked[-1]) == [
        ("system", "Be brief."),
        ("user", "my name is Ada"),
        ("assistant", "Ada"),
        ("user", "and my age is 36"),
        ("assistant", "Ada"),
        ("user", "who am I?"),
    ]
    assert [t["conversation_id"] for t in (second, third)] == [first["interaction_id"]] * 2
    assert third["previous_interaction_id"] == second["interaction_id"]


def test_the_answer_of_the_thirtieth_turn_may_depend_on_the_first(
    api: ApiClient, storage: str, recaller: RecallingProvider
) -> None:
    last = turn(api, "my name is Ada")
    for number in range(2, 30):
        last = turn(api, f"this is turn {number}", last)
    assert turn(api, "who am I?", last)["response"] == "Ada"
    assert len(recaller.asked[-1].messages) == 59


def test_a_turn_sees_the_turn_answered_just_before(
    api: ApiClient, storage: str, recaller: RecallingProvider
) -> None:
    last = turn(api, "my name is Ada")
    for number in range(200):
        last = turn(api, f"my name is N{number}", last)
        assert texts_of(recaller.asked[-1])[-2] == (
            "assistant",
            f"N{number - 1}" if number else "Ada",
        )


def test_the_window_drops_the_oldest_turns_and_keeps_the_system_prompt(
    api: ApiClient, storage: str, recaller: RecallingProvider, change_settings: Callable[..., None]
) -> None:
    change_settings(STORAGE=storage, HISTORY_TURNS=2)
    last = turn(api, "my name is Ada", system="Be brief.")
    for prompt in ("two", "three", "who am I?"):
        last = turn(api, prompt, last)
    assert texts_of(recaller.asked[-1])[:2] == [("system", "Be brief."), ("user", "two")]
    assert len(recaller.asked[-1].messages) == 6
    assert last["response"] == "I do not know."


@pytest.mark.parametrize(("characters", "turns"), [(10_000, 3), (4_000, 2), (2_000, 1), (500, 0)])
def test_the_window_is_limited_by_characters(
    api: ApiClient,
    storage: str,
    recaller: RecallingProvider,
    change_settings: Callable[..., None],
    characters: int,
    turns: int,
) -> None:
    last = None
    for _ in range(3):
        last = turn(api, "x" * 1_500, last)
    change_settings(STORAGE=storage, HISTORY_MAX_CHARACTERS=characters)
    turn(api, "y", last)
    assert len(recaller.asked[-1].messages) == 2 * turns + 1


@pytest.mark.parametrize(("limit", "turns"), [(10_000, 3), (4_000, 2), (2_000, 1), (1_000, 0)])
def test_the_window_is_limited_by_the_images_in_it(
    api: ApiClient,
    vendor: StubVendor,
    change_settings: Callable[..., None],
    limit: int,
    turns: int,
) -> None:
    last = {}
    for _ in range(3):
        image = "https://example.org/" + "a" * 1_400
        answer = api.chat("What is it?", images=[image], **last).json()
        last = {"previous_interaction_id": answer["interaction_id"]}
    change_settings(MAX_BODY_BYTES=limit)
    api.chat("And this?", images=["https://example.org/b"], **last)
    assert len(vendor.requests[-1].json["messages"]) == 2 * turns + 1


def test_without_a_window_no_earlier_turn_is_sent(
    api: ApiClient, recaller: RecallingProvider, change_settings: Callable[..., None]
) -> None:
    change_settings(HISTORY_TURNS=0)
    second = turn(api, "two", first := turn(api, "one"))
    assert texts_of(recaller.asked[-1]) == [("user", "two")]
    assert second["conversation_id"] == first["conversation_id"]


def test_naming_an_older_turn_branches(
    api: ApiClient, storage: str, recaller: RecallingProvider
) -> None:
    root = turn(api, "my name is Ada")
    left, right = turn(api, "left", root), turn(api, "right", root)
    turn(api, "further right", right)
    assert ("user", "left") not in texts_of(recaller.asked[-1])
    assert left["conversation_id"] == right["conversation_id"]


def test_a_turn_that_was_erased_is_left_out(api: ApiClient, recaller: RecallingProvider) -> None:
    first = turn(api, "one")
    second = turn(api, "two", first)
    backend().interactions.delete_by_user("default", ALICE, limit=10)
    store_record(
        replace(
            ANSWERED,
            interaction_id=second["interaction_id"],
            ancestors=(first["interaction_id"],),
            prompt="two",
        )
    )
    turn(api, "three", second)
    assert [text for role, text in texts_of(recaller.asked[-1]) if role == "user"] == [
        "two",
        "three",
    ]


@pytest.mark.parametrize("after", ["x", ANSWERED.interaction_id])
def test_an_unknown_turn_cannot_be_continued(api: ApiClient, storage: str, after: str) -> None:
    assert status_and_code(api.chat(previous_interaction_id=after)) == (404, "not_found")
    assert api.get(f"/v1/users/{ALICE}/interactions").json()["items"] == []


@pytest.mark.parametrize("whose", [{"owner": "somebody"}, {"user_id": BOB}])
def test_another_owner_s_turn_is_not_found(
    api: ApiClient, storage: str, whose: dict[str, str]
) -> None:
    other = store_record(replace(ANSWERED, **whose))
    answer = api.chat(previous_interaction_id=other.interaction_id)
    assert status_and_code(answer) == (404, "not_found")


@pytest.mark.parametrize("status", [Status.PENDING, Status.ERROR, Status.ABORTED])
def test_a_turn_without_an_answer_cannot_be_continued(
    api: ApiClient, storage: str, status: Status
) -> None:
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    parent = store_record(replace(PENDING, status=status, deadline_at=later))
    answer = api.chat(previous_interaction_id=parent.interaction_id)
    assert status_and_code(answer) == (409, "conversation_conflict")


def test_a_conversation_sent_as_messages_is_continued_in_full(
    api: ApiClient, storage: str, recaller: RecallingProvider
) -> None:
    told = [("user", "my name is Ada"), ("assistant", "Hello, Ada."), ("user", "I am 36.")]
    messages = [{"role": role, "content": content} for role, content in told]
    body = {"model": "default", "user": ALICE, "messages": messages}
    first = api.post("/v1/chat/completions", body).json()
    assert turn(api, "who am I?", first)["response"] == "Ada"
    assert texts_of(recaller.asked[-1]) == [*told, ("assistant", "Ada"), ("user", "who am I?")]


def test_a_turn_that_ends_in_tool_calls_shows_them_and_cannot_be_continued(
    api: ApiClient, storage: str
) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    store_record(replace(ANSWERED, response="", finish_reason="tool_calls", tool_calls=(call,)))
    record = api.get(f"/v1/interactions/{ID}").json()
    assert (record["response"], record["tool_calls"]) == ("", [call])
    assert status_and_code(api.chat(previous_interaction_id=ID)) == (409, "conversation_conflict")


def test_a_conversation_is_listed_in_pages(
    api: ApiClient, storage: str, recaller: RecallingProvider
) -> None:
    first = turn(api, "one")
    last = turn(api, "three", turn(api, "two", first))
    turn(api, "another conversation")
    address = f"/v1/conversations/{last['conversation_id']}"
    page = api.get(f"{address}?limit=2").json()
    rest = api.get(f"{address}?limit=2&cursor={page['next_cursor']}").json()
    assert [item["prompt"] for item in page["items"] + rest["items"]] == ["one", "two", "three"]
    assert rest["next_cursor"] is None
    assert page["conversation_id"] == first["interaction_id"]


def test_unknown_or_foreign_conversations_are_not_found(api: ApiClient, storage: str) -> None:
    store_record(replace(ANSWERED, owner="somebody"))
    for id_ in (ANSWERED.conversation_id, "x", "0" * 5000):
        assert status_and_code(api.get(f"/v1/conversations/{id_}")) == (404, "not_found")


@pytest.mark.parametrize(
    "spelled",
    [ID.upper(), ID.replace("-", ""), f"urn:uuid:{ID}", f"%7B{ID}%7D"],
    ids=["in capitals", "without hyphens", "as a URN", "in braces"],
)
def test_any_spelling_of_a_conversation_s_uuid_is_accepted(
    api: ApiClient, storage: str, recaller: RecallingProvider, spelled: str
) -> None:
    store_record(replace(ANSWERED, prompt="my name is Ada"))
    page = api.get(f"/v1/conversations/{spelled}").json()
    assert (page["conversation_id"], len(page["items"])) == (ID, 1)
    after = {"interaction_id": unquote(spelled)}
    assert turn(api, "who am I?", after)["previous_interaction_id"] == ID


def test_a_respelled_previous_id_is_the_same_idempotent_request(
    api: ApiClient, storage: str, recaller: RecallingProvider
) -> None:
    store_record(ANSWERED)
    key = {"Idempotency-Key": "once"}
    first, again = (
        turn(api, "who am I?", {"interaction_id": id_}, headers=key) for id_ in (ID, ID.upper())
    )
    assert first == again
    assert len(recaller.asked) == 1


def test_a_history_is_paged_and_erased(
    api: ApiClient, storage: str, recaller: RecallingProvider
) -> None:
    prompts = [turn(api, f"prompt {number}")["prompt"] for number in range(5)]
    turn(api, "somebody else's", user=BOB)
    address, listed, cursor = f"/v1/users/{ALICE}/interactions", [], ""
    while cursor is not None:
        page = api.get(f"{address}?limit=2" + (f"&cursor={cursor}" if cursor else "")).json()
        listed += [item["prompt"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert listed == prompts[::-1]
    assert api.request("DELETE", address).json() == {"deleted": 5}
    assert api.get(address).json() == {"items": [], "next_cursor": None}
    assert api.request("DELETE", address).json() == {"deleted": 0}
    assert len(api.get(f"/v1/users/{BOB}/interactions").json()["items"]) == 1


def test_a_history_can_be_limited_to_a_period(api: ApiClient, storage: str) -> None:
    store_record(ANSWERED)
    address = f"/v1/users/{ALICE}/interactions"

    def count(query: str) -> int:
        return len(api.get(f"{address}?{query}").json()["items"])

    assert count("from=2026-01-01T12:00:00Z&to=2026-01-01T12:00:01Z") == 1
    assert count("from=2026-01-01T12:00:01Z") == 0
    assert count("to=2026-01-01T12:00:00Z") == 0
    assert count("from=0001-01-01T00:00:00Z&to=9999-12-31T23:59:59Z") == 1
    assert count("to=0001-01-01T00:00:00Z") == 0


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("limit=0", ("limit", "min_value")),
        ("limit=101", ("limit", "max_value")),
        ("limit=x", ("limit", "invalid")),
        ("cursor=x", ("cursor", "invalid")),
        ("from=yesterday", ("from", "invalid")),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", ("to", "invalid")),
    ],
)
def test_an_invalid_query_is_refused(
    api: ApiClient, storage: str, query: str, fault: tuple[str, str]
) -> None:
    assert field_errors(api.get(f"/v1/users/{ALICE}/interactions?{query}")) == [fault]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_invalid_user_id_is_refused(api: ApiClient, method: str) -> None:
    assert field_errors(api.request(method, "/v1/users/a%0Ab/interactions")) == [
        ("userId", "invalid")
    ]


def test_an_erasure_that_times_out_is_a_503_and_can_be_continued(
    api: ApiClient, change_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        store_record(replace(ANSWERED, interaction_id=str(uuid4()), request_id=str(number)))
    monkeypatch.setattr("chat.history.ERASED_AT_ONCE", 1)
    change_settings(REQUEST_TIMEOUT_SECONDS=0.0)
    address = f"/v1/users/{ALICE}/interactions"
    for _ in range(3):  # the third pass finds none left
        answer = api.request("DELETE", address)
        assert status_and_code(answer) == (503, "storage_unavailable")
        assert problem(answer)["detail"] == (
            "1 records were erased; repeat the request until it returns 200."
        )
    assert api.request("DELETE", address).json() == {"deleted": 0}


def test_a_cached_answer_continues_the_same_conversation(
    api: ApiClient, change_settings: Callable[..., None], recaller: RecallingProvider
) -> None:
    change_settings(ENABLE_CACHE=True)
    ada, eve = turn(api, "my name is Ada"), turn(api, "my name is Eve")
    assert turn(api, "who am I?", ada)["response"] == "Ada"
    again = turn(api, "who am I?", ada)
    assert (again["response"], again["cached"]) == ("Ada", True)
    assert turn(api, "who am I?", eve)["response"] == "Eve"
