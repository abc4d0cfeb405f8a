"""The records of a run, which survive whatever happens to the process that drives it.

    runs/<id>/plan.json        the plan, as it was when the run started
    runs/<id>/journal.jsonl    what happened to each task, in order; appended to, never changed
    runs/<id>/tasks/<n>.jsonl  the events of task n (from 1), each attempt ending with its result
    runs/<id>/lock             held while a process drives the run; says how to stop what it started

A line of the journal is on disk before the action that it announces (`started`), or after the
action that it reports (`ended`): the session and the events of the task are written first. Lines
written at about the same time are flushed together: a disk takes as long for thirty as for one. A task of a
cluster is announced (`started`, with `sent`) before it is sent, and has started once a worker has
taken it (`node`): from then on its time counts, but from the first line on it is never started
elsewhere unasked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from clinvk.disk.atomic import file_error
from clinvk.disk.closing import Closing
from clinvk.disk.jsonl import encode
from clinvk.errors import SessionError
from clinvk.model.checks.check import CheckResult
from clinvk.model.outcome import Outcome, RunResult, outcome_summary
from clinvk.model.plan import Plan
from clinvk.model.result import Failure, Result, plain
from clinvk.model.usage import rfc3339
from clinvk.process.threads import in_thread
from clinvk.runs.log import RunLog
from clinvk.runs.replay import VERSION

# Of the result of a turn that is not the last one.
TURN_FACTS = ("session_id", "native_id", "model", "backend", "usage", "cost", "duration_seconds")


class Journal(Closing):
    """The open journal of a run. Its methods raise `SessionError` if it cannot be written, for
    example on a full disk; then nothing of that call is recorded."""

    def __init__(
        self,
        folder: RunLog,
        scrub: Callable[[Any], Any],
        flush: Callable[[list[str]], None] = lambda _: None,
    ) -> None:
        import anyio  # not needed to list runs

        self.folder = folder
        self.scrub = scrub  # removes secrets from what is written
        self._flush = flush  # flushes sessions to disk
        self._sink = folder.open_journal()
        self._batch: CommitBatch | None = None  # being put together
        self._commit_lock = anyio.Lock()  # batches are written one after another

    def record_begin(
        self,
        plan: Plan,
        *,
        rerun: list[int],
        seconds: float = 0.0,
        joined: Sequence[int] = (),
        here: bool = False,
    ) -> None:
        """Record that a process drives the run now, and that these tasks start again; it was driven
        for `seconds` before. The last attempts at the tasks `joined` go on. `here`: the tasks of a run
        that was begun on a cluster run on this machine now."""
        about = {"kind": plan.kind, "source": plan.source, "total": len(plan.tasks)}
        more: dict[str, Any] = {"joined": list(joined)} if joined else {}
        if here:
            more["here"] = True
        self.append("begin", rerun=rerun, seconds=round(seconds, 3), **about, **more)

    def record_not_started(self, outcomes: Iterable[Outcome]) -> None:
        """Record tasks that ended without being started, those with the same reason on one line."""
        alike: dict[tuple[str, Failure | None], list[int]] = {}
        for outcome in outcomes:
            alike.setdefault((outcome.state, outcome.error), []).append(outcome.index)
        self._commit(
            [
                self._line("aside", {"state": state, "error": plain(error), "tasks": tasks})
                for (state, error), tasks in alike.items()
            ]
        )

    def record_end(self, result: RunResult) -> None:
        """Record that the run is no longer driven, with the sums that a list shows, so that they
        need not be added up again."""
        said = result.to_json()
        sums = {name: said[name] for name in ("usage", "cost")}
        sums["seconds"] = said["total_duration_seconds"]  # the total time for which it was driven
        self.append("end", state=result.state, why=result.why, counts=result.counts, **sums)

    def append(self, event: str, **facts: Any) -> None:
        """Write a line, on disk when this returns: for rare events."""
        self._commit([self._line(event, facts)])

    async def record_started(self, index: int, attempt: int, **facts: Any) -> None:
        """Record the start of a task; on disk when this returns, so that the task may start."""
        await self._commit_together(
            self._line("started", {"task": index, "attempt": attempt, **facts})
        )

    async def record_node(self, index: int, node: str) -> None:
        """Record which worker of a cluster has taken a task. Not flushed to the disk: the cluster
        knows it, too, and the start of a task should not have to wait for that."""
        line = self._line("node", {"task": index, "node": node})
        await in_thread(lambda: self._sink.append([line]))

    async def record_ended(
        self, outcome: Outcome, events: int | None = None, wait: dict[str, Any] | None = None
    ) -> None:
        """Record the end of an attempt; on disk when this returns, after the task's session and the
        events in the open file `events`, which is closed. `wait` is what the task waits for; it
        does not affect the task's state."""
        facts = {"task": outcome.index, **outcome_summary(outcome)}
        if wait is not None:
            facts["wait"] = wait
        await self._commit_together(self._line("ended", facts), events, outcome.session_id)

    async def record_turn(
        self, index: int, number: int, result: Result, events: int | None, *, changed: bool
    ) -> None:
        """Record a turn of a task that succeeded, and whose check begins; on disk when this
        returns, after its session and the events in the open file `events`, which is closed."""
        said = result.to_json()
        facts = {name: said[name] for name in TURN_FACTS}
        line = self._line("turn", {"task": index, "round": number, "changed": changed, **facts})
        await self._commit_together(line, events, result.session_id)

    async def record_check(
        self, index: int, number: int, check: CheckResult, failure: str | None
    ) -> None:
        """Record the end of a check; on disk when this returns. `failure` is the key of a
        failure."""
        facts = {"task": index, "round": number, "check": plain(check), "failure": failure}
        await self._commit_together(self._line("checked", facts))

    async def record_round(self, index: int, number: int) -> None:
        """Record that a further turn of a task begins; on disk when this returns."""
        await self._commit_together(self._line("round", {"task": index, "round": number}))

    def close(self) -> None:
        self._sink.close()

    def _commit(self, lines: list[bytes]) -> None:
        """Append all of the lines to disk, or none of them."""
        self._sink.commit(lines)

    def _commit_batch(self, batch: CommitBatch) -> None:
        """Write the lines of a batch after the files that they report; runs in a thread."""
        try:
            if batch.sessions:
                self._flush(batch.sessions)
            self._sink.commit(batch.lines, batch.files)
        except OSError as error:
            if isinstance(error, SessionError):
                raise
            raise file_error("write", self.folder.place_of(), error) from error
        finally:
            for file in batch.files:
                os.close(file)

    def _line(self, event: str, facts: dict[str, Any]) -> bytes:
        at = rfc3339(datetime.now(UTC))
        return encode(self.scrub({"version": VERSION, "at": at, "event": event, **facts})) + b"\n"

    async def _commit_together(
        self, line: bytes, events: int | None = None, session: str | None = None
    ) -> None:
        """Add the line to the current batch and wait until that is on disk; the first caller of a
        batch writes it, once the batch before it is written."""
        # 45 ms, and needed only once something runs.
        import anyio

        batch, is_first = self._batch, self._batch is None
        if batch is None:
            batch = self._batch = CommitBatch()
        batch.lines.append(line)
        if events is not None:
            batch.files.append(events)
        if session is not None:
            batch.sessions.append(session)
        if not is_first:
            await batch.done.wait()
        else:
            with anyio.CancelScope(shield=True):
                async with self._commit_lock:
                    self._batch = None  # later lines belong to the next one
                    try:
                        await in_thread(lambda: self._commit_batch(batch))
                    except SessionError as error:
                        batch.error = error
                    except BaseException as error:
                        batch.error = SessionError(f"{self._sink.name} was not written: {error!r}")
                        raise
                    finally:
                        batch.done.set()
        if batch.error is not None:
            raise batch.error


class CommitBatch:
    """Lines that are flushed together, after the files that they report."""

    def __init__(self) -> None:
        # 45 ms, and needed only once something runs.
        import anyio

        self.lines: list[bytes] = []
        self.files: list[int] = []
        self.sessions: list[str] = []
        self.done = anyio.Event()
        self.error: SessionError | None = None
