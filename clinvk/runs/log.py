"""The records of a run, wherever they are: its plan, its journal, the events of its tasks, and which
process drives it. `runs/folder.py` has them in a directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, Self

import msgspec
from msgspec.structs import replace

from clinvk.errors import SessionError
from clinvk.model.outcome import Outcome, RunResult, outcome_from_result
from clinvk.model.plan import Plan, Worktree
from clinvk.model.result import Result, plain
from clinvk.model.session import Session
from clinvk.model.usage import rfc3339
from clinvk.runs.replay import replay

DAMAGE = (AttributeError, KeyError, IndexError, TypeError, ValueError)  # raised by a bad line
PLAN, JOURNAL = "plan.json", "journal.jsonl"  # what `place_of` is asked for
Line = dict[str, Any]


class RunNotFound(SessionError, FileNotFoundError):  # noqa: N818 - reads as what it says
    """There is no run with that id or prefix."""


class RunLock(Protocol):
    """The lock that allows driving a run; only one process has it at a time."""

    leftover: dict[str, Any] | None  # the note of a process that was killed while it had the lock
    location: str  # where the note is, for messages

    def note(self, facts: dict[str, Any]) -> None:
        """Say which process drives the run; with `{}`, that nothing is left of it."""

    def close(self) -> None:
        """Release the lock and delete the note."""

    def abandon(self) -> None:
        """Release the lock, and keep the note."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class JournalSink(Protocol):
    """Where the lines of a journal go. Its methods raise `SessionError`; nothing is recorded
    then."""

    name: str  # for messages

    def commit(self, lines: list[bytes], files: list[int] | None = None) -> None:
        """Append all of the lines, or none of them; they survive a crash when this returns, and the
        events in `files`, which stay open, before them."""

    def append(self, lines: list[bytes]) -> None:
        """The same, but a crash of the machine may lose them as long as nothing is committed."""

    def close(self) -> None: ...


class EventSink(Protocol):
    """Where the events of an attempt go. Its methods raise `SessionError`."""

    async def write(self, lines: list[bytes]) -> None:
        """Append these lines, each of which ends with a newline."""

    def duplicate(self) -> int | None:
        """A file to be flushed before what a journal says about the events; None if there is no
        need. The caller closes it."""

    def detach(self) -> int | None:
        """The same, after which nothing more is written."""

    def close(self) -> None: ...


class RunReader(Protocol):
    """Reads what is added to the records of a run. Keeps nothing open."""

    @property
    def has_begun(self) -> bool:
        """Whether there was a journal at the last call of `journal`."""
        ...

    def journal(self) -> list[Line]:
        """The lines since the last call."""
        ...

    def events(self, index: int, offset: int) -> Iterator[tuple[int, Line]]:
        """The events of a task after this offset (0: all of them), each with its own; as far as
        they had been written at the last call of `journal`, or farther."""
        ...


class RunLog(Protocol):
    """The records of one run."""

    id: str
    alive_interval: float  # seconds between calls of `note_alive`
    where: str = ""  # the flags with which a command finds the run, to be shown

    @property
    def home(self) -> Path:
        """Of this clinvk: where the worktrees of a run are."""
        ...

    # What is different for each kind.

    def read_plan(self, *, trusted: bool) -> bytes:
        """Raises `OSError`, `SessionError`; see `plan`."""
        ...

    def place_of(self, what: str = "") -> str:
        """Where the run, its plan or its journal is, for messages."""
        ...

    def read_journal(self, *, trusted: bool = False) -> list[Line]: ...

    def events(self, index: int) -> list[Line]:
        """The events of a task, one object each. A torn line is skipped."""
        ...

    def append_event(self, index: int, line: Line) -> None:
        """Append to the events of a task that is not running. Raises `SessionError`."""

    def copy_events(self, other: RunLog, index: int) -> None:
        """Copy the events of the same task of another run. Raises `SessionError`."""

    def drop_unfinished_events(self, index: int) -> None:
        """Delete the events of an attempt that has no result: they will be written again. Raises
        `SessionError`."""

    def last_sign(self, tasks: Iterable[int]) -> datetime | None:
        """When a process was last known to drive the run, or to write events of these tasks."""
        ...

    def reader(self) -> RunReader: ...

    def created_at(self) -> datetime:
        """When the run was created; long ago if that is unknown."""
        ...

    def modified_at(self) -> datetime:
        """When the run was last written to. Raises `FileNotFoundError` if it was deleted."""
        ...

    def checks_path(self, index: int) -> Path | None:
        """The directory with the output of the checks of a task; None if it is not stored."""
        ...

    def read_taken(self) -> list[Line]:
        """What became of the results of its tasks: each time that one was applied or dropped, oldest
        first. Raises `SessionError` if it cannot be read."""
        ...

    def open_journal(self) -> JournalSink: ...

    def open_events(self, index: int) -> EventSink: ...

    def find_driver(self) -> dict[str, Any] | None:
        """The note of the process that drives it; None without one."""
        ...

    def awaits_driver(self, *, has_begun: bool) -> bool:
        """Whether a process is about to drive it, though none does. `has_begun` if there were lines
        in its journal."""
        ...

    def is_idle(self) -> bool:
        """Whether no process drives it, and no killed one may have left something running."""
        ...

    def is_deletable(self) -> bool:
        """Whether nothing is lost with it: it is idle, or a process was killed just after it had
        recorded the end."""
        return self.is_idle()

    def lock(self) -> RunLock:
        """The lock that allows driving the run, until it is closed. Raises `SessionError` if
        another process holds it, `RunNotFound` if it has been deleted meanwhile."""
        ...

    def note_alive(self) -> int:
        """Record that the run is being driven now, and return how often this process was asked to
        stop it, other than by a signal; twice means at once."""
        ...

    def other_drivers(self) -> Iterable[dict[str, Any] | None]:
        """The notes of the processes that drive other runs."""
        ...

    def ask_to_stop(self, facts: dict[str, Any]) -> bool:
        """Ask the process that drives the run, according to the note `facts`, to stop it; asked
        once more, it stops at once. False if that process has exited meanwhile. Raises
        `SessionError` if it cannot be asked."""
        ...

    def stop_attempts(self, outcomes: Iterable[Outcome]) -> None:
        """Stop the last attempts at these tasks, if they may still be running on other machines."""

    def delete(self) -> None:
        """Delete the run. Raises `SessionError` if it is running or has left something running."""

    def delete_locked(self) -> None:
        """The same, for a caller that holds its lock."""

    # What follows from it.

    @contextmanager
    def open_repository(
        self,
        worktree: Worktree,
        commits: Iterable[str],  # noqa: ARG002 - they are there
        env: Mapping[str, str],  # noqa: ARG002 - for others
    ) -> Iterator[str]:
        """A git directory with these results of tasks in such worktrees, as long as the block runs.
        Raises `ClinvkError`."""
        yield worktree.repository

    def is_driven(self) -> bool:
        return self.find_driver() is not None

    def plan(self, *, trusted: bool = False) -> Plan:
        """The stored plan. Raises `SessionError`; with `trusted`, also if other users may have
        written it."""
        try:
            return Plan.from_json(msgspec.json.decode(self.read_plan(trusted=trusted)))
        except SessionError:
            raise
        except (OSError, ValueError, TypeError, AttributeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise self._damaged(PLAN, why) from error

    def damaged_journal(self, error: Exception) -> SessionError:
        """The error to raise if a line of the journal is impossible."""
        return self._damaged(JOURNAL, f"{type(error).__name__}: {error}")

    def _damaged(self, what: str, why: Any) -> SessionError:
        return SessionError(
            f"run {self.id} is damaged: {self.place_of(what)}: {why}",
            f"delete it with: clinvk runs delete {self.id}{self.where}",
        )

    def result(
        self, plan: Plan | None = None, *, is_driver: bool = False, trusted: bool = False
    ) -> RunResult:
        """The present result of the run, without the outputs of its tasks; `is_driver` if the
        caller holds its lock and has not started. Raises `SessionError`; with `trusted`, also if
        other users may have written its journal."""
        plan = plan or self.plan(trusted=trusted)
        return self.read_state(plan, is_driver=is_driver, trusted=trusted)[0]

    def read_state(
        self, plan: Plan, *, is_driver: bool = False, trusted: bool = False
    ) -> tuple[RunResult, list[Line]]:
        """The same, with the lines of the journal."""
        running = not is_driver and self.is_driven()
        lines = self.read_journal(trusted=trusted)
        try:
            result = replay(plan, lines, self.id, running=running)
            return self._with_last_sign(replace(result, where=self.where)), lines
        except DAMAGE as error:
            raise self.damaged_journal(error) from error

    def _with_last_sign(self, result: RunResult) -> RunResult:
        """The result of an interrupted run, with the time until it was last known to be alive, also
        for each task that was running: the journal has no entry between the start and the end of a
        task."""
        if result.state != "interrupted" or result.ended_at is None:
            return result
        cut_off = [o for o in result.results if o.state == "indeterminate" and o.started_at]
        sign = self.last_sign(o.index for o in cut_off)
        last = max(result.ended_at, sign) if sign else result.ended_at
        outcomes = tuple(
            replace(o, seconds=max(0.0, (last - o.started_at).total_seconds()))
            if o in cut_off and o.started_at
            else o
            for o in result.results
        )
        more = (last - result.ended_at).total_seconds()
        return replace(result, seconds=result.seconds + more, ended_at=last, results=outcomes)

    def with_outputs(self, result: RunResult) -> RunResult:
        """The same, with the answers of its tasks, and the scores of a comparison."""
        return replace(result, results=tuple(map(self.with_output, result.results)))

    def with_output(self, outcome: Outcome) -> Outcome:
        if outcome.attempts == 0:
            return outcome
        last = self.answer(outcome.index)
        return replace(
            outcome, output=str(last.get("content") or ""), structured=last.get("structured")
        )

    def answer(self, index: int) -> Line:
        """The object of `-o json` of the task's last attempt that ended; empty without one."""
        results = self._results(index)
        return results[-1] if results else {}

    def result_of(self, outcome: Outcome, *, alone: bool) -> Line | None:
        """The result of the last attempt, if it follows its events: either each attempt has one, or
        it names the session, if the attempt is `alone` in that."""
        results, session = self._results(outcome.index), outcome.session_id
        if not results:
            return None
        is_named = alone and session is not None and results[-1].get("session_id") == session
        return results[-1] if is_named or len(results) == outcome.attempts else None

    def _results(self, index: int) -> list[Line]:
        return [line for line in self.events(index) if line.get("type") == "result"]

    def last_turn(self, index: int) -> Line:
        """The object of `-o json` of the task's last turn whose work was checked; empty without
        one."""
        turns = [line for line in self.events(index) if line.get("type") == "turn"]
        return turns[-1] if turns else {}

    def outcome_from_session(self, outcome: Outcome, session: Session, answer: str) -> Outcome:
        """The outcome of a task that ended in its session, though clinvk was killed before it could
        record that here; its answer is appended to its events. Raises `SessionError`."""
        began = outcome.started_at or session.updated_at
        result = Result(
            ok=True, text=answer, backend=outcome.backend or session.backend or "", exit_code=0,
            session_id=session.id, native_id=session.native_ids.get(session.backend or ""),
            model=session.model, usage=session.usage, cost=session.cost,
            seconds=max(0.0, (session.updated_at - began).total_seconds()),
        )  # fmt: skip
        line = {"type": "result", **result.to_json()}
        self.append_event(outcome.index, line)
        return outcome_from_result(outcome, line)

    def summary(self) -> Line:
        """What a list shows: `id`, `kind`, `state`, `source`, `total_tasks`, `counts`, times (its
        seconds are those for which a process drove it), usage and cost. Raises `SessionError`."""
        result = self.result()
        first, last = result.started_at, result.ended_at
        return {
            "id": self.id, "kind": result.kind, "source": result.source, "state": result.state,
            "total_tasks": len(result.results), "counts": result.counts,
            "started_at": first and rfc3339(first), "ended_at": last and rfc3339(last),
            "total_duration_seconds": round(result.seconds, 3),
            "usage": plain(result.usage), "cost": result.to_json()["cost"],
        }  # fmt: skip


class Runs(Protocol):
    """Where runs are recorded."""

    def create(self, plan: Plan) -> RunLog:
        """The records of a new run of the plan. Raises `SessionError` if they cannot be written."""
        ...

    def find(self, text: str) -> RunLog:
        """The run with this id, or this unique prefix of one; `last` is the newest. Raises
        `RunNotFound`, `SessionError`."""
        ...

    def ids(self) -> list[str]: ...

    def newest_first(self) -> Iterator[RunLog]: ...

    def may_be_last(self) -> Iterator[RunLog]:
        """Those that a command without an id may be about, newest first."""
        return self.newest_first()

    def why_missing(self, text: str) -> RunNotFound | None:  # noqa: ARG002 - nothing is known of it
        """More about a run with this id that is not recorded here; None if nothing is known."""
        return None

    def remove_remains(self) -> None:
        """Remove what deletions left that were killed on the way."""


def find_id(text: str, ids: list[str], newest: Callable[[], str | None], where: str = "") -> str:
    """The id that a user means, out of these. `where` are the flags that name the place of the
    runs. Raises `RunNotFound`, `SessionError`."""
    start = f"start one: clinvk parallel tasks.yaml{where}"
    if text == "last" and ids and (last := newest()) is not None:
        return last
    found = [i for i in ids if i == text] or [i for i in ids if text and i.startswith(text)]
    if len(found) > 1:
        raise SessionError(
            f"{text!r} is the beginning of several runs: {', '.join(sorted(found)[:10])}",
            "type more of the id",
        )
    if not ids and text == "last":
        raise RunNotFound("there are no runs yet", start)
    if not ids:
        raise RunNotFound(f"no run {text[:100]!r}", f"there are no runs yet; {start}")
    if not found:
        raise RunNotFound(f"no run {text[:100]!r}", f"see them all: clinvk runs list{where}")
    return found[0]
