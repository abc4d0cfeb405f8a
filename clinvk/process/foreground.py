"""Programs that have the terminal for themselves: an editor, a pager."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO


def run_in_foreground(
    command: Sequence[str],
    *,
    stdin: IO[bytes] | None = None,
    text: bytes | None = None,
    env: dict[str, str] | None = None,
) -> int:
    """Run the program to its end, with `text` as its standard input if there is one; its exit code.
    The keys that interrupt and quit are for the program, as in a shell. Raises `OSError` if it cannot be
    started."""
    source = stdin if text is None else subprocess.PIPE
    with _without_interrupts(), subprocess.Popen(command, stdin=source, env=env) as program:
        program.communicate(text)
    return program.returncode


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Nothing happens here at a signal from the keyboard.

    The signals are caught and not ignored: a program that is started inherits what is ignored, but
    not what is caught. So there is no moment at which one could end us and not the program."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may set a handler
        for number in (signal.SIGINT, signal.SIGQUIT):
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
