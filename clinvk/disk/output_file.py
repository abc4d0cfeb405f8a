"""Output files named by the user: their format, and no overwriting without consent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from clinvk.disk.atomic import is_stream
from clinvk.errors import UsageError

MARKDOWN = {".md": "markdown", ".markdown": "markdown"}
HTML = {".html": "html", ".htm": "html"}


def format_of(path: Path, formats: Mapping[str, str], what: str) -> str:
    """The format by the extension of the file; Markdown for a pipe or a device without one. Raises
    `UsageError` for other extensions; `what` is the content, for the message."""
    if found := formats.get(path.suffix.lower()):
        return found
    if not path.suffix and os.path.exists(path) and is_stream(path):
        return "markdown"
    problem = f"unsupported {what} format {path.suffix}" if path.suffix else "no file extension"
    raise UsageError(f"{path}: {problem}; use {_list_endings(formats)}")


def check_overwriting(path: Path, *, force: bool) -> None:
    """Raise `UsageError` if the file has content that would be lost, unless `force`."""
    if force:
        return
    try:
        lost = not is_stream(path) and path.stat().st_size > 0
    except OSError:  # it does not exist, or writing it will report the error
        return
    if lost and path.is_file():
        raise UsageError(f"{path} already exists", "pass --force to overwrite it")


def _list_endings(formats: Mapping[str, str]) -> str:
    """`.html, .md or .json`: the first extension of each format."""
    first: dict[str, str] = {}
    for ending, name in formats.items():
        first.setdefault(name, ending)
    *others, last = first.values()
    return f"{', '.join(others)} or {last}"
