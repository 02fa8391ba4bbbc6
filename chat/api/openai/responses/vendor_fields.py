"""Fields that a vendor needs back with its answer, and for which OpenAI's items have no place.

Thoughts, thought signatures and the like. They travel in the `encrypted_content` of a reasoning
item, as base64 of JSON: a carrier, not a secret. Without it the item's id names the record that has
them.
"""

import base64
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import orjson

from chat.storage.base import InteractionRecord
from chat.storage.transcripts import answered_message
from providers.base import OPENAI_CALL_FIELDS, OPENAI_MESSAGE_FIELDS, AnsweredMessage, Message
from providers.parsing import as_str

# Fields of a message that have no place in OpenAI's items, and are added to the message's.
MEDIA = ("images", "audio", "content_parts")
# Message fields that the items can hold.
SHOWN = {*OPENAI_MESSAGE_FIELDS, "annotations", *MEDIA}
# How vendors' fields begin. A record does not tell them from the client's.
_VENDORS_OWN = ("reasoning", "thinking", "extra_content", "provider_specific_fields")


@dataclass(frozen=True, slots=True)
class VendorFields:
    """The fields of a message and, by id, of its tool calls, with their vendor.

    `after`: their reasoning item follows the other items of the message.
    """

    message: Mapping[str, Any] = field(default_factory=dict)
    calls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    provider: str = ""
    model: str | None = None
    after: bool = False

    def __bool__(self) -> bool:
        return bool(self.message or self.calls)

    def added_to(self, message: Message) -> dict[str, Any]:
        """Return an assistant's message with the fields, for their vendor alone.

        The message's own fields go to any vendor, except media: few take those of another one.
        """
        calls = message.get("tool_calls") or ()
        whole = {**self.message, **message}
        if calls:
            whole["tool_calls"] = [{**self.calls.get(call["id"], {}), **call} for call in calls]
        if not self.provider:
            return whole
        names = {*message, *chain.from_iterable(calls)} - {*MEDIA, *OPENAI_CALL_FIELDS}
        return AnsweredMessage(whole, self.provider, self.model, names)

    def encoded(self) -> str:
        return base64.urlsafe_b64encode(orjson.dumps(self)).decode()


def fields_of(message: Message, provider: str, model: str | None) -> VendorFields:
    """Return the vendor's fields of an assistant's message."""
    calls = {
        id_: own
        for call in message.get("tool_calls") or ()
        if (id_ := as_str(call.get("id"))) and (own := _own_fields(call))
    }
    own = {name: value for name, value in message.items() if name not in SHOWN}
    return VendorFields(own, calls, provider, model)


def client_fields(value: Message, known: Collection[str]) -> dict[str, Any]:
    """Return the fields of a recorded message or call that are not known, nor a vendor's own."""
    return {
        name: each
        for name, each in value.items()
        if name not in known and not name.startswith(_VENDORS_OWN)
    }


def fields_on_record(record: InteractionRecord) -> VendorFields:
    model = record.attempts[-1].model if record.attempts else None
    return fields_of(answered_message(record), record.provider, model)


def decoded(encrypted_content: str) -> VendorFields | None:
    """Return the fields in a carrier; None if it is not one of ours."""
    try:
        values = orjson.loads(base64.urlsafe_b64decode(encrypted_content))
        # A client can write anything here: only fields that the items cannot hold are taken.
        message, calls = dict(values["message"]), dict(values["calls"])
        return VendorFields(
            {name: value for name, value in message.items() if name not in SHOWN},
            {id_: _own_fields(dict(call)) for id_, call in calls.items()},
            str(values["provider"]),
            values["model"] and str(values["model"]),
            bool(values["after"]),
        )
    except (ValueError, TypeError, KeyError):
        return None


def _own_fields(call: Message) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name not in OPENAI_CALL_FIELDS}
