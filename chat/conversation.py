"""The client's request, the turns it continues, and the provider's request made of both."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, NamedTuple

import orjson
from django.conf import settings
from django.utils.crypto import salted_hmac

from chat.callers import Caller
from chat.errors import ClientDisconnected, ConversationConflict, NotFound, field_error
from chat.history import get_interaction, read_many
from chat.storage import backend
from chat.storage.base import InteractionRecord, Status
from chat.storage.transcripts import SentConversation, answered_message
from chat.telemetry.context import server_timing
from providers.base import (
    INSTRUCTION_ROLES,
    TEXT_PARTS,
    AnsweredMessage,
    CompletionRequest,
    Message,
    content_text,
)
from providers.deadline import Deadline
from providers.errors import DeadlineExceeded
from providers.refused_fields import TOKEN_LIMITS

# A field of a message, as vendors write it: messages[1].content, messages.[1].content, messages.1
MESSAGE_PATH = r"messages(?:\.?\[?(?P<index>[0-9]{1,9})\]?(?P<rest>(?:[.\[].*)?))?"
TURN_IS_RUNNING = "The previous turn is still running. Continue it when it has its answer."
RUNNING_RETRY_SECONDS = 2
TURN_HAS_NO_ANSWER = "The previous turn has no answer, and cannot be continued."
CONTENT_NOT_STORED = (
    "The previous turn's content is not stored. "
    "Send the whole conversation: as `messages` to /v1/chat/completions, or as `input` to "
    "/v1/responses."
)
EARLIER_PART_GONE = (
    "An earlier part of the conversation is erased. "
    "Send the whole conversation: as `messages` to /v1/chat/completions, or as `input` to "
    "/v1/responses."
)
TURN_HAS_TOOL_CALLS = (
    "The previous turn ended in tool calls. Send their results as `messages`, with this "
    "`previous_interaction_id` or after the whole conversation, to /v1/chat/completions; or as "
    "`function_call_output` items of `input` to /v1/responses."
)


class ChatRequest(NamedTuple):
    """A validated request of a client."""

    user_id: str
    # The last text of the user.
    prompt: str
    system: str | None = None
    # None means the configured model.
    model: str | None = None
    # For the vendor, under OpenAI's names and without nulls. The token limit is `max_tokens`.
    parameters: Mapping[str, Any] = {}
    metadata: Mapping[str, str] | None = None
    # The turn to continue.
    previous_interaction_id: str | None = None
    # The new messages, in OpenAI's format; None if `prompt` and `system` suffice.
    messages: list[dict[str, Any]] | None = None
    # The instructions of earlier turns do not apply to this one.
    drops_instructions: bool = False
    # Keep no texts in the record.
    accounting_only: bool = False
    # `messages` are the whole conversation, which the client sends each time.
    is_whole: bool = False

    @property
    def recorded_parameters(self) -> dict[str, Any]:
        """The `parameters` of the record: with `messages`, if there are any."""
        return {**self.parameters, **({"messages": self.messages} if self.messages else {})}

    @property
    def digest(self) -> str:
        """SHA-256 over all fields that are set; equal requests have equal digests.

        The form of the answer is no part of it: a replay may be streamed, or not.
        """
        parameters = self.parameters.items()
        given = {
            **self._asdict(),
            "parameters": {name: v for name, v in parameters if name != "stream_options"},
            "is_whole": None,
        }
        given = {name: value for name, value in given.items() if value not in (None, {}, False)}
        return hashlib.sha256(orjson.dumps(given, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def masked(self, deadline: Deadline) -> "ChatRequest":
        """Return the request with personal data masked (MASK_PII).

        Raises DeadlineExceeded, or ClientDisconnected for a deadline that was cancelled.
        """
        # Imported here because its libraries are slow to import, and few deployments mask.
        from chat.masking import mask_metadata, mask_value, masking_until

        texts = ("prompt", "system", "messages", "parameters")
        try:
            with masking_until(deadline):
                given = {name: mask_value(getattr(self, name)) for name in texts}
                metadata = mask_metadata(self.metadata or {})
        except DeadlineExceeded:
            if deadline.cancelled:
                raise ClientDisconnected from None
            raise
        return self._replace(**given, metadata=metadata or None)


class History(NamedTuple):
    """The turn that a request continues, and the turns sent to the model, the oldest first."""

    parent: InteractionRecord | None = None
    turns: Sequence[InteractionRecord] = ()

    @property
    def system(self) -> str | None:
        """The instructions so far; a request without any of its own keeps them."""
        return self.parent.system if self.parent else None


def load_history(caller: Caller, request: ChatRequest) -> History:
    """Load the turns before the request by consistent reads: the parent, then its ancestors.

    Raises NotFound, ConversationConflict, StorageUnavailable.
    """
    if request.previous_interaction_id is None:
        return History()
    parent = _load_parent(caller, request.user_id, request.previous_interaction_id)
    if not _has_results(request, parent):
        raise ConversationConflict(TURN_HAS_TOOL_CALLS)
    found = read_many(parent.ancestors)
    # A turn whose first messages are erased would begin in the middle.
    whole = (found[id_] for id_ in parent.ancestors if id_ in found and not found[id_].earlier)
    turns = [*whole, parent]
    return History(parent=parent, turns=_window(turns, request))


def _has_results(request: ChatRequest, parent: InteractionRecord) -> bool:
    """Return whether the request has the result of each call with which the parent ends."""
    messages = request.messages or ()
    results = {message.get("tool_call_id") for message in messages}
    if parent.message.get("function_call"):
        return any(message.get("role") == "function" for message in messages)
    return all(call.get("id") in results for call in parent.tool_calls)


def _load_parent(caller: Caller, user_id: str, interaction_id: str) -> InteractionRecord:
    """Load the turn to continue, and check that it can be continued."""
    try:
        parent = get_interaction(caller=caller, interaction_id=interaction_id)
    except NotFound:
        raise _unknown_turn() from None
    # The same answer as for a missing turn: nobody learns of another user's turns.
    if parent.user_id != user_id:
        raise _unknown_turn()
    status = parent.status_at(datetime.now(UTC))
    if status is Status.PENDING:
        raise ConversationConflict(TURN_IS_RUNNING, retry_after=RUNNING_RETRY_SECONDS)
    if status is not Status.OK:
        raise ConversationConflict(TURN_HAS_NO_ANSWER)
    if parent.lacks_content:
        raise ConversationConflict(CONTENT_NOT_STORED)
    if parent.earlier:
        raise ConversationConflict(EARLIER_PART_GONE)
    return parent


def _unknown_turn() -> NotFound:
    error = field_error("previous_interaction_id", "not_found", "No such turn.")
    return NotFound("No such previous_interaction_id.", errors=[error])


def _window(turns: list[InteractionRecord], request: ChatRequest) -> list[InteractionRecord]:
    """Return the newest turns within the limits on their number and their characters.

    Images and files are limited as in a request, by MAX_BODY_BYTES. A turn that begins with results
    goes with the turn that made the calls: the two count as one, and the calls whose results the
    request has are always kept. What is left of an exchange whose first turn was erased counts as
    one, too.
    """
    characters = settings.HISTORY_MAX_CHARACTERS - len(request.prompt)
    file_bytes = settings.MAX_BODY_BYTES - _file_bytes(request_messages(request))
    kept, exchanges, continued = len(turns), 0, _begins_with_result(request_messages(request))
    for number in reversed(range(len(turns))):
        turn = turns[number]
        asked = asked_messages(turn)
        characters -= sum(len(content_text(message.get("content"))) for message in asked)
        characters -= len(turn.response or "")
        file_bytes -= _file_bytes(asked)
        exceeded = characters < 0 or file_bytes < 0 or exchanges == settings.HISTORY_TURNS
        if exceeded and not continued:
            break
        if number == 0 or not _begins_with_result(asked):
            kept, continued = number, False
            exchanges += 1
    return turns[kept:]


def _file_bytes(messages: Sequence[Message]) -> int:
    """Return the size in JSON of the content parts other than text."""
    lists = (message["content"] for message in messages if isinstance(message.get("content"), list))
    return sum(len(orjson.dumps(part)) for parts in lists for part in parts if not _is_text(part))


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in TEXT_PARTS


def _begins_with_result(messages: Sequence[Message]) -> bool:
    """Return whether the first message after the instructions is a tool's result."""
    roles = (message.get("role") for message in messages if not _instructs(message))
    return next(roles, None) in ("tool", "function")


def build_completion_request(
    request: ChatRequest, history: History, record: InteractionRecord
) -> CompletionRequest:
    """Build the provider's request: the earlier turns, then the client's new messages.

    `record` is the pending record of the request.
    """
    earlier: list[Message] = []
    for turn in history.turns:
        asked = asked_messages(turn)
        if request.drops_instructions:
            asked = input_messages(asked, turn.system)
        earlier += [*asked, as_answered(answered_message(turn), turn)]
    new = request_messages(request)
    messages = _with_instructions(list(_whole_calls(earlier, new)), request, record)
    numbers = {id(message): number for number, message in enumerate(new)}
    return CompletionRequest(
        model=record.model,
        messages=tuple(messages),
        numbers=tuple(numbers.get(id(message)) for message in messages),
        parameters=request.parameters,
        # Vendors isolate abuse by user, but must not learn the user's id.
        end_user=salted_hmac("chat.end_user", f"{record.owner} {record.user_id}").hexdigest(),
        conversation_id=record.conversation_id,
    )


def client_path(path: str, request: CompletionRequest, record: InteractionRecord) -> str | None:
    """Return the path in the client's request for one in the vendor's; None for other fields."""
    if match := re.fullmatch(MESSAGE_PATH, path):
        if not match["index"] or "messages" not in record.parameters:
            return "messages"
        index = int(match["index"])
        number = request.numbers[index] if index < len(request.numbers) else None
        return None if number is None else f"messages[{number}]{match['rest']}"
    name = re.split(r"[.\[]", path, maxsplit=1)[0]
    if name in TOKEN_LIMITS:
        name = path = "max_tokens"
    return path if name in request.parameters else None


def continue_turn(record: InteractionRecord, sent: SentConversation) -> InteractionRecord:
    """Continue the turn with which the record's messages begin, if there is one.

    The returned record then keeps only the messages after those of that turn.
    """
    if sent.digest is None:
        return record
    with server_timing("storage"):
        turn = backend().interactions.find_turn(sent.digest)
    if turn is None:
        return record
    return replace(
        sent.after(turn),
        conversation_id=turn.conversation_id,
        previous_interaction_id=turn.interaction_id,
    )


def request_messages(request: ChatRequest) -> Sequence[Message]:
    """Return the client's new messages: its `messages`, or its prompt alone."""
    return request.messages or [{"role": "user", "content": request.prompt}]


def asked_messages(record: InteractionRecord) -> Sequence[Message]:
    """Return the client's messages in a turn: its `messages`, or its prompt alone."""
    messages: list[Message] | None = record.parameters.get("messages")
    return messages or [{"role": "user", "content": record.prompt}]


def input_messages(messages: Sequence[Message], instructions: str | None) -> Sequence[Message]:
    """Return the messages without the instructions with which they begin."""
    first = messages[0] if messages else {}
    own = _instructs(first) and instructions and first.get("content") == instructions
    return messages[1:] if own else messages


def as_answered(message: Message, record: InteractionRecord) -> AnsweredMessage:
    """Return an answer in the form that its vendor accepts in a request."""
    model = record.attempts[-1].model if record.attempts else None  # as it was asked for
    return AnsweredMessage(with_audio_by_id(message), record.provider, model)


def with_audio_by_id(message: Message) -> Message:
    """Return an assistant's message with only the id of its audio, which vendors accept."""
    audio = message.get("audio")
    if isinstance(audio, Mapping) and "id" in audio:
        return {**message, "audio": {"id": audio["id"]}}
    return message


def _whole_calls(earlier: Sequence[Message], asked: Sequence[Message]) -> Iterator[Message]:
    """Yield the earlier messages without the calls and results whose other half was deleted.

    Vendors refuse the one without the other.
    """
    messages = [*earlier, *asked]
    called = {call.get("id") for message in messages for call in message.get("tool_calls") or ()}
    answered = {message.get("tool_call_id") for message in messages}
    for message in earlier:
        if message.get("role") == "tool" and message.get("tool_call_id") not in called:
            continue
        if isinstance(message, AnsweredMessage):
            message = message.with_calls(lambda call: call.get("id") in answered)
        yield message


def _with_instructions(
    earlier: list[Message], request: ChatRequest, record: InteractionRecord
) -> list[Message]:
    """Return the conversation with the instructions of the request, or else of the turns before.

    They replace those of earlier turns. Those with which the request begins come first; others
    stay where they are among its messages.
    """
    if request.drops_instructions:
        system = [{"role": "system", "content": request.system}] if request.system else []
        return [*system, *earlier, *input_messages(request_messages(request), request.system)]
    asked = list(request_messages(request))
    if any(map(_instructs, asked)):
        leading = list(takewhile(_instructs, asked))
        return [*leading, *_without_instructions(earlier), *asked[len(leading) :]]
    # Earlier turns had their instructions among their messages, where they stay.
    if request.system is None and any(map(_instructs, earlier)):
        return [*earlier, *asked]
    system = [{"role": "system", "content": record.system}] if record.system else []
    return [*system, *_without_instructions(earlier), *asked]


def _without_instructions(messages: list[Message]) -> list[Message]:
    return [message for message in messages if not _instructs(message)]


def _instructs(message: Message) -> bool:
    return message.get("role") in INSTRUCTION_ROLES
