"""Keep the messages of a conversation once, though its client sends all of them each time.

A request continues a record if it begins with the record's messages and answer; a digest of them
finds the record. The JSON of all messages must be equal, except for the last answer: a client may
have rewritten it in ways that a reader would not see. It is then kept as the client sent it.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import orjson

from chat.storage.base import MAX_READ, Earlier, InteractionRecord, Status, Transcript, Turn
from providers.base import TEXT_PARTS, Message, content_text
from providers.parsing import as_objects

Read = Callable[[Sequence[str]], Mapping[str, InteractionRecord]]

# More ids take more room in each record, fewer take more reads of a long conversation.
RECORDS_LISTED = 20
# A record is kept whole if one that holds its messages expires this part of its lifetime earlier.
EARLIER_EXPIRY = 1 / 30


def sent_messages(record: InteractionRecord) -> list[Message]:
    """Return the messages of a request that sent the whole conversation, as far as it has them."""
    if "messages" in record.parameters:
        return list(record.parameters["messages"])
    system = [{"role": "system", "content": record.system}] if record.system else []
    return [*system, {"role": "user", "content": record.prompt}]


def answered_message(record: InteractionRecord) -> Message:
    """Return a turn's answer as the vendor gave it."""
    rest = dict(record.message)
    content = record.response or ""
    if record.tool_calls:
        rest["tool_calls"] = list(record.tool_calls)
    if rest and (not content or content == rest.get("refusal")):
        return {"role": "assistant", "content": None, **rest}
    return {"role": "assistant", "content": content, **rest}


class SentConversation:
    """The whole conversation that a new record was asked with.

    `digest` is that of a record with the messages up to the last answer among them; None if there
    is no answer that messages follow.
    """

    def __init__(self, record: InteractionRecord) -> None:
        self._record = record
        self._messages = sent_messages(record)
        self._answer = _last_answer(self._messages)
        parameters = {name: v for name, v in record.parameters.items() if name != "messages"}
        self._parameters = _digest([record.system, parameters])
        # Equal messages of another owner or user have another digest: they continue nothing.
        self._hash = hashlib.sha256(f"{record.owner}\n{record.user_id}\n".encode())
        self.digest: str | None = None
        for number, message in enumerate(self._messages):
            if number == self._answer:
                self.digest = self._digest_with(message)
            self._hash.update(_json(message))

    def after(self, turn: Turn) -> InteractionRecord:
        """Return the record without the messages that the turn's record and earlier ones hold.

        Return it unchanged if one of them expires much earlier.
        """
        if self._answer is None or not _outlives(turn.first_expiry, self._record):
            return self._record
        own_answer = _digest(self._messages[self._answer]) != turn.transcript.answer
        own_parameters = self._parameters != turn.transcript.parameters
        start = self._answer + (not own_answer)
        kept = self._record.parameters if own_parameters else {}
        return replace(
            self._record,
            system=self._record.system if own_parameters else None,
            parameters={**kept, "messages": self._messages[start:]},
            earlier=Earlier(
                messages=start,
                root=turn.root,
                records=turn.records,
                digest=turn.transcript.digest,
                own_answer=own_answer,
                own_parameters=own_parameters,
                first_expiry=turn.first_expiry,
            ),
        )

    def transcript(self, answered: InteractionRecord) -> Transcript:
        """Return the transcript of the answered record, as it will be kept."""
        answer = answered_message(answered)
        return Transcript(
            digest=self._digest_with(answer),
            answer=_digest(answer),
            parameters=self._parameters,
        )

    def _digest_with(self, answer: Message) -> str:
        digest = self._hash.copy()
        digest.update(_json(_seen(answer)))
        return digest.hexdigest()[:32]


def turn_of(record: InteractionRecord) -> Turn | None:
    """Return the turn that a later request may continue."""
    if record.transcript is None:
        return None
    earlier, id_, expires_at = record.earlier, record.interaction_id, record.expires_at
    before = earlier.records if earlier else ()
    own_expiry = None if expires_at is None else int(expires_at.timestamp())
    return Turn(
        interaction_id=id_,
        conversation_id=record.conversation_id,
        root=earlier.root if earlier else id_,
        records=(*before, id_) if len(before) < RECORDS_LISTED else (id_,),
        first_expiry=earlier.first_expiry if earlier else own_expiry,
        transcript=record.transcript,
    )


def _last_answer(messages: Sequence[Message]) -> int | None:
    """Return the index of the last assistant's message, unless it ends the conversation."""
    for index in reversed(range(len(messages) - 1)):
        if messages[index].get("role") == "assistant":
            return None if messages[-1].get("role") == "assistant" else index
    return None


def _outlives(first_expiry: int | None, record: InteractionRecord) -> bool:
    """Return whether records that expire then live long enough to hold the record's messages."""
    if first_expiry is None:
        return True
    if record.expires_at is None:
        return False
    lifetime = record.expires_at - record.created_at
    first = datetime.fromtimestamp(first_expiry, UTC)
    return record.expires_at - first <= lifetime * EARLIER_EXPIRY


def _seen(answer: Message) -> list[Any]:
    """Return the visible part of an answer: texts, other content, and calls without their ids."""
    content = answer.get("content")
    calls = [*as_objects(answer.get("tool_calls")), {"function": answer.get("function_call")}]
    return [
        (content_text(content) or str(answer.get("refusal") or "")).strip(),
        [part for part in as_objects(content) if part.get("type") not in TEXT_PARTS],
        [_called(call) for call in calls],
    ]


def _called(call: Mapping[str, Any]) -> list[Any]:
    """Return name and arguments of a call; clients write JSON arguments in their own way."""
    called = call.get("function") or call.get("custom")
    if not isinstance(called, Mapping):
        return []
    arguments = called.get("arguments", called.get("input"))
    if isinstance(arguments, str):
        # JSON that is nested too deeply to be written stays as it is.
        with suppress(orjson.JSONDecodeError, orjson.JSONEncodeError):
            value = orjson.loads(arguments)
            arguments = orjson.Fragment(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
    return [called.get("name"), arguments]


def _json(value: Any) -> bytes:
    # The newline ends a message, so that two lists with equal bytes are equal lists.
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def _digest(value: Any) -> str:
    # 128 bits tell conversations apart, and each record stores three such digests.
    return hashlib.sha256(_json(value)).hexdigest()[:32]


# --- Reading --------------------------------------------------------------------------------------


def restored(records: Iterable[InteractionRecord], read: Read) -> list[InteractionRecord]:
    """Return the records with the messages that earlier records hold.

    `read` returns up to MAX_READ records by id as they are kept. It is called once for about 20
    records of a conversation. Where a record is gone, the messages begin after it, and `earlier`
    says how many are missing.
    """
    records = list(records)
    known = {record.interaction_id: record for record in records}
    asked = set(known)
    while wanted := sorted(_listed(known.values()) - asked)[:MAX_READ]:
        asked.update(wanted)
        known.update(read(wanted))
    return [_whole(record, known) for record in records]


def _listed(records: Iterable[InteractionRecord]) -> set[str]:
    return {id_ for record in records if record.earlier for id_ in record.earlier.records}


def _whole(record: InteractionRecord, known: Mapping[str, InteractionRecord]) -> InteractionRecord:
    if record.earlier is None:
        return record
    chain = [record]
    while before := _before(chain[-1], known):
        chain.append(before)
    chain.reverse()
    gap, messages = chain[0].earlier, sent_messages(chain[0])
    source = chain[0]  # of the parameters and the system text
    for before, after in pairwise(chain):
        if after.earlier and not after.earlier.own_answer:
            messages.append(answered_message(before))
        messages += after.parameters.get("messages", ())
        if after.earlier and after.earlier.own_parameters:
            source = after
    known_parameters = source.earlier is None or source.earlier.own_parameters
    return replace(
        record,
        system=source.system,
        parameters={**source.parameters, "messages": messages},
        earlier=gap and replace(gap, own_parameters=known_parameters),
    )


def _before(
    record: InteractionRecord, known: Mapping[str, InteractionRecord]
) -> InteractionRecord | None:
    """Return the record that this one continues, unless it is gone or another has its id."""
    if (earlier := record.earlier) is None:
        return None
    before = known.get(earlier.records[-1])
    if before is None or before.transcript is None or before.transcript.digest != earlier.digest:
        return None
    # Imported records may refer to each other in a circle.
    shorter = before.earlier is None or before.earlier.messages < earlier.messages
    return before if shorter else None


# --- Importing ------------------------------------------------------------------------------------


def compacted(
    records: Mapping[str, InteractionRecord], read: Callable[[Sequence[str]], Any]
) -> dict[str, InteractionRecord]:
    """Return whole records without the messages that earlier records hold.

    The earlier records are among these, or stored: `read` returns the stored ones by their ids, as
    they are kept.
    """
    before = {each.previous_interaction_id for each in records.values() if _may_continue(each)}
    stored = dict(read(sorted(filter(None, before)))) if before else {}
    roots = {turn.root for each in stored.values() if (turn := turn_of(each))} - stored.keys()
    present = {*records, *stored, *(read(sorted(roots)) if roots else ())}
    found = dict(records)
    for id_, record in sorted(records.items(), key=lambda each: each[1].created_at):
        previous = record.previous_interaction_id
        if not previous or not _may_continue(record):
            continue
        parent = stored.get(previous) or found.get(previous)
        turn = turn_of(parent) if parent and parent.status is Status.OK else None
        if turn and turn.root in present:
            conversation = SentConversation(record)
            if conversation.digest == turn.transcript.digest:
                found[id_] = conversation.after(turn)
    return found


def _may_continue(record: InteractionRecord) -> bool:
    sent = record.parameters.get("messages") or ()
    is_valid = all(isinstance(each, Mapping) for each in sent)
    return bool(sent and is_valid and record.previous_interaction_id and record.earlier is None)
