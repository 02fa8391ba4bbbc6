"""Clients that send the whole conversation each time: the ledger keeps what is new."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from django.conf import settings
from django.db import connection

from chat.storage import backend
from chat.storage.base import InteractionRecord, Selection
from chat.storage.dynamodb.client import DynamoDBClient
from chat.storage.dynamodb.items import size_of
from chat.storage.dynamodb.queries import read_pages
from chat.storage.transcripts import RECORDS_LISTED
from tests.client import ApiClient, status_and_code
from tests.dynamodb_local import Calls
from tests.stub_vendor import Received, ScriptedResponse, StubVendor, json_response

Configure = Callable[..., None]
Messages = list[dict[str, Any]]

PATH = "/v1/chat/completions"
SYSTEM = {"role": "system", "content": "You fix bugs."}
TOOLS = [{"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}]
FIELDS = {"tools": TOOLS, "temperature": 0}
# The size was measured with 200 steps, too.
STEPS = 25
RESULT_BYTES = 10_000

on_dynamodb = pytest.mark.parametrize("each_storage", ["dynamodb"], indirect=True)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def call(number: int) -> dict[str, Any]:
    """An assistant's message that calls a tool."""
    function = {"name": "read", "arguments": f'{{"file": "{number}.py"}}'}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}],
    }


def result(number: int, text: str = "") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": text or f"File {number}."}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


class Agent:
    """A client that keeps the conversation, and sends all of it each time."""

    def __init__(self, api: ApiClient, vendor: StubVendor) -> None:
        self.api, self.vendor = api, vendor
        self.messages: Messages = []

    def reply(self, answer: dict[str, Any]) -> None:
        """Let the vendor give this answer."""
        self.vendor.clear()
        choice = {"index": 0, "message": answer, "finish_reason": "stop"}
        self.vendor.reply({"model": "model-1", "choices": [choice]})

    def ask(
        self,
        *new: dict[str, Any],
        answer: dict[str, Any],
        echo: dict[str, Any] | None = None,
        **fields: Any,
    ) -> str:
        """Ask with new messages, add the answer (or `echo`), and return the id of the record."""
        self.messages = [*self.messages, *new]
        self.reply(answer)
        body = {"model": "default", "messages": self.messages, **FIELDS, **fields}
        response = self.api.post(PATH, body)
        assert response.status_code == 200, response.content
        assert self.vendor.requests[-1].json["messages"] == self.messages
        message = echo or response.json()["choices"][0]["message"]
        self.messages = [*self.messages, without_nulls(message)]
        return str(response.json()["interaction_id"])

    def loop(self, steps: int, result_bytes: int = 0) -> list[str]:
        """Let the model call a tool so many times, and return the ids of the records."""
        ids = [self.ask(SYSTEM, user("Fix it."), answer=call(0))]
        for number in range(1, steps):
            text = random.Random(number).randbytes(result_bytes // 2).hex()
            ids.append(self.ask(result(number - 1, text), answer=call(number)))
        return ids

    def shown(self, id_: str) -> dict[str, Any]:
        body: dict[str, Any] = self.api.get(f"/v1/interactions/{id_}").json()
        return body


@pytest.fixture
def agent(
    each_storage: str, api: ApiClient, vendor: StubVendor, change_settings: Configure
) -> Agent:
    change_settings(STORAGE=each_storage)
    return Agent(api, vendor)


def kept(id_: str, user_id: str = "anonymous") -> InteractionRecord:
    """Return a record without the messages that earlier records hold."""
    page = backend().interactions.list_by_user("default", user_id, limit=100)
    return next(each for each in page.records if each.interaction_id == id_)


def kept_messages(id_: str) -> Messages:
    messages: Messages = kept(id_).parameters["messages"]
    return messages


def without_nulls(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as the API takes it."""
    return {name: v for name, v in message.items() if v is not None or name == "content"}


# --- What is kept, and read -----------------------------------------------------------------------


def test_each_record_keeps_what_is_new_and_reads_back_whole(agent: Agent) -> None:
    steps = RECORDS_LISTED * 2 + 3
    ids = agent.loop(steps)
    for number in (0, 1, RECORDS_LISTED, RECORDS_LISTED + 1, steps - 1):
        asked = agent.messages[: 2 + 2 * number]
        assert agent.shown(ids[number])["messages"] == asked
    last = kept(ids[-1])
    assert last.parameters == {"messages": [result(steps - 2)]}
    assert last.system is None
    whole = backend().interactions.get(ids[-1])
    assert whole
    assert whole.parameters == {**FIELDS, "messages": agent.messages[:-1]}
    assert (whole.system, whole.earlier) == (SYSTEM["content"], None)


def test_the_records_are_turns_of_one_conversation(agent: Agent) -> None:
    ids = agent.loop(3)
    shown = [agent.shown(id_) for id_ in ids]
    assert [each["previous_interaction_id"] for each in shown] == [None, *ids[:2]]
    assert {each["conversation_id"] for each in shown} == {ids[0]}
    page = agent.api.get(f"/v1/conversations/{ids[0]}").json()
    assert [item["interaction_id"] for item in page["items"]] == ids


def test_the_ledger_is_not_much_larger_than_the_last_request(
    agent: Agent, each_storage: str
) -> None:
    before = ledger_bytes(each_storage)
    agent.loop(STEPS, RESULT_BYTES)
    size = ledger_bytes(each_storage) - before
    asked = agent.messages[:-1]
    assert size <= 1.5 * len(json.dumps({"model": "default", "messages": asked, **FIELDS}))


def ledger_bytes(storage: str) -> int:
    if storage == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("SELECT SUM(pgsize) FROM dbstat")
            return int(cursor.fetchone()[0])
    tables = (settings.TABLE_NAME, settings.STATE_TABLE_NAME)
    pages = [page for table in tables for page in read_pages({"TableName": table}, "Scan")]
    return sum(size_of(item) for page in pages for item in page)


@on_dynamodb
def test_a_long_conversation_is_read_in_few_calls(agent: Agent, calls: Calls) -> None:
    ids = agent.loop(RECORDS_LISTED * 2)
    calls.clear()
    agent.shown(ids[-1])
    assert [operation for operation, _ in calls] == ["GetItem", "BatchGetItem", "BatchGetItem"]


@on_dynamodb
def test_a_single_prompt_costs_no_further_read(agent: Agent, calls: Calls) -> None:
    calls.clear()
    agent.api.chat()
    agent.ask(user("Hi."), answer=said("Hello."))
    operations = [operation for operation, _ in calls]
    assert operations == ["PutItem", "TransactWriteItems"] * 2


def test_arguments_nested_too_deeply_to_be_written_are_compared_as_text(agent: Agent) -> None:
    called = call(0)
    called["tool_calls"][0]["function"]["arguments"] = '{"a":' + "[" * 300 + "]" * 300 + "}"
    first = agent.ask(user("Fix it."), answer=called)
    second = agent.ask(result(0), answer=said("Done."))
    assert agent.shown(second)["previous_interaction_id"] == first
    assert agent.shown(second)["messages"] == agent.messages[:-1]


# --- Which record is continued --------------------------------------------------------------------


def test_an_older_point_of_a_conversation_can_be_continued(agent: Agent) -> None:
    first, _ = agent.loop(2)
    agent.messages = agent.messages[:3]
    branch = agent.ask(result(0, "Another file."), answer=said("Done."))
    assert agent.shown(branch)["previous_interaction_id"] == first
    assert kept_messages(branch) == [result(0, "Another file.")]
    assert agent.shown(branch)["messages"] == agent.messages[:-1]


def test_an_edited_history_is_kept_whole(agent: Agent) -> None:
    agent.loop(2)
    agent.messages[1] = user("Fix the other one.")
    id_ = agent.ask(result(1), answer=said("Done."))
    assert kept_messages(id_) == agent.messages[:-1]
    shown = agent.shown(id_)
    assert shown["messages"] == agent.messages[:-1]
    assert (shown["previous_interaction_id"], shown["conversation_id"]) == (None, id_)


@pytest.mark.parametrize("again", [{"user": "bob"}, {"user": "anonymous2"}])
def test_another_user_continues_nothing(agent: Agent, again: dict[str, str]) -> None:
    agent.ask(user("Hi."), answer=said("Hello."), user="alice")
    id_ = agent.ask(user("And?"), answer=said("Well."), **again)
    assert agent.shown(id_)["previous_interaction_id"] is None
    assert len(agent.shown(id_)["messages"]) == 3


def test_a_failed_request_is_not_continued_and_its_retry_is(agent: Agent) -> None:
    first = agent.ask(user("Hi."), answer=said("Hello."))
    agent.vendor.clear()
    agent.vendor.reply({"error": {"message": "No."}}, status=401)
    body = {"model": "default", "messages": [*agent.messages, user("And?")], **FIELDS}
    assert agent.api.post(PATH, body).status_code == 502
    retried = agent.ask(user("And?"), answer=said("Well."))
    assert agent.shown(retried)["previous_interaction_id"] == first
    assert kept_messages(retried) == [user("And?")]


ECHOES = {
    "as it came": said("Hello. "),
    "in parts": {"role": "assistant", "content": [{"type": "text", "text": "Hello. "}]},
    "without thoughts": said("Hello. "),
    "trimmed": said("Hello."),
    "with a field of its own": said("Hello. ", name="model"),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_an_answer_that_the_client_rewrote_is_kept_as_it_sent_it(
    agent: Agent, echo: dict[str, Any]
) -> None:
    answer = said("Hello. ", reasoning_content="A greeting.")
    first = agent.ask(user("Hi."), answer=answer, echo=echo)
    second = agent.ask(user("And?"), answer=said("Well."))
    assert agent.shown(second)["previous_interaction_id"] == first
    assert kept_messages(second) == [echo, user("And?")]
    assert agent.shown(second)["messages"] == [user("Hi."), echo, user("And?")]


def test_rewritten_tool_calls_are_recognized(agent: Agent) -> None:
    echo = call(0)
    echo["tool_calls"][0]["function"]["arguments"] = '{"file":"0.py"}'
    del echo["content"]
    first = agent.ask(user("Fix it."), answer=call(0), echo=echo)
    second = agent.ask(result(0), answer=said("Done."))
    assert agent.shown(second)["previous_interaction_id"] == first
    assert agent.shown(second)["messages"] == [user("Fix it."), echo, result(0)]


@pytest.mark.parametrize(
    "echo",
    [said("Hello!"), call(1), {**call(0), "content": "Hello."}],
    ids=["text", "arguments", "text added"],
)
def test_another_answer_is_not_continued(agent: Agent, echo: dict[str, Any]) -> None:
    agent.ask(user("Hi."), answer=call(0), echo=echo)
    id_ = agent.ask(result(0), answer=said("Well."))
    assert agent.shown(id_)["previous_interaction_id"] is None
    assert agent.shown(id_)["messages"] == [user("Hi."), echo, result(0)]


def test_parameters_that_change_are_kept(agent: Agent) -> None:
    agent.ask(user("Hi."), answer=said("Hello."))
    changed = agent.ask(user("And?"), answer=said("Well."), temperature=1)
    same = agent.ask(user("So?"), answer=said("Fine."), temperature=1)
    fewer = agent.ask(user("Bye."), answer=said("Bye."), tools=None, temperature=None)
    records = [backend().interactions.get(id_) for id_ in (changed, same, fewer)]
    parameters = [dict(record.parameters) for record in records if record]
    assert [each.pop("messages") and each for each in parameters] == [
        {**FIELDS, "temperature": 1},
        {**FIELDS, "temperature": 1},
        {},
    ]
    assert kept(same).parameters == {"messages": [user("So?")]}


def test_new_instructions_are_the_system_text(agent: Agent) -> None:
    agent.ask(SYSTEM, user("Hi."), answer=said("Hello."))
    more = {"role": "system", "content": "Be brief."}
    id_ = agent.ask(more, user("And?"), answer=said("Well."))
    record = backend().interactions.get(id_)
    assert record
    assert record.system == "You fix bugs.\n\nBe brief."
    assert kept_messages(id_) == [more, user("And?")]


def test_an_answer_to_be_completed_is_kept_whole(agent: Agent) -> None:
    """The last message is the assistant's: a beginning that the client puts into its mouth."""
    agent.ask(user("Hi."), answer=said("Hello."))
    id_ = agent.ask(user("And?"), said("Well, "), answer=said("yes."))
    assert kept_messages(id_) == agent.messages[:-1]


def test_a_repeated_request_is_answered_by_its_record(agent: Agent) -> None:
    agent.ask(user("Hi."), answer=said("Hello."))
    agent.reply(said("Well."))
    body = {"model": "default", "messages": [*agent.messages, user("And?")], **FIELDS}
    answers = [agent.api.post(PATH, body, headers={"Idempotency-Key": "again"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert answers[1]["Idempotency-Replayed"] == "true"
    id_ = answers[1].json()["interaction_id"]
    assert agent.shown(id_)["messages"] == body["messages"]


# --- Continued by its id --------------------------------------------------------------------------


def test_a_turn_can_be_continued_by_its_id(agent: Agent) -> None:
    ids = agent.loop(3)
    asked = agent.messages
    agent.reply(said("Done."))
    body = {"model": "default", "messages": [result(2)], "previous_interaction_id": ids[-1]}
    response = agent.api.post(PATH, body)
    assert response.status_code == 200, response.content
    assert agent.vendor.requests[-1].json["messages"] == [*asked, result(2)]
    assert agent.shown(response.json()["interaction_id"])["messages"] == [result(2)]


# --- Erased parts ---------------------------------------------------------------------------------


def purge_all_but(ids: list[str]) -> None:
    """Delete the records that were created before these."""
    first = backend().interactions.get(ids[0])
    assert first
    backend().bulk.purge(Selection(before=first.created_at), limit=1000)


def test_a_record_says_how_many_of_its_messages_are_gone(agent: Agent) -> None:
    ids = agent.loop(5)
    purge_all_but(ids[2:])
    shown = agent.shown(ids[4])
    assert shown["missing_messages"] == 5
    assert shown["messages"] == agent.messages[5:-1]
    assert agent.shown(ids[2])["missing_messages"] == 5
    assert agent.shown(ids[2])["messages"] == [result(1)]
    page = agent.api.get(f"/v1/conversations/{ids[0]}").json()
    assert [item["interaction_id"] for item in page["items"]] == ids[2:]


def test_messages_of_an_erased_record_are_stored_again(agent: Agent) -> None:
    ids = agent.loop(3)
    purge_all_but(ids[1:])
    new = agent.ask(result(2), answer=said("Done."))
    assert agent.shown(new)["messages"] == agent.messages[:-1]
    assert "missing_messages" not in agent.shown(new)


def test_a_turn_whose_ancestor_was_erased_while_it_was_answered_is_not_continued(
    agent: Agent,
) -> None:
    agent.ask(user("1"), answer=said("One."))
    erased = agent.ask(user("2"), answer=said("Two."))

    def erase_and_answer(_: Received) -> ScriptedResponse:
        backend().interactions.delete(erased)
        choice = {"index": 0, "message": said("Three."), "finish_reason": "stop"}
        return json_response({"model": "model-1", "choices": [choice]})

    agent.vendor.clear()
    agent.vendor.responder = erase_and_answer
    agent.messages = [*agent.messages, user("3")]
    body = {"model": "default", "messages": agent.messages, **FIELDS}
    answered = agent.api.post(PATH, body).json()
    assert agent.shown(answered["interaction_id"])["missing_messages"] == 4
    agent.messages = [*agent.messages, said("Three.")]
    new = agent.ask(user("4"), answer=said("Four."))
    assert agent.shown(new)["messages"] == agent.messages[:-1]
    newer = agent.ask(user("5"), answer=said("Five."))
    assert agent.shown(newer)["previous_interaction_id"] == new
    assert agent.shown(newer)["messages"] == agent.messages[:-1]


def test_a_record_with_a_gap_is_not_continued_by_its_id(agent: Agent) -> None:
    ids = agent.loop(3)
    purge_all_but(ids[1:])
    body = {"model": "default", "messages": [result(2)], "previous_interaction_id": ids[-1]}
    assert status_and_code(
        agent.api.post(
            "/v1/chat",
            {
                "userId": "anonymous",
                "prompt": "And?",
                "previous_interaction_id": ids[-1],
            },
        )
    ) == (409, "conversation_conflict")
    assert agent.api.post(PATH, body).status_code == 409


def test_erasing_a_user_leaves_nothing_to_continue(agent: Agent, each_storage: str) -> None:
    agent.loop(3)
    assert agent.api.request("DELETE", "/v1/users/anonymous/interactions").status_code == 200
    if each_storage == "dynamodb":
        pages = list(read_pages({"TableName": settings.STATE_TABLE_NAME}, "Scan"))
        names = [item["pk"]["S"] for page in pages for item in page]
        assert not [name for name in names if name.startswith("turn#")]
    id_ = agent.ask(result(2), answer=said("Done."))
    assert agent.shown(id_)["messages"] == agent.messages[:-1]
    assert agent.shown(id_)["previous_interaction_id"] is None


@on_dynamodb
def test_an_answer_is_recorded_while_equal_ones_are_written(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = DynamoDBClient.call

    def meet(self: DynamoDBClient, operation: str, arguments: Any) -> dict[str, Any]:
        """Refuse each transaction that writes a turn: another one is writing it."""
        actions = arguments.get("TransactItems", ())
        codes = ["TransactionConflict" if "turn#" in str(each) else "None" for each in actions]
        if "TransactionConflict" in codes:
            error = {"Code": "TransactionCanceledException", "Message": ""}
            reasons = [{"Code": code} for code in codes]
            raise ClientError({"Error": error, "CancellationReasons": reasons}, operation)  # type: ignore[typeddict-unknown-key]
        return call(self, operation, arguments)

    monkeypatch.setattr(DynamoDBClient, "call", meet)
    id_ = agent.ask(user("Hi"), answer=said("Hello."))
    assert agent.shown(id_)["status"] == "ok"


def test_another_record_under_the_id_of_an_erased_one_is_not_read_with_it(agent: Agent) -> None:
    key = {"Idempotency-Key": "one"}
    agent.reply(said("Hello."))
    body = {"model": "default", "messages": [user("Hi.")]}
    first = agent.api.post(PATH, body, headers=key).json()["interaction_id"]
    agent.messages = [user("Hi."), said("Hello.")]
    second = agent.ask(user("And?"), answer=said("Well."))
    purge_all_but([second])
    agent.reply(said("Hello."))
    body = {"model": "default", "messages": [user("Another.")]}
    assert agent.api.post(PATH, body, headers=key).json()["interaction_id"] == first
    shown = agent.shown(second)
    assert (shown["missing_messages"], shown["messages"]) == (2, [user("And?")])


# --- Retention and privacy ------------------------------------------------------------------------


def test_records_that_expire_together_hold_each_others_messages(
    agent: Agent, change_settings: Configure, each_storage: str
) -> None:
    change_settings(STORAGE=each_storage, RETENTION_DAYS=30)
    ids = agent.loop(3)
    assert kept_messages(ids[2]) == [result(1)]


@pytest.mark.parametrize(("before", "after"), [(1, 30), (1, 0)])
def test_messages_that_expire_earlier_are_stored_again(
    agent: Agent, change_settings: Configure, each_storage: str, before: int, after: int
) -> None:
    change_settings(STORAGE=each_storage, RETENTION_DAYS=before)
    first = agent.ask(user("Hi."), answer=said("Hello."))
    change_settings(STORAGE=each_storage, RETENTION_DAYS=after)
    second = agent.ask(user("And?"), answer=said("Well."))
    assert kept_messages(second) == agent.messages[:-1]
    third = agent.ask(user("So?"), answer=said("Fine."))
    assert kept_messages(third) == [user("So?")]
    shown = [agent.shown(id_) for id_ in (first, second, third)]
    assert {each["conversation_id"] for each in shown} == {first}


def test_nothing_is_kept_with_store_content_off(
    agent: Agent, change_settings: Configure, each_storage: str
) -> None:
    first = agent.ask(user("Hi."), answer=said("Hello."))
    change_settings(STORAGE=each_storage, STORE_CONTENT=False)
    second = agent.ask(user("And?"), answer=said("Well."))
    assert agent.shown(second)["previous_interaction_id"] is None
    assert "messages" not in agent.shown(second)
    assert kept(second).transcript is None
    change_settings(STORAGE=each_storage, STORE_CONTENT=True)
    third = agent.ask(user("So?"), answer=said("Fine."))
    assert agent.shown(third)["messages"] == agent.messages[:-1]
    assert first != third


def test_masked_messages_are_continued_and_stay_masked(
    agent: Agent, change_settings: Configure, each_storage: str
) -> None:
    change_settings(STORAGE=each_storage, MASK_PII=True)
    address = "ana@example.org"
    agent.reply(said(f"Is it {address}?"))
    body = {"model": "default", "messages": [user(f"I am {address}.")]}
    answer = agent.api.post(PATH, body).json()["choices"][0]["message"]
    agent.reply(said("Fine."))
    body["messages"] = [*body["messages"], answer, user("Yes.")]
    id_ = agent.api.post(PATH, body).json()["interaction_id"]
    assert kept_messages(id_) == [user("Yes.")]
    assert agent.shown(id_)["messages"] == [
        user("I am [EMAIL]."),
        said("Is it [EMAIL]?"),
        user("Yes."),
    ]
