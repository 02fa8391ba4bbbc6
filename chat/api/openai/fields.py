"""Fields of OpenAI's requests."""

from typing import Any

from rest_framework import serializers

from providers.base import INSTRUCTION_ROLES, TEXT_PARTS

ROLES = (*INSTRUCTION_ROLES, "user", "assistant", "tool", "function")
# Content parts with an object under the key named by their type. Other parts are not checked.
OBJECT_PARTS = ("image_url", "input_audio", "file", "video_url")


class MessagesField(serializers.Field[Any, Any, Any, Any]):
    """The conversation so far: messages whose known fields are validated, otherwise unchanged.

    Null fields are dropped: SDKs send our `"refusal": null` back, and some vendors refuse fields
    that they do not know.
    """

    default_error_messages = {
        "not_a_list": "Must be a non-empty list of messages.",
        "message": "Message {number}: {fault}",
    }

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        if not isinstance(data, list) or not data:
            self.fail("not_a_list")
        for number, message in enumerate(data):
            self._check(number, message)
        return [_without_nulls(message) for message in data]

    def _check(self, number: int, message: Any) -> None:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            self._fail(number, f"an object with a role of {', '.join(ROLES)}.")
        role = message["role"]
        if message.get("content") is not None:
            self._check_content(number, message["content"])
        elif role != "assistant" or not any(message[name] for name in message if name != "role"):
            self._fail(number, "content is missing.")
        if calls := message.get("tool_calls"):
            self._check_calls(number, role, calls)
        if name := message.get("name"):
            self._check_text(number, name)
        call_id = message.get("tool_call_id")
        if call_id is None and role == "tool":
            self._fail(number, "tool_call_id is missing.")
        if not isinstance(call_id, str | None):
            self._fail(number, "tool_call_id is a string.")

    def _check_calls(self, number: int, role: str, calls: Any) -> None:
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            self._fail(number, "tool_calls is a list of objects.")
        if not all(isinstance(call.get("id"), str | None) for call in calls):
            self._fail(number, "the id of a tool call is a string.")
        if role != "assistant":
            self._fail(number, "only an assistant's message has tool_calls.")

    def _check_content(self, number: int, content: Any) -> None:
        if isinstance(content, str):
            self._check_text(number, content)
        elif isinstance(content, list) and all(isinstance(part, dict) for part in content):
            for part in content:
                self._check_part(number, part)
        else:
            self._fail(number, "content is a string or a list of parts.")

    def _check_part(self, number: int, part: dict[str, Any]) -> None:
        kind = part.get("type")
        if not isinstance(kind, str):
            self._fail(number, "a content part has a `type`.")
        elif kind in TEXT_PARTS:
            self._check_text(number, part.get(kind))
        elif kind in OBJECT_PARTS and not isinstance(part.get(kind), dict):
            self._fail(number, f"a part of type {kind} has an object `{kind}`.")

    def _check_text(self, number: int, text: Any) -> None:
        if not isinstance(text, str):
            self._fail(number, "a text is a string.")

    def _fail(self, number: int, fault: str) -> None:
        self.fail("message", number=number, fault=fault)


def _without_nulls(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if value is not None or key == "content"}


class ToolChoiceField(serializers.Field[Any, Any, Any, Any]):
    """A string such as `auto`, or an object that names a tool."""

    default_error_messages = {"invalid": "A string or an object."}

    def to_internal_value(self, data: Any) -> str | dict[str, Any]:
        if not isinstance(data, str | dict):
            self.fail("invalid")
        return data
