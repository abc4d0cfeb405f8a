"""The share of a turn in usage and cost, of which CLIs report sums of different kinds."""

from __future__ import annotations

from typing import Any

from clinvk.backend.output.field_values import to_usage
from clinvk.model.usage import Usage, sum_costs, to_cost


class Steps:
    """The sums of what several lines report."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.costs: list[float | None] = []

    def add_usage(self, share: Any) -> None:
        if usage := to_usage(share):
            self.usage += usage

    def add_cost(self, share: Any) -> None:
        self.costs.append(to_cost(share))


class Sums:
    """What a run of a CLI has counted so far, of which each result gets its share."""

    def __init__(self, *, is_first_turn: bool, begins: bool, previous_totals: Any = None) -> None:
        """`begins`: the CLI begins to add up with this run. `previous_totals` are its totals after
        the last turn."""
        self.is_first_turn = is_first_turn
        self._begins = begins
        self.previous_totals = previous_totals or {}
        self.totals: dict[str, Any] = {}
        self.steps = Steps()  # since the last event that reported success or failure
        self._counted_usage = Usage()  # of the results so far
        self._counted_cost = 0.0

    def share(
        self, usage: Any, cost: Any, extras: dict[str, Any]
    ) -> tuple[Usage | None, float | None]:
        """The usage and cost since the last result: what it says itself, in `usage` and `cost` or in
        the fields of `extras`, otherwise the sum of the steps."""
        own_usage, own_cost = self._usage(usage, extras), self._cost(cost, extras)
        steps, self.steps = self.steps, Steps()
        return (
            own_usage or (None if steps.usage.is_unknown else steps.usage),
            sum_costs(steps.costs) if own_cost is None else own_cost,
        )

    def _usage(self, own: Any, extras: dict[str, Any]) -> Usage | None:
        usage = self._own_usage(own, extras["usage_first"])
        if usage is None and isinstance(extras["usage_total"], dict):
            usage = self._share_of_total(Usage.from_json(extras["usage_total"]))
        if usage is not None:
            self._counted_usage += usage
        return usage

    def _own_usage(self, own: Any, of_first_turn: Any) -> Usage | None:
        """The usage since the last result: of two figures the larger one, since the CLI left
        something out of the other."""
        found = [to_usage(own)]
        if self._begins and (whole := to_usage(of_first_turn)):
            counted = self._counted_usage
            share = whole if counted.is_unknown else whole - counted
            found += [share] if min(share.input or 0, share.output or 0) >= 0 else []
        return max(filter(None, found), key=lambda usage: usage.counted, default=None)

    def _share_of_total(self, now: Usage) -> Usage | None:
        if now.is_unknown:
            return None
        before = self.previous_totals.get("usage")
        is_first = self.is_first_turn and "usage" not in self.totals
        self.totals["usage"] = now.to_json()
        self.previous_totals = {**self.previous_totals, "usage": now.to_json()}
        if is_first:
            return now
        if before is None:
            return None
        used = now - Usage.from_json(before)
        return used if min(used.input or 0, used.output or 0) >= 0 else None

    def _cost(self, own: Any, extras: dict[str, Any]) -> float | None:
        cost = self._cost_since(own, extras)
        self._counted_cost += cost or 0.0
        return cost

    def _cost_since(self, own: Any, extras: dict[str, Any]) -> float | None:
        """The cost since the last result."""
        if (cost := to_cost(own)) is not None:
            return cost
        if self._begins and (cost := to_cost(extras["cost_first"])) is not None:
            # A sum never shrinks: a smaller one is that of the last result alone.
            return cost if cost < self._counted_cost else cost - self._counted_cost
        total = to_cost(extras["cost_total"])
        if total is None:
            return None
        before = self.previous_totals.get("cost")
        is_first = self.is_first_turn and "cost" not in self.totals
        self.totals["cost"] = total
        self.previous_totals = {**self.previous_totals, "cost": total}
        if is_first:
            return total
        return total - before if before is not None and total >= before else None
