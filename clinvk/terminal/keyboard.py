"""Read lines from a terminal so that nothing that was pasted is left for the shell."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

SETTLE = 0.05  # seconds within which the rest of a paste arrives; faster than typing
PASTE_SETTLE = 0.3  # the same after a paste was detected: it may arrive over a slow connection

_asked: set[int] = set()  # terminals on which the user was asked for input


def is_dumb() -> bool:
    """Whether the terminal understands no escape sequences."""
    return os.environ.get("TERM", "dumb") in ("dumb", "")


def is_waiting(fd: int, seconds: float = 0) -> bool:
    """Whether there is input to read, now or within this time."""
    return bool(select.select([fd], [], [], seconds)[0])


def ask_line(question: str) -> str:
    """The line that the user types in answer to `question`; "" without one: see
    `ask_line_or_none`."""
    return ask_line_or_none(question) or ""


def ask_line_or_none(question: str) -> str | None:
    """The line that the user types in answer to `question`; None for Ctrl-D.

    A paste of several lines is not an answer: it is discarded with a notice, and None is returned.
    Raises `KeyboardInterrupt` for Ctrl-C, with the cursor on a new line."""
    # Only for a notice.
    from clinvk.terminal.printer import Printer

    fd = sys.stdin.fileno()
    with _new_line_if_interrupted(fd):
        sys.stderr.write(question)
        sys.stderr.flush()
        line = os.read(fd, 65536)
        rest = take_waiting(fd, SETTLE / 2) if line else b""
        discard_waiting(fd)
    if not line.endswith(b"\n") or (rest and not rest.endswith(b"\n")):
        sys.stderr.write("\n")
        sys.stderr.flush()
    if rest.strip():
        Printer.for_errors().notice("several lines were pasted; they were discarded")
        return None
    return _text(line) if line else None


def read_lines(label: str) -> str | None:
    """The user's input after `label`, without escape sequences: one line, or all lines of a
    paste. None for Ctrl-D. Raises `KeyboardInterrupt` for Ctrl-C, with the cursor on a new line."""
    fd = sys.stdin.fileno()
    with _new_line_if_interrupted(fd):
        write(label)
        text = os.read(fd, 65536)
        while text:
            settle = PASTE_SETTLE if text.count(b"\n") > 1 else SETTLE
            if not (more := take_waiting(fd, settle)):
                break
            text += more
            if not more.endswith(b"\n"):  # the paste ends inside a line, which Enter completes
                text += os.read(fd, 65536)
        discard_waiting(fd)
    if not text.endswith(b"\n"):
        write("\n")
    return _text(text) if text else None


def take_waiting(fd: int, seconds: float) -> bytes:
    """All available input, including an incomplete line, once none has arrived for this many
    seconds."""
    before = termios.tcgetattr(fd)
    by_character: list[Any] = [*before[:3], before[3] & ~termios.ICANON, *before[4:6], [*before[6]]]
    by_character[6][termios.VMIN], by_character[6][termios.VTIME] = 1, 0
    found = b""
    termios.tcsetattr(fd, termios.TCSANOW, by_character)
    try:
        while is_waiting(fd, seconds) and (piece := os.read(fd, 65536)):
            found += piece
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)
    return found


def discard_waiting(fd: int) -> None:
    """Leave nothing for the shell to execute: discard the input that is available now and, through
    `discard_rest`, what arrives until the process exits."""
    _asked.add(fd)
    with suppress(OSError, termios.error):
        if _is_foreground(fd):
            termios.tcflush(fd, termios.TCIFLUSH)


def discard_rest() -> bool:
    """Discard what has arrived at the terminal since the user was asked for input, and the rest of
    it that is still arriving. Return whether there was any; call it when the process exits.

    The lines of a paste may arrive so slowly that the first one was taken as the answer."""
    found = False
    for fd in _asked:
        with suppress(OSError, termios.error):
            if _is_foreground(fd) and take_waiting(fd, 0):
                found = True
                take_waiting(fd, PASTE_SETTLE)
    return found


def _is_foreground(fd: int) -> bool:
    """Whether this process may change the terminal; in the background it would be stopped for
    it."""
    return os.tcgetpgrp(fd) == os.getpgrp()


def write(text: str) -> None:
    """Write to stderr if it is the terminal, else to the terminal that is stdin, else nowhere."""
    with suppress(OSError), screen() as stream:
        stream.write(text)
        stream.flush()


@contextmanager
def screen() -> Iterator[Any]:
    """The stream to draw on, never stdout, which carries the answer. Raises `OSError`."""
    if sys.stderr.isatty():
        yield sys.stderr
        return
    with open(os.ttyname(sys.stdin.fileno()), "w", encoding="utf-8", errors="replace") as stream:
        yield stream


@contextmanager
def restored_if_ended(fd: int) -> Iterator[None]:
    """Restore the terminal if a signal ends the process while an editor has changed it."""
    before = termios.tcgetattr(fd)

    def restore(number: int, _frame: Any) -> None:
        with suppress(OSError, termios.error):
            termios.tcsetattr(fd, termios.TCSANOW, before)
            # No bracketed paste, a cursor. The stream may be in the middle of another write.
            os.write(fd, b"\x1b[?2004l\x1b[?25h\n")
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    wanted = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) == signal.SIG_DFL]
    for number in wanted:
        signal.signal(number, restore)
    try:
        yield
    finally:
        for number in wanted:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _new_line_if_interrupted(fd: int) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        write("\n")
        discard_waiting(fd)
        raise


def _text(data: bytes) -> str:
    text = data.decode(sys.stdin.encoding or "utf-8", "replace")
    return text.replace("\0", "").rstrip("\r\n")
