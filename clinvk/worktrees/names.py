"""What a task's worktree and the commits of its attempts are called.

    ~/.clinvk/worktrees/RUN/SLUG            the worktree; RUN/SLUG.json says how far it is
    refs/clinvk/RUN/SLUG/ATTEMPT            the result of an attempt, in the repository
    refs/clinvk/RUN/SLUG/0                  what was uncommitted when the run started (dirty: include)
    refs/clinvk/RUN/SLUG/COMMIT             in a submodule: its part of a result
    refs/clinvk-nested/RUN/SLUG/COMMIT      the commit of a repository that was inside the worktree

A slug is the key of a task as git allows it in a ref. In a chain, all steps share the worktree
`chain`, and each has the slug of its own key for its commits. The steps after one with candidates
share `chain.2`, which begins with what was chosen, and so on; no slug ends like that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

REFS = "refs/clinvk/"
NESTED_REFS = "refs/clinvk-nested/"
SHARED = "chain"  # the worktree of a chain


def shared_directory(part: int) -> str:
    """The worktree of the steps after the `part`th one with candidates, from 0."""
    return f"{SHARED}.{part + 1}" if part else SHARED


def is_shared(directory: str) -> bool:
    return directory == SHARED or directory.startswith(f"{SHARED}.")


def slugs(keys: Iterable[str]) -> list[str]:
    """A slug for each key: valid in a ref, and unique whatever the case."""
    taken: set[str] = set()
    found = []
    for key in keys:
        base = re.sub(r"\.{2,}", "-", key).strip(".-") or "task"
        base = re.sub(r"\.lock$", "-lock", base, flags=re.IGNORECASE)
        slug, number = base, 1
        while slug.lower() in taken:
            number += 1
            slug = f"{base}-{number}"
        taken.add(slug.lower())
        found.append(slug)
    return found


def refs_of_run(run: str) -> str:
    """The beginning of all refs of a run."""
    return f"{REFS}{run}/"


def refs_of_task(run: str, slug: str) -> str:
    return f"{REFS}{run}/{slug}/"


def ref_of(run: str, slug: str, attempt: int) -> str:
    return f"{REFS}{run}/{slug}/{attempt}"


def folder_of(home: Path) -> Path:
    return home / "worktrees"


def folder_of_run(home: Path, run: str) -> Path:
    return home / "worktrees" / run


def path_of(home: Path, run: str, directory: str) -> Path:
    """The worktree of a task; `directory` is recorded in the plan."""
    return home / "worktrees" / run / directory


def caches_of(home: Path) -> Path:
    """The repositories of a worker of a cluster: copies of remotes."""
    return home / "cluster" / "git"
