"""Copies ignored files of the user's checkout into a worktree, such as `.env`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from clinvk.errors import ClinvkError
from clinvk.worktrees.git import Git, decode

INCLUDE_FILE = ".worktreeinclude"  # patterns, as in .gitignore


def copy_ignored(
    root: Path, worktree: Path, patterns: Iterable[str], env: Mapping[str, str]
) -> int:
    """Copy the ignored files that match the patterns, or those in `.worktreeinclude`; return their
    number. Files that git tracks are in the worktree already, and others are no part of it. Raises
    `ClinvkError`."""
    wanted = list(patterns)
    with suppress(OSError):
        wanted.append((root / INCLUDE_FILE).read_text("utf-8", "surrogateescape"))
    if not any(
        line.strip() and not line.startswith("#") for text in wanted for line in text.splitlines()
    ):
        return 0
    git = Git.at(root, env)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write("\n".join(wanted) + "\n")
        file.flush()
        words = ("ls-files", "-z", "--others", "--ignored", f"--exclude-from={file.name}")
        matching = git.run(*words).stdout
    if not matching:
        return 0
    ignored = git.run("check-ignore", "-z", "--stdin", data=matching, ok=(0, 1)).stdout
    count = 0
    for name in filter(None, decode(ignored).split("\0")):
        count += _copy(root / name, worktree / name, worktree)
    return count


def _copy(source: Path, target: Path, worktree: Path) -> bool:
    # A directory of the commit may be a link that leaves the worktree.
    if not Path(os.path.realpath(target.parent)).is_relative_to(os.path.realpath(worktree)):
        return False
    if os.path.lexists(target) or not (source.is_file() or source.is_symlink()):
        return False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    except OSError as error:
        raise ClinvkError(
            f"cannot copy {source} into the worktree: {error.strerror}",
            "make it readable, or leave it out of `copy` and .worktreeinclude",
        ) from error
    return True
