"""The files of a git repository as trees, by which two moments are compared.

Neither the user's index nor the repository's objects are touched: both have private copies, which
are deleted with this process. What git ignores is left out."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from clinvk.errors import UsageError
from clinvk.worktrees.git import Git, GitError, decode

MAX_FILE = 5 * 1024 * 1024  # bytes of a file that git does not know yet; larger ones are left out
MAX_FILES = 20_000  # of those


class Trees:
    """Trees of the repository that contains a directory. Calls must not overlap."""

    def __init__(self, directory: str, env: Mapping[str, str]) -> None:
        """Raises `UsageError` outside of a working tree, and `ClinvkError`."""
        git = Git.at(directory, env)
        try:
            self.top = decode(git.run("rev-parse", "--show-toplevel").stdout).removesuffix("\n")
            objects = git.text("rev-parse", "--path-format=absolute", "--git-path", "objects")
            index = git.text("rev-parse", "--path-format=absolute", "--git-path", "index")
        except GitError as error:
            raise UsageError(
                f"{directory} is not in a git repository, so what a turn changes is not recorded",
                "to record it: git init",
            ) from error
        self._git, self._directory = Git.at(self.top, env), directory
        self._place = tempfile.TemporaryDirectory(
            prefix="clinvk-trees-", ignore_cleanup_errors=True
        )
        self._index = Path(self._place.name) / "index"
        with suppress(FileNotFoundError):  # nothing was added yet
            shutil.copyfile(index, self._index)  # what git knows of the files makes this fast
        own = os.path.join(self._place.name, "objects")
        os.mkdir(own)
        self._env = {"GIT_OBJECT_DIRECTORY": own, "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects}

    def take(self) -> str:
        """The tree of now. Raises `ClinvkError`."""
        self._run("add", "--update", "--", ".")
        if others := b"".join(os.fsencode(name) + b"\0" for name in self._untracked()):
            self._run("update-index", "--add", "-z", "--stdin", data=others)
        return decode(self._run("write-tree")).strip()

    def diff(self, before: str, after: str, *options: str, paths: tuple[str, ...] = ()) -> str:
        """What `git diff` prints about two trees; `paths` are as seen from the directory. Raises
        `ClinvkError`."""
        within = (os.path.relpath(os.path.join(self._directory, path), self.top) for path in paths)
        specs = (f":(top,literal){path}" for path in within)
        words = ("--no-ext-diff", "--find-renames", *options, before, after, "--", *specs)
        return self._run("diff", *words).decode("utf-8", "replace")

    def seen_from_directory(self, path: str) -> str:
        """A path of the repository, as seen from the directory."""
        return os.path.relpath(os.path.join(self.top, path), self._directory)

    def close(self) -> None:
        self._place.cleanup()

    def _untracked(self) -> Iterator[str]:
        listed = decode(self._run("ls-files", "--others", "--exclude-standard", "-z"))
        for name in listed.split("\0")[:MAX_FILES]:
            if name and not name.endswith("/"):  # that is a repository of its own
                with suppress(OSError):  # it is gone
                    if os.lstat(os.path.join(self.top, name)).st_size <= MAX_FILE:
                        yield name

    def _run(self, *words: str, data: bytes | None = None) -> bytes:
        return self._git.run(*words, data=data, index=self._index, env=self._env).stdout
