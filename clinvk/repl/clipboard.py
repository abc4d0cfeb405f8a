"""Copy text to the clipboard."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from typing import TextIO

from clinvk.errors import UsageError

# The first of these that is installed, and the variable without which it does not work.
PROGRAMS = (
    (["pbcopy"], None),
    (["wl-copy"], "WAYLAND_DISPLAY"),
    (["xclip", "-selection", "clipboard"], "DISPLAY"),
    (["xsel", "--clipboard", "--input"], "DISPLAY"),
    (["clip.exe"], None),
)
LIMIT = 74_994  # bytes of text that terminals accept in the sequence
TIMEOUT = 5  # seconds


def copy_text(text: str, stream: TextIO) -> str:
    """Copy the text; return how. With no program for it, ask the terminal that `stream` writes to,
    which works through SSH as well. Raises `UsageError`."""
    for argv, variable in PROGRAMS:
        if (variable is None or os.environ.get(variable)) and shutil.which(argv[0]):
            try:
                subprocess.run(
                    argv, input=text.encode(errors="replace"), check=True, timeout=TIMEOUT,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            except (OSError, subprocess.SubprocessError):
                continue
            return f"with {argv[0]}"
    data = text.encode("utf-8", "replace")
    if not stream.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        raise UsageError(
            "there is no clipboard here",
            "install xclip or wl-copy, or write the conversation to a file: /export FILE",
        )
    if len(data) > LIMIT:
        raise UsageError(
            f"the text is too long for the terminal's clipboard ({len(data):,} bytes)",
            "write the conversation to a file: /export FILE",
        )
    stream.write(f"\x1b]52;c;{base64.b64encode(data).decode()}\x07")
    stream.flush()
    return "with the terminal, if it allows that"
