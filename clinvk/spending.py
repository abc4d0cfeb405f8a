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

    def is_spent(self) -> bool:
        """Whether a cap is reached."""
        return self._is_above(0, reached=True)

    def would_break(self, more: int) -> bool:
        """Whether a cap would be exceeded, if so many more take what the others took."""
        return self.is_spent() or self._is_above(more, reached=False)

    def _is_above(self, more: int, *, reached: bool) -> bool:
        times = 1 + (more / self._spenders if self._spenders else 0.0)
        pairs = ((self.budget.cost, self._cost), (self.budget.tokens, self._tokens))
        return any(
            cap is not None and (taken * times > cap or (reached and taken >= cap))
            for cap, taken in pairs
        )

    def text(self) -> str:
        """Why the run ends: a cap is reached, or would be with one task more."""
        n = self._spenders or 1
        cost, tokens = self.budget.cost, self.budget.tokens
        if cost is not None and self._cost * (1 + 1 / n) > cost:
            return _told(
                f"${self._cost:.4f} of ${cost:.4f}", f"${self._cost / n:.4f}", self._cost >= cost
            )
        cap = tokens or 0
        each = f"{self._tokens / n:,.0f}"
        return _told(f"{self._tokens:,} of {cap:,} tokens", each, self._tokens >= cap)

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


def _told(taken: str, each: str, is_spent: bool) -> str:
    if is_spent:
        return f"the budget is spent: {taken}"
    return f"the budget is nearly spent: {taken}, and a task takes about {each}"
