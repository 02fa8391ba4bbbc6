"""Thoughts in `<think>` tags.

Servers that do not recognize a local model's thoughts send them as text before the answer.
"""

import re

THINK_START, THINK_END = "<think>", "</think>"
# A chat template that ends with the opening tag leaves only the closing one in the answer.
_UNQUOTED_TAG = re.compile(r"(?<![`'\"])</?think>")


class ThinkTags:
    """Tell thoughts in `<think>` tags before the answer from its text.

    A closing tag without an opening one is left out: what came before it has been shown as text.
    """

    def __init__(self) -> None:
        self._held = ""
        self._state = "start"
        self._tagged = False
        self._previous = ""  # the last character of the text so far

    def add(self, piece: str) -> tuple[str, str]:
        """Return the thoughts and the text that later pieces cannot change."""
        if self._state == "text":
            return "", self._visible(piece)
        thoughts: list[str] = []
        self._held += piece
        while self._state != "text":
            if self._state == "start":
                if self._begins():
                    return "".join(thoughts), ""
                continue
            thought, end, rest = self._held.partition(THINK_END)
            if not end:
                thought, self._held = _split_partial_tag(thought)
                return "".join([*thoughts, thought]), ""
            thoughts.append(thought)
            self._held, self._state = rest, "start"
        text, self._held = self._held, ""
        return "".join(thoughts), self._visible(text)

    def finish(self) -> tuple[str, str]:
        held, self._held = self._held, ""
        if self._state == "thoughts":
            return held, ""
        return "", "" if self._tagged and not held.strip() else held

    def _begins(self) -> bool:
        """Look for the next tag. Return whether more text is needed for that."""
        text = self._held.lstrip()
        if text.startswith(THINK_START):
            self._held, self._state, self._tagged = text[len(THINK_START) :], "thoughts", True
            return False
        if text.startswith(THINK_END):
            self._held, self._tagged = text[len(THINK_END) :], True
            return False
        if THINK_START.startswith(text) or THINK_END.startswith(text):
            return True
        self._held = text if self._tagged else self._held
        self._state = "text"
        return False

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


def _split_partial_tag(text: str) -> tuple[str, str]:
    """Return the text, and what may be the beginning of a tag at its end."""
    start = text.rfind("<")
    if start < 0 or not (
        THINK_START.startswith(text[start:]) or THINK_END.startswith(text[start:])
    ):
        return text, ""
    return text[:start], text[start:]
