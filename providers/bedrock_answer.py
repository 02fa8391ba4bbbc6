"""Answers of Bedrock's Converse and ConverseStream, put together.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ContentBlock.html describes the
content blocks, and API_runtime_ConverseStreamOutput.html there the events of a stream.
"""

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from providers.base import Delta
from providers.bedrock_request import JSON_TOOL
from providers.clean_values import clean_value
from providers.parsing import as_list, as_str, get_path, token_count
from providers.tool_calls import arguments_text
from providers.vendor_answer import VendorAnswer


class _Block:
    """A content block of a stream."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.call: int | None = None  # the number of its tool call
        self.is_json_answer = False
        self.image_format = ""
        self.thoughts: list[str] = []
        self.signature: list[str] = []
        self.data: list[str] = []  # base64, of encrypted thoughts or of an image


class Answer(VendorAnswer):
    """An answer of Bedrock, whole or from the events of a stream.

    Converse cannot tell a model to call one tool at a time. Without `parallel_calls` the answer has
    only the first call; the model repeats the others when it gets the result. With `json_wanted` a
    call of JSON_TOOL is the text of the answer. With `json_tool` other text waits for that call,
    and is left out when it comes.
    """

    def __init__(
        self,
        *,
        parallel_calls: bool = True,
        json_wanted: bool = False,
        json_tool: bool = False,
    ) -> None:
        super().__init__()
        self.stop_reason = ""
        self._parallel_calls = parallel_calls
        self._json_wanted = json_wanted
        self._held: list[str] | None = [] if json_tool else None
        self._calls = 0
        self._images = 0
        self._citations: list[Any] = []
        self._blocks: dict[str, _Block] = {}

    @property
    def finished(self) -> bool:
        return bool(self.stop_reason)

    def add(self, chunk: dict[str, Any]) -> Delta | None:
        """Add an event of a stream, under its type. Return what clients may see, if anything."""
        delta: dict[str, Any] = {}
        extras: dict[str, Any] = {}
        for kind, event in chunk.items():
            match kind:
                case "contentBlockStart":
                    self._start(self._block(event), get_path(event, "start"), delta)
                case "contentBlockDelta":
                    piece = get_path(event, "delta")
                    self._continue(self._block(event), piece, delta)
                    extras |= self._cite(get_path(piece, "citation"))
                case "contentBlockStop":
                    self._end(self._block(event), delta)
                case "messageStop":
                    self.stop_reason = self.stop_reason or as_str(get_path(event, "stopReason"))
                    extras |= _extras(event)
                case "metadata":
                    self.add_usage(event)
                    extras |= _extras(event)
        self.extras |= extras
        shown = self._accumulator.add(delta)
        return Delta(shown, extras) if shown or extras else None

    def add_whole(self, body: dict[str, Any]) -> None:
        """Add an answer that was not streamed, as the events of a stream."""
        content = as_list(get_path(body, "output", "message", "content"))
        for number, block in enumerate(content):
            for kind, event in _events(block):
                self.add({kind: {**event, "contentBlockIndex": number}})
        self.add({"messageStop": body})
        self.add({"metadata": body})
        self.finish()

    def add_usage(self, body: Any) -> None:
        self.reported_usage = get_path(body, "usage") or self.reported_usage
        if written := token_count(get_path(self.reported_usage, "cacheWriteInputTokens")):
            self.extras["usage"] = {"prompt_tokens_details": {"cache_write_tokens": written}}
        # Only a prompt router names a model: the one that it chose.
        chosen = as_str(get_path(body, "trace", "promptRouter", "invokedModelId"))
        self.model = chosen.rpartition("/")[2] or self.model

    def finish(self) -> Delta | None:
        delta: dict[str, Any] = {"content": "".join(self._held or ())}
        for block in self._blocks.values():
            self._end(block, delta)
        shown = _merged(self._accumulator.add(delta), self._accumulator.finish())
        return Delta(shown) if shown else None

    def _block(self, event: Any) -> _Block:
        index = str(get_path(event, "contentBlockIndex"))
        return self._blocks.setdefault(index, _Block(len(self._blocks)))

    def _start(self, block: _Block, start: Any, delta: dict[str, Any]) -> None:
        block.image_format = as_str(get_path(start, "image", "format"))
        call = get_path(start, "toolUse")
        name = as_str(get_path(call, "name"))
        if name == JSON_TOOL and self._json_wanted:
            # The call is the answer: text beside it is the model's talk about it.
            block.is_json_answer, self._held = True, None
        elif name and (self._parallel_calls or not self._calls):
            block.call = self._calls
            self._calls += 1
            begun = {"index": block.call, "id": get_path(call, "toolUseId"), "type": "function"}
            delta["tool_calls"] = [{**begun, "function": {"name": name}}]

    def _continue(self, block: _Block, piece: Any, delta: dict[str, Any]) -> None:
        """Add a piece of a block: text, a tool call, thoughts or an image."""
        text, arguments = as_str(get_path(piece, "text")), get_path(piece, "toolUse", "input")
        if block.is_json_answer:
            text = arguments_text(arguments)
        elif self._held is not None:
            self._held.append(text)
            text = ""
        delta["content"] = text
        if block.call is not None:
            function = {"arguments": arguments_text(arguments)}
            delta["tool_calls"] = [{"index": block.call, "function": function}]
        reasoning = get_path(piece, "reasoningContent")
        delta["reasoning_content"] = thought = as_str(get_path(reasoning, "text"))
        block.thoughts.append(thought)
        block.signature.append(as_str(get_path(reasoning, "signature")))
        redacted = as_str(get_path(reasoning, "redactedContent"))
        block.data.append(redacted or as_str(get_path(piece, "image", "source", "bytes")))

    def _end(self, block: _Block, delta: dict[str, Any]) -> None:
        """Add what is known only once the block is whole.

        Thoughts that must be sent back go into `reasoning_details`, as OpenRouter does.
        """
        data, signature = _joined_base64(block.data), "".join(block.signature)
        block.data, block.signature = [], []
        if data and block.image_format:
            url = f"data:image/{block.image_format};base64,{data}"
            image = {"type": "image_url", "image_url": {"url": url}, "index": self._images}
            self._images += 1
            delta.setdefault("images", []).append(image)
            return
        detail: dict[str, Any] = {}
        if signature:
            text = "".join(block.thoughts)
            detail = {"type": "reasoning.text", "text": text, "signature": signature}
        elif data:
            detail = {"type": "reasoning.encrypted", "data": data}
        if detail:
            detail["index"] = block.number
            delta.setdefault("reasoning_details", []).append(detail)

    def _cite(self, citation: Any) -> dict[str, Any]:
        if not citation:
            return {}
        self._citations.append(clean_value(citation))
        return {"citations": list(self._citations)}


def _events(block: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a content block as the events that would stream it."""
    for kind in ("toolUse", "image"):
        if started := get_path(block, kind):
            yield "contentBlockStart", {"start": {kind: started}}
    reasoning = get_path(block, "reasoningContent")
    pieces = [
        block,  # of most kinds a piece has the shape of the whole
        {"reasoningContent": get_path(reasoning, "reasoningText")},
        *as_list(get_path(block, "citationsContent", "content")),
        *({"citation": each} for each in as_list(get_path(block, "citationsContent", "citations"))),
    ]
    for piece in pieces:
        yield "contentBlockDelta", {"delta": piece}
    yield "contentBlockStop", {}


def _extras(event: Any) -> dict[str, Any]:
    """Return the fields beside the message for clients, under OpenAI's names where it has them."""
    fields = {
        "additionalModelResponseFields": get_path(event, "additionalModelResponseFields"),
        "service_tier": get_path(event, "serviceTier", "type"),
    }
    return {name: clean_value(value) for name, value in fields.items() if value}


def _joined_base64(pieces: list[str]) -> str:
    """Join pieces, each of which is base64 of its own."""
    pieces = [piece for piece in pieces if piece]
    try:
        # Each piece may end in padding, so they cannot be joined as text.
        if len(pieces) > 1:
            return base64.b64encode(b"".join(map(base64.b64decode, pieces))).decode()
    except (binascii.Error, ValueError):
        pass
    return "".join(pieces)


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return two pieces of a message as one."""
    merged = dict(one)
    for name, value in other.items():
        merged[name] = merged[name] + value if name in merged else value
    return merged
