"""Serializers of requests for responses."""

from typing import Any

from rest_framework import serializers

from chat.api import fields
from chat.api.openai.fields import ToolChoiceField
from chat.api.openai.responses import parameters
from chat.api.openai.responses.ids import RESPONSE_PREFIX
from chat.api.openai.serializers import ANONYMOUS, OpenSerializer

# OpenAI's limit.
MAX_ITEMS_ON_A_PAGE = 100


class InputField(serializers.Field[Any, Any, Any, Any]):
    """A text, or a list of items."""

    default_error_messages = {
        "not_a_list": "Must be a string or a list of items.",
        "empty": "Must not be empty.",
        "item": "Item {number}: must be an object.",
    }

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        if data in ("", []):
            self.fail("empty")
        if isinstance(data, str):
            return [{"type": "message", "role": "user", "content": data}]
        if not isinstance(data, list):
            self.fail("not_a_list")
        for number, item in enumerate(data):
            if not isinstance(item, dict):
                self.fail("item", number=number)
        return data


class ResponseIdField(fields.InteractionIdField):
    """The id of a response: the record's, with a prefix."""

    def to_internal_value(self, data: Any) -> str:
        text = data.removeprefix(RESPONSE_PREFIX) if isinstance(data, str) else data
        return super().to_internal_value(text)


class IncludeField(fields.BoundedListField):
    child = serializers.ChoiceField(choices=sorted(parameters.INCLUDABLE))


class TextSerializer(OpenSerializer):
    verbosity = fields.StrictCharField(**fields.OPTIONAL, max_length=32)


class ReasoningSerializer(OpenSerializer):
    effort = fields.StrictCharField(**fields.OPTIONAL, max_length=32)


class ResponseStreamOptionsSerializer(OpenSerializer):
    include_obfuscation = fields.StrictBooleanField(**fields.OPTIONAL)


class ResponseSerializer(OpenSerializer):
    """A request for a response. Undeclared fields are passed to the vendor unchanged."""

    model = fields.ModelIdField(
        **fields.OPTIONAL, help_text="A model's id, `provider:id`, or `default`."
    )
    input = InputField(help_text="A text, or items: messages, tool calls and their results.")
    instructions = fields.LenientTextField(
        **fields.OPTIONAL, allow_blank=True, help_text="Instructions for this response only."
    )
    previous_response_id = ResponseIdField(
        **fields.OPTIONAL,
        max_length=64,
        help_text="The response to continue. `input` then has only what is new.",
    )
    tools = fields.BoundedListField(
        child=fields.ObjectField(), **fields.OPTIONAL, max_length=fields.MAX_TOOLS
    )
    tool_choice = ToolChoiceField(**fields.OPTIONAL)
    parallel_tool_calls = fields.StrictBooleanField(**fields.OPTIONAL)
    text = TextSerializer(**fields.OPTIONAL)
    reasoning = ReasoningSerializer(**fields.OPTIONAL)
    max_output_tokens = fields.StrictIntegerField(
        **fields.OPTIONAL, min_value=1, max_value=1_000_000
    )
    temperature = fields.StrictFloatField(**fields.OPTIONAL, min_value=0, max_value=2)
    top_p = fields.StrictFloatField(**fields.OPTIONAL, min_value=0, max_value=1)
    top_logprobs = fields.StrictIntegerField(**fields.OPTIONAL, min_value=0, max_value=20)
    include = IncludeField(**fields.OPTIONAL)
    store = fields.StrictBooleanField(
        **fields.OPTIONAL, help_text="False keeps only the accounting, without texts."
    )
    service_tier = fields.StrictCharField(**fields.OPTIONAL)
    safety_identifier = fields.StrictCharField(**fields.OPTIONAL)
    prompt_cache_key = fields.StrictCharField(**fields.OPTIONAL)
    stream = fields.StrictBooleanField(**fields.OPTIONAL)
    stream_options = ResponseStreamOptionsSerializer(**fields.OPTIONAL)
    metadata = fields.MetadataField(**fields.OPTIONAL)
    user = fields.UserIdField(
        **fields.OPTIONAL, allow_blank=True, help_text="The user id; else `anonymous`."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a `ChatRequest` without its messages; and `input`, `include`.

        `stream` is among them, too.
        """
        translated, items = fields.without_nul([parameters.to_parameters(attrs), attrs["input"]])
        return {
            "user_id": attrs.get("user") or ANONYMOUS,
            "model": attrs.get("model"),
            "system": attrs.get("instructions") or None,
            "metadata": attrs.get("metadata"),
            "previous_interaction_id": attrs.get("previous_response_id"),
            "is_whole": attrs.get("previous_response_id") is None,
            "parameters": translated,
            "drops_instructions": True,
            "accounting_only": attrs.get("store") is False,
            "input": items,
            "include": attrs.get("include") or (),
            "stream": bool(attrs.get("stream")),
        }


class ResponseQuerySerializer(serializers.Serializer[Any]):
    """What else a stored response shows."""

    include = IncludeField()


class ItemsQuerySerializer(serializers.Serializer[Any]):
    """The page of a response's input items."""

    limit = serializers.IntegerField(
        default=20, min_value=1, max_value=MAX_ITEMS_ON_A_PAGE, help_text="Items on a page."
    )
    order = serializers.ChoiceField(choices=("asc", "desc"), default="desc")
    after = serializers.CharField(
        required=False, help_text="The id of the last item of the page before."
    )
