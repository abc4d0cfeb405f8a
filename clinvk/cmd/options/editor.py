"""A prompt written in the user's editor, as `git commit` does."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from clinvk.errors import UsageError
from clinvk.process.foreground import run_in_foreground
from clinvk.terminal.printer import Printer

CUT = "# ------------------------ >8 ------------------------"
ADVICE = """\
# Write the prompt above the line. What is below it is not sent, and an empty prompt
# sends nothing.
"""


class Draft:
    """A prompt in a file of its own, kept until the prompt has been answered."""

    def __init__(self, text: str = "") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="clinvk-"))
        self.path = self._folder / "PROMPT.md"
        self.path.write_text(f"{text}\n\n{CUT}\n{ADVICE}", encoding="utf-8")

    def edit(self) -> str:
        """What the user wrote. Raises `UsageError` if the editor fails or nothing was written."""
        try:
            code = run_editor(self.path)
        except UsageError:  # there is no editor, and nothing was written
            self.discard()
            raise
        if code != 0:
            self.discard()
            raise UsageError(
                f"the editor exited with {code}; nothing was sent", "save and close it"
            )
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{self.path}: {error}") from error
        text = f"\n{text}".partition(f"\n{CUT}")[0].strip("\n").rstrip()
        if not text.strip():
            self.discard()
            raise UsageError("the prompt is empty; nothing was sent", "write it above the line")
        return text

    def keep(self) -> None:
        """Say where the prompt is, so that the user's text is not lost."""
        Printer.for_errors().notice(
            f"your prompt is in {self.path}; send it with: clinvk -f {shlex.quote(str(self.path))}"
        )

    def save(self, text: str) -> None:
        """Write only the prompt to the file, so that it can be sent again."""
        self.path.write_text(f"{text}\n", encoding="utf-8")

    def discard(self) -> None:
        with suppress(OSError):
            self.path.unlink()
        for other in self._folder.iterdir():  # an editor's backup
            with suppress(OSError):
                other.unlink()
        with suppress(OSError):
            self._folder.rmdir()


def run_editor(path: Path) -> int:
    """Let the user edit the file in $VISUAL or $EDITOR; return the exit code. Raises
    `UsageError`."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    with _open_keyboard() as keyboard:
        if not editor:
            if not ((keyboard or sys.stdin.isatty()) and sys.stderr.isatty()):
                raise UsageError("no editor is set, and there is no terminal for vi", "set EDITOR")
            editor = "vi"
        try:
            return run_in_foreground([*shlex.split(editor), str(path)], stdin=keyboard)
        except (OSError, ValueError) as error:
            problem = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"{editor}: {problem}", "set EDITOR to a program") from error


@contextmanager
def _open_keyboard() -> Iterator[IO[bytes] | None]:
    """The terminal, if stdin is something else, such as a pipe that the prompt was read from. None
    if stdin is it, or there is none."""
    keyboard = None
    if not sys.stdin.isatty():
        with suppress(OSError):
            keyboard = open("/dev/tty", "rb", buffering=0)  # noqa: SIM115 - closed below
    try:
        yield keyboard
    finally:
        if keyboard is not None:
            keyboard.close()
