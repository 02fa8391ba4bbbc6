"""Chat completions' requests in the terms of Google's Gemini API.

https://ai.google.dev/api/generate-content describes the fields,
https://ai.google.dev/gemini-api/docs/openai how Google translates OpenAI's, and
https://ai.google.dev/gemini-api/docs/thought-signatures what has to be sent back.
"""

import mimetypes
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from providers.base import (
    INSTRUCTION_ROLES,
    TEXT_PARTS,
    CompletionRequest,
    Message,
    content_text,
)
from providers.errors import RequestRejected
from providers.parsing import as_list, as_str, get_path

# These models ignore the sampling parameters; Google has announced that later ones refuse them.
_WITHOUT_SAMPLING = re.compile(
    r"gemini-(3\.5-flash-lite|3\.([6-9]|[1-9][0-9])|[4-9]|[1-9][0-9]|flash(-lite)?-latest)"
)
# These models have a thinking budget instead of levels, and no mandatory thought signatures.
_BEFORE_GEMINI_3 = re.compile(r"gemini-[12]\.|gemma-")
# The others that have levels, such as Pro models and Flash from 3.7 on, refuse MINIMAL.
_THINKS_MINIMALLY = re.compile(r"gemini-(3(\.[0-6])?-flash|.*flash-lite)")

# Google accepts this instead of a signature, for calls that another model made.
_NO_SIGNATURE = "skip_thought_signature_validator"

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

_MIME_TYPES = {"image/jpg": "image/jpeg"}  # a common mistake, which Gemini refuses

_SAMPLING = {"temperature": "temperature", "top_p": "topP", "top_k": "topK"}
_PENALTIES = {"presence_penalty": "presencePenalty", "frequency_penalty": "frequencyPenalty"}
_LIMITS = {"max_tokens": "maxOutputTokens", "seed": "seed"}

_GOOGLE_FIELDS = ("thinking_config", "cached_content", "safety_settings")
_THINKING_FIELDS = {
    "thinking_level": "thinkingLevel",
    "thinking_budget": "thinkingBudget",
    "include_thoughts": "includeThoughts",
}

# Parameters that Gemini takes with any value, and parameters that change nothing for it.
_TAKEN = {*_SAMPLING, *_PENALTIES, *_LIMITS, "stop", "parallel_tool_calls"}
_NEUTRAL = {
    *("store", "metadata", "user", "service_tier", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention", "stream_options"),
}
_ASKED_BY_EMPTY = {"web_search_options"}  # all others ask for nothing when they are empty

# Parameters that Gemini takes with some values.
_TAKEN_VALUES: dict[str, Callable[[Any], bool]] = {
    "tools": lambda tools: all(get_path(tool, "function", "name") for tool in tools),
    "tool_choice": lambda choice: _calling_config(choice) is not None,
    "response_format": lambda value: (
        get_path(value, "type") in ("text", "json_object", "json_schema")
    ),
    "reasoning_effort": lambda effort: as_str(effort) in _EFFORTS,
    "modalities": lambda modalities: {"text", "image"}.issuperset(
        map(as_str, as_list(modalities) or [""])
    ),
    "verbosity": lambda verbosity: verbosity == "medium",  # OpenAI's default
    "logprobs": lambda wanted: wanted is False,
    "top_logprobs": lambda count: count == 0,
    "function_call": lambda choice: choice in ("auto", "none"),
    "extra_body": lambda body: body == {"google": _google(body)},
}


def unsupported(request: CompletionRequest) -> Sequence[str]:
    """Return the names of the parameters and content parts that Gemini does not take."""
    names = [*_unsupported_parameters(request.parameters), *_unsupported_parts(request.messages)]
    return list(dict.fromkeys(names))


def body(request: CompletionRequest, model: str) -> dict[str, Any]:
    """Return the body of a generateContent call. Raises RequestRejected."""
    parameters = request.parameters
    google = _google(parameters.get("extra_body"))
    contents = _contents(request.messages, model)
    instructions = list(_instructions(request.messages))
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
    }
    return {name: value for name, value in fields.items() if value}


def _google(extra_body: Any) -> dict[str, Any]:
    """Return the fields of Gemini's own that Google's OpenAI-compatible API takes."""
    fields = get_path(extra_body, "google")
    known = {name: fields[name] for name in _GOOGLE_FIELDS if get_path(fields, name)}
    if not isinstance(known.get("thinking_config", {}), dict):
        del known["thinking_config"]
    return known


def _unsupported_parameters(parameters: Mapping[str, Any]) -> Iterator[str]:
    for name, value in parameters.items():
        if name in _TAKEN or name in _NEUTRAL:
            continue
        if value in ([], {}, "") and name not in _ASKED_BY_EMPTY:
            continue
        takes = _TAKEN_VALUES.get(name)
        if takes is None or not takes(value):
            yield name
    if not parameters.get("tools") and parameters.get("tool_choice") not in (None, "auto", "none"):
        yield "tool_choice"


def _unsupported_parts(messages: Iterable[Message]) -> Iterator[str]:
    for message in messages:
        if message.get("audio"):
            yield "audio"
        for part in as_list(message.get("content")):
            translated = _part(part)
            if translated is None and get_path(part, "file", "file_id"):
                yield "file_id"
            elif translated is None or not _has_place(translated, message.get("role")):
                yield as_str(part.get("type")) or "content"


def _has_place(part: dict[str, Any], role: Any) -> bool:
    if role in INSTRUCTION_ROLES:
        return "text" in part
    return role not in ("tool", "function") or "fileData" not in part


def _instructions(messages: Iterable[Message]) -> Iterator[dict[str, Any]]:
    for message in messages:
        text = content_text(message.get("content"))
        if message.get("role") in INSTRUCTION_ROLES and text.strip():
            yield {"text": text}


def _contents(messages: Iterable[Message], model: str) -> list[dict[str, Any]]:
    """Return the messages, of which those of one role in a row are one content.

    Blank ones, such as empty answers, are left out, because Gemini refuses them. Tool results are
    a content of their own: their number has to be that of the calls.
    """
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # of the functions, by the id of the call
    previous = None
    for message in messages:
        role = message.get("role")
        if role in INSTRUCTION_ROLES:
            continue
        if role == "assistant":
            parts = _answer_parts(message, model, names)
        elif role in ("tool", "function"):
            parts = [_function_response(message, names)]
        else:
            parts = _parts(message.get("content"))
        if parts and role == previous:
            contents[-1]["parts"] += parts
            if role == "tool":
                _sort_results(contents[-1]["parts"], list(names))
        elif parts:
            contents.append({"role": "model" if role == "assistant" else "user", "parts": parts})
            previous = role
    return contents


def _sort_results(parts: list[dict[str, Any]], call_ids: list[str]) -> None:
    """Put results in the order of their calls, as some models do not read the ids."""
    order = {call_id: number for number, call_id in enumerate(call_ids)}
    parts.sort(key=lambda part: order.get(part["functionResponse"].get("id"), len(order)))


def _answer_parts(message: Message, model: str, names: dict[str, str]) -> list[dict[str, Any]]:
    """Return the parts of an assistant's message. Adds its calls to `names`.

    Google has the signature of an answer without calls on its text. Of thoughts nothing else has
    to be sent back.
    """
    parts = [*_parts(message.get("content")), *_parts(message.get("refusal"))]
    calls = as_list(message.get("tool_calls"))
    if function_call := message.get("function_call"):
        calls = [*calls, {"function": function_call}]
    if (signature := _signature(message)) and (parts or calls):
        parts = parts or [{"text": ""}]
        parts[-1] = {**parts[-1], "thoughtSignature": signature}
    for image in as_list(message.get("images")):
        if part := _part(image):
            parts.append(_signed(part, _signature(image)))
    for number, call in enumerate(calls):
        part = _function_call(call)
        call_id = as_str(call.get("id"))
        names.pop(call_id, None)  # of an earlier turn: the newest calls are the last ones
        names[call_id] = part["functionCall"].get("name", "")
        # Only the first one of parallel calls has a signature.
        default = "" if number or _BEFORE_GEMINI_3.match(model) else _NO_SIGNATURE
        parts.append(_signed(part, _signature(call) or default))
    return parts


def _signature(carrier: Mapping[str, Any]) -> str:
    return as_str(get_path(carrier.get("extra_content"), "google", "thought_signature"))


def _signed(part: dict[str, Any], signature: str) -> dict[str, Any]:
    return {**part, "thoughtSignature": signature} if signature else part


def _function_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call. Raises RequestRejected for arguments that are no JSON object."""
    if name := get_path(call, "custom", "name"):  # a tool of OpenAI's, whose input is any text
        arguments = {"input": get_path(call, "custom", "input")}
    else:
        name = get_path(call, "function", "name")
        arguments = _arguments(get_path(call, "function", "arguments"))
    fields = {"id": call.get("id"), "name": name, "args": arguments}
    return {"functionCall": {key: value for key, value in fields.items() if value is not None}}


def _arguments(text: Any) -> dict[str, Any]:
    arguments = _json_object(text) if text else {}
    if arguments is None:
        message = "The arguments of a tool call in the messages are not a JSON object."
        raise RequestRejected(message, reason="tool_call_arguments")
    return arguments


def _function_response(message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the result of a tool call. Gemini takes an object; a text becomes its `result`."""
    call_id = message.get("tool_call_id")
    text = content_text(message.get("content"))
    result = _json_object(text)
    media = [part for part in _parts(message.get("content")) if "text" not in part]
    fields = {
        "id": call_id,
        "name": names.get(as_str(call_id)) or message.get("name") or call_id,
        "response": {"result": text} if result is None else result,
        "parts": media or None,
    }
    return {"functionResponse": {key: value for key, value in fields.items() if value is not None}}


def _json_object(text: Any) -> dict[str, Any] | None:
    if isinstance(text, dict):
        return text
    try:
        value = orjson.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _parts(content: Any) -> list[dict[str, Any]]:
    """Return the parts of a message's content, without blank text."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    translated = [part for part in map(_part, as_list(content)) if part]
    return [part for part in translated if "text" not in part or part["text"].strip()]


def _part(part: Any) -> dict[str, Any] | None:
    """Return a content part in Gemini's terms; None for one that it does not take."""
    kind = as_str(get_path(part, "type"))
    value = get_path(part, kind)
    if kind in TEXT_PARTS:
        return {"text": as_str(value)}
    if kind in ("image_url", "video_url"):
        return _media(as_str(value) or as_str(get_path(value, "url")))
    if kind == "input_audio":
        kind, data = as_str(get_path(value, "format")), as_str(get_path(value, "data"))
        return _media(f"data:audio/{kind};base64,{data}") if kind else None
    if kind == "file":
        return _media(as_str(get_path(value, "file_data")), as_str(get_path(value, "filename")))
    return None


def _media(address: str, filename: str = "") -> dict[str, Any] | None:
    """Return the content of a data URL (or of base64 with a file name), or a URL as it is."""
    scheme, _, rest = address.partition(":")
    if scheme.lower() == "data":
        head, _, data = rest.partition(",")
        mime_type, _, encoding = head.lower().partition(";")
        mime_type = _MIME_TYPES.get(mime_type, mime_type) or _mime_type(filename)
        if not encoding.endswith("base64"):
            return None
    elif rest.startswith("//"):
        mime_type = _mime_type(filename or address)
        return {"fileData": {"fileUri": address} | ({"mimeType": mime_type} if mime_type else {})}
    else:
        mime_type, data = _mime_type(filename), address
    return {"inlineData": {"mimeType": mime_type, "data": data}} if mime_type and data else None


def _mime_type(address: str) -> str:
    """Guess the type of a file by its name; empty if unknown."""
    name = re.split(r"[?#]", address, maxsplit=1)[0].rpartition("/")[2]
    return mimetypes.guess_type(name)[0] or ""


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
    """Return how much to think. Who asks for thoughts gets to see them."""
    own = {
        _THINKING_FIELDS.get(name, name): value
        for name, value in google.get("thinking_config", {}).items()
    }
    if not effort:
        return own
    level, budget = _EFFORTS[effort]
    shown = {} if effort == "none" else {"includeThoughts": True}
    if _BEFORE_GEMINI_3.match(model):
        least = _PRO_MIN_BUDGET if "-pro" in model else 0
        return {"thinkingBudget": max(budget, least), **shown, **own}
    if level == "MINIMAL" and not _THINKS_MINIMALLY.match(model):
        level = "LOW"
    return {"thinkingLevel": level, **shown, **own}
