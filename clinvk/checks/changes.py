"""Whether files in a directory have changed, compared with an earlier moment. In a repository, git
says which files to look at: those that it ignores do not count."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import anyio

from clinvk.process.threads import in_thread

MAX_FILES = 200_000  # outside of a repository; with more, every turn counts as one with changes
# Variables by which a hook of git names its own repository.
OF_GIT = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY",
           "GIT_COMMON_DIR", "GIT_ALTERNATE_OBJECT_DIRECTORIES")  # fmt: skip
STATUS = ("status", "--porcelain=v2", "--branch", "--untracked-files=all", "-z")


class ChangeDetector:
    """Looks at a directory again and again. `state` is different if a file has changed."""

    def __init__(self, folder: Path, env: Mapping[str, str], without: Path | None = None) -> None:
        """`without` is a directory whose files do not count: clinvk's own, unless it is in there."""
        self.folder = folder
        self._env = {k: v for k, v in env.items() if k not in OF_GIT}
        self._env |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
        own = os.path.realpath(without) if without else None
        self._without = None if own and _is_below(os.path.realpath(folder), own) else own
        self._uses_git: bool | None = None
        self._root: str | None = None

    async def state(self) -> str | None:
        """What the directory is now; None if that cannot be known."""
        if self._uses_git is None:
            self._uses_git = await self._is_in_repository()
        if self._uses_git:
            status = await self._git(*STATUS)
            if status is not None:
                return await in_thread(lambda: self._of_status(status))
        return await in_thread(self._of_all_files)

    async def _is_in_repository(self) -> bool:
        """Whether the directory belongs to a repository that does not ignore it."""
        if not _has_repository(self.folder):
            return False
        root = await self._git("rev-parse", "--show-toplevel")
        if root is None:
            return False
        self._root = os.fsdecode(root.rstrip(b"\n"))
        return await self._git("check-ignore", "-q", "--", ".") is None

    async def _git(self, *words: str) -> bytes | None:
        """The output of git; None if it fails or is not installed."""
        try:
            done = await anyio.run_process(
                ["git", "-C", os.fspath(self.folder), *words],
                env=self._env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        except OSError:
            return None
        return done.stdout if done.returncode == 0 else None

    def _of_status(self, status: bytes) -> str:
        digest = hashlib.blake2b(digest_size=16)
        root = self._root or os.fspath(self.folder)
        for entry in filter(None, status.split(b"\0")):
            if entry.startswith(
                (b"# branch.head", b"# branch.upstream", b"# branch.ab", b"# stash")
            ):
                continue
            path = os.path.join(root, os.fsdecode(_path_in(entry)))
            if self._is_own(path):
                continue
            digest.update(entry + b"\0")
            if not entry.startswith(b"#"):
                digest.update(_stat_of(path))
        return digest.hexdigest()

    def _of_all_files(self) -> str | None:
        digest = hashlib.blake2b(digest_size=16)
        for count, path in enumerate(_files_below(os.fspath(self.folder), self._is_own)):
            if count >= MAX_FILES:
                return None
            digest.update(os.fsencode(path) + b"\0" + _stat_of(path))
        return digest.hexdigest()

    def _is_own(self, path: str) -> bool:
        return self._without is not None and _is_below(path, self._without)


def _has_repository(folder: Path) -> bool:
    """Whether the directory or one above it has a `.git`."""
    return any(os.path.lexists(parent / ".git") for parent in (folder, *folder.parents))


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _path_in(entry: bytes) -> bytes:
    """The path in an entry of `git status --porcelain=v2 -z`."""
    # The number of fields before the path, by the kind of the entry.
    before = {b"1": 8, b"2": 9, b"u": 10, b"?": 1, b"!": 1}.get(entry[:1])
    return entry if before is None else entry.split(b" ", before)[-1]


def _stat_of(path: str) -> bytes:
    try:
        found = os.lstat(path)
    except OSError:
        return b"gone"
    about = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_mode)
    return b" ".join(str(number).encode() for number in about)


def _files_below(folder: str, is_own: Callable[[str], bool]) -> Iterator[str]:
    """All files, in order, without those of git."""
    pending = [folder]
    while pending:
        try:
            entries = sorted(os.scandir(pending.pop()), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield entry.path
            elif entry.name != ".git" and not is_own(entry.path):
                pending.append(entry.path)
