"""Serializers of OpenAI's requests: they validate to a `ChatRequest`."""

from typing import Any

import orjson
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from chat.api import fields
from chat.api.openai.fields import INSTRUCTION_ROLES, MessagesField, ToolChoiceField

ANONYMOUS = "anonymous"
# Parameters that `/v1/chat` has too.
SHARED = ("model", "temperature", "top_p", "stop", "metadata")
# Parameters that are passed to the vendor unchanged.
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
# Parameters that would change the answer and that no provider supports. A false or empty value is
# accepted, except for a web search: an empty object asks for one with default options.
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


class StreamOptionsSerializer(serializers.Serializer[Any]):
    include_usage = fields.StrictBooleanField(**fields.OPTIONAL)


class CompletionSerializer(serializers.Serializer[Any]):
    """A chat completion request. Unknown fields are ignored."""

    model = fields.ModelIdField(help_text="A model's id, `provider:id`, or `default`.")
    messages = MessagesField(help_text="The conversation; the last message is to be answered.")
    user = fields.UserIdField(**fields.OPTIONAL, help_text="The user id; else `anonymous`.")
    stream = fields.StrictBooleanField(**fields.OPTIONAL)
    stream_options = StreamOptionsSerializer(**fields.OPTIONAL)
    temperature = fields.StrictFloatField(**fields.OPTIONAL, min_value=0, max_value=2)
    top_p = fields.StrictFloatField(**fields.OPTIONAL, min_value=0, max_value=1)
    max_tokens = fields.StrictIntegerField(**fields.OPTIONAL, min_value=1, max_value=1_000_000)
    max_completion_tokens = fields.StrictIntegerField(
        **fields.OPTIONAL, min_value=1, max_value=1_000_000
    )
    stop = fields.StopField(**fields.OPTIONAL, max_length=fields.MAX_STOPS)
    n = fields.StrictIntegerField(**fields.OPTIONAL, min_value=1, max_value=1)
    metadata = fields.MetadataField(**fields.OPTIONAL)
    seed = fields.StrictIntegerField(**fields.OPTIONAL, min_value=-(2**63), max_value=2**63 - 1)
    frequency_penalty = fields.StrictFloatField(**fields.OPTIONAL, min_value=-2, max_value=2)
    presence_penalty = fields.StrictFloatField(**fields.OPTIONAL, min_value=-2, max_value=2)
    reasoning_effort = fields.StrictCharField(**fields.OPTIONAL, max_length=32)
    response_format = serializers.DictField(**fields.OPTIONAL)
    tools = serializers.ListField(child=serializers.DictField(), **fields.OPTIONAL, max_length=128)
    tool_choice = ToolChoiceField(**fields.OPTIONAL)
    parallel_tool_calls = fields.StrictBooleanField(**fields.OPTIONAL)

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict):
            for name in UNSUPPORTED:
                if data.get(name) or (name == WEB_SEARCH and data.get(name) is not None):
                    raise _field_error(name, "Not supported here.", "unsupported")
            if data.get("modalities") not in (None, [], ["text"]):
                raise _field_error("modalities", "Only text is answered here.", "unsupported")
        return super().to_internal_value(data)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a `ChatRequest`, and `stream` and `include_usage`."""
        if any(tool.get("type") == "custom" for tool in attrs.get("tools") or ()):
            raise _field_error("tools", "Custom tools are not supported here.", "unsupported")
        options = _options(attrs)
        _check_nesting(options, attrs["messages"])
        limit = attrs.get("max_completion_tokens")
        return {
            **_split_messages(attrs["messages"]),
            "user_id": attrs.get("user") or ANONYMOUS,
            **{name: attrs.get(name) for name in SHARED},
            "max_tokens": attrs.get("max_tokens") if limit is None else limit,
            "options": options or None,
            "stream": bool(attrs.get("stream")),
            "include_usage": bool((attrs.get("stream_options") or {}).get("include_usage")),
        }


def _options(attrs: dict[str, Any]) -> dict[str, Any]:
    """Return the OPTIONS of a request, without those that change nothing."""
    options = {name: attrs[name] for name in OPTIONS if attrs.get(name) not in (None, [])}
    if options.get("response_format") == {"type": "text"}:
        del options["response_format"]
    if "tools" not in options:
        options.pop("tool_choice", None)
        options.pop("parallel_tool_calls", None)
    return options


def _check_nesting(options: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    """Raise ValidationError for JSON that orjson could not write later.

    The lists around it stand for the levels that records and vendor requests add.
    """
    try:
        orjson.dumps([[[[[[[[options, messages]]]]]]]])
    except orjson.JSONEncodeError as exc:
        raise _field_error("", "The body is nested too deeply.", "invalid") from exc


def _split_messages(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return `prompt`, `system` and `messages` of a `ChatRequest`.

    `messages` is None if `prompt` and `system` say it all.
    """
    instructions = [m for m in messages if m["role"] in INSTRUCTION_ROLES]
    turns = [m for m in messages if m["role"] not in INSTRUCTION_ROLES]
    if not turns:  # a request of instructions alone: they are the prompt
        instructions, turns = [], [{**message, "role": "user"} for message in instructions]
    system = "\n\n".join(filter(None, map(_text_content, instructions)))
    prompts = [_text_content(message) for message in turns if message["role"] == "user"]
    is_plain_prompt = turns == [{"role": "user", "content": _text_content(turns[0])}]
    return {
        "prompt": prompts[-1] if prompts else "",
        "system": system or None,
        "messages": None if is_plain_prompt else turns,
    }


def _text_content(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _field_error(name: str, detail: str, code: str) -> serializers.ValidationError:
    return serializers.ValidationError({name: [ErrorDetail(detail, code=code)]})
