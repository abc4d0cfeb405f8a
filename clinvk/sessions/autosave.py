"""Messages that wait to be written, for fewer writes than messages."""

from __future__ import annotations

import time
from collections.abc import Callable

from clinvk.errors import ClinvkError
from clinvk.model.session import Message

WriteMessages = Callable[[str, list[Message]], None]


class Autosave:
    """Writes messages at once, every `interval` seconds, or only on request.

    There is no timer: messages older than the interval are written when the next message of any
    session arrives."""

    def __init__(self, write: WriteMessages) -> None:
        self._write = write
        self._pending: dict[str, list[Message]] = {}
        self._pending_since = time.monotonic()
        self.enabled = True
        self.interval = 0.0

    def configure(self, *, enabled: bool, interval: float) -> None:
        self.enabled = enabled
        self.interval = interval
        self._flush_when_due()

    def add(self, session_id: str, message: Message) -> None:
        if not self._pending:
            self._pending_since = time.monotonic()
        self._pending.setdefault(session_id, []).append(message)
        self._flush_when_due()

    def pending(self, session_id: str) -> list[Message]:
        """The messages of a session that are not written yet."""
        return list(self._pending.get(session_id, ()))

    def flush(self, session_id: str | None = None) -> None:
        """Write the waiting messages of a session or of all. Those that cannot be written keep
        waiting, and the first error is raised after the others are written."""
        errors = []
        for each in [*self._pending] if session_id is None else [session_id]:
            try:
                if messages := self._pending.get(each):
                    self._write(each, messages)
                self._pending.pop(each, None)
            except (ClinvkError, OSError) as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def discard(self, session_id: str) -> None:
        self._pending.pop(session_id, None)

    def _flush_when_due(self) -> None:
        if self.enabled and time.monotonic() - self._pending_since >= self.interval:
            self.flush()
