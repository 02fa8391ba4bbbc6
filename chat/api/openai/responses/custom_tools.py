"""Translate custom tools, whose input is free text, to functions of one string and back.

Few vendors have custom tools.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from providers.parsing import as_str, get_path

# This schema marks such functions, also in records.
PARAMETERS = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The whole input, as free text."}},
    "required": ["input"],
    "additionalProperties": False,
}


def as_function(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a custom tool as a function, with the grammar of its input in the description."""
    description = as_str(tool.get("description"))
    grammar = get_path(tool, "format", "definition")
    if grammar:
        syntax = as_str(get_path(tool, "format", "syntax"))
        # A function has no place for a grammar, and the model reads the description.
        description = f"{description}\n\nThe input follows this grammar ({syntax}):\n{grammar}"
    return {"name": tool.get("name"), "description": description.strip(), "parameters": PARAMETERS}


def names(parameters: Mapping[str, Any]) -> set[str]:
    """Return the names of the functions of a request that stand for custom tools."""
    functions = (get_path(tool, "function") for tool in parameters.get("tools") or ())
    return {
        as_str(get_path(function, "name"))
        for function in functions
        if get_path(function, "parameters") == PARAMETERS
    }


def arguments_of(text: str) -> str:
    """Return the function's arguments for an input."""
    return orjson.dumps({"input": text}).decode()


def input_of(arguments: str) -> str:
    """Return the input in the function's arguments; arguments without one are the input."""
    try:
        value = orjson.loads(arguments)
    except ValueError:
        return arguments
    text = get_path(value, "input")
    return text if isinstance(text, str) else arguments
