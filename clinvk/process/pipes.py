"""The pipes of a program, and splitting their data into lines."""

from __future__ import annotations

import os
from subprocess import DEVNULL

LONGEST = 256 * 1024 * 1024  # bytes of a line; a longer one is skipped, so that memory is bounded


class LineSplitter:
    r"""Complete lines from arbitrary pieces, split on `\n` alone: JSON may hold U+2028.

    Pieces are joined once, when their line ends, so that the cost of a long line is linear. A line
    longer than `longest` bytes is counted in `skipped`, and not stored."""

    def __init__(self, longest: int = LONGEST) -> None:
        self.longest = longest
        self.skipped = 0
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that this piece completes, without line ends."""
        head, *rest = piece.split(b"\n")
        self._add(head)
        if not rest:
            return []
        last = rest.pop()
        rest[:0] = self._taken()
        self._add(last)
        return rest

    def finish(self) -> list[bytes]:
        """The rest, without an end of line."""
        return self._taken() if self._size else []

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self.longest:
            self._pieces.clear()
        else:
            self._pieces.append(piece)

    def _taken(self) -> list[bytes]:
        """The completed line; None if it was too long."""
        is_whole = self._size <= self.longest
        line = [b"".join(self._pieces)] if is_whole else []
        self.skipped += not is_whole
        self._pieces, self._size = [], 0
        return line


class Pipes:
    """The three pipes of a program to be started, each with its end and this process's end."""

    def __init__(self, *, stdin: bool) -> None:
        self._open: set[int] = set()
        self.stdin: int | None = None
        self.child_stdin = DEVNULL
        if stdin:
            self.child_stdin, self.stdin = self._open_pipe()
        self.stdout, self.child_stdout = self._open_pipe()
        self.stderr, self.child_stderr = self._open_pipe()
        for ours in self._open - {self.child_stdin, self.child_stdout, self.child_stderr}:
            os.set_blocking(ours, False)

    def close_child_ends(self) -> None:
        """Close the program's ends in this process, after it has started."""
        self._close(self.child_stdin, self.child_stdout, self.child_stderr)

    def close_stdin(self) -> None:
        """Close its stdin."""
        self._close(self.stdin)

    def close(self) -> None:
        self._close(*self._open)

    def _close(self, *ends: int | None) -> None:
        for end in self._open.intersection(ends):
            self._open.discard(end)
            os.close(end)

    def _open_pipe(self) -> tuple[int, int]:
        try:
            ends = os.pipe()
        except OSError:
            self.close()
            raise
        self._open.update(ends)
        return ends
