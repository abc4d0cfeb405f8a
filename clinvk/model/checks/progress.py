"""How far the turns and checks of a task have got: what a later attempt continues from."""

from __future__ import annotations

from msgspec import Struct

from clinvk.model.checks.check import CheckResult
from clinvk.model.result import Result


class CheckProgress(Struct, frozen=True, kw_only=True):
    """The last turn of a task that succeeded, and its check. Without a turn, only what its files
    were before is known."""

    round: int = 0  # of that turn
    result: Result | None = None  # of that turn
    check: CheckResult | None = None  # None: it has not ended
    failures: tuple[str, ...] = ()  # the keys of all failures so far
    changed: bool = False  # whether any turn changed a file
    in_round: bool = False  # the turn after that check has begun

    @property
    def is_between_turns(self) -> bool:
        """Whether it can be continued without repeating a turn."""
        return self.result is not None and not self.in_round
