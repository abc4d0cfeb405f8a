"""What a run has used, and whether its budget is spent."""

from __future__ import annotations

from collections.abc import Iterable

from clinvk.model.outcome import Outcome
from clinvk.model.plan import Budget
from clinvk.model.result import Result


class BudgetCap:
    """A cap on one quantity in a run. A turn that does not report it is not counted."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.taken = 0.0
        self._turns = 0  # that reported it

    def add(self, amount: float, turns: int = 1) -> None:
        self.taken += amount
        self._turns += turns

    @property
    def average(self) -> float:
        """The average of a turn."""
        return self.taken / self._turns if self._turns else 0.0

    @property
    def left(self) -> float | None:
        """None without a cap."""
        return None if self.limit is None else self.limit - self.taken

    @property
    def is_reached(self) -> bool:
        return self.limit is not None and self.taken >= self.limit

    def would_exceed(self, more: int) -> bool:
        """Whether so many more average turns would exceed the cap."""
        return self.limit is not None and self.taken + more * self.average > self.limit


class BudgetTracker:
    """Adds up the reported usage of turns against a budget. `outcomes` are the earlier ones."""

    def __init__(self, budget: Budget, outcomes: Iterable[Outcome]) -> None:
        self.cost = BudgetCap(budget.cost)
        self.tokens = BudgetCap(budget.tokens)
        self._unreported: set[tuple[str, str]] = set()
        for o in outcomes:
            if o.cost is not None:
                self.cost.add(o.cost, o.attempts)
            if o.usage is not None:
                self.tokens.add(o.usage.counted, o.attempts)

    def add(self, result: Result) -> str | None:
        """Count a turn. Returns a notice, once per backend, if it does not report its usage."""
        if result.cost is not None:
            self.cost.add(result.cost)
        if result.usage is not None:
            self.tokens.add(result.usage.counted)
        if not result.ok:  # an incomplete turn often reports nothing
            return None
        pairs = (
            ("cost", self.cost, result.cost),
            ("tokens", self.tokens, result.usage and result.usage.total),
        )
        for what, cap, taken in pairs:
            key = (result.backend, what)
            if cap.limit is not None and taken is None and key not in self._unreported:
                self._unreported.add(key)
                return f"{result.backend} does not report its {what}, which are not counted against the budget"
        return None

    def is_spent(self) -> bool:
        """Whether a cap is reached."""
        return self.cost.is_reached or self.tokens.is_reached

    def would_exceed(self, more: int) -> bool:
        """Whether a cap is reached, or would be exceeded by so many more turns."""
        return self.is_spent() or self.cost.would_exceed(more) or self.tokens.would_exceed(more)

    def end_reason(self) -> str:
        """Why the run stops: a cap is reached, or would be exceeded by one more turn."""
        cost, tokens = self.cost, self.tokens
        of_cost = cost.is_reached or (cost.would_exceed(1) and not tokens.is_reached)
        cap = cost if of_cost else tokens
        if of_cost:
            taken, each = f"${cost.taken:.4f} of ${cost.limit or 0:.4f}", f"${cost.average:.4f}"
        else:
            taken = f"{tokens.taken:,.0f} of {tokens.limit or 0:,} tokens"
            each = f"{tokens.average:,.0f}"
        if cap.is_reached:
            return f"the budget is spent: {taken}"
        return f"the budget is nearly spent: {taken}, and a task uses about {each}"
