"""A request's parameters in chat completions' terms, and back for the response that repeats them.

https://platform.openai.com/docs/api-reference/responses/create
"""

from collections.abc import Collection, Mapping
from typing import Any

import orjson
from rest_framework.exceptions import ErrorDetail, ValidationError

from chat.api.openai.responses import custom_tools
from providers.parsing import as_items, as_list, as_str, get_path

# Unsupported parameter -> the values that are accepted, because they ask for nothing.
NOT_SERVED: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "conversation": (),
    "prompt": (),
    "max_tool_calls": (),
    "truncation": ("disabled",),
    "context_management": ([],),
    "moderation": (),
    "image": (),
    "access_programs": (),
    "background_options": ({},),
    "n": (1,),
}
# Values of a field that ask for nothing. An empty object may ask: as a schema it allows any value.
NEUTRAL_VALUES: tuple[Any, ...] = (None, False, "", [])
# The names in a request -> those of chat completions, which vendors and records have.
CHAT_NAMES = {
    "max_output_tokens": "max_tokens",
    "text.format": "response_format",
    "text.verbosity": "verbosity",
    "reasoning.effort": "reasoning_effort",
    "previous_response_id": "previous_interaction_id",
    "input": "messages",
}
RESPONSES_NAMES = {chat: name for name, chat in CHAT_NAMES.items()} | {
    "max_completion_tokens": "max_output_tokens"
}
NAMES = {
    **RESPONSES_NAMES,
    "image_url": "input_image",
    "image_url.url": "input_image.image_url",
    "file": "input_file",
    "file.file_data": "input_file.file_url",
    "logprobs": "top_logprobs",
}
# Fields that the vendor does not get under their own names. `client_metadata` is the client's
# trace of itself.
OURS = {
    *("model", "input", "instructions", "previous_response_id", "include", "store", "user"),
    *("stream", "stream_options", "metadata", "client_metadata", "text", "reasoning", "tools"),
    *("tool_choice", "parallel_tool_calls", "max_output_tokens", "top_logprobs"),
    *NOT_SERVED,
}
LOGPROBS = "message.output_text.logprobs"
ENCRYPTED_CONTENT = "reasoning.encrypted_content"
# The others are of hosted tools, and of images that are shown anyway.
INCLUDABLE = {
    *(LOGPROBS, ENCRYPTED_CONTENT, "message.input_image.image_url"),
    *("file_search_call.results", "web_search_call.results", "web_search_call.action.sources"),
    *("computer_call_output.output.image_url", "code_interpreter_call.outputs"),
}
JSON_SCHEMA_FIELDS = {"name": str, "description": str, "schema": dict, "strict": bool}
STREAM_OPTIONS = ("include_obfuscation", "include_usage")
FUNCTION_FIELDS = {"name": str, "description": str, "parameters": dict, "strict": bool}
TYPE_NAMES = {str: "a string", dict: "an object", bool: "a boolean"}


def to_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a validated request. Raises ValidationError for unsupported ones."""
    for name, neutral in NOT_SERVED.items():
        if (value := given.get(name)) is not None and value not in neutral:
            only = orjson.dumps(neutral[0]).decode() if neutral else ""
            raise unsupported(name, f"Only {only} is supported here." if only else "")
    # Passed on, they would set the same parameter of the vendor twice.
    for name, own in RESPONSES_NAMES.items():
        if given.get(name) is not None:
            raise unsupported(name, f"Use `{own}`; `{name}` is for chat completions.")
    _check_fields("stream_options", given.get("stream_options"), STREAM_OPTIONS)
    parameters = other_fields(given, OURS)
    translated = {
        "max_tokens": given.get("max_output_tokens"),
        **_text(given.get("text") or {}),
        **_reasoning(given.get("reasoning") or {}),
        **_logprobs(given),
        **_tools(given),
    }
    return parameters | {name: value for name, value in translated.items() if value is not None}


def unsupported(name: str, detail: str = "") -> ValidationError:
    """Return the error for an unsupported parameter."""
    message = detail or "Not supported by this service."
    return ValidationError({name: ErrorDetail(message, code="unsupported")})


def _typed(param: str, value: Any, types: Mapping[str, type]) -> dict[str, Any]:
    """Return the fields of an object that are set. Raises ValidationError for a wrong type."""
    fields = {name: get_path(value, name) for name in types}
    found = {name: each for name, each in fields.items() if each is not None}
    for name, each in found.items():
        if not isinstance(each, types[name]):
            raise ValidationError({param: f"`{name}` must be {TYPE_NAMES[types[name]]}."})
    return found


def _check_fields(name: str, value: Any, known: Collection[str]) -> None:
    for field in value if isinstance(value, Mapping) else ():
        if field not in known and value[field] not in NEUTRAL_VALUES:
            raise unsupported(f"{name}.{field}")


def other_fields(value: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return the fields that are set and not known, which the vendor gets unchanged."""
    return {name: each for name, each in value.items() if name not in known and each is not None}


def _text(text: Mapping[str, Any]) -> dict[str, Any]:
    _check_fields("text", text, {"format", "verbosity"})
    response_format = text.get("format") or {"type": "text"}
    match get_path(response_format, "type"):
        case "text":
            known, translated = {"type"}, None
        case "json_schema":
            known = {"type", *JSON_SCHEMA_FIELDS}
            schema = _typed("text.format", response_format, JSON_SCHEMA_FIELDS)
            if not {"name", "schema"} <= schema.keys():
                detail = "A format of type json_schema has a `name` and a `schema`."
                raise ValidationError({"text.format": detail})
            translated = {"type": "json_schema", "json_schema": schema}
        case "json_object":
            known, translated = {"type"}, {"type": "json_object"}
        case other:
            raise unsupported("text.format", f"Type {other!r} is not supported here.")
    _check_fields("text.format", response_format, known)
    return {"response_format": translated, "verbosity": text.get("verbosity")}


def _reasoning(reasoning: Mapping[str, Any]) -> dict[str, Any]:
    """Return the effort. A requested summary needs nothing: thoughts are always shown."""
    if reasoning.get("mode") not in (None, "standard"):
        raise unsupported("reasoning.mode")
    if reasoning.get("context") not in (None, "auto"):
        raise unsupported("reasoning.context")
    known = {"effort", "summary", "generate_summary", "mode", "context"}
    _check_fields("reasoning", reasoning, known)
    return {"reasoning_effort": reasoning.get("effort")}


def _logprobs(given: Mapping[str, Any]) -> dict[str, Any]:
    top = given.get("top_logprobs")
    if not top and LOGPROBS not in (given.get("include") or ()):
        return {}
    return {"logprobs": True, "top_logprobs": top}


def _tools(given: Mapping[str, Any]) -> dict[str, Any]:
    tools = [_tool(tool) for tool in given.get("tools") or ()]
    choice = _tool_choice(given.get("tool_choice"))
    if not tools:  # some vendors refuse these without tools
        return {} if choice in (None, "auto", "none") else {"tool_choice": choice}
    parallel = given.get("parallel_tool_calls")
    return {"tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    kind = tool.get("type")
    if kind not in ("function", "custom"):
        raise unsupported("tools", f"Tools of type {kind!r} are not supported here.")
    function = _typed("tools", tool, FUNCTION_FIELDS)
    if not function.get("name"):
        raise ValidationError({"tools": "A tool has a `name`."})
    if kind == "custom":
        function = custom_tools.as_function(tool)
    others = other_fields(tool, {"type", "format", *FUNCTION_FIELDS})
    return {**others, "type": "function", "function": function}


def _tool_choice(choice: Any) -> Any:
    if choice is None or isinstance(choice, str):
        if choice not in (None, "none", "auto", "required"):
            raise ValidationError({"tool_choice": "One of none, auto, required, or an object."})
        return choice
    if not isinstance(choice, Mapping):
        raise ValidationError({"tool_choice": "A tool is an object."})
    if choice.get("type") != "allowed_tools":
        return _chosen_tool(choice)
    _check_fields("tool_choice", choice, ("type", "mode", "tools"))
    mode, tools = choice.get("mode") or "auto", choice.get("tools")
    if mode not in ("auto", "required"):
        raise ValidationError({"tool_choice": "`mode` must be auto or required."})
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValidationError({"tool_choice": "`tools` must be a list of objects."})
    allowed = {"mode": mode, "tools": [_chosen_tool(tool) for tool in tools]}
    return {"type": "allowed_tools", "allowed_tools": allowed}


def _chosen_tool(choice: Mapping[str, Any]) -> dict[str, Any]:
    kind, name = choice.get("type"), as_str(choice.get("name"))
    if kind not in ("function", "custom"):
        raise unsupported("tool_choice", f"Type {kind!r} is not supported here.")
    _check_fields("tool_choice", choice, ("type", "name"))
    if not name:
        raise ValidationError({"tool_choice": "It has the `name` of a tool."})
    return {"type": "function", "function": {"name": name}}


# --- The way back ---------------------------------------------------------------------------------


def shown_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a response that repeat its request."""
    custom = custom_tools.names(parameters)
    return {
        "max_output_tokens": parameters.get("max_tokens"),
        "parallel_tool_calls": parameters.get("parallel_tool_calls", True),
        "prompt_cache_key": parameters.get("prompt_cache_key"),
        "reasoning": {"effort": parameters.get("reasoning_effort"), "summary": None},
        "safety_identifier": parameters.get("safety_identifier"),
        "temperature": parameters.get("temperature"),
        "text": _shown_text(parameters),
        "tool_choice": _shown_choice(parameters.get("tool_choice") or "auto", custom),
        "tools": [_shown_tool(tool, custom) for tool in parameters.get("tools") or ()],
        "top_logprobs": parameters.get("top_logprobs") or 0,
        "top_p": parameters.get("top_p"),
    }


def _shown_text(parameters: Mapping[str, Any]) -> dict[str, Any]:
    wanted = parameters.get("response_format") or {"type": "text"}
    schema = dict(as_items(get_path(wanted, "json_schema")))
    shown = {"format": {"type": get_path(wanted, "type"), **schema}}
    verbosity = parameters.get("verbosity")
    return {**shown, "verbosity": verbosity} if verbosity else shown


def _shown_tool(tool: Any, custom: set[str]) -> Any:
    function = get_path(tool, "function")
    if not isinstance(function, Mapping):
        return {**tool, **dict(as_items(get_path(tool, "custom")))}
    name, description = as_str(function.get("name")), function.get("description")
    shown = {**other_fields(tool, ("type", "function")), "name": name, "description": description}
    if name in custom:
        return {**shown, "type": "custom"}
    rest = {"parameters": function.get("parameters"), "strict": function.get("strict")}
    return {**shown, "type": "function", **rest}


def _shown_choice(choice: Any, custom: set[str]) -> Any:
    if allowed := get_path(choice, "allowed_tools"):
        tools = [_shown_choice(tool, custom) for tool in as_list(get_path(allowed, "tools"))]
        return {"type": "allowed_tools", "mode": get_path(allowed, "mode"), "tools": tools}
    if name := as_str(get_path(choice, "function", "name")):
        return {"type": "custom" if name in custom else "function", "name": name}
    return choice
