"""Programs that have the terminal for themselves: an editor, a pager, the screen of a CLI."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from clinvk.process.command import Command
from clinvk.process.marker import MARKER, PATIENCE

# Ends what a program with a screen may have switched on: mouse, focus and paste reports, the
# keyboard protocol, the alternate screen, a hidden cursor, colors.
LEAVE_SCREEN = (
    b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[<u\x1b[>4m"
    b"\x1b[?1049l\x1b[?25h\x1b[0m"
)


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
    with without_interrupts(), subprocess.Popen(command, stdin=source, env=env) as program:
        program.communicate(text)
    return program.returncode


@contextmanager
def without_interrupts() -> Iterator[None]:
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


def run_on_terminal(command: Command, marker: str) -> int:
    """Run a program that has the terminal for itself, such as one with a screen; its exit code, or
    minus the signal that killed it. When it is suspended, so is this process. A signal that asks
    this process to end is passed on, and the program is killed if it does not end. The terminal is
    then as before. Raises `ClinvkError` if it cannot be started."""
    # Only for a program of this kind: it needs anyio, 45 ms.
    from clinvk.process.child import translate_start_errors

    with without_interrupts(), _restored_terminal() as restore:
        with translate_start_errors(command):
            program = subprocess.Popen(
                command.argv, cwd=command.cwd, env={**command.env, MARKER: marker}
            )
        with passing_on(program, marker):
            while _wait_for_change(program) == "stopped":
                _suspend()
                with suppress(ProcessLookupError):
                    program.send_signal(signal.SIGCONT)
            code = program.wait()
        if code < 0:
            restore()
    return code


def _wait_for_change(program: subprocess.Popen[bytes]) -> str:
    """Wait until the program has ended, or was stopped and still is."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13: it is waited for, suspended or not
        program.wait()
        return "ended"
    while True:
        wanted = os.WEXITED | os.WSTOPPED | os.WNOWAIT
        os.waitid(os.P_PID, program.pid, wanted)
        # If it has stopped its whole group, this process too was stopped until now, and is not to
        # be a second time.
        found = os.waitid(os.P_PID, program.pid, wanted | os.WNOHANG)
        if found is not None:
            return "stopped" if found.si_code == os.CLD_STOPPED else "ended"


def _suspend() -> None:
    """Stop this process, as at Ctrl-Z; return when it is continued. Where no shell would continue
    it, the system does not stop it."""
    before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, before)


@contextmanager
def passing_on(
    program: subprocess.Popen[bytes], marker: str, *, to_all: bool = False
) -> Iterator[list[int]]:
    """Pass on the signals that ask this process to end, to the program or `to_all` that it has
    started; it is killed if it does not end. The list has those that came."""
    before = {}
    received: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        received.append(number)
        if to_all:
            _send_to_all(program, marker, signal.Signals(number))
        with suppress(ProcessLookupError):
            program.send_signal(number)
        killer = threading.Timer(PATIENCE, _kill, [program, marker])
        killer.daemon = True
        killer.start()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, pass_on)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill(program: subprocess.Popen[bytes], marker: str) -> None:
    """Kill the program and all that it has started, unless it has ended."""
    _send_to_all(program, marker, signal.SIGKILL)


def _send_to_all(program: subprocess.Popen[bytes], marker: str, number: signal.Signals) -> None:
    # psutil, 10 ms, and only needed to stop a program.
    from clinvk.process.tree import ProcessTree

    if program.returncode is None:
        ProcessTree.of_program(program.pid, marker).send_signal(number)


@contextmanager
def _restored_terminal() -> Iterator[Callable[[], None]]:
    """At the end of the block, the terminal has its modes of the beginning. Call what it yields if
    the program could not leave its screen by itself."""
    # Only for a program with a screen.
    import termios

    fd = sys.stdin.fileno()
    modes = termios.tcgetattr(fd)

    def restore() -> None:
        with suppress(OSError, ValueError):
            os.write(sys.stdout.fileno(), LEAVE_SCREEN)

    try:
        yield restore
    finally:
        before = signal.signal(
            signal.SIGTTOU, signal.SIG_IGN
        )  # in the background, it would stop us
        with suppress(termios.error, OSError):  # the terminal may be gone
            termios.tcsetattr(fd, termios.TCSADRAIN, modes)
        signal.signal(signal.SIGTTOU, before)
