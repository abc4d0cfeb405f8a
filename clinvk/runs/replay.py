"""The state of a run, from the lines of its journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from clinvk.errors import ConfigError
from clinvk.model.checks.check import check_from_json
from clinvk.model.checks.progress import CheckProgress
from clinvk.model.conversion import convert
from clinvk.model.outcome import (
    STATES,
    Outcome,
    RunResult,
    outcome_from_summary,
    until_taken,
    with_node,
)
from clinvk.model.plan import Plan
from clinvk.model.result import Failure, Result
from clinvk.model.usage import Usage, rfc3339

# Of a task whose attempt has ended, but which a later one continues.
RESUMABLE_STATES = ("queued", "waiting", "cancelled", "indeterminate")
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
                candidate_of=plan.name_of(task.candidate_of),
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
            case "node":
                self._change(line["task"], lambda o: with_node(o, str(line["node"]), at))
            case "ended":
                self._change(line["task"], lambda o: _ended(o, line))
            case "turn":
                self._change(line["task"], lambda o: _with_turn(o, line))
            case "checked":
                self._change(line["task"], lambda o: _with_check(o, line))
            case "round":
                self._change(line["task"], _with_round)
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
        for i in line.get("joined", ()):
            self._change(i, requeue_same_attempt)

    def _start_task(self, line: dict[str, Any], at: datetime) -> None:
        def start(outcome: Outcome) -> Outcome:
            is_sent = bool(line.get("sent"))  # to a cluster: it starts when a worker has taken it
            return replace(
                outcome, state="running", backend=line.get("backend"), attempts=outcome.attempts + 1,
                session_id=line.get("session") or None, started_at=None if is_sent else at,
                ended_at=None, error=None, exit_code=None, seconds=0.0, node=None, is_sent=is_sent,
                check_progress=outcome.check_progress or CheckProgress(),
            )  # fmt: skip

        self._change(line["task"], start)

    def _end(self, line: dict[str, Any]) -> None:
        self._state, self._why = str(line["state"]), line.get("why")
        if (driven := line.get("seconds")) is not None:
            # A process that cancels an interrupted run did not drive it until then.
            self._seconds, self._began = float(driven), None

    def _change(self, i: int, change: Callable[[Outcome], Outcome]) -> None:
        changed = _check_state(change(self.outcomes[i]))
        is_over = changed.is_sent and changed.state != "running"
        self.outcomes[i] = replace(changed, is_sent=False) if is_over else changed

    @property
    def driven_since(self) -> datetime | None:
        """When the last process began to drive it; None if none did, or that one has ended."""
        return self._began

    def result(self, *, running: bool) -> RunResult:
        """The present result; `running` if a process drives it, with the times until now."""
        last = datetime.now(UTC) if running else self._last
        outcomes = [
            o
            if o.state != "running"
            else until_taken(_until(o, last))
            if running
            else mark_indeterminate(o)
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


def started_here(lines: Iterable[dict[str, Any]]) -> set[int]:
    """The positions of the tasks of a run on a cluster whose last attempt was started on the machine that
    drove the run, not by a worker: the run was resumed so."""
    is_here, found = False, set[int]()
    for line in lines:
        match line.get("event"):
            case "begin":
                is_here = bool(line.get("here"))
            case "started" if is_here:
                found.add(line["task"])
            case "started":
                found.discard(line["task"])
    return found


def _ended(outcome: Outcome, line: dict[str, Any]) -> Outcome:
    ended = outcome_from_summary(outcome, line)
    return replace(ended, check_progress=progress_after(ended))


def progress_after(outcome: Outcome) -> CheckProgress | None:
    """What a task whose attempt has ended can continue from: it waits, or was cancelled."""
    return outcome.check_progress if outcome.state in RESUMABLE_STATES else None


def _with_turn(outcome: Outcome, line: dict[str, Any]) -> Outcome:
    """A turn has succeeded. Until the attempt ends, its usage is only known from this line."""
    before = outcome.check_progress or CheckProgress()
    usage = Usage.from_json(line["usage"]) if line.get("usage") else None
    cost = float(line["cost"]["usd"]) if line.get("cost") else None
    result = Result(
        ok=True, text="", backend=str(line.get("backend") or ""), exit_code=0,
        session_id=line.get("session_id"), native_id=line.get("native_id"), model=line.get("model"),
        usage=usage, cost=cost, seconds=float(line.get("duration_seconds") or 0),
    )  # fmt: skip
    known = [u for u in (outcome.usage, usage) if u is not None]
    is_first = outcome.attempts <= 1 and before.result is None
    paid = cost
    if not is_first:
        paid = None if outcome.cost is None or cost is None else outcome.cost + cost
    progress = replace(
        before, round=int(line["round"]), result=result, check=None, in_round=False,
        changed=before.changed or bool(line.get("changed", True)),
    )  # fmt: skip
    return replace(
        outcome, usage=sum(known[1:], known[0]) if known else None, cost=paid,
        session_id=result.session_id or outcome.session_id, check_progress=progress,
    )  # fmt: skip


def _with_check(outcome: Outcome, line: dict[str, Any]) -> Outcome:
    before = outcome.check_progress or CheckProgress()
    check = check_from_json(line["check"])
    failures = (*before.failures, line["failure"]) if line.get("failure") else before.failures
    progress = replace(before, check=check, failures=failures)
    return replace(outcome, check=check, check_progress=progress)


def _with_round(outcome: Outcome) -> Outcome:
    before = outcome.check_progress or CheckProgress()
    return replace(outcome, check_progress=replace(before, in_round=True))


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


def requeue_same_attempt(outcome: Outcome) -> Outcome:
    """A task whose last attempt goes on: it is started once more, with the same number."""
    before = replace(requeue(outcome), attempts=max(0, outcome.attempts - 1), check_progress=None)
    return before if before.attempts else replace(before, usage=None, cost=None, check=None)


def mark_indeterminate(outcome: Outcome) -> Outcome:
    """A task that was interrupted."""
    return replace(
        outcome,
        state="indeterminate",
        is_sent=False,
        error=Failure(
            "indeterminate",
            "interrupted while running; the work may be partly done",
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
