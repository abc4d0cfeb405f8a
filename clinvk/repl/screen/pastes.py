"""Long pastes, of which the input line shows only how long they are."""

from __future__ import annotations

LINES = 10  # of a paste that is shown as it is; more are shown as a label
CHARACTERS = 2_000  # the same


class Pastes:
    """Labels stand for texts; a label that was changed stands for nothing."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def shorten(self, text: str) -> str:
        """The text, or the label that stands for it."""
        text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
        lines = text.count("\n") + 1
        if lines <= LINES and len(text) <= CHARACTERS:
            return text
        what = f"{lines:,} lines" if lines > LINES else f"{len(text):,} characters"
        label, number = f"[pasted {what}]", 1
        while self._texts.get(label, text) != text:
            number += 1
            label = f"[pasted {what} #{number}]"
        self._texts[label] = text
        return label

    def expand(self, text: str) -> str:
        """The text with what its labels stand for."""
        for label, whole in self._texts.items():
            if label in text:
                text = text.replace(label, whole)
        return text

    def label_before(self, text: str) -> str:
        """The label with which the text ends, if it does: it is deleted as a whole."""
        if not text.endswith("]"):
            return ""
        return next((label for label in self._texts if text.endswith(label)), "")
