"""Piped standard input that no flag asked for is never ignored silently."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ADVICE = "add - to append it"


@contextmanager
def report_unread_stdin(color: str, advice: str = ADVICE, *, quiet: bool = False) -> Iterator[None]:
    """Say on stderr that data on stdin is not read: before the block if the data is there, otherwise
    after it, since a slow writer such as `git diff` may have started by then. With `quiet`, say
    nothing.

    stdin is polled, never read: in a shell loop it is the list that the loop reads."""
    if quiet:
        yield
        return
    if reported := has_unread_stdin():
        _report(color, advice)
    yield
    if not reported and has_unread_stdin():
        _report(color, advice)


def has_unread_stdin() -> bool:
    """Whether stdin is a pipe, a socket or a file, and has data now that was not read."""
    with suppress(OSError, ValueError, AttributeError):  # closed, None, or not a real stream
        fd = sys.stdin.fileno()
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode):
            return os.lseek(fd, 0, os.SEEK_CUR) < found.st_size
        if stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode):
            return _waiting_bytes(fd) > 0
    return False


def _waiting_bytes(fd: int) -> int:
    """How much could be read at once. 0 at the end of the input, at which `poll` would also
    report something to read."""
    # Only if something is piped in.
    import fcntl
    import termios

    count = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder)


def _report(color: str, advice: str) -> None:
    # Only if something is piped in.
    from clinvk.terminal.printer import Printer

    Printer.for_errors(color).notice(f"standard input was not read; {advice}")
