"""Chat completions' requests in the terms of Google's Gemini API.

https://ai.google.dev/api/generate-content describes the fields, and
https://ai.google.dev/gemini-api/docs/openai how Google translates OpenAI's.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from providers import gemini_contents
from providers.base import CompletionRequest
from providers.parsing import as_list, as_str, get_path
from providers.translation import (
    NEUTRAL_PARAMETERS,
    TAKEN_BY_ALL,
    unsupported_fields,
    unsupported_parameters,
)

# These models ignore the sampling parameters; Google has announced that later ones refuse them.
_WITHOUT_SAMPLING = re.compile(
    r"gemini-(3\.5-flash-lite|3\.([6-9]|[1-9][0-9])|[4-9]|[1-9][0-9]|flash(-lite)?-latest)"
)
# The others that have levels, such as Pro models and Flash from 3.7 on, refuse MINIMAL.
_THINKS_MINIMALLY = re.compile(r"gemini-(3(\.[0-6])?-flash|.*flash-lite)")

# OpenAI's effort -> thinkingLevel, thinkingBudget. Google's own translation, except `none` (it
# refuses it for Gemini 3) and the efforts above `high`.
_EFFORTS = {
    "none": ("MINIMAL", 0),
    "minimal": ("MINIMAL", 1024),
    "low": ("LOW", 1024),
    "medium": ("MEDIUM", 8192),
    "high": ("HIGH", 24576),
    "xhigh": ("HIGH", 24576),
    "max": ("HIGH", 24576),
}
_PRO_MIN_BUDGET = 128  # Gemini 2.5 Pro always thinks

_CALLING_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
# With `allowed_tools`: AUTO takes no names of functions.
_ALLOWED_TOOLS_MODES = {"auto": "VALIDATED", "required": "ANY"}

_SAMPLING = {"temperature": "temperature", "top_p": "topP", "top_k": "topK"}
_PENALTIES = {"presence_penalty": "presencePenalty", "frequency_penalty": "frequencyPenalty"}
_LIMITS = {"max_tokens": "maxOutputTokens", "seed": "seed"}

# OpenAI's other tiers mean the default one.
_SERVICE_TIERS = {"default": "standard", "flex": "flex", "priority": "priority"}

_GOOGLE_FIELDS = ("thinking_config", "cached_content", "safety_settings")
_THINKING_FIELDS = {
    "thinking_level": "thinkingLevel",
    "thinking_budget": "thinkingBudget",
    "include_thoughts": "includeThoughts",
}

# Parameters that Gemini supports with any value, and parameters that change nothing for it.
_TAKEN = {
    *(*_SAMPLING, *_PENALTIES, *_LIMITS, "stop", "parallel_tool_calls"),
    *(*NEUTRAL_PARAMETERS, "service_tier"),
}

# Parameters that Gemini supports with some values only.
_TAKEN_VALUES: dict[str, Callable[[Any], bool]] = {
    **TAKEN_BY_ALL,
    "tool_choice": lambda choice: _calling_config(choice) is not None,
    "response_format": lambda value: (
        get_path(value, "type") in ("text", "json_object", "json_schema")
    ),
    "reasoning_effort": lambda effort: as_str(effort) in _EFFORTS,
    "modalities": lambda modalities: {"text", "image"}.issuperset(
        map(as_str, as_list(modalities) or [""])
    ),
    "verbosity": lambda verbosity: verbosity == "medium",  # OpenAI's default
    "extra_body": lambda body: body == {"google": _google(body)},
}


def unsupported(request: CompletionRequest) -> Sequence[str]:
    """Return the names of the parameters, content parts and fields that Gemini does not take."""
    names = [
        *unsupported_parameters(request.parameters, _supports),
        *gemini_contents.unsupported_parts(request.messages),
        *unsupported_fields(request),
    ]
    return list(dict.fromkeys(names))


def body(request: CompletionRequest, model: str) -> dict[str, Any]:
    """Return the body of a generateContent call. Raises RequestRejected."""
    parameters = request.parameters
    google = _google(parameters.get("extra_body"))
    contents = gemini_contents.to_contents(request.messages, model)
    instructions = list(gemini_contents.to_instructions(request.messages))
    if not contents:  # Gemini refuses a request of instructions alone
        contents, instructions = [{"role": "user", "parts": instructions}], []
    tools = as_list(parameters.get("tools"))
    fields = {
        "systemInstruction": {"parts": instructions} if instructions else None,
        "contents": contents,
        "tools": [{"functionDeclarations": list(map(_declaration, tools))}] if tools else None,
        "toolConfig": _tool_config(tools, parameters.get("tool_choice")) if tools else None,
        "generationConfig": _generation_config(parameters, google, model),
        "safetySettings": google.get("safety_settings"),
        "cachedContent": google.get("cached_content"),
        "serviceTier": _SERVICE_TIERS.get(as_str(parameters.get("service_tier"))),
    }
    return {name: value for name, value in fields.items() if value}


def _google(extra_body: Any) -> dict[str, Any]:
    """Return the fields of Gemini's own that Google's OpenAI-compatible API takes."""
    fields = get_path(extra_body, "google")
    known = {name: fields[name] for name in _GOOGLE_FIELDS if get_path(fields, name)}
    if not isinstance(known.get("thinking_config", {}), dict):
        del known["thinking_config"]
    return known


def _supports(name: str, value: Any) -> bool:
    takes = _TAKEN_VALUES.get(name)
    return name in _TAKEN or (takes is not None and takes(value))


def _declaration(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    fields = {
        "name": function.get("name"),
        "description": function.get("description"),
        "parametersJsonSchema": function.get("parameters"),
    }
    return {name: value for name, value in fields.items() if value}


def _tool_config(tools: list[Any], choice: Any) -> dict[str, Any] | None:
    calling = _calling_config(choice)
    strict = any(get_path(tool, "function", "strict") for tool in tools)
    if strict and choice in (None, "auto"):  # ANY validates arguments anyway
        calling = {"mode": "VALIDATED"}
    return {"functionCallingConfig": calling} if calling else None


def _calling_config(choice: Any) -> dict[str, Any] | None:
    if get_path(choice, "function"):
        choice = {"allowed_tools": {"mode": "required", "tools": [choice]}}
    if allowed := get_path(choice, "allowed_tools"):
        mode = _ALLOWED_TOOLS_MODES.get(as_str(get_path(allowed, "mode")))
        tools = as_list(get_path(allowed, "tools"))
        names = [as_str(get_path(tool, "function", "name")) for tool in tools]
        return {"mode": mode, "allowedFunctionNames": names} if mode and all(names) else None
    mode = _CALLING_MODES.get(as_str(choice))
    return {"mode": mode} if mode else None


def _generation_config(
    parameters: Mapping[str, Any], google: Mapping[str, Any], model: str
) -> dict[str, Any]:
    names = _LIMITS if _WITHOUT_SAMPLING.match(model) else _LIMITS | _SAMPLING
    config = {names[name]: value for name, value in parameters.items() if name in names}
    # Most models refuse any penalty, even the neutral one.
    config |= {
        _PENALTIES[name]: value
        for name, value in parameters.items()
        if name in _PENALTIES and value
    }
    if stop := parameters.get("stop"):
        config["stopSequences"] = [stop] if isinstance(stop, str) else stop
    if "image" in (modalities := as_list(parameters.get("modalities"))):
        config["responseModalities"] = [each.upper() for each in modalities]
    config |= _response_format(parameters.get("response_format"))
    if thinking := _thinking_config(parameters.get("reasoning_effort"), google, model):
        config["thinkingConfig"] = thinking
    return config


def _response_format(wanted: Any) -> dict[str, Any]:
    if get_path(wanted, "type") not in ("json_object", "json_schema"):
        return {}
    schema = get_path(wanted, "json_schema", "schema")
    return {"responseMimeType": "application/json"} | (
        {"responseJsonSchema": schema} if schema else {}
    )


def _thinking_config(effort: Any, google: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return how much to think. A request that asks for thinking also gets the thoughts."""
    own = {
        _THINKING_FIELDS.get(name, name): value
        for name, value in google.get("thinking_config", {}).items()
    }
    if not effort:
        return own
    level, budget = _EFFORTS[effort]
    shown = {} if effort == "none" else {"includeThoughts": True}
    if gemini_contents.BEFORE_GEMINI_3.match(model):
        least = _PRO_MIN_BUDGET if "-pro" in model else 0
        return {"thinkingBudget": max(budget, least), **shown, **own}
    if level == "MINIMAL" and not _THINKS_MINIMALLY.match(model):
        level = "LOW"
    return {"thinkingLevel": level, **shown, **own}
