"""The files below a directory, for a prompt: as many as fit, those of upper directories first."""

from __future__ import annotations

import os

from clinvk.knowledge.files import FoundFile, Skipped, check_root, find_files, read_text
from clinvk.knowledge.part import Part, Piece, kilobytes, plural, size_of
from clinvk.text.sanitize import one_line

MAX_BYTES = 100_000  # of files in a prompt
MAX_FILE = 20_000  # bytes of one file
MIN_ROOM = 500  # bytes, below which no more files are read
MAX_NAMES = 8_000  # bytes of the names of files that do not fit
LOCKS = (".lock", "-lock.json", "-lock.yaml", ".sum", ".min.js", ".min.css", ".map", ".svg")


def fast_context_part(path: str, directory: str) -> Part:
    """The files below `path`; their names are relative to `directory` if they are below it. Raises
    `UsageError`."""
    root = check_root(path, "--fast-context")
    skipped, pieces, left = Skipped(), [], []
    size = cut = 0
    found = list(find_files(root, skipped))
    for file in sorted(found, key=_is_generated):
        if MAX_BYTES - size < MIN_ROOM:
            left.append(file)
            continue
        limit = min(MAX_FILE, MAX_BYTES - size)
        read = read_text(file.path, limit, skipped)
        if read is None:
            continue
        text, is_whole = read
        if not is_whole:
            text, cut = f"{_whole_lines(text)}\n…", cut + 1
        if text.strip():
            pieces.append(Piece(f"file {_shown(file, directory)}", text.rstrip("\n")))
            size += size_of(text)
    if left:
        pieces.append(Piece("names of files that did not fit", _names(left, directory)))
    return Part(pieces, _notice(root, len(pieces) - bool(left), len(left), size, cut, skipped))


def _is_generated(file: FoundFile) -> bool:
    """Whether programs write it: those files come last."""
    return file.name.endswith(LOCKS)


def _whole_lines(text: str) -> str:
    """The text without its last line, which may be cut, unless it has only that one."""
    at = text.rfind("\n")
    return text[:at] if at > 0 else text


def _names(files: list[FoundFile], directory: str) -> str:
    names: list[str] = []
    room = MAX_NAMES
    for number, file in enumerate(files):
        name = _shown(file, directory)
        room -= size_of(name) + 1
        if room < 0:
            names.append(f"… and {len(files) - number:,} more")
            break
        names.append(name)
    return "\n".join(names)


def _shown(file: FoundFile, directory: str) -> str:
    prefix = directory.rstrip("/") + "/"
    return one_line(os.fsencode(file.path.removeprefix(prefix)).decode("utf-8", "replace"))


def _notice(root: str, added: int, left: int, size: int, cut: int, skipped: Skipped) -> str:
    if not added and not left:
        why = f" (skipped: {skipped})" if str(skipped) else ""
        return f"fast context: there are no text files below {root}{why}"
    count = plural(added, "file")
    if left:
        count = f"{added:,} of {plural(added + left, 'file')}"
    more = f"; {cut:,} shortened" if cut else ""
    if str(skipped):
        more += f"; skipped: {skipped}"
    return f"fast context: {count} below {root} added before the prompt ({kilobytes(size)}){more}"
