"""Fields of OpenAI's requests."""

from typing import Any

from django.conf import settings
from rest_framework import serializers

INSTRUCTION_ROLES = ("system", "developer")
ROLES = (*INSTRUCTION_ROLES, "user", "assistant", "tool")
# Content parts whose text is a string under the key named by their type.
TEXT_PARTS = ("text", "refusal")
PART_TYPES = (*TEXT_PARTS, "image_url", "input_audio", "file")


class MessagesField(serializers.Field[Any, Any, Any, Any]):
    """The conversation so far: messages in OpenAI's shape, reduced to the keys used here."""

    default_error_messages = {
        "not_a_list": "A list of messages, and not an empty one.",
        "message": "Message {number}: {fault}",
    }

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        if not isinstance(data, list) or not data:
            self.fail("not_a_list")
        return [self._message(number, message) for number, message in enumerate(data)]

    def _message(self, number: int, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict) or data.get("role") not in ROLES:
            self._fail(number, f"an object with a role of {', '.join(ROLES)}.")
        content = data.get("content")
        if content is None and not data.get("tool_calls"):
            content = data.get("refusal")  # a refusal has no other content
            if not content:
                self._fail(number, "content is missing.")
        message = {"role": data["role"], "content": self._content(number, content)}
        if data["role"] in INSTRUCTION_ROLES and not isinstance(message["content"], str):
            self._fail(number, "instructions are texts.")
        if calls := data.get("tool_calls"):
            if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
                self._fail(number, "tool_calls is a list of objects.")
            if data["role"] != "assistant":
                self._fail(number, "tool_calls are an assistant's.")
            message["tool_calls"] = calls
        if name := data.get("name"):
            message["name"] = self._text(number, name)
        if data["role"] == "tool":
            if not isinstance(data.get("tool_call_id"), str):
                self._fail(number, "tool_call_id is missing.")
            message["tool_call_id"] = data["tool_call_id"]
        return message

    def _content(self, number: int, content: Any) -> str | list[dict[str, Any]]:
        """Validate a message's content. Text parts alone are joined to one string."""
        if content is None:
            return ""
        if isinstance(content, str):
            return self._text(number, content)
        if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
            self._fail(number, "content is a string or a list of parts.")
        parts: list[dict[str, Any]] = content
        for part in parts:
            self._check_part(number, part)
        if all(part["type"] in TEXT_PARTS for part in parts):
            return "\n".join(part[part["type"]] for part in parts)
        return parts

    def _check_part(self, number: int, part: dict[str, Any]) -> None:
        if part.get("type") not in PART_TYPES:
            self._fail(number, f"a part has a type of {', '.join(PART_TYPES)}.")
        value = part.get(part["type"])
        if part["type"] in TEXT_PARTS:
            self._text(number, value)
        elif not isinstance(value, dict):
            self._fail(
                number, "each content part needs an object under the key named by its `type`."
            )

    def _text(self, number: int, text: Any) -> str:
        if not isinstance(text, str) or "\0" in text:
            self._fail(number, "a text is a string without NUL.")
        if len(text) > settings.PROMPT_MAX_LENGTH:
            self._fail(number, f"no more than {settings.PROMPT_MAX_LENGTH} characters.")
        return str(text)

    def _fail(self, number: int, fault: str) -> None:
        self.fail("message", number=number, fault=fault)


class ToolChoiceField(serializers.Field[Any, Any, Any, Any]):
    """A string such as `auto`, or an object that names a tool."""

    default_error_messages = {"invalid": "A string or an object."}

    def to_internal_value(self, data: Any) -> str | dict[str, Any]:
        if not isinstance(data, str | dict):
            self.fail("invalid")
        return data
