"""A program, ready to start."""

from __future__ import annotations

import shlex
from pathlib import Path

from msgspec import Struct

from clinvk.text.addresses import without_passwords
from clinvk.text.sanitize import sanitize_without_bidi


class Command(Struct, frozen=True):
    """A program, ready to start. `files` are private files whose paths it gets; `remove` are (glob,
    owner) pairs: files of the session that are deleted after the run, and the JSON key in them with
    the id of their session."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: Path
    stdin: bytes
    env_changes: dict[str, str | None]  # in the environment; None removes a variable
    files: tuple[tuple[Path, str], ...] = ()
    removals: tuple[tuple[str, str], ...] = ()
    new_id: str | None = None  # the native id that the program is told to give its new session
    state: Path | None = None  # the file with the conversation, which clinvk keeps for the program
    # The place of the prompt in `argv`, if it is an argument, and the word without it.
    prompt_at: tuple[int, str] | None = None
    temp_dir: Path | None = None  # a private directory that it needs while it is running
    notices: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The command in bash syntax, without the prompt and the passwords in addresses."""
        unset = [x for k, v in self.env_changes.items() if v is None for x in ("-u", k)]
        added = [f"{k}={v}" for k, v in self.env_changes.items() if v is not None]
        words = ["env", *unset, *added] if unset or added else []
        argv = list(self.argv)
        if self.prompt_at:
            at, template = self.prompt_at
            argv[at] = template
        return " ".join(map(_quoted, [*words, *argv]))


def _quoted(word: str) -> str:
    """The word quoted for a shell; control characters and those that change the order of text are
    escaped."""
    word = without_passwords(word)
    if sanitize_without_bidi(word) == word:
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{''.join(c if sanitize_without_bidi(c) == c else _escape(ord(c)) for c in escaped)}'"


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"
