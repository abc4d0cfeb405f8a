"""What a run has taken, and whether that is all that it may."""

from __future__ import annotations

from collections.abc import Iterable

from clinvk.messages import Result
from clinvk.outcome import Outcome
from clinvk.plan import Budget


class Spending:
    """Adds up what turns say that they took, against a budget. `outcomes` are what was there
    before."""

    def __init__(self, budget: Budget, outcomes: Iterable[Outcome]) -> None:
        self.budget = budget
        outcomes = list(outcomes)
        self._cost = sum(o.cost or 0.0 for o in outcomes)
        self._tokens = sum(o.usage.total for o in outcomes if o.usage)
        self._spenders = sum(o.usage is not None for o in outcomes)
        self._untold: set[tuple[str, str]] = set()

    def add(self, result: Result) -> str | None:
        """Count a turn; what to tell, once for a backend, where it does not say what it took."""
        self._cost += result.cost or 0.0
        if result.usage is not None:
            self._tokens += result.usage.total
            self._spenders += 1
        return self._missing(result)

    def is_spent(self, running: int = 0) -> bool:
        """Whether a cap is reached; or would be, if so many that are running take what others
        took."""
        each = running / self._spenders if self._spenders else 0.0
        cost, tokens = self.budget.cost, self.budget.tokens
        return (cost is not None and self._cost * (1 + each) >= cost) or (
            tokens is not None and self._tokens * (1 + each) >= tokens
        )

    def text(self) -> str:
        """Why the run ends."""
        cost = self.budget.cost
        if cost is not None and self._cost >= cost:
            return f"the budget is spent: ${self._cost:.4f} of ${cost:.4f}"
        return f"the budget is spent: {self._tokens:,} of {self.budget.tokens:,} tokens"

    def _missing(self, result: Result) -> str | None:
        if not result.ok:  # what did not come to its end often says nothing
            return None
        pairs = (
            ("cost", self.budget.cost, result.cost),
            ("tokens", self.budget.tokens, result.usage),
        )
        for what, cap, taken in pairs:
            if cap is not None and taken is None and (result.backend, what) not in self._untold:
                self._untold.add((result.backend, what))
                return f"{result.backend} does not say its {what}: they do not count for the budget"
        return None
