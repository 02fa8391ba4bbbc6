"""Chat completions' requests in the terms of Bedrock's Converse API.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html describes the
fields. What has no field there goes to the model in `additionalModelRequestFields`, in the shape
that its maker gave it:
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from providers import bedrock_messages
from providers.base import CompletionRequest
from providers.bedrock_messages import Block, cache_point
from providers.parsing import as_list, as_str, get_path
from providers.translation import (
    NEUTRAL_PARAMETERS,
    TAKEN_BY_ALL,
    unsupported_fields,
    unsupported_parameters,
)

# The tool that replaces a `response_format` without a schema, or one that the model lacks.
JSON_TOOL = "json_answer"
_CALL_JSON_TOOL = f"Answer by calling the tool {JSON_TOOL}, and write nothing else."
_JSON_FORMATS = ("json_object", "json_schema")

# Features that are left out in a second try if the model refuses them.
TEXT_FORMAT, STRICT_TOOLS, FORCED_TOOL = "text format", "strict tools", "forced tool"
STREAMED_TOOLS = "streamed tools"

_INFERENCE = {"max_tokens": "maxTokens", "temperature": "temperature", "top_p": "topP"}
_SERVICE_TIERS = ("default", "priority", "flex", "reserved")
_ADDITIONAL = "additionalModelRequestFields"
# Other fields of Converse's that a client may fill itself.
_OWN_FIELDS = (
    *("additionalModelResponseFieldPaths", "performanceConfig", "promptVariables"),
    "requestMetadata",
)

# Parameters that Converse has no place for, and fields of Converse's that are filled here. The
# guardrail is the operator's.
_REFUSED = {
    *("functions", "audio", "prediction", "web_search_options"),
    *("modelId", "messages", "system", "inferenceConfig", "toolConfig", "outputConfig"),
    *("guardrailConfig", "serviceTier"),
}
# Parameters that are supported with some values only.
_TAKEN_VALUES: dict[str, Callable[[Any], bool]] = {
    **TAKEN_BY_ALL,
    "tool_choice": lambda choice: _tool_choice(choice) is not None,
    "response_format": lambda value: get_path(value, "type") in ("text", *_JSON_FORMATS),
    "reasoning_effort": lambda effort: isinstance(effort, str),
    "service_tier": lambda tier: tier in ("auto", *_SERVICE_TIERS),
    "modalities": lambda modalities: modalities == ["text"],
    "n": lambda count: count == 1,
    _ADDITIONAL: lambda fields: isinstance(fields, dict),
}
# OpenAI's defaults, which ask for nothing.
_NEUTRAL_VALUES = {"presence_penalty": 0, "frequency_penalty": 0, "verbosity": "medium"}
# Parameters that do not go to the model as they are.
_PLACED = {
    *(*_INFERENCE, *_OWN_FIELDS, *_TAKEN_VALUES, *NEUTRAL_PARAMETERS),
    *("stop", "parallel_tool_calls", "cache_control"),
}

# These think within a budget. Later ones decide how much by an effort.
_THINKS_BY_BUDGET = re.compile(r"claude-(?:3|(?:opus|sonnet|haiku)-4-(?:[015]\b|2025))")
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 8192}
_MIN_BUDGET, _MAX_BUDGET = 1024, 24576
_NOVA_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}


def unsupported(request: CompletionRequest) -> Sequence[str]:
    """Return the names of the parameters, content parts and fields that Bedrock does not take."""
    names = [
        *unsupported_parameters(request.parameters, _supports),
        *bedrock_messages.unsupported_parts(request.messages),
        *unsupported_fields(request),
    ]
    return list(dict.fromkeys(names))


def wants_json(request: CompletionRequest) -> bool:
    return get_path(request.parameters.get("response_format"), "type") in _JSON_FORMATS


def has_json_tool(request: CompletionRequest, refused: Collection[str]) -> bool:
    """Return whether the model has to answer by JSON_TOOL."""
    schema = _json_schema(request)
    return wants_json(request) and (TEXT_FORMAT in refused or not schema or schema in refused)


def body(
    request: CompletionRequest, *, guardrail: str = "", refused: Collection[str] = ()
) -> dict[str, Any]:
    """Return the body of a call of Converse or ConverseStream. Raises RequestRejected.

    `guardrail` is `id:version`. `refused` are the features and the schemas that the model has
    refused before.
    """
    parameters = request.parameters
    system = bedrock_messages.to_system(request.messages)
    messages = bedrock_messages.to_messages(request.messages, request.model)
    if not messages:  # Bedrock refuses a request of instructions alone
        system, messages = [], [{"role": "user", "content": system}]
    messages[-1]["content"] += cache_point(parameters)
    additional = _additional_fields(request, messages)
    # A model that thinks refuses to be forced to call a tool.
    forced = FORCED_TOOL not in refused and not _thinks(additional)
    tool_config = _tool_config(request, messages, refused, forced=forced)
    if tool_config and parameters.get("tool_choice") == "none" and "claude" in request.model:
        # Claude's own API has the choice that Converse lacks.
        additional["tool_choice"] = {"type": "none"}
    if has_json_tool(request, refused) and not forced:
        system.append({"text": _CALL_JSON_TOOL})
    identifier, _, version = guardrail.rpartition(":")
    tier = parameters.get("service_tier")
    fields = {
        "system": system,
        "messages": messages,
        "inferenceConfig": _inference_config(parameters),
        "toolConfig": tool_config,
        "outputConfig": _output_config(request, refused),
        "guardrailConfig": identifier
        and {"guardrailIdentifier": identifier, "guardrailVersion": version},
        "serviceTier": {"type": tier} if tier in _SERVICE_TIERS else None,
        _ADDITIONAL: additional,
        **{name: parameters.get(name) for name in _OWN_FIELDS},
    }
    return {name: value for name, value in fields.items() if value}


def _supports(name: str, value: Any) -> bool:
    takes = _TAKEN_VALUES.get(name)
    return name not in _REFUSED and (takes is None or takes(value))


def _inference_config(parameters: Mapping[str, Any]) -> dict[str, Any]:
    config = {_INFERENCE[name]: value for name, value in parameters.items() if name in _INFERENCE}
    if stop := parameters.get("stop"):
        config["stopSequences"] = [stop] if isinstance(stop, str) else stop
    return config


def _tool_config(
    request: CompletionRequest, messages: list[Block], refused: Collection[str], *, forced: bool
) -> dict[str, Any] | None:
    """Return the tools, and which of them to call.

    Bedrock has no choice `none`, and wants tools wherever the messages have calls.
    """
    chosen = request.parameters.get("tool_choice")
    choice, names = _tool_choice(chosen) or ({}, None)
    called = bedrock_messages.called_tools(messages)
    given = as_list(request.parameters.get("tools")) if chosen != "none" or called else []
    tools = [
        block
        for tool in given
        if names is None or tool["function"]["name"] in names
        for block in (_tool(tool["function"], refused), *cache_point(tool))
    ]
    tools = tools or [_tool({"name": name}, refused) for name in called]
    if has_json_tool(request, refused):
        tools.append(_json_tool(request))
        choice = choice or ({"any": {}} if forced else {})
    if not tools:
        return None
    return {"tools": tools, "toolChoice": choice} if choice else {"tools": tools}


def _tool(function: Mapping[str, Any], refused: Collection[str]) -> Block:
    fields = {
        "name": function["name"],
        "description": function.get("description"),
        "inputSchema": {"json": function.get("parameters") or {"type": "object"}},
        "strict": STRICT_TOOLS not in refused and function.get("strict"),
    }
    return {"toolSpec": {name: value for name, value in fields.items() if value}}


def _tool_choice(choice: Any) -> tuple[dict[str, Any], list[str] | None] | None:
    """Return a choice of tools in Converse's terms, and the names of those to send (None: all).

    Return None for an unsupported choice.
    """
    if name := get_path(choice, "function", "name"):
        return {"tool": {"name": name}}, None
    if allowed := get_path(choice, "allowed_tools"):
        tools = as_list(get_path(allowed, "tools"))
        names = [as_str(get_path(tool, "function", "name")) for tool in tools]
        found = _tool_choice(get_path(allowed, "mode"))
        return (found[0], names) if found and all(names) else None
    choices: dict[str, dict[str, Any]] = {"auto": {}, "none": {}, "required": {"any": {}}}
    found_choice = choices.get(as_str(choice or "auto"))
    return None if found_choice is None else (found_choice, None)


def _json_schema(request: CompletionRequest) -> str:
    """Return the schema of the answer, as text; empty if there is none."""
    schema = get_path(request.parameters.get("response_format"), "json_schema", "schema")
    return json.dumps(schema) if schema and isinstance(schema, dict) else ""


def _json_tool(request: CompletionRequest) -> Block:
    wanted = get_path(request.parameters.get("response_format"), "json_schema")
    description = as_str(get_path(wanted, "description")) or "The answer, as a JSON object."
    function = {"name": JSON_TOOL, "parameters": get_path(wanted, "schema")}
    return _tool({**function, "description": description}, ())


def _output_config(request: CompletionRequest, refused: Collection[str]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if wants_json(request) and not has_json_tool(request, refused):
        wanted = request.parameters["response_format"]["json_schema"]
        named = {name: wanted[name] for name in ("name", "description") if wanted.get(name)}
        structure = {"jsonSchema": {"schema": _json_schema(request), **named}}
        config["textFormat"] = {"type": "json_schema", "structure": structure}
    effort = request.parameters.get("reasoning_effort")
    if effort and _thinks_by_effort(request.model) and effort != "none":
        config["effort"] = "low" if effort == "minimal" else effort
    return config


def _additional_fields(request: CompletionRequest, messages: list[Block]) -> dict[str, Any]:
    """Return the fields for the model itself. The client's own fields take precedence."""
    named = {
        name: value
        for name, value in request.parameters.items()
        if name not in _PLACED and value not in ([], {}, "") and value != _NEUTRAL_VALUES.get(name)
    }
    thinking = _thinking(request, messages)
    return {**thinking, **named, **request.parameters.get(_ADDITIONAL, {})}


def _thinks(additional: Mapping[str, Any]) -> bool:
    return get_path(additional.get("thinking"), "type") in ("enabled", "adaptive")


def _thinks_by_effort(model: str) -> bool:
    return "claude" in model and not _THINKS_BY_BUDGET.search(model)


def _thinking(request: CompletionRequest, messages: list[Block]) -> dict[str, Any]:
    """Return how much to think, in the terms of the model's maker."""
    model, effort = request.model, request.parameters.get("reasoning_effort")
    if "amazon.nova-2" in model and effort == "none":
        return {"reasoningConfig": {"type": "disabled"}}
    if not effort or effort == "none":
        return {}
    if _THINKS_BY_BUDGET.search(model):
        return _thinking_budget(request, messages)
    if "claude" in model:
        return {"thinking": {"type": "adaptive"}}
    if "amazon.nova" in model:
        most = _NOVA_EFFORTS.get(effort, effort)
        return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": most}}
    if "openai." in model and "gpt-oss" not in model:
        return {"reasoning": {"effort": effort}}
    return {"reasoning_effort": effort}


def _thinking_budget(request: CompletionRequest, messages: list[Block]) -> dict[str, Any]:
    """Return a thinking budget that leaves half of the tokens for the answer, if possible.

    Claude refuses to think on after calls whose thoughts a client has not sent back.
    """
    budget = _BUDGETS.get(request.parameters["reasoning_effort"], _MAX_BUDGET)
    if limit := request.parameters.get("max_tokens"):
        budget = min(budget, limit // 2)
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    last = answers[-1] if answers else []
    forgotten = any("toolUse" in block for block in last) and "reasoningContent" not in last[0]
    if budget < _MIN_BUDGET or forgotten:
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}
