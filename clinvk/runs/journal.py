"""What is kept of a run, so that it survives whatever happens to the one who drives it.

    runs/<id>/plan.json        the plan, as it was when the run began
    runs/<id>/journal.jsonl    what happened to each task, in order; appended to, never changed
    runs/<id>/tasks/<n>.jsonl  the events of task n (from 1), each attempt ending with its result
    runs/<id>/lock             held while somebody drives the run; tells how to end what he started

A line of the journal is on disk before what it announces is done (`started`), and after what it
tells has come true (`ended`): the session and the events of the task are there first. What is
written at about the same time is put there together: a disk takes as long for thirty as for one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from clinvk.disk.atomic import file_error, open_to_append, write_all
from clinvk.disk.closing import Closing
from clinvk.disk.jsonl import encode
from clinvk.disk.sync import holding_sync_threads, sync_folder, sync_together
from clinvk.errors import SessionError
from clinvk.model.outcome import Outcome, RunResult, outcome_summary
from clinvk.model.plan import Plan
from clinvk.model.result import Failure, plain
from clinvk.model.usage import rfc3339
from clinvk.process.threads import in_thread
from clinvk.runs.folder import RunFolder
from clinvk.runs.replay import VERSION


class Journal(Closing):
    """The open journal of a run. Its methods raise `SessionError` where the disk is full, or the
    like; then nothing of what they were to write counts."""

    def __init__(
        self,
        folder: RunFolder,
        scrub: Callable[[Any], Any],
        flush: Callable[[list[str]], None] = lambda _: None,
    ) -> None:
        import anyio  # lists of runs have no use for it

        self.folder = folder
        self.scrub = scrub  # takes secrets out of what is written
        self._flush = flush  # puts sessions on disk
        self.path = folder.path / "journal.jsonl"
        self._held = ExitStack()
        self._held.enter_context(holding_sync_threads())  # each batch has a use for them
        self._fd = -1
        try:
            self._fd = open_to_append(self.path)
            sync_folder(folder.path)
        except OSError as error:
            self.close()
            raise file_error("write", self.path, error) from error
        self._batch: CommitBatch | None = None  # being put together
        self._commit_lock = anyio.Lock()  # batches go to the disk one after the other

    def record_begin(self, plan: Plan, *, rerun: list[int]) -> None:
        """Somebody drives the run now; these tasks begin anew."""
        about = {"kind": plan.kind, "source": plan.source, "total": len(plan.tasks)}
        self.append("begin", rerun=rerun, **about)

    def record_not_started(self, outcomes: Iterable[Outcome]) -> None:
        """Tasks that came to their end without being started, those with one reason on a line."""
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
        """Nobody drives it any more. What a list shows of it stands here, so that it need not be
        added up again."""
        said = result.to_json()
        sums = {name: said[name] for name in ("usage", "cost")}
        sums["seconds"] = said["total_duration_seconds"]  # all the times that it was driven
        self.append("end", state=result.state, why=result.why, counts=result.counts, **sums)

    def append(self, event: str, **facts: Any) -> None:
        """A line, on disk when this returns: for what happens seldom."""
        self._commit([self._line(event, facts)])

    async def record_started(self, index: int, attempt: int, **facts: Any) -> None:
        """On disk when this returns: then the task may be started."""
        await self._commit_together(
            self._line("started", {"task": index, "attempt": attempt, **facts})
        )

    async def record_ended(
        self, outcome: Outcome, events: int | None = None, wait: dict[str, Any] | None = None
    ) -> None:
        """On disk when this returns, behind the task's session and the events in the open file
        `events`, which is closed. `wait` is what it waits for, which nobody reads who only wants
        to know where the task stands."""
        facts = {"task": outcome.index, **outcome_summary(outcome)}
        if wait is not None:
            facts["wait"] = wait
        await self._commit_together(self._line("ended", facts), events, outcome.session_id)

    def close(self) -> None:
        self._held.close()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _commit(self, lines: list[bytes]) -> None:
        """All of the lines behind what is there, on disk; or nothing of them."""
        try:
            end = os.lseek(self._fd, 0, os.SEEK_END)
            try:
                write_all(self._fd, b"".join(lines))
                os.fsync(self._fd)
            except OSError:
                os.ftruncate(self._fd, end)
                raise
        except OSError as error:
            raise file_error("write", self.path, error) from error

    def _commit_batch(self, batch: CommitBatch) -> None:
        """The lines of a batch, behind what they tell of; from a thread of its own."""
        try:
            if batch.sessions:
                self._flush(batch.sessions)
            sync_together(batch.files)
        except OSError as error:
            raise file_error("write", self.folder.path, error) from error
        finally:
            for file in batch.files:
                os.close(file)
        self._commit(batch.lines)

    def _line(self, event: str, facts: dict[str, Any]) -> bytes:
        at = rfc3339(datetime.now(UTC))
        return encode(self.scrub({"version": VERSION, "at": at, "event": event, **facts})) + b"\n"

    async def _commit_together(
        self, line: bytes, events: int | None = None, session: str | None = None
    ) -> None:
        """Put the line into the batch that is being put together, and wait until that is on disk;
        the first one of a batch takes it there, when the batch before it is."""
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
                    self._batch = None  # who comes now is of the next one
                    try:
                        await in_thread(lambda: self._commit_batch(batch))
                    except SessionError as error:
                        batch.error = error
                    except BaseException as error:
                        batch.error = SessionError(f"{self.path} was not written: {error!r}")
                        raise
                    finally:
                        batch.done.set()
        if batch.error is not None:
            raise batch.error


class CommitBatch:
    """Lines that reach the disk together, behind the files that they tell of."""

    def __init__(self) -> None:
        # 45 ms, and needed only once something runs.
        import anyio

        self.lines: list[bytes] = []
        self.files: list[int] = []
        self.sessions: list[str] = []
        self.done = anyio.Event()
        self.error: SessionError | None = None
