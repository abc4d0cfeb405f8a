"""The directories of runs: how to find one, read it, lock it and delete it."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clinvk.disk.atomic import NoSpace, append_file, file_error, make_folder, replace_own
from clinvk.disk.jsonl import decode_lines, encode
from clinvk.disk.lockfile import HeldLock, NamedLocks
from clinvk.disk.reading import ANY, open_regular, read_file, read_with_privacy
from clinvk.disk.sync import sync_folder
from clinvk.errors import SessionError
from clinvk.model.conversion import json_decoder
from clinvk.model.outcome import Outcome, RunResult
from clinvk.model.plan import Plan
from clinvk.model.usage import rfc3339
from clinvk.runs.files import EventFile, FileReader, JournalFile, events_path
from clinvk.runs.log import JOURNAL, PLAN, Line, RunLog, RunNotFound, Runs, find_id
from clinvk.runs.replay import summary_from_ends

ID_BYTES = 3
LOCK_NAME = "lock"
TAKEN_NAME = "taken.jsonl"  # what became of results; appended to, never changed
ALIVE_NAME = "alive"  # an empty file, touched while a process drives the run
BEGIN_TIMEOUT = 2.0  # seconds from the creation of a run until a process drives it
TAIL_BYTES = 16 * 1024  # bytes within which the last line of a journal starts


DELETED = ".deleted-"  # beginning of the name of a run while its files are being removed
NEW = ".new-"  # the same while they are being written
NEW_TIMEOUT = 3600.0  # seconds after which no process can still be writing them


class RunStore(Runs):
    """The runs below a home."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "runs"

    def create(self, plan: Plan) -> RunFolder:
        """The directory of a new run of the plan. Raises `SessionError` if it cannot be written."""
        # Renamed last: if this process is killed, there is a whole run or none.
        new = RunFolder(self.folder / f"{NEW}{os.urandom(4).hex()}")
        try:
            make_folder(self.folder)
            new.path.mkdir(mode=0o700)
        except OSError as error:
            raise file_error("write", self.folder, error) from error
        try:
            new.make(plan)
            return RunFolder(self._take_id(new.path))
        except BaseException:
            shutil.rmtree(new.path, ignore_errors=True)
            raise

    def _take_id(self, new: Path) -> Path:
        """Give a new directory an id that no other run has. Raises `SessionError`."""
        try:
            while True:
                path = self.folder / f"r{os.urandom(ID_BYTES).hex()}"
                if not path.exists():
                    with suppress(FileExistsError, NotADirectoryError):
                        _rename_to_new(new, path)
                        sync_folder(self.folder)
                        return path
        except OSError as error:
            raise file_error("write", self.folder, error) from error

    def ids(self) -> list[str]:
        try:
            return [
                e.name
                for e in os.scandir(self.folder)
                if not e.name.startswith((DELETED, NEW)) and e.is_dir()
            ]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise file_error("read", self.folder, error) from error

    def remove_remains(self) -> None:
        """Remove what deletions left that were killed on the way, and creations a while ago."""
        for path in self.folder.glob(f"{DELETED}*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob(f"{NEW}*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > NEW_TIMEOUT:
                    shutil.rmtree(path, ignore_errors=True)

    def find(self, text: str) -> RunFolder:
        return RunFolder(self.folder / find_id(text, self.ids(), self._newest_id))

    def _newest_id(self) -> str | None:
        return next((folder.id for folder in self.newest_first()), None)

    def newest_first(self) -> Iterator[RunFolder]:
        paths = sorted(
            (self.folder / run_id for run_id in self.ids()), key=_created_at, reverse=True
        )
        return (RunFolder(path) for path in paths)


class RunFolder(RunLog):
    """One run on disk."""

    alive_interval = 1.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name

    @property
    def home(self) -> Path:
        return self.path.parent.parent

    # Reading.

    def read_plan(self, *, trusted: bool) -> bytes:
        return self._read(PLAN, trusted=trusted)

    def place_of(self, what: str = "") -> str:
        return str(self.path / what)

    def _read(self, file: str, *, trusted: bool) -> bytes:
        data, is_private = read_with_privacy(self.path / file, limit=ANY)
        if trusted and not is_private:
            raise SessionError(
                f"run {self.id} cannot be resumed: other users may have written {self.path / file}",
                f"check that file, then make it private: chown $USER {self.path / file}; "
                f"chmod 600 {self.path / file}",
            )
        return data

    def note_alive(self) -> int:
        with suppress(OSError):  # a full disk is no reason to stop it
            path = self.path / ALIVE_NAME
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.utime(path)
        return 0  # a signal says so

    def last_sign(self, tasks: Iterable[int]) -> datetime | None:
        times = []
        for path in (self.path / ALIVE_NAME, *map(self.events_path, tasks)):
            with suppress(OSError):  # there was none
                times.append(datetime.fromtimestamp(os.stat(path).st_mtime, UTC))
        return max(times, default=None)

    def with_outputs(self, result: RunResult) -> RunResult:
        result = super().with_outputs(result)
        if result.kind != "compare":
            return result
        # Only for comparisons.
        from clinvk.runs.scores import with_scores

        return with_scores(result, self.path)

    def events(self, index: int) -> list[Line]:
        return decode_lines(_read(self.events_path(index)))

    def append_event(self, index: int, line: Line) -> None:
        path = self.events_path(index)
        try:
            append_file(path, encode(line) + b"\n")
        except OSError as error:
            raise file_error("write", path, error) from error

    def copy_events(self, other: RunLog, index: int) -> None:
        path = self.events_path(index)
        if isinstance(other, RunFolder):
            data = _read(other.events_path(index))
        else:
            data = b"".join(encode(line) + b"\n" for line in other.events(index))
        try:
            replace_own(path, data, durable=True)
        except OSError as error:
            raise file_error("write", path, error) from error

    def drop_unfinished_events(self, index: int) -> None:
        lines = self.events(index)
        ends = [i for i, line in enumerate(lines) if line.get("type") == "result"]
        kept = lines[: ends[-1] + 1] if ends else []
        path = self.events_path(index)
        try:
            replace_own(path, b"".join(encode(line) + b"\n" for line in kept), durable=True)
        except OSError as error:
            raise file_error("write", path, error) from error

    def reader(self) -> FileReader:
        return FileReader(self.journal_path, self.path / "tasks")

    def events_path(self, index: int) -> Path:
        return events_path(self.path / "tasks", index)

    def checks_path(self, index: int) -> Path:
        """The directory with the output of the checks of a task."""
        return self.path / "checks" / f"{index + 1:04}"

    def read_journal(self, *, trusted: bool = False) -> list[Line]:
        try:
            return decode_lines(self._read(JOURNAL, trusted=trusted))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise file_error("read", self.journal_path, error) from error

    def read_taken(self) -> list[Line]:
        return decode_lines(_read(self.path / TAKEN_NAME))

    @property
    def journal_path(self) -> Path:
        return self.path / JOURNAL

    def summary(self) -> Line:
        if self.find_driver() is None:
            # If the first and last lines do not match, reading all of it reports the error.
            with suppress(KeyError, TypeError, ValueError, AttributeError, OSError):
                json_decoder(Plan).decode(read_file(self.path / PLAN, limit=ANY))
                return {
                    "id": self.id,
                    **summary_from_ends(*_first_and_last_line(self.path / JOURNAL)),
                }
        return super().summary()

    def created_at(self) -> datetime:
        return datetime.fromtimestamp(_created_at(self.path) / 1e9, UTC)

    def modified_at(self) -> datetime:
        for name in (JOURNAL, PLAN):
            with suppress(OSError):
                return datetime.fromtimestamp((self.path / name).stat().st_mtime, UTC)
        return datetime.fromtimestamp(self.path.stat().st_mtime, UTC)

    # Driving.

    def open_journal(self) -> JournalFile:
        return JournalFile(self.journal_path)

    def open_events(self, index: int) -> EventFile:
        return EventFile(self.events_path(index))

    def find_driver(self) -> dict[str, Any] | None:
        return NamedLocks(self.path).running_turn(LOCK_NAME)

    def awaits_driver(self, *, has_begun: bool) -> bool:
        """Whether it was created a moment ago, and the process that did so is about to drive it."""
        if has_begun:
            return False
        try:
            created = self.modified_at()
        except FileNotFoundError:  # it was deleted
            return False
        return (datetime.now(UTC) - created).total_seconds() < BEGIN_TIMEOUT

    def other_drivers(self) -> Iterable[dict[str, Any] | None]:
        runs = RunStore(self.home)
        return (RunFolder(runs.folder / i).find_driver() for i in runs.ids() if i != self.id)

    def ask_to_stop(self, facts: dict[str, Any]) -> bool:
        # Only to cancel.
        from clinvk.runs.driver import ask_to_stop

        return ask_to_stop(self.id, self.lock_path, facts, self.find_driver)

    @property
    def lock_path(self) -> Path:
        return self.path / LOCK_NAME

    def is_idle(self) -> bool:
        return NamedLocks(self.path).is_idle(LOCK_NAME)

    def is_deletable(self) -> bool:
        return self.is_idle() or (self.find_driver() is None and self.has_ended())

    def lock(self) -> HeldLock:
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
            replace_own(self.path / PLAN, encode(data) + b"\n", durable=True)
        except OSError as error:
            raise file_error("write", self.path / PLAN, error) from error

    def stop_attempts(self, outcomes: Iterable[Outcome]) -> None:
        """Does nothing: what was left running here has been stopped."""

    def delete(self) -> None:
        try:
            turn = self.lock()
        except NoSpace:
            if (self.path / LOCK_NAME).exists():
                raise
            self.delete_locked()  # no process holds a lock that cannot even be created
            return
        if turn.leftover and not self.has_ended():
            turn.abandon()
            raise SessionError(
                f"run {self.id} was interrupted, and may have left something running",
                f"stop that first: clinvk runs cancel {self.id}",
            )
        try:
            self.delete_locked()
        finally:
            turn.close()

    def has_ended(self) -> bool:
        """Whether its end is recorded: a process that was killed after that has left nothing running."""
        return any(
            line.get("event") == "end" for line in _first_and_last_line(self.path / JOURNAL)[1:]
        )

    def delete_locked(self) -> None:
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


def _rename_to_new(source: Path, target: Path) -> None:
    """Rename a directory. Raises `FileExistsError` if there is one of that name, unless it is
    empty."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(error.errno, os.strerror(error.errno), str(target)) from error
        raise


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
        return os.stat(path / PLAN).st_mtime_ns
    except OSError:
        return 0
