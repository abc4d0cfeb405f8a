"""Which candidate for one prompt is best, and by what."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, to_builtins

from clinvk.text.sanitize import one_line


class Candidate(Struct, frozen=True, kw_only=True):
    """A candidate, and what it is judged by."""

    index: int
    name: str
    problem: str | None = None  # why it cannot win
    check: str | None = None  # the state of its check; None without one
    score: float | None = None
    files: int = 0
    lines: int = 0  # added and removed

    @property
    def description(self) -> str:
        """`check passed, score 9, 3 lines in 1 file`, or why it cannot win."""
        if self.problem is not None:
            return one_line(self.problem)
        lines = f"{self.lines:,} line{'s' * (self.lines != 1)}"
        files = f"{self.files:,} file{'s' * (self.files != 1)}"
        parts = [f"check {self.check}"] if self.check else []
        parts += [f"score {self.score:g}"] if self.score is not None else []
        return ", ".join([*parts, f"{lines} in {files}"])


class Ranking(Struct, frozen=True, kw_only=True):
    """The candidates, best first. `decided_by` is the criterion by which the first one is better than
    the second: check, score, diff or judge; None if nothing distinguishes them, or none can win."""

    candidates: tuple[Candidate, ...]
    best: str | None = None
    decided_by: str | None = None
    summary: str = ""

    @property
    def winner(self) -> int | None:
        """The position of the best one in the plan; None if none can win."""
        return self.candidates[0].index if self.best is not None else None

    def is_better_score(self, earlier: Ranking, *, lowest_wins: bool) -> bool:
        """Whether the best candidate has a better score than that of an earlier ranking had."""
        now, before = (r.candidates[0].score if r.candidates else None for r in (self, earlier))
        if now is None or before is None:
            return False
        return now < before if lowest_wins else now > before

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = to_builtins(self)
        return data
