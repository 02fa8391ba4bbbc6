"""Estimate the tokens of a call whose vendor reported none, or not all.

Four bytes of UTF-8 count as a token, of the texts that were sent and that came back. An image, a
sound or a file counts as MEDIA_TOKENS, whatever its size. Vendors' own tokenizers would be exact,
but each model has another one.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from providers.base import CompletionRequest, Message, Usage

BYTES_PER_TOKEN = 4
MEDIA_TOKENS = 1000
# Parameters whose text becomes part of the prompt.
_PROMPT_PARAMETERS = ("tools", "functions", "response_format")


def prompt_tokens(request: CompletionRequest) -> int:
    """Return an estimate of the tokens that are sent."""
    parameters = [request.parameters.get(name) for name in _PROMPT_PARAMETERS]
    return _tokens([request.messages, parameters])


def with_estimates(usage: Usage, request: CompletionRequest, message: Message) -> Usage:
    """Return the usage with its unknown tokens estimated, if any tokens were made.

    `message` is what came of the answer. Without any of it and without a reported count, the call
    came to nothing, and the usage stays unknown.
    """
    prompt, answer, total = usage.prompt_tokens, usage.completion_tokens, usage.total_tokens
    if prompt is not None and answer is not None:
        return usage
    if prompt is answer is total is None and (usage.cost_usd is not None or not message):
        return usage
    if prompt is None:
        prompt = prompt_tokens(request) if total is None else min(prompt_tokens(request), total)
    # The total less the prompt is the answer, which then is no estimate.
    exact = usage.prompt_tokens is not None and total is not None
    if answer is None:
        answer = _tokens(message) if total is None else max(0, total - prompt)
    return replace(
        usage,
        prompt_tokens=prompt,
        completion_tokens=answer,
        total_tokens=prompt + answer if total is None else total,
        estimated=not exact,
    )


def _tokens(value: Any) -> int:
    return -(-_bytes(value) // BYTES_PER_TOKEN)


def _bytes(value: Any) -> int:
    """Return the size of all texts in a JSON value."""
    if isinstance(value, str):
        if value[:5].lower() == "data:":
            return MEDIA_TOKENS * BYTES_PER_TOKEN
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, Mapping):
        # `data` is the base64 of a sound, or of thoughts that only the vendor can read.
        return sum(
            MEDIA_TOKENS * BYTES_PER_TOKEN if name == "data" else _bytes(each)
            for name, each in value.items()
        )
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0
