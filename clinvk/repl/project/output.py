"""Run a command of the shell, and keep what it prints."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from msgspec import Struct

from clinvk.model.fence import fence, random_word
from clinvk.process.foreground import passing_on, without_interrupts
from clinvk.process.marker import MARKER, new_marker
from clinvk.text.sanitize import one_line, sanitize

KEPT = 64 * 1024  # bytes of an output that can go with a message: half from each end
CHUNK_SIZE = 64 * 1024  # bytes
SILENCE = 0.25  # seconds to wait for output of what the command has left running


class Output(Struct, frozen=True):
    """What a command has printed."""

    command: str
    code: int
    text: str
    lines: int
    is_ended: bool = False  # by a signal that was for the prompt

    @property
    def title(self) -> str:
        return f"the output of `{one_line(self.command)[:60]}`"

    @property
    def size(self) -> str:
        return f"{self.lines} line{'s' * (self.lines != 1)}"

    def for_prompt(self) -> str:
        what = f"output of {one_line(self.command)!r}, exit code {self.code},"
        return fence(what, self.text, random_word())


def run_command(command: str, directory: str) -> Output:
    """Run it in the user's shell, and show what it prints. Ctrl-C is for the command."""
    shell = os.environ.get("SHELL") or "/bin/sh"
    shell = shell if os.access(shell, os.X_OK) else "/bin/sh"
    kept, marker = _Kept(), new_marker(os.environ)
    sys.stdout.flush()
    with (
        without_interrupts(),
        subprocess.Popen(
            [shell, "-c", command],
            stdin=None
            if sys.stdin.isatty()
            else subprocess.DEVNULL,  # the lines on a pipe are ours
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory if Path(directory).is_dir() else None,
            env={**os.environ, MARKER: marker},
        ) as program,
        passing_on(program, marker, to_all=True) as signals,
    ):
        assert program.stdout is not None  # noqa: S101 - a pipe
        fd = program.stdout.fileno()
        ended = None
        while ended is None or time.monotonic() < ended + SILENCE:
            if not select.select([fd], [], [], 0.05)[0]:
                if ended is None and program.poll() is not None:
                    ended = time.monotonic()
                continue
            piece = os.read(fd, CHUNK_SIZE)
            if not piece:
                break
            kept.add(piece)
            _write(piece)
        program.stdout.close()
        code = program.wait()
    code = code if code >= 0 else 128 - code
    return Output(command, code, kept.text(), kept.lines, is_ended=bool(signals))


def _write(piece: bytes) -> None:
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


class _Kept:
    """The beginning and the end of an output."""

    def __init__(self) -> None:
        self.lines = 0
        self._size = 0
        self._first = b""
        self._last: deque[bytes] = deque()
        self._last_size = 0

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        self.lines += piece.count(b"\n")
        room = KEPT // 2 - len(self._first)
        self._first += piece[: max(0, room)]
        if rest := piece[max(0, room) :]:
            self._last.append(rest)
            self._last_size += len(rest)
        while self._last and self._last_size - len(self._last[0]) >= KEPT // 2:
            self._last_size -= len(self._last.popleft())

    def text(self) -> str:
        last = b"".join(self._last)[-KEPT // 2 :]
        left_out = self._size - len(self._first) - len(last)
        middle = f"\n[… {left_out:,} bytes left out …]\n".encode() if left_out else b""
        return sanitize((self._first + middle + last).decode("utf-8", "replace")).strip("\n")
