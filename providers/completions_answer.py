"""Answers of chat completions, put together.

https://platform.openai.com/docs/api-reference/chat/object describes a whole answer, and
https://platform.openai.com/docs/api-reference/chat/streaming the chunks of a stream.
"""

from collections.abc import Mapping, Set
from typing import Any

from providers import reported_usage
from providers.base import Delta, FinishReason
from providers.clean_values import clean_value
from providers.parsing import as_items, as_list, as_objects, as_str, clean_text, get_path
from providers.vendor_answer import VendorAnswer

_CALLED: dict[str, FinishReason] = {"tool_calls": "tool_calls", "function_call": "function_call"}
# The second one is Mistral's.
_TOO_LONG = {"length", "model_length", "max_tokens"}

# The fields beside the choices, and those of a choice, that are translated for clients.
_KNOWN_FIELDS = {
    # OpenAI pads chunks with `obfuscation`, so that their sizes do not tell their texts.
    *("id", "object", "created", "model", "choices", "usage", "x_groq", "obfuscation", "error"),
    *("choice", "logprobs"),  # the extras have the choice's fields under these names
}
_KNOWN_CHOICE_FIELDS = {"index", "message", "delta", "finish_reason", "logprobs", "error"}
# The fields of a chunk that only continues the text.
_PLAIN_FIELDS = {"id", "object", "created", "model", "choices", "obfuscation"}
_PLAIN_CHOICE_FIELDS = {"index", "delta"}
_PLAIN_DELTA_FIELDS = {"role", "content"}


class Answer(VendorAnswer):
    """An answer of chat completions, whole or from the chunks of a stream.

    All choices are looked through: some servers write the text into one and the tool calls into
    another.
    """

    def __init__(self) -> None:
        super().__init__()
        self.finish_reasons: list[str] = []
        self.readable = True  # false for a body that is no chat completion
        self._choice_of: dict[str, Any] = {}  # field of the message -> index of its choice
        self._logprobs: dict[str, list[Any]] = {}
        self._begun = False  # whether a client has seen a piece of the message

    @property
    def finished(self) -> bool:
        return bool(self.finish_reasons)

    @property
    def has_no_fields(self) -> bool:
        """Whether no message has had a field with a value."""
        return not self._choice_of.keys() - {"role"}

    def finish_reason(self, message: Mapping[str, Any]) -> FinishReason:
        """Return how the answer ended. Some vendors say `stop` although there are tool calls."""
        finish = next(iter(self.finish_reasons), "stop").lower()
        if finish in _TOO_LONG:
            return "length"
        for field, reason in _CALLED.items():
            if message.get(field):
                return reason
        return "content_filter" if finish == "content_filter" else "stop"

    def add(self, chunk: dict[str, Any]) -> Delta | None:
        """Add a chunk of a stream. Return the part that clients may see, if any.

        The extras wait for the first piece of the message: until then the request may go elsewhere.
        """
        choices = self._choices(chunk)
        extras = self._add_fields(chunk) | self._add_choice_fields(choices)
        return self._shown(self._accumulator.add(self._merged(choices, "delta")), extras)

    def continued_text(self, chunk: dict[str, Any]) -> str:
        """Return the text of a chunk that only continues the text; empty for any other."""
        try:
            [choice] = chunk["choices"]
            delta = choice["delta"]
            text = delta["content"]
        except (KeyError, TypeError, ValueError):
            return ""
        if (
            not self._begun
            or self.finish_reasons
            or type(text) is not str
            or (choice.get("index") or 0) != self._choice_of.get("content")
            or chunk.get("model") not in (None, self.model)
        ):
            return ""
        # Loops, as this runs for each token: with sets and generators it takes twice as long.
        for name in delta:
            if name not in _PLAIN_DELTA_FIELDS and delta[name]:
                return ""
        for name in choice:
            if name not in _PLAIN_CHOICE_FIELDS and choice[name] is not None:
                return ""
        for name in chunk:
            if name not in _PLAIN_FIELDS and chunk[name] not in (None, self.extras.get(name)):
                return ""
        return text

    def add_text(self, text: str) -> Delta | None:
        """Add the text that `continued_text` returned."""
        return self._shown(self._accumulator.add_text(text), {})

    def add_whole(self, body: dict[str, Any]) -> None:
        choices = self._choices(body)
        self._add_fields(body)
        self._add_choice_fields(choices)
        self.readable = bool(choices) or body.get("choices") == []
        self._accumulator.add_whole(self._merged(choices, "message"))

    def finish(self) -> Delta | None:
        """End a stream. Without a finish reason, the answer may be incomplete."""
        shown = self._accumulator.finish()
        if not self.finish_reasons and self.message:
            self.finish_reasons.append("length")
        return self._shown(shown, {})

    def add_usage(self, body: dict[str, Any]) -> None:
        """Take the model and the usage; they replace earlier ones.

        Groq puts the usage elsewhere.
        """
        self.model = body.get("model") or self.model
        if usage := body.get("usage") or get_path(body.get("x_groq"), "usage"):
            self.reported_usage = usage
            if details := reported_usage.details(usage):
                self.extras["usage"] = details

    def _shown(self, message: dict[str, Any], extras: dict[str, Any]) -> Delta | None:
        if not self._begun:
            if not message:
                return None
            self._begun, extras = True, dict(self.extras)
            if "logprobs" in extras:  # whose lists grow
                extras["logprobs"] = {n: v and v.copy() for n, v in extras["logprobs"].items()}
        return Delta(message, extras) if message or extras else None

    def _add_fields(self, body: dict[str, Any]) -> dict[str, Any]:
        """Take the fields beside the choices. Return those that are new, for the client."""
        self.add_usage(body)
        values = _unknown_fields(body, _KNOWN_FIELDS)
        new = {name: each for name, each in values.items() if self.extras.get(name) != each}
        self.extras |= new
        return new

    def _choices(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the choices, and take their finish reasons."""
        choices = as_objects(body.get("choices"))
        reasons = (as_str(choice.get("finish_reason")) for choice in choices)
        self.finish_reasons += filter(None, reasons)
        return choices

    def _add_choice_fields(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Take the fields of choices beside the message. Return those that are new."""
        new: dict[str, Any] = {}
        for choice in choices:
            if logprobs := self._add_logprobs(choice.get("logprobs")):
                new["logprobs"] = logprobs
            if fields := _unknown_fields(choice, _KNOWN_CHOICE_FIELDS):
                new["choice"] = new.get("choice", {}) | fields
        if "choice" in new:
            self.extras["choice"] = self.extras.get("choice", {}) | new["choice"]
        return new

    def _add_logprobs(self, logprobs: Any) -> dict[str, Any] | None:
        """Take the log probabilities of a choice: lists, which grow with a stream."""
        if not isinstance(logprobs, dict) or not logprobs:
            return None
        added: dict[str, Any] = clean_value(logprobs)
        for name, value in added.items():
            self._logprobs.setdefault(name, []).extend(as_list(value))
        self.extras["logprobs"] = {name: value or None for name, value in self._logprobs.items()}
        return added

    def _merged(self, choices: list[dict[str, Any]], name: str) -> dict[str, Any]:
        """Return the messages or deltas of all choices as one.

        Tool calls come from all of them, any other field from the first one that had it.
        """
        merged: dict[str, Any] = {}
        for position, choice in enumerate(choices):
            index = choice.get("index")
            index = position if index is None else index
            for field, value in as_items(choice.get(name)):
                if not value:
                    continue
                first = self._choice_of.setdefault(field, index) == index
                if field == "tool_calls":
                    calls = [value] if isinstance(value, dict) else as_list(value)  # TGI has one
                    merged.setdefault(field, []).extend(calls)
                elif first and isinstance(value, str):
                    merged[field] = as_str(merged.get(field)) + value
                elif first:
                    merged[field] = value
        return merged


def _unknown_fields(value: dict[str, Any], known: Set[str]) -> dict[str, Any]:
    if value.keys() <= known:
        return {}
    return {
        clean_text(name): clean_value(each)
        for name, each in value.items()
        if name not in known and each is not None
    }
