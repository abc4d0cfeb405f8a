"""Messages that wait to be written, where somebody wants fewer writes than messages."""

from __future__ import annotations

import time
from collections.abc import Callable

from clinvk.errors import ClinvkError
from clinvk.model.session import Message

Write = Callable[[str, list[Message]], None]


class Autosave:
    """Writes messages at once, every `interval` seconds, or only when told to.

    There is no clock that runs by itself: what waits longer than the interval is written with the
    next message, whichever session that is for."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: dict[str, list[Message]] = {}
        self._since = time.monotonic()
        self.enabled = True
        self.interval = 0.0

    def configure(self, *, enabled: bool, interval: float) -> None:
        self.enabled = enabled
        self.interval = interval
        self._flush_when_due()

    def add(self, id_: str, message: Message) -> None:
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.setdefault(id_, []).append(message)
        self._flush_when_due()

    def waiting(self, id_: str) -> list[Message]:
        """What is not written yet, of a session."""
        return list(self._waiting.get(id_, ()))

    def flush(self, id_: str | None = None) -> None:
        """Write what waits, of a session or of all. What cannot be written goes on waiting, and
        the first error is raised when the others are written."""
        errors = []
        for each in [*self._waiting] if id_ is None else [id_]:
            try:
                if messages := self._waiting.get(each):
                    self._write(each, messages)
                self._waiting.pop(each, None)
            except (ClinvkError, OSError) as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def forget(self, id_: str) -> None:
        self._waiting.pop(id_, None)

    def _flush_when_due(self) -> None:
        if self.enabled and time.monotonic() - self._since >= self.interval:
            self.flush()
