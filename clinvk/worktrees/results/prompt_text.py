"""What a task changed, as a part of the prompt of another one."""

from __future__ import annotations

from collections.abc import Mapping

from clinvk.model.result import WorktreeResult
from clinvk.worktrees.git import Git, GitError

MAX_DIFF = 200_000  # characters


def diff_text(repository: str, result: WorktreeResult, env: Mapping[str, str]) -> str:
    """The patch; of a binary file, only that it differs. Empty if nothing was changed, or if the
    repository no longer has it."""
    words = ("diff-tree", "-r", "-M", "-p", "--end-of-options", result.base, result.commit)
    try:
        text = Git.at(repository, env).run(*words).stdout.decode("utf-8", "replace")
    except GitError:
        return ""
    if len(text) <= MAX_DIFF:
        return text
    return f"{text[:MAX_DIFF]}\n[… {len(text) - MAX_DIFF:,} more characters]\n"
