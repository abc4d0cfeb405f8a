"""What a run has taken, against its budget."""

import pytest

from clinvk.engine.scheduling.budget import BudgetTracker
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Budget
from clinvk.model.result import Result
from clinvk.model.usage import Usage

TAKEN = Usage(input=10, output=5)


def turn(
    cost: float | None = None, usage: Usage | None = None, *, backend: str = "x", ok: bool = True
) -> Result:
    return Result(ok=ok, text="", backend=backend, exit_code=0, cost=cost, usage=usage)


def test_what_a_turn_costs_is_known_where_nobody_tells_its_tokens():
    spending = BudgetTracker(Budget(cost=1.0), [])
    for _ in range(3):
        spending.add(turn(cost=0.3))
    assert not spending.is_spent()
    assert spending.would_exceed(1)
    assert (
        spending.end_reason()
        == "the budget is nearly spent: $0.9000 of $1.0000, and a task uses about $0.3000"
    )


def test_turns_that_tell_no_cost_do_not_make_the_others_cheaper():
    spending = BudgetTracker(Budget(cost=1.0), [])
    spending.add(turn(cost=0.4, usage=TAKEN))
    for _ in range(3):
        spending.add(turn(usage=TAKEN, backend="y"))
    assert not spending.would_exceed(1)
    assert spending.would_exceed(2)


def test_a_run_that_is_carried_on_counts_all_attempts_as_the_one_before_did():
    live = BudgetTracker(Budget(tokens=50), [])
    for ok in (False, True):
        live.add(turn(usage=TAKEN, ok=ok))
    before = Outcome(index=0, name="a", state="done", attempts=2, usage=TAKEN + TAKEN)
    carried_on = BudgetTracker(Budget(tokens=50), [before])
    assert [s.would_exceed(1) for s in (live, carried_on)] == [False, False]
    assert [s.would_exceed(2) for s in (live, carried_on)] == [True, True]


@pytest.mark.parametrize(("budget", "said"), [
    (Budget(cost=0.5, tokens=1_000), "spent: $0.6000 of $0.5000"),
    (Budget(cost=5, tokens=20), "spent: 30 of 20 tokens"),
    (Budget(cost=5, tokens=40), "nearly spent: 30 of 40 tokens, and a task uses about 15"),
    (Budget(cost=0.7, tokens=30), "spent: 30 of 30 tokens"),
])  # fmt: skip
def test_it_says_which_cap_ends_the_run(budget: Budget, said: str):
    spending = BudgetTracker(budget, [])
    for _ in range(2):
        spending.add(turn(cost=0.3, usage=TAKEN))
    assert spending.would_exceed(1)
    assert spending.end_reason().endswith(said)


def test_nothing_is_said_of_what_has_no_cap_or_did_not_come_to_its_end():
    spending = BudgetTracker(Budget(tokens=50), [])
    assert spending.add(turn(usage=TAKEN)) is None
    assert spending.add(turn(ok=False)) is None
    assert spending.add(turn()) is not None
    assert spending.add(turn()) is None
    assert spending.add(turn(backend="y")) is not None
