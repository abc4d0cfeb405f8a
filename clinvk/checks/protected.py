"""Protected files: what they are before a turn, and which of them differ after it. This does not
depend on git, so that it also holds for files that git ignores, and outside of repositories."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

CHUNK_SIZE = 1024 * 1024
MAX_HASHED = 256 * 1024 * 1024  # bytes: of a larger file, size and time are compared
SHOWN = 10  # files in a message

Snapshot = Mapping[str, str]  # of a path below the directory: what the file is


def take_snapshot(
    folder: Path, patterns: Sequence[str], *, refuse: Callable[[str, str], None] = lambda *_: None
) -> dict[str, str]:
    """What the files are that match any of the patterns, by their paths below the directory. A link to
    a directory that a pattern names stands for what is in that, if it is in the same repository;
    otherwise `refuse` is called with the link and what it points to."""
    found: dict[str, str] = {}
    for path in _matching_files(os.fspath(folder), patterns, refuse):
        found[path] = _state_of(os.path.join(folder, path))
    return found


def changed_files(before: Snapshot, after: Snapshot) -> list[str]:
    """The files that differ, and how: `tests/a.py (removed)`."""
    said = []
    for path in sorted({*before, *after}):
        if path not in after:
            said.append(f"{shown(path)} (removed)")
        elif path not in before:
            said.append(f"{shown(path)} (added)")
        elif before[path] != after[path]:
            said.append(f"{shown(path)} (changed)")
    return said


def describe_changed(files: Sequence[str]) -> str:
    """A message about protected files that were changed."""
    more = len(files) - SHOWN
    rest = f" and {more:,} more" if more > 0 else ""
    return f"protected files were changed: {', '.join(files[:SHOWN])}{rest}"


def unmatched(snapshot: Snapshot, patterns: Sequence[str]) -> list[str]:
    """The patterns that match none of the files: one may be misspelled."""
    return [p for p in patterns if not any(_expression(p).match(path) for path in snapshot)]


def shown(path: str) -> str:
    """The path as valid text: a name may have any bytes."""
    return os.fsencode(path).decode("utf-8", "replace")


def _matching_files(
    folder: str, patterns: Sequence[str], refuse: Callable[[str, str], None]
) -> Iterator[str]:
    matches = [_expression(pattern).match for pattern in patterns]
    starts = _starting_points(patterns)
    pending = [start for start in starts if os.path.lexists(os.path.join(folder, start))]
    paths = {"/".join(_parts(pattern)) for pattern in patterns} | set(starts)
    names = {pattern.rstrip("/") for pattern in patterns if "/" not in pattern.rstrip("/")}

    def is_named(path: str) -> bool:
        return path in paths or os.path.basename(path) in names

    seen: set[str] = set()
    while pending:
        at = pending.pop()
        where = os.path.join(folder, at) if at else folder
        if at and not _is_real_folder(where):
            is_followed = is_named(at) and _is_followed(folder, at, refuse)
            if at not in seen and (is_followed or any(match(at) for match in matches)):
                seen.add(at)
                yield at
            if not is_followed:
                continue
        try:
            entries = list(os.scandir(where))
        except OSError:
            continue
        for entry in entries:
            path = f"{at}/{entry.name}" if at else entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name != ".git" or _may_be_in_git(patterns):
                    pending.append(path)
            elif is_named(path) and entry.is_symlink() and entry.is_dir():
                pending.append(path)
            elif path not in seen and any(match(path) for match in matches):
                seen.add(path)
                yield path


def _is_followed(folder: str, path: str, refuse: Callable[[str, str], None]) -> bool:
    """Whether it is a link to a directory of the same repository, which does not contain the link."""
    link = os.path.join(folder, path)
    if not os.path.isdir(link):
        return False
    target, place = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    if not _is_within(target, _root_of(folder)):
        refuse(path, target)
        return False
    return not _is_within(place, target)


def _root_of(folder: str) -> str:
    """The root of the repository that contains a directory; the directory itself if there is none."""
    start = at = os.path.realpath(folder)
    while not os.path.lexists(os.path.join(at, ".git")):
        if at == os.path.dirname(at):
            return start
        at = os.path.dirname(at)
    return at


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _starting_points(patterns: Iterable[str]) -> list[str]:
    """The directories to search: that of a pattern up to its first part with a wildcard."""
    starts = set()
    for pattern in patterns:
        parts = _parts(pattern)
        if len(parts) == 1 and "/" not in pattern.rstrip("/"):
            return [""]  # at any depth
        fixed = []
        for part in parts:
            if re.search(r"[*?\[]", part):
                break
            fixed.append(part)
        starts.add("/".join(fixed))
    if "" in starts:
        return [""]
    return sorted(starts)


def _parts(pattern: str) -> list[str]:
    return [part for part in pattern.split("/") if part not in ("", ".")]


def _may_be_in_git(patterns: Iterable[str]) -> bool:
    """Whether a pattern names the files of git itself, which change all the time otherwise."""
    return any(".git" in _parts(pattern) for pattern in patterns)


@lru_cache(maxsize=256)
def _expression(pattern: str) -> re.Pattern[str]:
    """As in .gitignore: `*` and `?` match no slash, `**` any number of directories; a pattern
    without a slash matches at any depth, and one that matches a directory all that is in it."""
    parts = _parts(pattern)
    anchored = "/" in pattern.rstrip("/")
    text = "" if anchored else r"(?:.*/)?"
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        if part == "**":
            text += ".*" if is_last else r"(?:.*/)?"
        else:
            text += _part_expression(part) + ("" if is_last else "/")
    return re.compile(rf"{text}(?:/.*)?\Z", re.DOTALL)


def _part_expression(part: str) -> str:
    """The expression of one part of a path."""
    text, at = "", 0
    while at < len(part):
        character = part[at]
        at += 1
        if character == "*":
            text += "[^/]*"
        elif character == "?":
            text += "[^/]"
        elif character == "[" and (end := part.find("]", at + 1)) > 0:
            within = part[at:end].replace("\\", "\\\\").replace("[", "\\[")
            negated = within[:1] in ("!", "^")
            text += f"[{'^/' if negated else ''}{within[negated:]}]"
            at = end + 1
        else:
            text += re.escape(character)
    return text


def _is_real_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _state_of(path: str) -> str:
    """What a file is: its kind, permissions and content. A link is its target and, if that is a
    file, what is in it."""
    try:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            return f"link {os.readlink(path)!r} {_content(path)}"
        if not stat.S_ISREG(found.st_mode):
            return f"special {stat.filemode(found.st_mode)}"
        return f"{stat.filemode(found.st_mode)} {_content(path)}"
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _content(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        return f"unreadable: {error.strerror}"
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return "not a file"
        if found.st_size > MAX_HASHED:
            return f"{found.st_size} {found.st_mtime_ns}"
        digest = hashlib.blake2b(digest_size=20)
        while piece := os.read(fd, CHUNK_SIZE):
            digest.update(piece)
        return digest.hexdigest()
    except OSError as error:
        return f"unreadable: {error.strerror}"
    finally:
        os.close(fd)
