"""Thoughts in `<think>` tags.

Servers that do not recognize a local model's thoughts send them as text before the answer.
"""

import re

_TAGS = THINK_START, THINK_END = "<think>", "</think>"
_NOT_BLANK = re.compile(r"\S")
# A chat template that ends with the opening tag leaves only the closing one in the answer.
_UNQUOTED_TAG = re.compile(r"(?<![`'\"])</?think>")


class ThinkTags:
    """Tell thoughts in `<think>` tags before the answer from its text.

    A closing tag without an opening one is left out: what came before it has been shown as text.
    """

    def __init__(self) -> None:
        self._state = "start"
        self._tagged = False
        self._blanks: list[str] = []  # before a tag or the text
        self._held = ""  # what may be the beginning of a tag
        self._previous = ""  # the last character of the text so far

    def add(self, piece: str) -> tuple[str, str]:
        """Return the thoughts and the text that later pieces cannot change."""
        if self._state == "text":
            return "", self._visible(piece)
        thoughts: list[str] = []
        text, position = self._held + piece, 0
        self._held = ""
        while True:
            if self._state == "thoughts":
                end = text.find(THINK_END, position)
                if end < 0:
                    thought, self._held = _split_partial_tag(text[position:])
                    return "".join([*thoughts, thought]), ""
                thoughts.append(text[position:end])
                position = end + len(THINK_END)
                self._state = "start"
            begin = _begin(text, position)
            if tag := next((tag for tag in _TAGS if text.startswith(tag, begin)), None):
                self._tagged = True
                self._blanks.clear()
                position = begin + len(tag)
                self._state = "thoughts" if tag == THINK_START else "start"
            elif _may_begin_tag(text, begin):
                self._blanks.append(text[position:begin])
                self._held = text[begin:]
                return "".join(thoughts), ""
            else:
                self._state = "text"
                visible = text[begin:] if self._tagged else self._with_blanks(text[position:])
                return "".join(thoughts), self._visible(visible)

    def finish(self) -> tuple[str, str]:
        held, self._held = self._held, ""
        if self._state == "thoughts":
            return held, ""
        return "", "" if self._tagged and not held else self._with_blanks(held)

    def _with_blanks(self, text: str) -> str:
        """Return the text after the blanks that were held back before it."""
        blanks = "".join(self._blanks)
        self._blanks.clear()
        return blanks + text

    def _visible(self, piece: str) -> str:
        """Return the text without a lone closing tag; the beginning of a tag is held back."""
        if self._tagged or not (self._held or "<" in piece):
            self._previous = piece[-1:] or self._previous
            return piece
        start = len(self._previous)
        text = self._previous + self._held + piece
        if tag := _UNQUOTED_TAG.search(text, start):
            self._tagged, self._held = True, ""
            rest = text[tag.end() :] if tag[0] == THINK_END else text[tag.start() :]
            return text[start : tag.start()] + rest
        text, self._held = _split_partial_tag(text[start:])
        self._previous = text[-1:] or self._previous
        return text


def split_at_lone_end(text: str) -> tuple[str, str]:
    """Return the thoughts and the answer of a whole text without an opening tag."""
    tag = _UNQUOTED_TAG.search(text) if THINK_END in text else None
    if tag and tag[0] == THINK_END:
        return text[: tag.start()], text[tag.end() :].lstrip()
    return "", text


def _begin(text: str, position: int) -> int:
    """Return the position of the next character that is not blank."""
    found = _NOT_BLANK.search(text, position)
    return found.start() if found else len(text)


def _may_begin_tag(text: str, position: int) -> bool:
    """Return whether the rest of the text is the beginning of a tag, or empty."""
    rest = text[position : position + len(THINK_END)]
    return len(text) == position + len(rest) and any(tag.startswith(rest) for tag in _TAGS)


def _split_partial_tag(text: str) -> tuple[str, str]:
    """Return the text, and what may be the beginning of a tag at its end."""
    start = text.rfind("<")
    if start < 0 or not (
        THINK_START.startswith(text[start:]) or THINK_END.startswith(text[start:])
    ):
        return text, ""
    return text[:start], text[start:]
