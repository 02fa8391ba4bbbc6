"""The client's request, the turns it continues, and the provider's request made of both."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import orjson
from django.conf import settings
from django.utils.crypto import salted_hmac

from chat.callers import Caller
from chat.errors import ConversationConflict, NotFound
from chat.history import get_interaction
from chat.storage import backend
from chat.storage.base import InteractionRecord, Status
from chat.telemetry.context import server_timing
from providers.base import CompletionRequest, Message

CONTENT_NOT_STORED = (
    "The previous turn's content is not stored. "
    "Send the whole conversation as `messages` to /v1/chat/completions."
)
TURN_HAS_TOOL_CALLS = (
    "The previous turn ended in tool calls. Send the whole conversation as `messages`, "
    "with the tools' results, to /v1/chat/completions."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A validated request of a client. None leaves a parameter to the vendor's default.

    `model` None is the configured model. `previous_interaction_id` names the turn to continue. A
    client that keeps the conversation itself sends it as `messages` instead; then `prompt` is the
    last text of its user. `messages` and `options` (further parameters) are in OpenAI's terms.
    """

    user_id: str
    prompt: str
    system: str | None = None
    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    metadata: Mapping[str, str] | None = None
    previous_interaction_id: str | None = None
    messages: list[dict[str, Any]] | None = None
    options: Mapping[str, Any] | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """The `parameters` of the record: those that were given, and `messages`."""
        names = ("temperature", "top_p", "max_tokens", "stop", "options", "messages")
        return self._given(names)

    @property
    def digest(self) -> str:
        """SHA-256 over all fields that are not None; equal requests have equal digests."""
        given = self._given(field.name for field in fields(self))
        return hashlib.sha256(orjson.dumps(given, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def _given(self, names: Iterable[str]) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def masked(self) -> "ChatRequest":
        """Return the request with personal data masked (MASK_PII)."""
        from chat.masking import mask_text, mask_value

        texts = ("prompt", "system", "stop", "messages", "options")
        metadata = {
            mask_text(name): mask_text(value) for name, value in (self.metadata or {}).items()
        }
        given = {name: mask_value(getattr(self, name)) for name in texts}
        return replace(self, **given, metadata=metadata or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The turn that a request continues, and the turns sent to the model, the oldest first."""

    parent: InteractionRecord | None = None
    turns: Sequence[InteractionRecord] = ()

    @property
    def system(self) -> str | None:
        """The system prompt so far; a request without one of its own keeps it."""
        return self.parent.system if self.parent else None


def load_history(caller: Caller, request: ChatRequest) -> History:
    """Load the turns before the request with two consistent reads: the parent, its ancestors.

    Raises NotFound, ConversationConflict, StorageUnavailable.
    """
    if request.previous_interaction_id is None:
        return History()
    parent = _load_parent(caller, request.user_id, request.previous_interaction_id)
    if not settings.HISTORY_TURNS:
        return History(parent=parent)
    wanted = parent.ancestors[-settings.HISTORY_TURNS + 1 :] if settings.HISTORY_TURNS > 1 else ()
    with server_timing("storage"):
        found = backend().interactions.get_many(wanted) if wanted else {}
    turns = [*(found[id_] for id_ in wanted if id_ in found), parent]
    characters = settings.HISTORY_MAX_CHARACTERS - len(request.prompt)
    return History(parent=parent, turns=_newest_within(turns, characters))


def _load_parent(caller: Caller, user_id: str, interaction_id: str) -> InteractionRecord:
    """Load the turn to continue, and check that it can be continued."""
    try:
        parent = get_interaction(caller=caller, interaction_id=interaction_id)
    except NotFound:
        raise NotFound("There is no such previous_interaction_id.") from None
    if parent.user_id != user_id:
        raise NotFound("There is no such previous_interaction_id.")
    status = parent.status_at(datetime.now(UTC))
    if status is not Status.OK:
        state = "is still running" if status is Status.PENDING else "has no answer"
        raise ConversationConflict(f"The previous turn {state}, and cannot be continued.")
    if parent.lacks_content:
        raise ConversationConflict(CONTENT_NOT_STORED)
    if parent.tool_calls:
        raise ConversationConflict(TURN_HAS_TOOL_CALLS)
    return parent


def _newest_within(turns: list[InteractionRecord], characters: int) -> list[InteractionRecord]:
    """Return the newest turns that together have at most so many characters."""
    for number, turn in enumerate(reversed(turns)):
        asked = _messages(turn.prompt, turn.parameters.get("messages"))
        characters -= sum(len(message.text) for message in asked) + len(turn.response or "")
        if characters < 0:
            return turns[len(turns) - number :]
    return turns


def build_completion_request(
    request: ChatRequest, history: History, record: InteractionRecord
) -> CompletionRequest:
    """Build the provider's request: the turns before, then what the client asks now.

    `record` is the pending record of the request.
    """
    messages: list[Message] = []
    for turn in history.turns:
        messages += _messages(turn.prompt, turn.parameters.get("messages"))
        messages.append(Message(role="assistant", content=turn.response or ""))
    messages += _messages(request.prompt, request.messages)
    return CompletionRequest(
        model=record.model,
        messages=tuple(messages),
        system=record.system,
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=request.max_tokens,
        stop=tuple(request.stop or ()),
        # Vendors isolate abuse by user, but must not learn the user's id.
        end_user=salted_hmac("chat.end_user", f"{record.owner} {record.user_id}").hexdigest(),
        conversation_id=record.conversation_id,
        options=request.options or {},
    )


def _messages(prompt: str, messages: list[dict[str, Any]] | None) -> list[Message]:
    """Return what a client asked in one turn: its messages, or its prompt alone."""
    if messages is None:
        return [Message(role="user", content=prompt)]
    return [Message(**message) for message in messages]
