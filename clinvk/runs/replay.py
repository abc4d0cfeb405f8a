"""The state of a run, from the lines of its journal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from clinvk.errors import ConfigError
from clinvk.model.conversion import convert
from clinvk.model.outcome import STATES, Outcome, RunResult, outcome_from_summary
from clinvk.model.plan import Plan
from clinvk.model.result import Failure
from clinvk.model.usage import rfc3339

VERSION = 1  # of a journal's lines


def replay(
    plan: Plan, lines: list[dict[str, Any]], run_id: str | None, *, running: bool
) -> RunResult:
    """The state of a run, from its records. A task that had started, and whose end was not
    recorded, is running if a process drives the run, otherwise indeterminate."""
    state = RunState(plan, run_id)
    for line in lines:
        state.apply(line)
    return state.result(running=running)


class RunState:
    """The state of a run after each line of its journal."""

    def __init__(self, plan: Plan, run_id: str | None) -> None:
        self.outcomes = [
            Outcome(
                index=i,
                name=task.name,
                key=task.key,
                backend=task.backend,
                tags=task.tags,
                meta=task.meta,
            )
            for i, task in enumerate(plan.tasks)
        ]
        self._plan = plan
        self._run_id = run_id
        self._state, self._why, self._seconds = "interrupted", None, 0.0
        self._began: datetime | None = None  # since a process drives it
        self._first: datetime | None = None
        self._last: datetime | None = None

    def apply(self, line: dict[str, Any]) -> None:
        """Apply a line. Raises `ConfigError` for one of a newer clinvk, `KeyError` and the like for
        a damaged one."""
        if line.get("version", 0) > VERSION:
            raise ConfigError(
                f"run {self._run_id} was written by a newer clinvk", "update clinvk to use it"
            )
        at = datetime.fromisoformat(line["at"])
        match line.get("event"):
            case "begin":
                self._begin(line, at)
            case "started":
                self._start_task(line, at)
            case "ended":
                self._change(line["task"], lambda o: outcome_from_summary(o, line))
            case "aside":
                error = line.get("error")
                failure = convert(error, Failure) if error else None
                for i in line["tasks"]:
                    self._change(i, lambda o: replace(o, state=line["state"], error=failure))
            case "end":
                self._end(line)
        self._first, self._last = self._first or at, at

    def _begin(self, line: dict[str, Any], at: datetime) -> None:
        if (driven := line.get("seconds")) is not None:
            self._seconds = float(driven)  # also after the last line of a process that was killed
        else:
            self._add_seconds()
        self._began, self._state, self._why = at, "interrupted", None
        for i in line.get("rerun", ()):
            self._change(i, requeue)

    def _start_task(self, line: dict[str, Any], at: datetime) -> None:
        def start(outcome: Outcome) -> Outcome:
            return replace(
                outcome, state="running", backend=line.get("backend"), attempts=outcome.attempts + 1,
                session_id=line.get("session") or None, started_at=at, ended_at=None, error=None,
                exit_code=None, seconds=0.0,
            )  # fmt: skip

        self._change(line["task"], start)

    def _end(self, line: dict[str, Any]) -> None:
        self._state, self._why = str(line["state"]), line.get("why")
        if (driven := line.get("seconds")) is not None:
            # A process that cancels an interrupted run did not drive it until then.
            self._seconds, self._began = float(driven), None

    def _change(self, i: int, change: Callable[[Outcome], Outcome]) -> None:
        self.outcomes[i] = _check_state(change(self.outcomes[i]))

    @property
    def driven_since(self) -> datetime | None:
        """When the last process began to drive it; None if none did, or that one has ended."""
        return self._began

    def result(self, *, running: bool) -> RunResult:
        """The present result; `running` if a process drives it, with the times until now."""
        last = datetime.now(UTC) if running else self._last
        outcomes = [
            o if o.state != "running" else _until(o, last) if running else mark_indeterminate(o)
            for o in self.outcomes
        ]
        seconds = self._seconds
        if self._began and last:
            seconds += max(0.0, (last - self._began).total_seconds())
        return RunResult(
            id=self._run_id, kind=self._plan.kind, state="running" if running else self._state,
            results=tuple(outcomes), seconds=seconds, why=self._why, source=self._plan.source,
            started_at=self._first, ended_at=None if running else self._last,
        )  # fmt: skip

    def _add_seconds(self) -> None:
        if self._began and self._last:
            self._seconds += (self._last - self._began).total_seconds()


def _until(outcome: Outcome, moment: datetime | None) -> Outcome:
    """A task that has been running until then."""
    if outcome.started_at is None or moment is None:
        return outcome
    return replace(outcome, seconds=max(0.0, (moment - outcome.started_at).total_seconds()))


def _check_state(outcome: Outcome) -> Outcome:
    if outcome.state not in STATES:
        raise ValueError(f"unknown state {outcome.state!r}")
    return outcome


def requeue(outcome: Outcome) -> Outcome:
    """A task that will be run, again or for the first time."""
    return replace(outcome, state="queued", error=None, exit_code=None, ended_at=None)


def mark_indeterminate(outcome: Outcome) -> Outcome:
    """A task that was interrupted."""
    return replace(
        outcome,
        state="indeterminate",
        error=Failure(
            "indeterminate",
            "interrupted while running; its work may be partly done",
            "check what it did; run it again with --rerun-indeterminate",
        ),
    )


def summary_from_ends(begin: dict[str, Any], end: dict[str, Any]) -> dict[str, Any]:
    """The summary of a finished run, from its first and last line. Raises `KeyError` and the like
    if they do not contain it, or are ambiguous: an older clinvk did not record there how long it
    took."""
    if max(begin["version"], end["version"]) > VERSION:
        raise ValueError("newer")
    counts = {str(state): int(n) for state, n in end["counts"].items()}
    first, last = (datetime.fromisoformat(line["at"]) for line in (begin, end))
    return {
        "kind": begin["kind"], "source": begin["source"], "state": end["state"],
        "total_tasks": sum(counts.values()), "counts": counts,
        "started_at": rfc3339(first), "ended_at": rfc3339(last),
        "total_duration_seconds": float(end["seconds"]),
        "usage": end["usage"], "cost": end["cost"],
    }  # fmt: skip
