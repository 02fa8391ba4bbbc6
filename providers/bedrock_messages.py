"""Messages of chat completions in the terms of Bedrock's Converse API.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Message.html describes messages
and their content blocks.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from providers.base import INSTRUCTION_ROLES, TEXT_PARTS, Message, content_text
from providers.media import inline_media, url_field
from providers.parsing import as_list, as_str, get_path
from providers.translation import called_tool, tool_calls

Block = dict[str, Any]

_OFFICE = "application/vnd.openxmlformats-officedocument"
# MIME type -> kind of block, its format.
_FORMATS = {
    **{f"image/{each}": ("image", each) for each in ("png", "jpeg", "gif", "webp")},
    "application/pdf": ("document", "pdf"),
    "application/msword": ("document", "doc"),
    f"{_OFFICE}.wordprocessingml.document": ("document", "docx"),
    "application/vnd.ms-excel": ("document", "xls"),
    f"{_OFFICE}.spreadsheetml.sheet": ("document", "xlsx"),
    "text/csv": ("document", "csv"),
    "text/html": ("document", "html"),
    "text/markdown": ("document", "md"),
    **{f"video/{each}": ("video", each) for each in ("mp4", "webm", "mpeg")},
    "video/quicktime": ("video", "mov"),
    "video/x-matroska": ("video", "mkv"),
    "video/x-flv": ("video", "flv"),
    "video/x-ms-wmv": ("video", "wmv"),
    "video/3gpp": ("video", "three_gp"),
    **{f"audio/{each}": ("audio", each) for each in ("mp3", "wav", "opus", "aac", "flac", "ogg")},
    **{f"audio/{each}": ("audio", each) for each in ("mp4", "m4a", "mpeg", "webm")},
}
# Other types whose files are text.
_TEXT_TYPE = re.compile(
    r"text/.+|application/(?:.+\+)?(?:json|xml)|application/(?:x-)?(?:javascript|sh|yaml)"
)
_RESULT_BLOCKS = {"text", "image", "document", "video"}
# Characters that a document's name may not have, and its length, less room for a number.
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9()\[\]-]+")
_NAME_LENGTH = 180

# Ids of another vendor's calls may have other characters, and Mistral's models want nine.
_TOOL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_MISTRAL_TOOL_ID = re.compile(r"[a-zA-Z0-9]{9}")


def to_system(messages: Iterable[Message]) -> list[Block]:
    """Return the instructions, of messages in any place."""
    instructions = (each for each in messages if each.get("role") in INSTRUCTION_ROLES)
    return [block for message in instructions for block in _content_blocks(message)]


def to_messages(messages: Sequence[Message], model: str) -> list[Block]:
    """Return the messages. Consecutive messages of one role become one.

    The results of tools belong to the user. Blank messages are left out, because Bedrock refuses
    them. A blank last turn stays: without it the model would continue its own answer. Raises
    RequestRejected.
    """
    turns: list[Block] = []
    for message in messages:
        match message.get("role"):
            case "system" | "developer":
                continue
            case "assistant":
                role, blocks = "assistant", _answer_blocks(message, model)
            case "tool" | "function":
                role, blocks = "user", _tool_result(message, model)
            case _:
                role, blocks = "user", _content_blocks(message)
        if blocks and turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    last = messages[-1]
    if last.get("role") == "user" and (not turns or turns[-1]["role"] == "assistant"):
        blank = {"text": content_text(last.get("content"))}
        turns.append({"role": "user", "content": [blank]})
    _number_documents(turns)
    return turns


def called_tools(turns: Iterable[Block]) -> list[str]:
    """Return the names of the tools that are called in Converse's messages."""
    names = (get_path(block, "toolUse", "name") for turn in turns for block in turn["content"])
    return list(dict.fromkeys(filter(None, names)))


def cache_point(carrier: Mapping[str, Any]) -> list[Block]:
    """Return the block that ends the cached part of a prompt, for what has a `cache_control`.

    Tools and their calls may have it in their `function`.
    """
    control = carrier.get("cache_control") or get_path(carrier, "function", "cache_control")
    if not isinstance(control, Mapping):
        return []
    ttl = {"ttl": control["ttl"]} if control.get("ttl") else {}
    return [{"cachePoint": {"type": "default", **ttl}}]


def unsupported_parts(messages: Iterable[Message]) -> Iterator[str]:
    """Yield the names of the content parts that Bedrock does not take, or of their URLs."""
    for message in messages:
        if message.get("audio"):
            yield "audio"
        for part in as_list(message.get("content")):
            block = _block(part)
            if block is None and (field := url_field(part)):
                yield field
            elif block is None and get_path(part, "file", "file_id"):
                yield "file_id"
            elif block is None or not _has_place(block, message.get("role")):
                yield as_str(get_path(part, "type")) or "content"


def _has_place(block: Block, role: Any) -> bool:
    if role in INSTRUCTION_ROLES:
        return "text" in block
    return role not in ("tool", "function") or not _RESULT_BLOCKS.isdisjoint(block)


def _answer_blocks(message: Message, model: str) -> list[Block]:
    """Return the blocks of an assistant's message: thoughts, texts, images, calls."""
    return [
        *_thoughts(message),
        *_content_blocks(message),
        *_blocks([{"type": "refusal", "refusal": message.get("refusal")}]),
        *_blocks(as_list(message.get("images"))),
        *(
            block
            for call in tool_calls(message)
            for block in (_tool_use(call, model), *cache_point(call))
        ),
    ]


def _thoughts(message: Message) -> Iterator[Block]:
    """Yield the thoughts that must be sent back: signed and encrypted ones.

    Models refuse all others.
    """
    for detail in as_list(message.get("reasoning_details")):
        text, signature = as_str(get_path(detail, "text")), as_str(get_path(detail, "signature"))
        data = as_str(get_path(detail, "data"))
        if signature:
            yield {"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}}
        elif data:
            yield {"reasoningContent": {"redactedContent": data}}


def _tool_use(call: Mapping[str, Any], model: str) -> Block:
    """Return a tool call. Raises RequestRejected."""
    name, arguments = called_tool(call)
    tool_id = _tool_id(as_str(call.get("id")) or as_str(name), model)
    return {"toolUse": {"toolUseId": tool_id, "name": name, "input": arguments}}


def _tool_result(message: Message, model: str) -> list[Block]:
    tool_id = as_str(message.get("tool_call_id")) or as_str(message.get("name"))
    blocks = _content_blocks(message)
    content = [block for block in blocks if "cachePoint" not in block]
    points = [block for block in blocks if "cachePoint" in block]
    result = {
        "toolUseId": _tool_id(tool_id, model),
        "content": content or [{"text": "(empty)"}],  # blank texts are refused
    }
    return [{"toolResult": result}, *points[-1:]]


def _tool_id(name: str, model: str) -> str:
    """Return the id of a tool call, or a replacement that the model accepts."""
    if "mistral." in model:
        return name if _MISTRAL_TOOL_ID.fullmatch(name) else _digest(name)[:9]
    return name if _TOOL_ID.fullmatch(name) else f"call_{_digest(name)}"[:64]


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _content_blocks(message: Message) -> list[Block]:
    blocks = _blocks(_parts(message))
    return [*blocks, *cache_point(message)] if blocks else []


def _parts(message: Message) -> list[Any]:
    content = message.get("content")
    return [{"type": "text", "text": content}] if isinstance(content, str) else as_list(content)


def _blocks(parts: Iterable[Any]) -> list[Block]:
    """Return content parts in Converse's terms, without blank texts."""
    blocks: list[Block] = []
    for part in parts:
        block = _block(part)
        if block is not None and block.get("text", "-").strip():
            blocks += [block, *cache_point(part)]
    return blocks


def _block(part: Any) -> Block | None:
    """Return a content part in Converse's terms; None for one that it does not take."""
    kind = as_str(get_path(part, "type"))
    value = get_path(part, kind)
    if kind in TEXT_PARTS:
        return {"text": as_str(value)}
    if kind in ("image_url", "video_url"):
        return _media_block(as_str(value) or as_str(get_path(value, "url")))
    if kind == "input_audio":
        sound = as_str(get_path(value, "format")), as_str(get_path(value, "data"))
        return _media_block("data:audio/{};base64,{}".format(*sound))
    if kind == "file":
        filename = as_str(get_path(value, "filename"))
        return _media_block(as_str(get_path(value, "file_data")), filename)
    return None


def _media_block(address: str, filename: str = "") -> Block | None:
    """Return a data URL, or base64 with a file name, as a block; None for anything else."""
    media = inline_media(address, filename)
    known = media and _format(media.mime_type)
    if not media or not known:
        return None
    kind, extension = known
    content: Block = {"format": extension, "source": {"bytes": media.data}}
    if kind == "document":
        name = _NOT_IN_NAMES.sub(" ", filename.rpartition(".")[0] or filename).strip()
        content["name"] = name[:_NAME_LENGTH].strip() or "Document"
    return {kind: content}


def _format(mime_type: str) -> tuple[str, str] | None:
    """Return the kind of block and the format of a type; None for an unsupported one."""
    text = ("document", "txt") if _TEXT_TYPE.fullmatch(mime_type) else None
    return _FORMATS.get(mime_type, text)


def _number_documents(turns: Iterable[Block]) -> None:
    """Number documents of the same name, because names must be unique."""
    taken: set[str] = set()
    numbers: Counter[str] = Counter()
    for turn in turns:
        for block in turn["content"]:
            for each in (block, *as_list(get_path(block, "toolResult", "content"))):
                if document := each.get("document"):
                    name = document["name"]
                    while document["name"] in taken:
                        numbers[name] += 1
                        document["name"] = f"{name} ({numbers[name] + 1})"
                    taken.add(document["name"])
