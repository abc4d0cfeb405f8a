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
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from clinvk.errors import ConfigError, SessionError
from clinvk.messages import Failure, plain
from clinvk.outcome import STATES, Outcome, RunResult, from_summary, summary_of
from clinvk.plan import Plan
from clinvk.session import Session
from clinvk.store.files import (
    FileTurn,
    append_file,
    cannot,
    make_folder,
    replace_file,
    sync_folder,
    sync_together,
    write_all,
)
from clinvk.store.locks import Locks
from clinvk.store.records import encode
from clinvk.usage import rfc3339

VERSION = 1  # of a journal's lines
ID_BYTES = 3
LOCK = "lock"
TAIL = 16 * 1024  # bytes in which the last line of a journal begins


class RunNotFound(SessionError, FileNotFoundError):  # noqa: N818 - reads as what it says
    """No run answers to that id or prefix."""


class Damaged(Struct, frozen=True):
    """A run that cannot be read: named, listed, and deletable."""

    id: str
    problem: str


class Runs:
    """The runs below a home."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "runs"

    def create(self, plan: Plan) -> RunFolder:
        """A folder for a new run of the plan. Raises `SessionError` where it cannot be written."""
        try:
            make_folder(self.folder)
            while True:
                id_ = "r" + os.urandom(ID_BYTES).hex()
                path = self.folder / id_
                with suppress(FileExistsError):
                    path.mkdir(mode=0o700)
                    break
            (path / "tasks").mkdir(mode=0o700)
        except OSError as error:
            raise cannot("write", self.folder, error) from error
        folder = RunFolder(path)
        folder.freeze(plan)
        return folder

    def ids(self) -> list[str]:
        try:
            return [e.name for e in os.scandir(self.folder) if e.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise cannot("read", self.folder, error) from error

    def find(self, text: str) -> RunFolder:
        """The run with this id, or this unique beginning of one; `last` is the newest. Raises
        `RunNotFound`, `SessionError`."""
        ids = self.ids()
        if text == "last" and ids:
            return RunFolder(max((self.folder / id_ for id_ in ids), key=_begun))
        found = [i for i in ids if i == text] or [i for i in ids if text and i.startswith(text)]
        if len(found) > 1:
            raise SessionError(
                f"{text!r} is the beginning of several runs: {', '.join(sorted(found)[:10])}",
                "give more of the id",
            )
        if not found:
            raise RunNotFound(f"no run {text[:100]!r}", "see them all: clinvk runs list")
        return RunFolder(self.folder / found[0])

    def newest_first(self) -> Iterator[RunFolder]:
        paths = sorted((self.folder / id_ for id_ in self.ids()), key=_begun, reverse=True)
        return (RunFolder(path) for path in paths)


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name

    # Reading.

    def plan(self) -> Plan:
        """The plan that was frozen. Raises `SessionError`."""
        try:
            return Plan.from_json(msgspec.json.decode((self.path / "plan.json").read_bytes()))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise self._damaged("plan.json", why) from error

    def _damaged(self, file: str, why: Any) -> SessionError:
        return SessionError(
            f"run {self.id} is damaged: {self.path / file}: {why}",
            f"take it away with: clinvk runs delete {self.id}",
        )

    def result(self, plan: Plan | None = None, *, ours: bool = False) -> RunResult:
        """Where the run stands, without the outputs of its tasks; `ours` where it is we who have
        its lock, and have not begun. Raises `SessionError`."""
        plan = plan or self.plan()
        running = not ours and self.running() is not None
        try:
            return fold(plan, self._lines(), self.id, running=running)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise self._damaged("journal.jsonl", f"{type(error).__name__}: {error}") from error

    def with_outputs(self, result: RunResult) -> RunResult:
        """The same, with what each task answered."""
        return replace(result, results=tuple(map(self.with_output, result.results)))

    def with_output(self, outcome: Outcome) -> Outcome:
        if outcome.attempts == 0:
            return outcome
        last = self.answer(outcome.index)
        return replace(
            outcome, output=str(last.get("content") or ""), structured=last.get("structured")
        )

    def answer(self, index: int) -> dict[str, Any]:
        """The object of `-o json` of the task's last attempt that ended; empty without one."""
        results = [line for line in self.events(index) if line.get("type") == "result"]
        return results[-1] if results else {}

    def events(self, index: int) -> list[dict[str, Any]]:
        """What happened in a task, one object an event. A torn line is left out."""
        return _decoded(_read(self.events_path(index)))

    def found(self, outcome: Outcome, session: Session, answer: str) -> Outcome:
        """The outcome of a task that had ended in its session, though nobody lived to write that
        down here; its answer is put behind its events, where it does not stand there yet. Raises
        `SessionError`."""
        if self.answer(outcome.index).get("session_id") != session.id:
            line = {"type": "result", "session_id": session.id, "content": answer, "exit_code": 0}
            path = self.events_path(outcome.index)
            try:
                append_file(path, encode(line) + b"\n")
            except OSError as error:
                raise cannot("write", path, error) from error
        return replace(
            outcome, state="done", error=None, exit_code=0, model=session.model,
            usage=session.usage, cost=session.cost, ended_at=session.updated_at,
        )  # fmt: skip

    def take(self, other: RunFolder, index: int) -> None:
        """What happened in the same task of another run. Raises `SessionError`."""
        path = self.events_path(index)
        try:
            replace_file(path, _read(other.events_path(index)), durable=True)
        except OSError as error:
            raise cannot("write", path, error) from error

    def events_path(self, index: int) -> Path:
        return self.path / "tasks" / f"{index + 1:04}.jsonl"

    def _lines(self) -> list[dict[str, Any]]:
        return _decoded(_read(self.path / "journal.jsonl"))

    def summary(self) -> dict[str, Any]:
        """What a list shows: `id`, `kind`, `state`, `source`, `total_tasks`, `counts`, times (its
        seconds are those for which somebody drove it), usage and cost. Raises `SessionError`."""
        if self.running() is None:
            # Where the ends do not fit together, the whole of it says what is wrong.
            with suppress(KeyError, TypeError, ValueError, AttributeError):
                return {"id": self.id, **_told_by(*_ends(self.path / "journal.jsonl"))}
        result = self.result()
        first, last = result.started_at, result.ended_at
        return {
            "id": self.id, "kind": result.kind, "source": result.source, "state": result.state,
            "total_tasks": len(result.results), "counts": result.counts,
            "started_at": first and rfc3339(first), "ended_at": last and rfc3339(last),
            "total_duration_seconds": round(result.seconds, 3),
            "usage": plain(result.usage), "cost": result.to_json()["cost"],
        }  # fmt: skip

    def written_at(self) -> datetime:
        """When something was last written down of it."""
        for name in ("journal.jsonl", "plan.json"):
            with suppress(OSError):
                return datetime.fromtimestamp((self.path / name).stat().st_mtime, UTC)
        return datetime.fromtimestamp(self.path.stat().st_mtime, UTC)

    # Driving.

    def running(self) -> dict[str, Any] | None:
        """What the one who drives it noted; nothing where nobody does."""
        return Locks(self.path).running(LOCK)

    def is_idle(self) -> bool:
        """Whether nobody drives it, and nobody who was killed may have left something running."""
        return Locks(self.path).is_idle(LOCK)

    def lock(self) -> FileTurn:
        """The right to drive the run, until it is closed. Raises `SessionError` where somebody
        else has it."""
        turn = Locks(self.path).turn(LOCK)
        if turn is None:
            raise SessionError(
                f"run {self.id} is running",
                f"see it with: clinvk runs watch {self.id}; end it with: clinvk runs cancel {self.id}",
            )
        return turn

    def freeze(self, plan: Plan) -> None:
        data = {"created_at": rfc3339(datetime.now(UTC)), **plan.to_json()}
        try:
            replace_file(self.path / "plan.json", encode(data) + b"\n", durable=True)
            sync_folder(self.path.parent)
        except OSError as error:
            raise cannot("write", self.path / "plan.json", error) from error

    def delete(self) -> None:
        """Take the run away. Raises `SessionError` where it is running, or has left something
        running."""
        turn = self.lock()
        if turn.left:
            turn.abandon()
            raise SessionError(
                f"run {self.id} was cut off, and may have left something running",
                f"end that first: clinvk runs cancel {self.id}",
            )
        try:
            self.remove()
        finally:
            turn.close()

    def remove(self) -> None:
        """The same, for who has its lock."""
        try:
            shutil.rmtree(self.path)
        except OSError as error:
            raise cannot("delete", self.path, error) from error


class Journal:
    """The open journal of a run. Its methods raise `SessionError` where the disk is full, or the
    like; then nothing of what they were to write counts."""

    def __init__(
        self,
        folder: RunFolder,
        scrub: Callable[[Any], Any],
        settle: Callable[[list[str]], None] = lambda _: None,
    ) -> None:
        import anyio  # lists of runs have no use for it

        self.folder = folder
        self.scrub = scrub  # takes secrets out of what is written
        self._settle = settle  # puts sessions on disk
        self.path = folder.path / "journal.jsonl"
        try:
            self._fd = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            end = os.lseek(self._fd, 0, os.SEEK_END)
            if end and os.pread(self._fd, 1, end - 1) != b"\n":
                write_all(self._fd, b"\n")  # what a killed one was writing spoils no other line
            sync_folder(folder.path)
        except OSError as error:
            raise cannot("write", self.path, error) from error
        self._batch: _Batch | None = None  # being put together
        self._one = anyio.Lock()  # batches go to the disk one after the other

    def begin(self, plan: Plan, *, rerun: list[int]) -> None:
        """Somebody drives the run now; these tasks begin anew."""
        about = {"kind": plan.kind, "source": plan.source, "total": len(plan.tasks)}
        self.note("begin", rerun=rerun, **about)

    def set_aside(self, outcomes: Iterable[Outcome]) -> None:
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

    def end(self, result: RunResult) -> None:
        """Nobody drives it any more. What a list shows of it stands here, so that it need not be
        added up again."""
        said = result.to_json()
        sums = {name: said[name] for name in ("usage", "cost")}
        sums["seconds"] = said["total_duration_seconds"]  # all the times that it was driven
        self.note("end", state=result.state, why=result.why, counts=result.counts, **sums)

    def note(self, event: str, **facts: Any) -> None:
        """A line, on disk when this returns: for what happens seldom."""
        self._commit([self._line(event, facts)])

    async def started(self, index: int, attempt: int, **facts: Any) -> None:
        """On disk when this returns: then the task may be started."""
        await self._add(self._line("started", {"task": index, "attempt": attempt, **facts}))

    async def ended(self, outcome: Outcome, events: int | None = None) -> None:
        """On disk when this returns, behind the task's session and the events in the open file
        `events`, which is closed."""
        facts = {"task": outcome.index, **summary_of(outcome)}
        await self._add(self._line("ended", facts), events, outcome.session_id)

    def close(self) -> None:
        os.close(self._fd)

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
            raise cannot("write", self.path, error) from error

    def _commit_batch(self, batch: _Batch) -> None:
        """The lines of a batch, behind what they tell of; from a thread of its own."""
        try:
            if batch.sessions:
                self._settle(batch.sessions)
            sync_together(batch.files)
        except OSError as error:
            raise cannot("write", self.folder.path, error) from error
        finally:
            for file in batch.files:
                os.close(file)
        self._commit(batch.lines)

    def _line(self, event: str, facts: dict[str, Any]) -> bytes:
        at = rfc3339(datetime.now(UTC))
        return encode(self.scrub({"version": VERSION, "at": at, "event": event, **facts})) + b"\n"

    async def _add(
        self, line: bytes, events: int | None = None, session: str | None = None
    ) -> None:
        """Put the line into the batch that is being put together, and wait until that is on disk;
        the first one of a batch takes it there, when the batch before it is."""
        import anyio
        import anyio.to_thread

        batch, is_first = self._batch, self._batch is None
        if batch is None:
            batch = self._batch = _Batch()
        batch.lines.append(line)
        if events is not None:
            batch.files.append(events)
        if session is not None:
            batch.sessions.append(session)
        if not is_first:
            await batch.done.wait()
        else:
            with anyio.CancelScope(shield=True):
                async with self._one:
                    self._batch = None  # who comes now is of the next one
                    try:
                        await anyio.to_thread.run_sync(self._commit_batch, batch)
                    except SessionError as error:
                        batch.error = error
                    except BaseException as error:
                        batch.error = SessionError(f"{self.path} was not written: {error!r}")
                        raise
                    finally:
                        batch.done.set()
        if batch.error is not None:
            raise batch.error


class _Batch:
    """Lines that reach the disk together, behind the files that they tell of."""

    def __init__(self) -> None:
        import anyio

        self.lines: list[bytes] = []
        self.files: list[int] = []
        self.sessions: list[str] = []
        self.done = anyio.Event()
        self.error: SessionError | None = None


def fold(plan: Plan, lines: list[dict[str, Any]], id_: str | None, *, running: bool) -> RunResult:
    """Where a run stands, from what was written of it. A task that had begun, and of which nobody
    told the end, is running while somebody drives the run, else indeterminate."""
    outcomes = [
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
    state, why, seconds = "interrupted", None, 0.0
    began: datetime | None = None
    first: datetime | None = None
    last: datetime | None = None
    for line in lines:
        if line.get("version", 0) > VERSION:
            raise ConfigError(f"run {id_} was written by a newer clinvk", "update clinvk to use it")
        at = datetime.fromisoformat(line["at"])
        match line.get("event"):
            case "begin":
                if began and last:
                    seconds += (last - began).total_seconds()
                began, state, why = at, "interrupted", None
                for i in line.get("rerun", ()):
                    outcomes[i] = anew(outcomes[i])
            case "started":
                i = line["task"]
                outcomes[i] = replace(
                    outcomes[i], state="running", backend=line.get("backend"),
                    attempts=outcomes[i].attempts + 1, session_id=line.get("session") or None,
                    started_at=at, ended_at=None, error=None, exit_code=None,
                )  # fmt: skip
            case "ended":
                i = line["task"]
                outcomes[i] = from_summary(outcomes[i], line)
            case "aside":
                error = line.get("error")
                failure = msgspec.convert(error, Failure) if error else None
                for i in line["tasks"]:
                    outcomes[i] = replace(outcomes[i], state=line["state"], error=failure)
            case "end":
                state, why = str(line["state"]), line.get("why")
                if (driven := line.get("seconds")) is not None:
                    # Who gives up a run that was cut off did not drive it until then.
                    seconds, began = float(driven), None
        first, last = first or at, at
    if strange := {o.state for o in outcomes}.difference(STATES):
        raise ValueError(f"unknown state {min(strange)!r}")
    if began and last:
        seconds += (last - began).total_seconds()
    if running:
        state = "running"
    else:
        outcomes = [unknown(o) if o.state == "running" else o for o in outcomes]
    return RunResult(
        id=id_, kind=plan.kind, state=state, results=tuple(outcomes), seconds=seconds, why=why,
        source=plan.source, started_at=first, ended_at=None if running else last,
    )  # fmt: skip


def anew(outcome: Outcome) -> Outcome:
    """A task that is to be run, again or at last."""
    return replace(outcome, state="queued", error=None, exit_code=None, ended_at=None)


def unknown(outcome: Outcome) -> Outcome:
    """A task that was cut off."""
    return replace(
        outcome,
        state="indeterminate",
        error=Failure(
            "indeterminate",
            "it was running when the run was cut off, and may have done a part of its work",
            "look at what it did; run it again with --rerun-indeterminate",
        ),
    )


def _decoded(data: bytes) -> list[dict[str, Any]]:
    lines = []
    for line in data.split(b"\n"):
        if line:
            with suppress(ValueError):  # msgspec's are such
                lines.append(msgspec.json.decode(line, type=dict[str, Any]))
    return lines


def _ends(path: Path) -> list[dict[str, Any]]:
    """The first line and the last one, where there are two that are whole."""
    try:
        with open(path, "rb") as file:
            first = file.readline()
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL))
            last = file.read()
    except OSError:
        return []
    if not last.endswith(b"\n") or last.count(b"\n") < 2:
        return []
    return _decoded(first + last[:-1].rpartition(b"\n")[2])


def _told_by(begin: dict[str, Any], end: dict[str, Any]) -> dict[str, Any]:
    """What the first line and the last one tell of a run that somebody drove to its end. Raises
    `KeyError` and the like where they do not tell it, or might mean something else: an older clinvk
    did not say there how long it took."""
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise cannot("read", path, error) from error


def _begun(path: Path) -> int:
    """When a run was created: its plan is written once."""
    try:
        return os.stat(path / "plan.json").st_mtime_ns
    except OSError:
        return 0
