"""The text files below a directory, without those that git ignores and those that hold secrets."""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from clinvk.disk.reading import directory_problem, open_regular
from clinvk.errors import UsageError
from clinvk.knowledge.ignored import IgnoreRules
from clinvk.knowledge.part import plural
from clinvk.knowledge.secret_files import is_secret_directory, is_secret_file
from clinvk.text.redact import redact

MAX_ENTRIES = 200_000  # of directories that are looked at
PROBE = 8192  # bytes, in which a binary file has a NUL
PSEUDO = ("/proc", "/sys")  # their files have no end, or are not files
VERSION_CONTROL = frozenset({".git", ".hg", ".svn", ".jj"})
GENERATED = frozenset({"node_modules", "__pycache__"})  # also if no rule ignores them
MARKERS = ("CACHEDIR.TAG", "pyvenv.cfg")  # in a directory that programs have made

LINK, SPECIAL, SECRET = "symbolic link", "special file", "possible secret"
BINARY, UNREADABLE = "binary file", "unreadable file"


class FoundFile(Struct, frozen=True):
    path: str  # absolute
    name: str  # relative to the root
    size: int
    mtime: int  # ns


class Skipped:
    """How many files were left out, by the reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.is_cut = False  # there are more files than are looked at

    def add(self, reason: str) -> None:
        self.counts[reason] += 1

    def __str__(self) -> str:
        parts = [plural(count, reason) for reason, count in sorted(self.counts.items())]
        parts += [f"everything after {MAX_ENTRIES:,} files"] if self.is_cut else []
        return ", ".join(parts)


def check_root(path: str, flag: str) -> str:
    """The real path of a directory that may be read as a whole. Raises `UsageError`."""
    real = os.path.realpath(path)
    if problem := directory_problem(path):
        raise UsageError(f"{flag}: {path}: {problem}", "name a directory")
    if real == "/" or f"{real}/".startswith(tuple(f"{name}/" for name in PSEUDO)):
        raise UsageError(
            f"{flag}: {path}: it holds the files of the whole system"
            if real == "/"
            else f"{flag}: {path}: its files are no documents",
            "name the directory of a project",
        )
    return real


def find_files(root: str, skipped: Skipped) -> Iterator[FoundFile]:
    """The files below a directory (a real path), those of upper directories first, by name. Links
    are not followed. What cannot be read is skipped."""
    above = IgnoreRules.above(root)
    if above.ignores(root, is_directory=True):  # the user has named it all the same
        above = IgnoreRules()
    pending = deque([(root, above)])
    seen = 0
    while pending:
        folder, outer = pending.popleft()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            skipped.add(UNREADABLE)
            continue
        names = {entry.name for entry in entries}
        if folder != root and names.intersection(MARKERS):
            continue
        rules = outer.inside(folder)
        for entry in entries:
            seen += 1
            if seen > MAX_ENTRIES:
                skipped.is_cut = True
                return
            with suppress(OSError):  # it has just been deleted
                if entry.is_dir(follow_symlinks=False):
                    if not _is_left_out(entry, rules):
                        pending.append((entry.path, rules))
                elif found := _examine(entry, root, rules, skipped):
                    yield found


def _is_left_out(entry: os.DirEntry[str], rules: IgnoreRules) -> bool:
    name = entry.name
    if name in VERSION_CONTROL or name in GENERATED or is_secret_directory(name):
        return True
    return rules.ignores(entry.path, is_directory=True)


def _examine(
    entry: os.DirEntry[str], root: str, rules: IgnoreRules, skipped: Skipped
) -> FoundFile | None:
    if entry.is_symlink():
        skipped.add(LINK)
        return None
    if rules.ignores(entry.path, is_directory=False):
        return None
    found = entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        skipped.add(SPECIAL)
        return None
    if is_secret_file(entry.name):
        skipped.add(SECRET)
        return None
    name = entry.path[len(root) :].lstrip("/")
    return FoundFile(entry.path, name, found.st_size, found.st_mtime_ns)


def read_text(path: str | Path, limit: int, skipped: Skipped) -> tuple[str, bool] | None:
    """The beginning of a text file, at most `limit` bytes, without what looks like a key, and
    whether that is all of it. None for a file that is binary, or cannot be read any more."""
    try:
        with open_regular(path, follow=False) as file:
            data = _read(file.read, limit + 1)
    except OSError:
        skipped.add(UNREADABLE)
        return None
    is_whole = len(data) <= limit
    text = None if b"\0" in data[:PROBE] else _decode(data[:limit], is_whole=is_whole)
    if text is None or "\0" in text:
        skipped.add(BINARY)
        return None
    return redact(text), is_whole


def _read(read: Callable[[int], bytes | None], size: int) -> bytes:
    """Up to `size` bytes: less at the end, or if the file does not answer."""
    pieces: list[bytes] = []
    while size > 0 and (piece := read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _decode(data: bytes, *, is_whole: bool) -> str | None:
    """The text, without a character that is cut at the end; None if it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if is_whole or error.start < len(data) - 3:
            return None
        return data[: error.start].decode("utf-8-sig")
