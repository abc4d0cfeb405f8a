"""The directories of runs: how to find one, read it, lock it and delete it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from clinvk.disk.atomic import NoSpace, append_file, file_error, make_folder, replace_own
from clinvk.disk.jsonl import decode_lines, encode
from clinvk.disk.lockfile import HeldLock, NamedLocks
from clinvk.disk.reading import ANY, open_regular, read_file, read_with_privacy
from clinvk.disk.sync import sync_folder
from clinvk.errors import SessionError
from clinvk.model.conversion import json_decoder
from clinvk.model.outcome import Outcome, RunResult, outcome_from_result
from clinvk.model.plan import Plan
from clinvk.model.result import Result, plain
from clinvk.model.session import Session
from clinvk.model.usage import rfc3339
from clinvk.runs.replay import replay, summary_from_ends

ID_BYTES = 3
LOCK_NAME = "lock"
ALIVE_NAME = "alive"  # an empty file, touched while a process drives the run
DAMAGE = (AttributeError, KeyError, IndexError, TypeError, ValueError)  # raised by a bad line
TAIL_BYTES = 16 * 1024  # bytes within which the last line of a journal starts


class RunNotFound(SessionError, FileNotFoundError):  # noqa: N818 - reads as what it says
    """There is no run with that id or prefix."""


DELETED = ".deleted-"  # beginning of the name of a run while its files are being removed


class RunStore:
    """The runs below a home."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "runs"

    def create(self, plan: Plan) -> RunFolder:
        """The directory of a new run of the plan. Raises `SessionError` if it cannot be written."""
        try:
            make_folder(self.folder)
            while True:
                run_id = "r" + os.urandom(ID_BYTES).hex()
                path = self.folder / run_id
                with suppress(FileExistsError):
                    path.mkdir(mode=0o700)
                    break
        except OSError as error:
            raise file_error("write", self.folder, error) from error
        folder = RunFolder(path)
        try:
            folder.make(plan)
        except BaseException:
            with suppress(SessionError):
                folder.delete_locked()
            raise
        return folder

    def ids(self) -> list[str]:
        try:
            return [
                e.name
                for e in os.scandir(self.folder)
                if not e.name.startswith(DELETED) and e.is_dir()
            ]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise file_error("read", self.folder, error) from error

    def remove_remains(self) -> None:
        """Remove what deletions left that were killed on the way."""
        for path in self.folder.glob(f"{DELETED}*"):
            shutil.rmtree(path, ignore_errors=True)

    def find(self, text: str) -> RunFolder:
        """The run with this id, or this unique prefix of one; `last` is the newest. Raises
        `RunNotFound`, `SessionError`."""
        ids = self.ids()
        if text == "last" and ids:
            return RunFolder(max((self.folder / run_id for run_id in ids), key=_created_at))
        found = [i for i in ids if i == text] or [i for i in ids if text and i.startswith(text)]
        if len(found) > 1:
            raise SessionError(
                f"{text!r} is the beginning of several runs: {', '.join(sorted(found)[:10])}",
                "type more of the id",
            )
        if not ids and text == "last":
            raise RunNotFound("there are no runs yet", "start one: clinvk parallel tasks.yaml")
        if not ids:
            hint = "there are no runs yet; start one: clinvk parallel tasks.yaml"
            raise RunNotFound(f"no run {text[:100]!r}", hint)
        if not found:
            raise RunNotFound(f"no run {text[:100]!r}", "see them all: clinvk runs list")
        return RunFolder(self.folder / found[0])

    def newest_first(self) -> Iterator[RunFolder]:
        paths = sorted(
            (self.folder / run_id for run_id in self.ids()), key=_created_at, reverse=True
        )
        return (RunFolder(path) for path in paths)


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name

    # Reading.

    def plan(self, *, trusted: bool = False) -> Plan:
        """The stored plan. Raises `SessionError`; with `trusted`, also if other users may have
        written it."""
        try:
            return Plan.from_json(msgspec.json.decode(self._read("plan.json", trusted=trusted)))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise self._damaged("plan.json", why) from error

    def _read(self, file: str, *, trusted: bool) -> bytes:
        data, is_private = read_with_privacy(self.path / file, limit=ANY)
        if trusted and not is_private:
            raise SessionError(
                f"run {self.id} cannot be resumed: other users may have written {self.path / file}",
                f"check that file, then make it private: chown $USER {self.path / file}; "
                f"chmod 600 {self.path / file}",
            )
        return data

    def damaged_journal(self, error: Exception) -> SessionError:
        """The error to raise if a line of the journal is impossible."""
        return self._damaged("journal.jsonl", f"{type(error).__name__}: {error}")

    def _damaged(self, file: str, why: Any) -> SessionError:
        return SessionError(
            f"run {self.id} is damaged: {self.path / file}: {why}",
            f"delete it with: clinvk runs delete {self.id}",
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
    ) -> tuple[RunResult, list[dict[str, Any]]]:
        """The same, with the lines of the journal."""
        running = not is_driver and self.find_driver() is not None
        lines = self._lines(trusted=trusted)
        try:
            return self._with_last_activity(replay(plan, lines, self.id, running=running)), lines
        except DAMAGE as error:
            raise self.damaged_journal(error) from error

    def note_alive(self) -> None:
        """Record that the run is being driven now."""
        with suppress(OSError):  # a full disk is no reason to stop it
            path = self.path / ALIVE_NAME
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.utime(path)

    def _with_last_activity(self, result: RunResult) -> RunResult:
        """The result of an interrupted run, with the time until it was last known to be alive, also
        for each task that was running: the journal has no entry between the start and the end of a
        task."""
        if result.state != "interrupted" or result.ended_at is None:
            return result
        cut_off = [o for o in result.results if o.state == "indeterminate" and o.started_at]
        signs = [self.path / ALIVE_NAME, *(self.events_path(o.index) for o in cut_off)]
        last = result.ended_at
        for path in signs:
            with suppress(OSError):  # there was none
                last = max(last, datetime.fromtimestamp(os.stat(path).st_mtime, UTC))
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
        result = replace(result, results=tuple(map(self.with_output, result.results)))
        if result.kind != "compare":
            return result
        # Only for comparisons.
        from clinvk.runs.scores import with_scores

        return with_scores(result, self.path)

    def with_output(self, outcome: Outcome) -> Outcome:
        if outcome.attempts == 0:
            return outcome
        last = self.answer(outcome.index)
        return replace(
            outcome, output=str(last.get("content") or ""), structured=last.get("structured")
        )

    def answer(self, index: int) -> dict[str, Any]:
        """The object of `-o json` of the task's last attempt that ended; empty without one."""
        results = self._results(index)
        return results[-1] if results else {}

    def result_of(self, outcome: Outcome, *, alone: bool) -> dict[str, Any] | None:
        """The result of the last attempt, if it follows its events: either each attempt has one, or
        it names the session, if the attempt is `alone` in that."""
        results, session = self._results(outcome.index), outcome.session_id
        if not results:
            return None
        is_named = alone and session is not None and results[-1].get("session_id") == session
        return results[-1] if is_named or len(results) == outcome.attempts else None

    def _results(self, index: int) -> list[dict[str, Any]]:
        return [line for line in self.events(index) if line.get("type") == "result"]

    def events(self, index: int) -> list[dict[str, Any]]:
        """The events of a task, one object each. A torn line is skipped."""
        return decode_lines(_read(self.events_path(index)))

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
        path = self.events_path(outcome.index)
        try:
            append_file(path, encode(line) + b"\n")
        except OSError as error:
            raise file_error("write", path, error) from error
        return outcome_from_result(outcome, line)

    def copy_events(self, other: RunFolder, index: int) -> None:
        """Copy the events of the same task of another run. Raises `SessionError`."""
        path = self.events_path(index)
        try:
            replace_own(path, _read(other.events_path(index)), durable=True)
        except OSError as error:
            raise file_error("write", path, error) from error

    def events_path(self, index: int) -> Path:
        return self.path / "tasks" / f"{index + 1:04}.jsonl"

    def checks_path(self, index: int) -> Path:
        """The directory with the output of the checks of a task."""
        return self.path / "checks" / f"{index + 1:04}"

    def last_turn(self, index: int) -> dict[str, Any]:
        """The object of `-o json` of the task's last turn whose work was checked; empty without
        one."""
        turns = [line for line in self.events(index) if line.get("type") == "turn"]
        return turns[-1] if turns else {}

    def _lines(self, *, trusted: bool) -> list[dict[str, Any]]:
        try:
            return decode_lines(self._read("journal.jsonl", trusted=trusted))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise file_error("read", self.journal_path, error) from error

    @property
    def journal_path(self) -> Path:
        return self.path / "journal.jsonl"

    def summary(self) -> dict[str, Any]:
        """What a list shows: `id`, `kind`, `state`, `source`, `total_tasks`, `counts`, times (its
        seconds are those for which a process drove it), usage and cost. Raises `SessionError`."""
        if self.find_driver() is None:
            # If the first and last lines do not match, reading all of it reports the error.
            with suppress(KeyError, TypeError, ValueError, AttributeError, OSError):
                json_decoder(Plan).decode(read_file(self.path / "plan.json", limit=ANY))
                return {
                    "id": self.id,
                    **summary_from_ends(*_first_and_last_line(self.path / "journal.jsonl")),
                }
        result = self.result()
        first, last = result.started_at, result.ended_at
        return {
            "id": self.id, "kind": result.kind, "source": result.source, "state": result.state,
            "total_tasks": len(result.results), "counts": result.counts,
            "started_at": first and rfc3339(first), "ended_at": last and rfc3339(last),
            "total_duration_seconds": round(result.seconds, 3),
            "usage": plain(result.usage), "cost": result.to_json()["cost"],
        }  # fmt: skip

    def modified_at(self) -> datetime:
        """When the run was last written to."""
        for name in ("journal.jsonl", "plan.json"):
            with suppress(OSError):
                return datetime.fromtimestamp((self.path / name).stat().st_mtime, UTC)
        return datetime.fromtimestamp(self.path.stat().st_mtime, UTC)

    # Driving.

    def find_driver(self) -> dict[str, Any] | None:
        """The note of the process that drives it; None without one."""
        return NamedLocks(self.path).running_turn(LOCK_NAME)

    @property
    def lock_path(self) -> Path:
        return self.path / LOCK_NAME

    def is_idle(self) -> bool:
        """Whether no process drives it, and no killed one may have left something running."""
        return NamedLocks(self.path).is_idle(LOCK_NAME)

    def lock(self) -> HeldLock:
        """The lock that allows driving the run, until it is closed. Raises `SessionError` if
        another process holds it, `RunNotFound` if it has been deleted meanwhile."""
        try:
            turn = NamedLocks(self.path).acquire(LOCK_NAME, create_folder=False)
        except FileNotFoundError as error:
            raise RunNotFound(
                f"run {self.id} has been deleted", "see them all: clinvk runs list"
            ) from error
        if turn is None:
            raise SessionError(
                f"run {self.id} is running",
                f"see it with: clinvk runs watch {self.id}; cancel it with: clinvk runs cancel {self.id}",
            )
        return turn

    def make(self, plan: Plan) -> None:
        """Create the files of a run in an empty directory. Raises `SessionError`."""
        tasks = self.path / "tasks"
        try:
            tasks.mkdir(mode=0o700)
        except OSError as error:
            raise file_error("write", tasks, error) from error
        self.write_plan(plan)

    def write_plan(self, plan: Plan) -> None:
        data = {"created_at": rfc3339(datetime.now(UTC)), **plan.to_json()}
        try:
            replace_own(self.path / "plan.json", encode(data) + b"\n", durable=True)
            sync_folder(self.path.parent)
        except OSError as error:
            raise file_error("write", self.path / "plan.json", error) from error

    def delete(self) -> None:
        """Delete the run. Raises `SessionError` if it is running or has left something running."""
        try:
            turn = self.lock()
        except NoSpace:
            if (self.path / LOCK_NAME).exists():
                raise
            self.delete_locked()  # no process holds a lock that cannot even be created
            return
        if turn.leftover:
            turn.abandon()
            raise SessionError(
                f"run {self.id} was interrupted, and may have left something running",
                f"stop that first: clinvk runs cancel {self.id}",
            )
        try:
            self.delete_locked()
        finally:
            turn.close()

    def delete_locked(self) -> None:
        """The same, for a caller that holds its lock."""
        # Renamed first: a process that is about to lock it finds all of it or nothing.
        doomed = self.path.with_name(f"{DELETED}{self.id}-{os.urandom(4).hex()}")
        try:
            self.path.rename(doomed)
            try:
                shutil.rmtree(doomed)
            except FileNotFoundError:  # another process removes the rest
                return
            except OSError:
                with suppress(OSError):
                    doomed.rename(self.path)
                raise
        except OSError as error:
            raise file_error("delete", self.path, error) from error


def _first_and_last_line(path: Path) -> list[dict[str, Any]]:
    """The first and the last line, if there are two complete ones."""
    try:
        with open_regular(path) as file:
            first = file.readline()
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            last = file.read()
    except OSError:
        return []
    if not last.endswith(b"\n") or last.count(b"\n") < 2:
        return []
    return decode_lines(first + last[:-1].rpartition(b"\n")[2])


def _read(path: Path) -> bytes:
    try:
        return read_file(path, limit=ANY)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise file_error("read", path, error) from error


def _created_at(path: Path) -> int:
    """When a run was created: its plan is written once."""
    try:
        return os.stat(path / "plan.json").st_mtime_ns
    except OSError:
        return 0
