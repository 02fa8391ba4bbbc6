"""A chat completion request -> the service's Question."""

from typing import Any

import orjson
from django.conf import settings
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from chat.api.serializers import (
    MAX_STOPS,
    MetadataField,
    ModelIdField,
    StopField,
    StrictBooleanField,
    StrictCharField,
    StrictFloatField,
    StrictIntegerField,
    UserIdField,
)

ANONYMOUS = "anonymous"
ROLES = ("system", "developer", "user", "assistant", "tool")
INSTRUCTING = ("system", "developer")
# Parts that are texts, under the name of their type.
SPOKEN = ("text", "refusal")
PARTS = (*SPOKEN, "image_url", "input_audio", "file")
OPTIONS = (
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "reasoning_effort",
)
# What would change the answer, and is done by no provider here. Empty or off, it changes nothing;
# only a search of the web is asked for by an empty object, too.
WEB_SEARCH = "web_search_options"
UNSUPPORTED = (
    "audio",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    WEB_SEARCH,
)


class MessagesField(serializers.Field[Any, Any, Any, Any]):
    """The conversation so far: system and developer messages apart from the others."""

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
            self._refuse(number, f"an object with a role of {', '.join(ROLES)}.")
        content = data.get("content")
        if content is None and not data.get("tool_calls"):
            content = data.get("refusal")  # that was all its model said
            if not content:
                self._refuse(number, "content is missing.")
        message = {"role": data["role"], "content": self._content(number, content)}
        if data["role"] in INSTRUCTING and not isinstance(message["content"], str):
            self._refuse(number, "instructions are texts.")
        if calls := data.get("tool_calls"):
            if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
                self._refuse(number, "tool_calls is a list of objects.")
            if data["role"] != "assistant":
                self._refuse(number, "tool_calls are an assistant's.")
            message["tool_calls"] = calls
        if name := data.get("name"):
            message["name"] = self._text(number, name)
        if data["role"] == "tool":
            if not isinstance(data.get("tool_call_id"), str):
                self._refuse(number, "tool_call_id is missing.")
            message["tool_call_id"] = data["tool_call_id"]
        return message

    def _content(self, number: int, content: Any) -> str | list[dict[str, Any]]:
        """A text; or the parts, where there are others than texts."""
        if content is None:
            return ""
        if isinstance(content, str):
            return self._text(number, content)
        if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
            self._refuse(number, "content is a string or a list of parts.")
        parts: list[dict[str, Any]] = content
        for part in parts:
            if part.get("type") not in PARTS:
                self._refuse(number, f"a part has a type of {', '.join(PARTS)}.")
            if part["type"] in SPOKEN:
                self._text(number, part.get(part["type"]))
            elif not isinstance(part.get(part["type"]), dict):
                self._refuse(number, "a part has an object under the name of its type.")
        if all(part["type"] in SPOKEN for part in parts):
            return "\n".join(part[part["type"]] for part in parts)
        return parts

    def _text(self, number: int, text: Any) -> str:
        if not isinstance(text, str) or "\0" in text:
            self._refuse(number, "a text is a string without NUL.")
        if len(text) > settings.PROMPT_MAX_LENGTH:
            self._refuse(number, f"no more than {settings.PROMPT_MAX_LENGTH} characters.")
        return str(text)

    def _refuse(self, number: int, fault: str) -> None:
        self.fail("message", number=number, fault=fault)


class ToolChoiceField(serializers.Field[Any, Any, Any, Any]):
    """A word, or an object that names a tool."""

    default_error_messages = {"invalid": "A string or an object."}

    def to_internal_value(self, data: Any) -> str | dict[str, Any]:
        if not isinstance(data, str | dict):
            self.fail("invalid")
        return data


class StreamOptionsSerializer(serializers.Serializer[Any]):
    include_usage = StrictBooleanField(required=False, allow_null=True)


class CompletionSerializer(serializers.Serializer[Any]):
    """What OpenAI's clients ask. Fields that nobody here knows are passed over."""

    model = ModelIdField(help_text="A model's id, `provider:id`, or `default`.")
    messages = MessagesField(help_text="The conversation; the last message is to be answered.")
    user = UserIdField(required=False, allow_null=True, help_text="The user id; else `anonymous`.")
    stream = StrictBooleanField(required=False, allow_null=True)
    stream_options = StreamOptionsSerializer(required=False, allow_null=True)
    temperature = StrictFloatField(required=False, allow_null=True, min_value=0, max_value=2)
    top_p = StrictFloatField(required=False, allow_null=True, min_value=0, max_value=1)
    max_tokens = StrictIntegerField(
        required=False, allow_null=True, min_value=1, max_value=1_000_000
    )
    max_completion_tokens = StrictIntegerField(
        required=False, allow_null=True, min_value=1, max_value=1_000_000
    )
    stop = StopField(required=False, allow_null=True, max_length=MAX_STOPS)
    n = StrictIntegerField(required=False, allow_null=True, min_value=1, max_value=1)
    metadata = MetadataField(required=False, allow_null=True)
    seed = StrictIntegerField(
        required=False, allow_null=True, min_value=-(2**63), max_value=2**63 - 1
    )
    frequency_penalty = StrictFloatField(required=False, allow_null=True, min_value=-2, max_value=2)
    presence_penalty = StrictFloatField(required=False, allow_null=True, min_value=-2, max_value=2)
    reasoning_effort = StrictCharField(required=False, allow_null=True, max_length=32)
    response_format = serializers.DictField(required=False, allow_null=True)
    tools = serializers.ListField(
        child=serializers.DictField(), required=False, allow_null=True, max_length=128
    )
    tool_choice = ToolChoiceField(required=False, allow_null=True)
    parallel_tool_calls = StrictBooleanField(required=False, allow_null=True)

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict):
            for name in UNSUPPORTED:
                if data.get(name) or (name == WEB_SEARCH and data.get(name) is not None):
                    raise _refused(name, "Not supported here.", "unsupported")
            if data.get("modalities") not in (None, [], ["text"]):
                raise _refused("modalities", "Only text is answered here.", "unsupported")
        return super().to_internal_value(data)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """The fields of a `service.Question`, with `stream` and `include_usage`."""
        if any(tool.get("type") == "custom" for tool in attrs.get("tools") or ()):
            raise _refused("tools", "Custom tools are not supported here.", "unsupported")
        options = {name: attrs[name] for name in OPTIONS if attrs.get(name) not in (None, [])}
        if options.get("response_format") == {"type": "text"}:
            del options["response_format"]
        if "tools" not in options:
            options.pop("tool_choice", None)
            options.pop("parallel_tool_calls", None)
        try:  # with room for what is put around them where they are kept, compared and sent
            orjson.dumps([[[[[[[[options, attrs["messages"]]]]]]]]])
        except orjson.JSONEncodeError as exc:
            raise _refused("", "The body is nested too deeply.", "invalid") from exc
        limit = attrs.get("max_completion_tokens")
        return {
            **_asked(attrs["messages"]),
            "user_id": attrs.get("user") or ANONYMOUS,
            "model": attrs["model"],
            "temperature": attrs.get("temperature"),
            "top_p": attrs.get("top_p"),
            "max_tokens": attrs.get("max_tokens") if limit is None else limit,
            "stop": attrs.get("stop"),
            "metadata": attrs.get("metadata"),
            "options": options or None,
            "stream": bool(attrs.get("stream")),
            "include_usage": bool((attrs.get("stream_options") or {}).get("include_usage")),
        }


def _asked(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """`prompt`, `system` and `messages`: the last is left out where the others say it all."""
    above = [m for m in messages if m["role"] in INSTRUCTING]
    turns = [m for m in messages if m["role"] not in INSTRUCTING]
    if not turns:  # instructions alone are a question too
        above, turns = [], [{**message, "role": "user"} for message in above]
    system = "\n\n".join(filter(None, (_text_of(message) for message in above)))
    asked = [_text_of(message) for message in turns if message["role"] == "user"]
    alone = len(turns) == 1 and turns[0] == {"role": "user", "content": _text_of(turns[0])}
    return {
        "prompt": asked[-1] if asked else "",
        "system": system or None,
        "messages": None if alone else turns,
    }


def _text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _refused(name: str, detail: str, code: str) -> serializers.ValidationError:
    return serializers.ValidationError({name: [ErrorDetail(detail, code=code)]})
