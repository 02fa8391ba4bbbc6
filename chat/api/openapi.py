"""The parts of the OpenAPI document that drf-spectacular cannot derive from the views.

The first request for the document imports this module, through the setting
DEFAULT_GENERATOR_CLASS. drf-spectacular takes longer to import than all views.
"""

from copy import deepcopy
from typing import Any, ClassVar

from django.urls import get_script_prefix
from drf_spectacular import generators
from drf_spectacular.extensions import (
    OpenApiAuthenticationExtension,
    OpenApiSerializerFieldExtension,
)
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction

from chat.api import openapi_operations  # noqa: F401  (its import documents the views)
from chat.api.fields import MAX_STOP_LENGTH, MAX_STOPS, RESPONSE_FORMATS
from chat.api.openai.fields import OBJECT_PARTS, ROLES
from providers.base import TEXT_PARTS


class SchemaGenerator(generators.SchemaGenerator):
    """drf-spectacular's generator, with links and the prefix of a REST API's stage.

    Its name in the settings imports this module.
    """

    def get_schema(self, request: Any = None, public: bool = False) -> Any:
        # drf-spectacular's method has no types.
        schema = super().get_schema(request=request, public=public)  # type: ignore[no-untyped-call]
        if prefix := get_script_prefix().rstrip("/"):
            # Behind a REST API the stage is a part of each address that "Try it out" calls.
            schema["servers"] = [{"url": prefix}]
        for path in schema["paths"].values():
            for operation in path.values():
                if links := LINKS.get(operation["operationId"]):
                    operation["responses"]["200"]["links"] = links
        return schema


class ApiKeyScheme(OpenApiAuthenticationExtension):
    """Either header carries the key."""

    target_class = "chat.api.authentication.ApiKeyAuthentication"
    name = ["apiKey", "bearer"]

    def get_security_requirement(self, auto_schema: AutoSchema) -> list[dict[str, list[Any]]]:
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: AutoSchema) -> list[dict[str, Any]]:
        return [
            {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            {"type": "http", "scheme": "bearer"},
        ]


# --- Fields whose JSON is of several types ---------------------------------------------------


class FieldSchema(OpenApiSerializerFieldExtension):
    """Gives `schema` for the field `target_class`."""

    schema: ClassVar[dict[str, Any]]

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        return deepcopy(self.schema)  # drf-spectacular adds to it


STOP = {"type": "string", "maxLength": MAX_STOP_LENGTH}


class StopFieldSchema(FieldSchema):
    target_class = "chat.api.fields.StopField"
    schema = {"oneOf": [STOP, {"type": "array", "items": STOP, "maxItems": MAX_STOPS}]}


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


TEXT, OBJECT = {"type": "string"}, {"type": "object"}
NAME = {"type": "string", "minLength": 1}
INPUT_TEXT = _object("type", "text", type={"const": "input_text"}, text=TEXT)
# The values of content parts under the key named by their type.
PART_VALUES = dict.fromkeys(TEXT_PARTS, TEXT) | dict.fromkeys(OBJECT_PARTS, OBJECT)
CONTENT_PARTS = [
    *(
        _object("type", kind, type={"const": kind}, **{kind: value})
        for kind, value in PART_VALUES.items()
    ),
    _object("type", type={"type": "string", "not": {"enum": list(PART_VALUES)}}),
]
CONTENT = [TEXT, {"type": "array", "items": {"oneOf": CONTENT_PARTS}}]
ASKING_ROLES = [role for role in ROLES if role not in ("assistant", "tool")]


class MessagesFieldSchema(FieldSchema):
    target_class = "chat.api.openai.fields.MessagesField"
    schema = {
        "type": "array",
        "minItems": 1,
        "items": {
            "oneOf": [
                _object("role", "content", role={"enum": ASKING_ROLES}, content={"oneOf": CONTENT}),
                _object(
                    *("role", "content", "tool_call_id"),
                    role={"const": "tool"},
                    content={"oneOf": CONTENT},
                    tool_call_id=TEXT,
                ),
                _object(
                    "role",
                    role={"const": "assistant"},
                    content={"oneOf": [*CONTENT, {"type": "null"}]},
                    tool_calls={"type": ["array", "null"], "items": {"type": "object"}},
                )
                | {"minProperties": 2},
            ]
        },
    }


class InputFieldSchema(FieldSchema):
    target_class = "chat.api.openai.responses.serializers.InputField"
    schema = {
        "oneOf": [
            TEXT,
            {
                "type": "array",
                "minItems": 1,
                "items": {
                    "oneOf": [
                        _object(
                            *("role", "content"),
                            type={"const": "message"},
                            role={"enum": ["user", "system", "developer", "assistant"]},
                            content={"oneOf": [TEXT, {"type": "array", "items": INPUT_TEXT}]},
                        ),
                        _object(
                            *("type", "call_id", "name", "arguments"),
                            type={"const": "function_call"},
                            call_id=NAME,
                            name=NAME,
                            arguments=TEXT,
                        ),
                        _object(
                            *("type", "call_id", "output"),
                            type={"const": "function_call_output"},
                            call_id=NAME,
                            output=TEXT,
                        ),
                    ]
                },
            },
        ]
    }


class ResponseFormatFieldSchema(FieldSchema):
    target_class = "chat.api.fields.ResponseFormatField"
    schema = {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": list(RESPONSE_FORMATS)},
            "json_schema": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "schema": {"type": "object"}},
                "required": ["name"],
            },
        },
        "required": ["type"],
    }


class ToolChoiceFieldSchema(FieldSchema):
    target_class = "chat.api.openai.fields.ToolChoiceField"
    schema = {"oneOf": [{"type": "string"}, {"type": "object"}]}


# --- Links -----------------------------------------------------------------------------------


def _link(operation_id: str, **parameters: str) -> dict[str, Any]:
    """Return a link to the operation that takes values of the answer, named by JSON pointers."""
    taken = {name: f"$response.body#{pointer}" for name, pointer in parameters.items()}
    return {"operationId": operation_id, "parameters": taken}


RECORD_LINKS = {
    "record": _link("getInteraction", interaction_id="/interaction_id"),
    "conversation": _link("getConversation", conversation_id="/conversation_id"),
    "records of the user": _link("listUserInteractions", user_id="/userId"),
    "erasure of the user": _link("eraseUserInteractions", user_id="/userId"),
}
ITEM_LINKS = {
    "record": _link("getInteraction", interaction_id="/items/0/interaction_id"),
    "conversation": _link("getConversation", conversation_id="/items/0/conversation_id"),
}
LINKS: dict[str, dict[str, Any]] = {
    "chat": RECORD_LINKS,
    "getInteraction": RECORD_LINKS,
    "createResponse": {
        "record": _link("getInteraction", interaction_id="/interaction_id"),
        "response": _link("getResponse", response_id="/id"),
        "input items": _link("listResponseInputItems", response_id="/id"),
        "deletion": _link("deleteResponse", response_id="/id"),
    },
    "createChatCompletion": {"record": _link("getInteraction", interaction_id="/interaction_id")},
    "listUserInteractions": ITEM_LINKS,
    "getConversation": ITEM_LINKS,
    "listModels": {"model": _link("getModel", model_id="/data/0/id")},
}
