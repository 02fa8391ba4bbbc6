"""Serializers of OpenAI's requests: they validate to a `ChatRequest`."""

from typing import Any

from chat.api import fields
from chat.api.openai.fields import MessagesField, ToolChoiceField
from chat.api.serializer_base import BodySerializer
from providers.base import INSTRUCTION_ROLES, content_text
from providers.parsing import first_known

ANONYMOUS = "anonymous"
# Fields that are not passed to the vendor unchanged.
OURS = (
    *("model", "messages", "user", "stream", "stream_options", "n", "metadata"),
    *("max_tokens", "max_completion_tokens", "previous_interaction_id"),
)
# Parameters that change nothing when they are false or empty. Some clients always send them, and
# some vendors refuse them.
EMPTY_IS_NEUTRAL = (
    *("tools", "functions", "stop", "logit_bias", "logprobs", "top_logprobs", "audio"),
    *("function_call", "modalities"),
)
NEUTRAL = {"response_format": {"type": "text"}, "modalities": ["text"]}


class OpenSerializer(BodySerializer):
    """A serializer that keeps undeclared fields."""

    def to_internal_value(self, data: Any) -> Any:
        known = super().to_internal_value(data)
        return {**data, **known}


class StreamOptionsSerializer(OpenSerializer):
    include_usage = fields.StrictBooleanField(**fields.OPTIONAL)


class CompletionSerializer(OpenSerializer):
    """A chat completion request. Undeclared fields are passed to the vendor unchanged."""

    model = fields.ModelIdField(help_text="A model's id, `provider:id`, or `default`.")
    messages = MessagesField(help_text="The conversation; the last message is to be answered.")
    user = fields.UserIdField(
        **fields.OPTIONAL, allow_blank=True, help_text="The user id; else `anonymous`."
    )
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
    response_format = fields.ObjectField(**fields.OPTIONAL)
    tools = fields.BoundedListField(
        child=fields.ObjectField(), **fields.OPTIONAL, max_length=fields.MAX_TOOLS
    )
    tool_choice = ToolChoiceField(**fields.OPTIONAL)
    parallel_tool_calls = fields.StrictBooleanField(**fields.OPTIONAL)
    previous_interaction_id = fields.InteractionIdField(
        **fields.OPTIONAL,
        max_length=64,
        help_text="The turn to continue. `messages` then has only what is new.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a `ChatRequest`, and `stream` and `include_usage`."""
        stream = bool(attrs.get("stream"))
        stream_options = dict(attrs.get("stream_options") or {})
        include_usage = bool(stream_options.pop("include_usage", False))
        parameters = _parameters(attrs)
        if stream and stream_options:
            parameters["stream_options"] = stream_options
        parameters, messages = fields.without_nul([parameters, attrs["messages"]])
        return {
            **_split_messages(messages),
            "user_id": attrs.get("user") or ANONYMOUS,
            "model": attrs.get("model"),
            "metadata": attrs.get("metadata"),
            "previous_interaction_id": attrs.get("previous_interaction_id"),
            "is_whole": attrs.get("previous_interaction_id") is None,
            "parameters": parameters,
            "stream": stream,
            "include_usage": include_usage,
        }


def _parameters(attrs: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters for the vendor, without those that change nothing."""
    parameters = {
        name: value
        for name, value in attrs.items()
        if name not in OURS
        and value is not None
        and (value or name not in EMPTY_IS_NEUTRAL)
        and value != NEUTRAL.get(name)
    }
    limits = (attrs.get("max_completion_tokens"), attrs.get("max_tokens"))
    if (limit := first_known(limits)) is not None:
        parameters["max_tokens"] = limit
    if "tools" not in parameters:
        parameters.pop("parallel_tool_calls", None)
        if parameters.get("tool_choice") in ("auto", "none"):
            del parameters["tool_choice"]
    if attrs.get("store") and attrs.get("metadata"):
        parameters["metadata"] = attrs["metadata"]  # the vendor stores them with its answer
    return parameters


def _split_messages(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return `prompt`, `system` and `messages` of a `ChatRequest`.

    `messages` is None if `prompt` and `system` say it all.
    """
    instructions = [m for m in messages if m["role"] in INSTRUCTION_ROLES]
    asked = [m for m in messages if m["role"] == "user"]
    system = "\n\n".join(filter(None, map(_text, instructions))) or None
    prompt = _text((asked or instructions or [{}])[-1])
    plain = [{"role": "user", "content": prompt}]
    if system:
        plain = [{"role": "system", "content": system}, *plain]
    return {"prompt": prompt, "system": system, "messages": None if messages == plain else messages}


def _text(message: dict[str, Any]) -> str:
    return content_text(message.get("content"))
