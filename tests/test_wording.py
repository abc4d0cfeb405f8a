"""Times, suggestions and figures, worded in one place for everything that people see."""

from datetime import UTC, datetime, timedelta

import pytest

from clinvk.cmd.views import summary
from clinvk.model import figures
from clinvk.model.outcome import MARKS, STATES, Outcome, RunResult
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
