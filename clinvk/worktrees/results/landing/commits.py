"""The commits that are made while results are applied, so that a crash undoes them and no others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clinvk.worktrees.git import Git


class MadeCommits:
    """Their names, in a file of the directory `area`; and how to recognize the next one."""

    def __init__(self, area: Path) -> None:
        self.area = area

    def announce(self, parent: str, date: str) -> None:
        """Record how to recognize the next commit, before it is made. `date` is its committer's
        time, in seconds since 1970."""
        self._append("announced", f"{parent} {date}")

    def note(self, commit: str) -> None:
        """Record that a commit was made."""
        self._append("commits", commit)

    def made(self) -> list[str]:
        """The commits that were recorded, in their order."""
        return self._lines("commits")

    def is_announced(self, git: Git, commit: str, parents: Sequence[str]) -> bool:
        """Whether it is the commit that was being made, on one of these parents. A hook may have
        amended it."""
        announced = self._lines("announced")
        said = git.text("show", "-s", "--format=%P %ct", commit)
        return bool(announced) and said == announced[-1] and said.split(" ")[0] in parents

    def _append(self, name: str, line: str) -> None:
        with (self.area / name).open("a") as file:
            file.write(f"{line}\n")

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.area / name).read_text().splitlines()
        except FileNotFoundError:
            return []
