"""What git ignores below a directory, by the `.gitignore` files on the way to each file."""

from __future__ import annotations

import os
from pathlib import Path

from pathspec import GitIgnoreSpec

from clinvk.disk.reading import read_file

FILE = ".gitignore"
LARGEST = 1_000_000  # bytes of such a file
MAX_STARS = 4  # in one name of a rule


class IgnoreRules:
    """The rules of a directory, and of those above it in the repository. An inner rule overrides
    an outer one."""

    def __init__(self, rules: tuple[tuple[str, GitIgnoreSpec], ...] = ()) -> None:
        self._rules = rules  # with the directory of each file, the outermost first

    @classmethod
    def above(cls, directory: str) -> IgnoreRules:
        """The rules that apply in the directory because of those above it, up to the repository's
        root."""
        parents = [Path(directory), *Path(directory).parents]
        top = next((i for i, path in enumerate(parents) if os.path.lexists(path / ".git")), None)
        rules = cls()
        if top is None:
            return rules
        rules = rules._with_file(str(parents[top]), os.path.join(parents[top], ".git/info/exclude"))
        for path in reversed(parents[1 : top + 1]):
            rules = rules.inside(str(path))
        return rules

    def inside(self, directory: str) -> IgnoreRules:
        """These rules, and those of a directory in which they apply."""
        return self._with_file(directory, os.path.join(directory, FILE))

    def ignores(self, path: str, *, is_directory: bool) -> bool:
        """Whether git ignores a path below the directory."""
        for directory, spec in reversed(self._rules):
            inner = path[len(directory) :].lstrip("/") + ("/" if is_directory else "")
            decision = spec.check_file(inner).include
            if decision is not None:
                return decision
        return False

    def _with_file(self, directory: str, path: str) -> IgnoreRules:
        try:
            lines = read_file(path, limit=LARGEST).decode("utf-8", "replace").splitlines()
        except OSError:
            return self
        spec = _parse(lines)
        return IgnoreRules((*self._rules, (directory, spec))) if spec else self


def _parse(lines: list[str]) -> GitIgnoreSpec | None:
    """The rules of these lines, without the invalid ones, as git reads them."""
    valid = []
    for line in map(_limit_stars, lines):
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:
            continue
        valid.append(line)
    return GitIgnoreSpec.from_lines(valid) if any(map(str.strip, valid)) else None


def _limit_stars(line: str) -> str:
    """The rule, with names of many stars simplified: matching them can take forever."""
    return "/".join(
        f"{name[: name.index('*')]}*{name[name.rindex('*') + 1 :]}"
        if name.count("*") > MAX_STARS
        else name
        for name in line.split("/")
    )
