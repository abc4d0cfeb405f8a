"""Delete many files, without waiting for the disk to free each.

A name is deleted at once. What takes long, where a disk is told of each block that is free (`discard`), is
what follows once nobody has the file open: so it is held open while its name is deleted, and threads
close it. The names go one after the other, in the order of the calls, as with `os.unlink` alone: after a
`kill -9`, the kernel closes what was open.
"""

from __future__ import annotations

import os
import queue
import threading
from contextlib import suppress

from clinvk.disk.closing import Closing

THREADS = 8
BATCH = 16  # files that a thread closes at a time; at most some 300 are open


class Removal(Closing):
    """`unlink` as often as needed, then `close`, which waits until all of it is done."""

    def __init__(self) -> None:
        self._held: list[int] = []
        self._batches: queue.Queue[list[int]] = queue.Queue(2)
        self._threads: list[threading.Thread] = []

    def unlink(self, path: str) -> None:
        """`os.unlink`."""
        fd = _hold(path)
        try:
            os.unlink(path)
        finally:
            if fd >= 0:
                self._held.append(fd)
        if len(self._held) >= BATCH:
            self._hand_over()

    def close(self) -> None:
        for _ in self._threads:
            self._batches.put([])
        _close_all(self._held)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _hand_over(self) -> None:
        if len(self._threads) < THREADS and not self._start_thread():
            _close_all(self._held)
            return
        self._batches.put(self._held)
        self._held = []

    def _start_thread(self) -> bool:
        thread = threading.Thread(target=self._run, name="clinvk-removal", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread can be started
            return bool(self._threads)
        self._threads.append(thread)
        return True

    def _run(self) -> None:
        while held := self._batches.get():
            _close_all(held)


def _hold(path: str) -> int:
    """The file, open without any right to it; -1 if that is impossible."""
    if hasattr(os, "O_PATH"):  # not on macOS
        with suppress(OSError):  # too many are open, or there is none
            return os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    return -1


def _close_all(held: list[int]) -> None:
    while held:
        os.close(held.pop())
