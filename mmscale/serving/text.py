"""Tokens to text as it may be shown: no half characters, nothing of a stop text."""

from __future__ import annotations

from mmscale.decoding.stop_criteria import StopCriteria

_HALF = "\ufffd"
"""What decoding makes of bytes that are no whole character yet."""


class TextStream:
    """The text of a growing continuation, in pieces that are final."""

    def __init__(self, end: StopCriteria) -> None:
        self.end, self.ids, self.shown = end, list[int](), ""

    def feed(self, ids: tuple[int, ...], finished: bool) -> str:
        """The next piece of text, perhaps empty."""
        self.ids += ids
        text = self.end.text(self.ids)
        if not finished:
            text = text.rstrip(_HALF)
            text = text[: len(text) - self._held_back(text)]
        if len(text) <= len(self.shown):
            return ""
        piece, self.shown = text[len(self.shown) :], text
        return piece

    def _held_back(self, text: str) -> int:
        """Characters at the end that may turn out to begin a stop text."""
        longest = max((len(stop) for stop in self.end.stop_texts), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.end.stop_texts):
                return length
        return 0
