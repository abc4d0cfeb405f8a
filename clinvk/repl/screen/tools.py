"""A tool call in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from clinvk.text.sanitize import one_line
from clinvk.text.width import truncate

# What says most about a call, the first that it has.
TELLING = ("command", "cmd", "file_path", "filePath", "path", "notebook_path", "pattern", "query", "url",
           "description", "prompt", "name")  # fmt: skip
EXAMINED = 2_000  # characters of a value that are looked at
DONE, FAILED, UNKNOWN = "✓", "✗", "•"


class ToolLine(Struct):
    """A call, and how it has ended: `ok` is None while that is unknown."""

    name: str
    about: str
    ok: bool | None = None
    output: str = ""

    def text(self, width: int) -> str:
        """`✓ Bash  pytest -q`, or `✗ Bash  make · exit code 2`, in at most `width` cells."""
        mark = UNKNOWN if self.ok is None else DONE if self.ok else FAILED
        text = f"{mark} {self.name}"
        if self.about:
            text += f"  {self.about}"
        if self.ok is False and self.output:
            room = max(20, width - len(text) - 3)
            text = f"{truncate(text, max(20, width - 23))} · {truncate(self.output, room)}"
        return truncate(text, width)


def describe_input(value: Any) -> str:
    """What a tool was called with, in a few words on one line."""
    if isinstance(value, Mapping):
        for key in TELLING:
            if found := value.get(key):
                return describe_input(found)
        if not value:
            return ""
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return one_line(" ".join(value)[:EXAMINED])
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return " ".join(one_line(text[:EXAMINED]).split())


def describe_output(value: Any) -> str:
    """The first line of what a tool returned."""
    if isinstance(value, list):
        texts = [part.get("text") for part in value if isinstance(part, Mapping)]
        value = next((text for text in texts if text), "")
    if isinstance(value, Mapping):
        value = next(
            (value[k] for k in ("error", "stderr", "message", "output") if value.get(k)), value
        )
    text = value if isinstance(value, str) else describe_input(value)
    lines = text[:EXAMINED].strip().splitlines()
    return one_line(lines[0]).strip() if lines else ""
