"""Prints what the slots of a worker have to say. A thread of its own does it, so that no lease is lost while a
terminal is stopped by Ctrl-S, or nobody reads a full pipe."""

from __future__ import annotations

import os
import queue
import threading
from contextlib import suppress

from clinvk.disk.closing import Closing
from clinvk.text.sanitize import one_line

STDERR = 2
MOST = 10_000  # lines that wait; later ones are dropped
PATIENCE = 2.0  # seconds for the last lines


class Lines(Closing):
    """`say` and `add` never wait. What they get is written from `start` on."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[str | None] = queue.Queue(MOST)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """To be called in the process that prints them."""
        self._thread = threading.Thread(target=self._write, name="lines", daemon=True)
        self._thread.start()

    def say(self, attempt: str, text: str) -> None:
        """Print a line about an attempt. Parts of it are from CLIs and from other machines."""
        self.add(one_line(f"{attempt}: {text}") + "\n")

    def add(self, text: str) -> None:
        with suppress(queue.Full):
            self._waiting.put_nowait(text)

    def close(self) -> None:
        if self._thread is not None:
            with suppress(queue.Full):
                self._waiting.put_nowait(None)
            self._thread.join(PATIENCE)

    def _write(self) -> None:
        while (text := self._waiting.get()) is not None:
            # Not `print`: while this waits, it would hold a lock that the end of the process needs.
            with suppress(OSError):
                os.write(STDERR, text.encode("utf-8", "replace"))
