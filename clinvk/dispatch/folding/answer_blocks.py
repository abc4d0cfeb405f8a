"""The answer of the model as it was streamed, block by block."""

from __future__ import annotations


class AnswerBlocks:
    """Blocks of text. Adjacent ones of the same message are one block, since a CLI may print a
    message in several parts."""

    def __init__(self) -> None:
        self._blocks: list[list[str]] = []  # the parts of each
        self._pieces: list[str] = []  # of the block that is being streamed
        self._piece_id: str | None = None  # its message
        self._open_id: str | None = None  # the message that the last block may be continued by
        self._message: list[str] = []  # all texts of the last message
        self._message_id: str | None = None
        self._completed = 0  # the blocks before the last result

    def add_piece(self, text: str, message_id: str | None = None) -> None:
        """Add a piece of the current block."""
        self._pieces.append(text)
        self._piece_id = message_id

    def add(self, text: str, message_id: str | None = None) -> None:
        """Add a whole block, which the pieces since the last one are the beginning of."""
        self._pieces = []
        if message_id is None or message_id != self._message_id:
            self._message = []
        self._message.append(text)
        self._message_id = message_id
        if message_id is not None and message_id == self._open_id:
            self._blocks[-1].append(text)
        else:
            self._blocks.append([text])
        self._open_id = message_id

    def close(self) -> None:
        """End the current block."""
        if self._pieces:
            self.add("".join(self._pieces), self._piece_id)
        self._open_id = None

    def complete(self, text: str | None) -> str:
        """The answer of which a CLI reports `text`: what it has streamed, if `text` is only the
        beginning of that, or the end of its last message."""
        self.close()
        best = text or ""
        message = "".join(self._message)
        whole, end = message.rstrip(), best.rstrip()
        if end and whole != end and whole.endswith(end):
            best = message
        for streamed in (message, self.last):
            if streamed.startswith(best) and streamed.rstrip() != best.rstrip():
                best = streamed
        self._completed = len(self._blocks)
        return best

    @property
    def has_begun(self) -> bool:
        """Whether there is any text."""
        return bool(self._blocks or self._pieces)

    @property
    def last(self) -> str:
        """The last block that is not empty."""
        return _last_of(self._blocks)

    @property
    def late(self) -> str:
        """The last block that was streamed after the last result."""
        return _last_of(self._blocks[self._completed :])

    @property
    def transcript(self) -> str:
        """All blocks."""
        return "\n\n".join(text for text in map("".join, self._blocks) if text)


def _last_of(blocks: list[list[str]]) -> str:
    return next((text for text in map("".join, reversed(blocks)) if text), "")
