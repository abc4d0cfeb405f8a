"""Times, suggestions and figures, worded in one place for everything that people see."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from clinvk.cmd.views import summary
from clinvk.model import figures
from clinvk.model.outcome import MARKS, STATES, Outcome, RunResult
from clinvk.model.plan import Plan, Task
from clinvk.model.result import Failure
from clinvk.text import duration
from clinvk.text.suggest import did_you_mean, edits

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_time_is_worded_by_what_it_is_a_time_of():
    assert [duration.format_duration(n) for n in (0, 4.24, 59.9, 200, 7500)] == [
        "0.0 s", "4.2 s", "59.9 s", "3m 20s", "2h 05m",
    ]  # fmt: skip
    assert [duration.format_running(n) for n in (-1, 0.9, 42.9, 200)] == [
        "0 s", "0 s", "42 s", "3m 20s",
    ]  # fmt: skip
    assert [duration.format_offset(n) for n in (0, 0.2, 45, 90, 5400, 90_000, 172_800)] == [
        "0", "0.2 s", "45 s", "1m 30s", "1h 30m", "1d 1h", "2d",
    ]  # fmt: skip
    ages = [duration.format_age(NOW - timedelta(seconds=n), NOW) for n in (-5, 4, 42, 300, 7300)]
    assert ages == ["just now", "just now", "42s ago", "5m ago", "2h ago"]
    assert duration.format_age(NOW - timedelta(days=3), NOW) == "3d ago"


def test_a_suggestion_is_made_only_if_something_is_near():
    assert did_you_mean("promt", ["model", "prompt"]) == "; did you mean 'prompt'?"
    assert did_you_mean("promt", ["prompt"], quote=lambda s: f"<{s}>") == "; did you mean <prompt>?"
    assert did_you_mean("xyz", ["model", "prompt"]) == did_you_mean("xyz", []) == ""


def test_a_mistake_is_one_letter_left_out_added_replaced_or_swapped():
    near = ("sessions", "session", "sesions", "sessionss", "sessoins", "sessienns")
    assert [edits(word, "sessions") for word in near] == [0, 1, 1, 1, 1, 2]


def run_of(*outcomes: Outcome) -> RunResult:
    return RunResult(id="r1", kind="parallel", state="failed", results=outcomes, seconds=3)


def test_the_cost_of_a_run_is_the_least_it_can_be_if_a_task_did_not_report_it():
    known = Outcome(index=0, name="a", state="done", attempts=1, cost=1.5)
    unknown = Outcome(index=1, name="b", state="done", attempts=1)
    never = Outcome(index=2, name="c", state="skipped")
    assert summary.summary_line(run_of(known, never)) == (
        "2 tasks: 1 done, 1 skipped · 3.0 s · $1.5000 · run r1"
    )
    assert summary.summary_line(run_of(known, unknown)) == (
        "2 tasks: 2 done · 3.0 s · at least $1.5000 · run r1"
    )
    free = Outcome(index=0, name="a", state="done", attempts=1, cost=0.0)
    assert figures.total_cost(run_of(free, unknown)) == "cost unknown"
    assert figures.total_cost(run_of(free, never)) == "$0.0000"
    many = run_of(*[Outcome(index=n, name="t", state="done") for n in range(1200)])
    assert figures.count_line(many) == "1,200 tasks: 1,200 done"


def test_the_results_of_many_tasks_are_not_looked_through_for_each_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    looks, listed = [], RunResult.listed
    monkeypatch.setattr(
        RunResult, "listed", property(lambda run: looks.append(1) or listed.__get__(run))
    )
    summary.print_summary(
        run_of(*[Outcome(index=n, name=f"t{n}", state="done") for n in range(50)])
    )
    assert "t49" in capsys.readouterr().out
    assert 0 < len(looks) < 5


def test_every_state_has_a_mark_and_the_summary_shows_it(capsys: pytest.CaptureFixture[str]):
    assert {*MARKS} == {*STATES}
    ends = [
        Outcome(index=n, name=state, state=state, error=Failure("error", f"why {state}"))
        for n, state in enumerate(("failed", "skipped", "cancelled", "waiting", "queued"))
    ]
    summary.print_summary(run_of(*ends))
    out = capsys.readouterr().out
    for line in ("✗ failed: why failed", "– skipped: why skipped", "– cancelled: why cancelled",
                 "… waiting: why waiting", "… queued: why queued"):  # fmt: skip
        assert line in out.splitlines()


PLAN = Plan(
    kind="parallel",
    tasks=tuple(
        Task(name=name, prompt="x", idempotent=name.startswith("again"))
        for name in ("one", "two", "again", "again too", "left")
    ),
)


def next_step(states: Mapping[str, str], *, state: str = "cancelled", ended: bool = True) -> str:
    """What is said of a run in which some tasks were interrupted, and the others are done."""
    outcomes = [
        Outcome(
            index=i, name=task.name, state=states.get(task.name, "done"), attempts=1,
            error=Failure("not_started" if task.name == "left" else "cancelled", "why"),
            ended_at=NOW if ended else None,
        )
        for i, task in enumerate(PLAN.tasks)
    ]  # fmt: skip
    run = replace(run_of(*outcomes), state=state)
    return str(summary.next_step(run, PLAN, cluster=" --cluster URL"))


def test_only_the_tasks_that_a_flag_repeats_are_counted_for_it():
    resume = "resume with: clinvk runs resume r1 --cluster URL"
    assert next_step({"left": "cancelled"}) == resume
    assert next_step({"again": "indeterminate", "again too": "cancelled"}) == resume
    add = f"{resume} (add --rerun-indeterminate to repeat the"
    assert next_step({"left": "cancelled", "one": "cancelled"}) == f"{add} interrupted task)"
    interrupted = {"one": "indeterminate", "two": "cancelled", "left": "cancelled"}
    assert next_step(interrupted) == f"{add} 2 interrupted tasks)"
    interrupted["again"] = "indeterminate"
    assert next_step(interrupted) == f"{add} 2 interrupted tasks that are not idempotent)"
    assert next_step({"one": "indeterminate", "again": "indeterminate"}) == (
        f"{add} interrupted task that is not idempotent)"
    )
    assert next_step({"one": "indeterminate"}) == (
        "1 task was interrupted and may have done part of its work; run it again with: "
        "clinvk runs resume r1 --cluster URL --rerun-indeterminate"
    )


def test_a_task_whose_end_is_recorded_runs_no_more_on_a_worker():
    states = {"one": "indeterminate", "again": "indeterminate", "two": "cancelled"}
    assert next_step(states, state="interrupted", ended=False) == (
        "2 tasks may still run on the workers; get the results, and run the rest, with: "
        "clinvk runs resume r1 --cluster URL"
    )
    assert "may still run" not in next_step(states, state="interrupted")
