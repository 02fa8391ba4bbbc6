"""MASK_PII and STORE_CONTENT: what is at rest, what a vendor is sent, and what clients notice."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.core.checks import run_checks

from chat.models import Interaction
from chat.storage import backend
from chat.storage.base import ErrorInfo, InteractionRecord, Status, Transcript
from providers.base import Completion, Delta
from providers.errors import ProviderFailed
from tests.client import ApiClient, problem, status_and_code
from tests.dynamodb_local import botocore_client
from tests.factories import (
    ALICE,
    ANSWERED,
    FailingSettleStore,
    FakeProvider,
    all_records,
    database_bytes,
    purge_database,
    store_record,
)
from tests.server_process import ROOT, base_environment
from tests.stub_vendor import OPENAI_ANSWER, StubVendor

Configure = Callable[..., None]
AskInstead = Callable[[Any], None]

CPF, CARD, PHONE, EMAIL = (
    "529.982.247-25",
    "4111 1111 1111 1111",
    "+55 11 91234-5678",
    "ana@a.com.br",
)
SAID = f"CPF {CPF}, cartão {CARD}, tel {PHONE}, {EMAIL}."
MASKED = "CPF [CPF], cartão [CARD], tel [PHONE], [EMAIL]."
TOLD = Completion(message={"content": f"I know {EMAIL}."}, model="mock-1", finish_reason="stop")

# Words that must be nowhere.
SECRETS = ("quetzal", "axolotl", "okapi", "narwhal", "pangolin", "tapir")


def at_rest(storage: str) -> bytes:
    """All that a storage has written: the database and its log, or the items of our tables."""
    if storage == "sqlite":
        return database_bytes()
    client = botocore_client()
    tables = (settings.TABLE_NAME, settings.STATE_TABLE_NAME)  # others are of concurrent tests
    return b"".join(str(client.scan(TableName=table)["Items"]).encode() for table in tables)


def words_at_rest(storage: str) -> set[str]:
    found = at_rest(storage)
    return {word for word in SECRETS if word.encode() in found}


# --- MASK_PII -------------------------------------------------------------------------------------


@pytest.fixture
def empty_storage(each_storage: str) -> str:
    """Use this storage, with nothing of earlier tests in SQLite's files."""
    purge_database()
    return each_storage


@pytest.fixture
def masking(empty_storage: str, change_settings: Configure) -> str:
    change_settings(MASK_PII=True)
    return empty_storage


def test_the_vendor_and_the_ledger_get_the_masked_question(
    masking: str, change_settings: Configure, vendor: StubVendor, api: ApiClient
) -> None:
    body = api.chat(SAID, system=SAID, metadata={"note": SAID, "id": CPF}).json()
    assert body["prompt"] == MASKED
    assert body["metadata"] == {"note": MASKED, "id": "[CPF]"}
    assert [message["content"] for message in vendor.requests[0].json["messages"]] == [MASKED] * 2
    record = backend().interactions.get(body["interaction_id"])
    assert record
    assert (record.prompt, record.system) == (MASKED, MASKED)
    assert record.metadata == body["metadata"]
    assert not any(part.encode() in at_rest(masking) for part in (CPF, CARD, PHONE, EMAIL))


def test_a_question_that_cannot_be_masked_in_time_is_refused(
    masking: str, change_settings: Configure, vendor: StubVendor, api: ApiClient
) -> None:
    change_settings(REQUEST_TIMEOUT_SECONDS=0.2)
    assert status_and_code(api.chat("/1" * 100_000)) == (504, "provider_timeout")
    assert (all_records(), vendor.requests) == ([], [])


def test_metadata_with_names_that_are_masked_alike_is_whole(
    masking: str, vendor: StubVendor, api: ApiClient
) -> None:
    given = {EMAIL: "a", "bob@example.org": "b", "[EMAIL] 2": "c", "ticket": EMAIL}
    kept = {"[EMAIL]": "a", "[EMAIL] 2": "b", "[EMAIL] 2 2": "c", "ticket": "[EMAIL]"}
    assert api.chat(metadata=given).json()["metadata"] == kept
    imported = replace(ANSWERED, interaction_id=str(uuid4()), metadata=given)
    backend().bulk.import_records([imported])
    record = backend().interactions.get(imported.interaction_id)
    assert record
    assert record.metadata == kept


def test_the_messages_of_openai_s_clients_are_masked(
    masking: str, vendor: StubVendor, api: ApiClient
) -> None:
    messages = [
        {"role": "user", "content": SAID},
        {"role": "assistant", "content": SAID},
        {"role": "user", "content": [{"type": "text", "text": SAID}]},
    ]
    body = {"model": "default", "messages": messages, "user": ALICE}
    assert api.post("/v1/chat/completions", body).status_code == 200
    contents = [message["content"] for message in vendor.requests[0].json["messages"]]
    assert contents == [MASKED, MASKED, [{"type": "text", "text": MASKED}]]
    assert not any(part.encode() in at_rest(masking) for part in (CPF, CARD, PHONE, EMAIL))


@pytest.mark.parametrize("stream", [False, True])
def test_the_client_gets_the_answer_as_it_came_and_the_ledger_keeps_it_masked(
    masking: str, use_provider: AskInstead, api: ApiClient, stream: bool
) -> None:
    use_provider(FakeProvider(TOLD))
    response = api.chat(stream=stream)
    text = b"".join(response) if stream else response.content
    assert f"I know {EMAIL}.".encode() in text
    [record] = backend().interactions.list_by_user("default", ALICE, limit=2).records
    assert record.response == "I know [EMAIL]."


def test_a_vendor_s_error_message_is_kept_and_logged_masked(
    masking: str, vendor: StubVendor, api: ApiClient, log_lines: Callable[[], Any]
) -> None:
    vendor.reply({"error": {"message": f"Who is {EMAIL}?"}}, status=400)
    assert api.chat().status_code == 400
    [record] = backend().interactions.list_by_user("default", ALICE, limit=2).records
    assert record.error
    assert record.error.detail.endswith("The vendor's message: Who is [EMAIL]?")
    [line] = [line for line in log_lines() if "reason" in line]
    assert line["vendor_errors"] == ["openai: HTTP 400: Who is [EMAIL]?"]


def test_a_tool_s_call_is_kept_masked(
    masking: str, use_provider: AskInstead, api: ApiClient
) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "find", "arguments": json.dumps({"cpf": 52998224725})},
    }
    completion = TOLD._replace(message={"tool_calls": [call]}, finish_reason="tool_calls")
    use_provider(FakeProvider(completion))
    id_ = api.chat().json()["interaction_id"]
    record = backend().interactions.get(id_)
    assert record
    assert record.tool_calls[0]["function"] == {"name": "find", "arguments": '{"cpf":"[CPF]"}'}


URL = "data:image/png;base64,52998224725/4111111111111111=="
SIGNED = {"google": {"thought_signature": "52998224725/4111111111111111+=="}}
THOUGHT = {
    "content": f"I know {EMAIL}.",
    "reasoning_content": f"Do I know {EMAIL}?",
    "reasoning_details": [
        {"type": "reasoning.text", "text": EMAIL, "signature": "52998224725=", "id": CPF},
        {"type": "reasoning.encrypted", "data": "4111111111111111="},
    ],
    "tool_calls": [
        {
            "id": CPF,
            "type": "function",
            "function": {"name": "find", "arguments": json.dumps({"of": EMAIL})},
            "extra_content": SIGNED,
        }
    ],
    "images": [{"type": "image_url", "image_url": {"url": URL}}],
    "extra_content": SIGNED,
}
TOLD_ALL = TOLD._replace(
    message=THOUGHT,
    finish_reason="tool_calls",
    extras={"logprobs": {"content": [{"token": CPF[:6]}]}, "citations": [f"https://{EMAIL}/"]},
)


@pytest.mark.parametrize("stream", [False, True])
def test_other_parts_of_an_answer_are_masked_except_signatures(
    masking: str, use_provider: AskInstead, api: ApiClient, stream: bool
) -> None:
    use_provider(FakeProvider(TOLD_ALL))
    response = api.chat(stream=stream)
    assert EMAIL.encode() in (b"".join(response) if stream else response.content)
    [record] = backend().interactions.list_by_user("default", ALICE, limit=2).records
    assert record.response == "I know [EMAIL]."
    [call] = record.tool_calls
    assert call["function"]["arguments"] == '{"of":"[EMAIL]"}'
    assert (call["id"], call["extra_content"]) == (CPF, SIGNED)
    assert record.message == {
        "reasoning_content": "Do I know [EMAIL]?",
        "reasoning_details": [
            {"type": "reasoning.text", "text": "[EMAIL]", "signature": "52998224725=", "id": CPF},
            {"type": "reasoning.encrypted", "data": "4111111111111111="},
        ],
        "images": [{"type": "image_url", "image_url": {"url": URL}}],
        "extra_content": SIGNED,
    }
    assert record.extras == {"citations": ["https://[EMAIL]/"]}
    assert EMAIL.encode() not in at_rest(masking)


def test_a_replayed_answer_is_the_masked_one(
    masking: str, use_provider: AskInstead, api: ApiClient
) -> None:
    use_provider(FakeProvider(TOLD))
    key = {"Idempotency-Key": "k"}
    assert api.chat(headers=key).json()["response"] == f"I know {EMAIL}."
    assert api.chat(headers=key).json()["response"] == "I know [EMAIL]."


def test_an_answer_that_could_not_be_written_is_logged_masked(
    change_settings: Configure,
    use_store: Callable[[type], None],
    use_provider: AskInstead,
    api: ApiClient,
    log_lines: Callable[[], list[dict[str, Any]]],
) -> None:
    use_store(FailingSettleStore)
    change_settings(MASK_PII=True)
    use_provider(FakeProvider(TOLD))
    assert api.chat(SAID).json()["recorded"] is False
    [record] = [line["record"] for line in log_lines() if "record" in line]
    assert (record["prompt"], record["response"]) == (MASKED, "I know [EMAIL].")


def test_masking_is_off_by_default(api: ApiClient, vendor: StubVendor) -> None:
    assert api.chat(SAID).json()["prompt"] == SAID
    assert vendor.requests[0].json["messages"][0]["content"] == SAID


def test_masking_libraries_are_not_loaded_while_masking_is_off() -> None:
    code = (
        "import sys, django; django.setup(); "
        "import chat.api.views, chat.storage.orm.interactions, chat.storage.redaction; "
        "print([name for name in ('stdnum', 'phonenumbers') if name in sys.modules])"
    )
    variables = {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**base_environment(), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "[]\n"


def elsewhere() -> InteractionRecord:
    """A record of a service that masks nothing."""
    question = {"prompt": SAID, "system": SAID, "metadata": {"note": SAID}}
    told = {"status": Status.OK, "response": SAID}
    return replace(ANSWERED, **question, **told, parameters={"stop": [EMAIL], "top_p": 0.5})


def test_imported_records_are_masked(masking: str) -> None:
    backend().bulk.import_records([elsewhere()])
    record = backend().interactions.get(ANSWERED.interaction_id)
    assert record
    assert (record.prompt, record.system, record.response) == (MASKED,) * 3
    assert record.metadata == {"note": MASKED}
    assert record.parameters == {"stop": ["[EMAIL]"], "top_p": 0.5}


def test_records_masked_on_import_are_not_continued(masking: str) -> None:
    transcript = Transcript(digest="0" * 32, answer="0" * 32, parameters="0" * 32)
    spared = replace(ANSWERED, interaction_id=str(uuid4()), transcript=transcript)
    backend().bulk.import_records([replace(elsewhere(), transcript=transcript)])
    assert backend().interactions.find_turn(transcript.digest) is None
    backend().bulk.import_records([spared])
    found = backend().interactions.find_turn(transcript.digest)
    assert found
    assert found.interaction_id == spared.interaction_id


# --- STORE_CONTENT=false --------------------------------------------------------------------------


@pytest.fixture
def accounting(empty_storage: str, change_settings: Configure) -> str:
    change_settings(STORE_CONTENT=False)
    return empty_storage


def test_only_the_accounting_is_imported(accounting: str) -> None:
    backend().bulk.import_records([elsewhere()])
    record = backend().interactions.get(ANSWERED.interaction_id)
    assert record
    assert (record.prompt, record.response, record.parameters) == ("", None, {"top_p": 0.5})
    assert EMAIL.encode() not in at_rest(accounting)


def test_the_client_gets_all_and_the_ledger_the_accounting_alone(
    accounting: str, use_provider: AskInstead, api: ApiClient
) -> None:
    use_provider(FakeProvider(TOLD._replace(message={"content": "An axolotl."})))
    answer = api.chat(
        "A quetzal?",
        system="Say okapi.",
        stop=["narwhal"],
        temperature=0.5,
        metadata={"animal": "pangolin"},
    ).json()
    assert (answer["prompt"], answer["response"]) == ("A quetzal?", "An axolotl.")
    assert answer["metadata"] == {"animal": "pangolin"}
    kept = api.get(f"/v1/interactions/{answer['interaction_id']}").json()
    empty = {"prompt": "", "response": None, "metadata": {}}
    assert {**answer, **empty} == {name: kept[name] for name in answer}
    assert (kept["status"], kept["error"]) == ("ok", None)
    record = backend().interactions.get(answer["interaction_id"])
    assert record
    assert record.parameters == {"temperature": 0.5}
    assert words_at_rest(accounting) == set()


def test_no_content_of_openai_s_clients_is_at_rest(
    accounting: str, change_settings: Configure, vendor: StubVendor, api: ApiClient
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "axolotl", "arguments": '"okapi"'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
    vendor.reply({**OPENAI_ANSWER, "choices": [choice]})
    messages = [{"role": "system", "content": "tapir"}, {"role": "user", "content": "quetzal"}]
    tool = {"type": "function", "function": {"name": "axolotl", "description": "narwhal"}}
    body = {"model": "default", "messages": messages, "user": ALICE, "tools": [tool]}
    answer = api.post("/v1/chat/completions", body).json()
    assert answer["choices"][0]["message"]["tool_calls"] == [call]
    assert words_at_rest(accounting) == set()


@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_tool_call_leaves_no_content(
    accounting: str, vendor: StubVendor, api: ApiClient, stream: bool, log_lines: Callable[[], Any]
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "axolotl", "arguments": "{okapi"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
    vendor.reply({**OPENAI_ANSWER, "choices": [choice]})
    assert api.chat("quetzal", stream=stream).status_code == 502
    assert words_at_rest(accounting) == set()
    [line] = [line for line in log_lines() if "reason" in line]
    assert line["reason"] == "broken_tool_call"
    assert not any(word in json.dumps(log_lines()) for word in SECRETS)


@pytest.mark.parametrize("stream", [False, True])
def test_no_other_part_of_the_answer_is_stored_or_logged(
    accounting: str,
    use_provider: AskInstead,
    api: ApiClient,
    stream: bool,
    log_lines: Callable[[], Any],
) -> None:
    details = [{"type": "reasoning.text", "text": "narwhal", "signature": "pangolin"}]
    message = {"content": "axolotl", "reasoning": "okapi", "reasoning_details": details}
    use_provider(FakeProvider(TOLD._replace(message=message, extras={"citations": ["tapir"]})))
    response = api.chat("quetzal", stream=stream)
    assert b"axolotl" in (b"".join(response) if stream else response.content)
    [record] = backend().interactions.list_by_user("default", ALICE, limit=2).records
    assert (record.status, record.message, record.extras) == (Status.OK, {}, {})
    assert words_at_rest(accounting) == set()
    assert not any(word in json.dumps(log_lines()) for word in SECRETS)


@pytest.mark.parametrize("stream", [False, True])
def test_failed_requests_leave_no_content(
    accounting: str, vendor: StubVendor, api: ApiClient, stream: bool, log_lines: Callable[[], Any]
) -> None:
    vendor.reply({"error": {"message": "axolotl", "param": "tapir"}}, status=400)
    response = api.chat("quetzal", stream=stream)
    assert status_and_code(response)[1] == "provider_rejected"
    assert "axolotl" in problem(response)["detail"]
    [record] = backend().interactions.list_by_user("default", ALICE, limit=2).records
    assert record.error == ErrorInfo(code="provider_rejected", detail="")
    assert words_at_rest(accounting) == set()
    assert not any(word in json.dumps(log_lines()) for word in SECRETS)


def test_pieces_of_a_broken_stream_are_not_stored(
    accounting: str, api: ApiClient, use_provider: AskInstead
) -> None:
    class Broken(FakeProvider):
        def stream(self, request: Any, deadline: Any) -> Iterator[Delta | Completion]:
            yield Delta({"reasoning": "A tapir?", "content": "An axolotl "})
            raise ProviderFailed("It broke off.")

    use_provider(Broken(TOLD))
    assert b"axolotl" in b"".join(api.chat("quetzal", stream=True))
    [record] = backend().interactions.list_by_user("default", ALICE, limit=2).records
    assert (record.status, record.response) == (Status.ERROR, None)
    assert words_at_rest(accounting) == set()


def test_unrecorded_answers_are_logged_without_content(
    change_settings: Configure,
    use_store: Callable[[type], None],
    use_provider: AskInstead,
    api: ApiClient,
    log_lines: Callable[[], list[dict[str, Any]]],
) -> None:
    use_store(FailingSettleStore)
    change_settings(STORE_CONTENT=False)
    message = {"content": "An axolotl.", "reasoning": "An okapi?"}
    use_provider(FakeProvider(TOLD._replace(message=message, extras={"citations": ["tapir"]})))
    assert api.chat("quetzal").json()["response"] == "An axolotl."
    assert [line["record"]["prompt"] for line in log_lines() if "record" in line] == [""]
    assert not any(word in json.dumps(log_lines()) for word in SECRETS)


def test_a_replay_says_that_the_answer_is_not_there(accounting: str, api: ApiClient) -> None:
    key = {"Idempotency-Key": "k"}
    assert api.chat("quetzal", headers=key).status_code == 200
    again = api.chat("quetzal", headers=key)
    assert status_and_code(again) == (409, "answer_not_kept")
    assert "is not stored" in problem(again)["detail"]
    assert status_and_code(api.chat("tapir", headers=key)) == (422, "idempotency_mismatch")
    assert words_at_rest(accounting) == set()


def test_openai_clients_do_not_retry_an_unstored_answer(accounting: str, api: ApiClient) -> None:
    body = {"model": "default", "messages": [{"role": "user", "content": "quetzal"}]}
    key = {"Idempotency-Key": "k"}
    assert api.post("/v1/chat/completions", body, headers=key).status_code == 200
    again = api.post("/v1/chat/completions", body, headers=key)
    assert (again.status_code, again["X-Should-Retry"]) == (409, "false")
    assert again.json()["error"]["code"] == "answer_not_kept"


def test_no_digest_of_a_question_can_be_guessed_from_the_ledger(
    accounting: str, api: ApiClient, change_settings: Configure
) -> None:
    def digest(key: str) -> str | None:
        id_ = api.chat("quetzal", headers={"Idempotency-Key": key}).json()["interaction_id"]
        record = backend().interactions.get(id_)
        assert record
        return record.request_hash

    keyed = digest("a")
    change_settings(STORE_CONTENT=True)
    assert keyed != digest("b")


def test_a_turn_that_was_not_kept_cannot_be_continued(accounting: str, api: ApiClient) -> None:
    first = api.chat("quetzal").json()["interaction_id"]
    response = api.chat("And then?", previous_interaction_id=first)
    assert status_and_code(response) == (409, "conversation_conflict")
    assert "is not stored" in problem(response)["detail"]


def test_no_answer_is_cached(accounting: str, api: ApiClient, change_settings: Configure) -> None:
    change_settings(ENABLE_CACHE=True)
    assert api.chat("quetzal").json()["cached"] is False
    assert api.chat("quetzal").json()["cached"] is False
    [warning] = [each for each in run_checks(tags=["chat"]) if each.id == "chat.W001"]
    assert "STORE_CONTENT" in warning.msg


def test_records_of_earlier_versions_are_readable(accounting: str, api: ApiClient) -> None:
    configured = backend().interactions.store  # type: ignore[attr-defined]
    assert configured.claim(replace(ANSWERED, status=Status.PENDING)) is None
    assert configured.settle(ANSWERED)
    assert api.get(f"/v1/interactions/{ANSWERED.interaction_id}").json()["prompt"] == "Olá!"


def test_a_record_that_comes_whole_is_kept_without_content(
    db: None, change_settings: Configure
) -> None:
    change_settings(STORE_CONTENT=False)
    store_record(ANSWERED)
    row = Interaction.objects.get()
    assert (row.prompt, row.response) == ("", None)
