"""What became of the results of a run: applied or dropped.

runs/<id>/taken.jsonl      one line for each; appended to, never changed
runs/<id>/applying.json    while results are being applied: where, and the note about that
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, to_builtins

from clinvk.disk.atomic import append_file, file_error, replace_own
from clinvk.disk.jsonl import decode_lines, encode
from clinvk.disk.reading import ANY, read_file
from clinvk.errors import UsageError
from clinvk.model.conversion import convert
from clinvk.model.usage import rfc3339
from clinvk.runs.folder import TAKEN_NAME, RunFolder
from clinvk.runs.log import RunLog

VERSION = 1
LOCK = "apply.lock"  # beside the note about an apply
NAME = TAKEN_NAME
MARK = "applying.json"
How = Literal["stage", "commit", "branch"]


class Taken(Struct, frozen=True, kw_only=True):
    """A result that was applied or dropped."""

    task: int  # its place in the plan, from 0
    event: Literal["applied", "dropped"]
    result: str  # the commit that was applied, or dropped
    at: str
    how: How | None = None
    commits: tuple[str, ...] = ()  # that were made
    branch: str | None = None  # on which they are
    root: str | None = None  # of the working tree that was changed
    unchanged: bool = False  # there was nothing to apply
    part_of: int | None = None  # the task whose result contains it: they are rounds of a loop

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = to_builtins(self)
        del data["task"]
        return data

    @property
    def is_unchanged(self) -> bool:
        """Whether there was nothing to apply."""
        made_none = self.how in ("commit", "branch") and not self.commits and self.part_of is None
        return self.event == "applied" and (self.unchanged or made_none)

    @property
    def description(self) -> str:
        """`applied 2026-11-28 12:30 (staged)`; `unchanged (2026-11-28 12:30)`."""
        day = datetime.fromisoformat(self.at).astimezone().strftime("%Y-%m-%d %H:%M")
        if self.event == "dropped":
            return f"dropped {day} (was {self.result[:10]})"
        where = {"stage": "staged", "commit": "as", "branch": f"on {self.branch} as"}[
            self.how or "stage"
        ]
        ids = " ".join(commit[:10] for commit in self.commits)
        if self.is_unchanged:
            return f"unchanged ({day})"
        if self.part_of is not None:
            return f"applied {day} (with the last round of its loop)"
        return f"applied {day} ({where}{' ' if ids else ''}{ids})"


class History(Struct, frozen=True):
    """All that happened to the results of a run, oldest first."""

    events: tuple[Taken, ...] = ()

    def last(self, task: int) -> Taken | None:
        """What happened to it last."""
        return next((e for e in reversed(self.events) if e.task == task), None)

    def last_of(self, task: int, event: str) -> Taken | None:
        """How it was applied or dropped last."""
        mine = (e for e in reversed(self.events) if (e.task, e.event) == (task, event))
        return next(mine, None)

    def applied(self, tasks: Collection[int], result: str) -> Taken | None:
        """How this result of one of the tasks was applied last."""
        return self._last_of_result(tasks, "applied", result)

    def dropped(self, tasks: Collection[int], result: str) -> Taken | None:
        return self._last_of_result(tasks, "dropped", result)

    def _last_of_result(self, tasks: Collection[int], event: str, result: str) -> Taken | None:
        mine = (e for e in reversed(self.events) if e.task in tasks and e.event == event)
        return next((e for e in mine if e.result == result), None)

    def applied_results(self, task: int | None = None) -> tuple[str, ...]:
        """The commits that were applied to the user's files or branch, oldest first; with `task`,
        only its own."""
        return tuple(
            e.result
            for e in self.events
            if e.event == "applied" and e.how != "branch" and task in (None, e.task)
        )

    def counts(self) -> dict[str, int]:
        """The number of results that were applied, and dropped; those of a loop count as one."""
        last = {e.task: e for e in self.events}
        words = [e.event for e in last.values() if e.part_of is None or e.part_of not in last]
        return {word: words.count(word) for word in ("applied", "dropped") if word in words}


def read_history(folder: RunLog) -> History:
    """Raises `SessionError` if it cannot be read."""
    events = []
    for line in folder.read_taken():
        with suppress(ValueError, TypeError):  # of a newer clinvk
            known = {k: v for k, v in line.items() if k in Taken.__struct_fields__}
            events.append(convert(known, Taken))
    return History(tuple(events))


def record_purpose(folder: RunFolder, run: str) -> None:
    """Record that this run resolves a conflict of that one: its result is part of an apply. Raises
    `SessionError`."""
    record(about(folder, [{"event": "resolves", "run": run}]))


def check_purpose(folder: RunFolder) -> None:
    """Raise `UsageError` if the results of the run are not there to be applied."""
    path = folder.path / NAME
    try:
        lines = decode_lines(read_file(path, limit=ANY))
    except FileNotFoundError:
        return
    except OSError as error:
        raise file_error("read", path, error) from error
    of = next((str(line.get("run")) for line in lines if line.get("event") == "resolves"), None)
    if of is not None:
        raise UsageError(
            f"run {folder.id} has resolved a conflict of run {of}, and is not applied by itself",
            f"apply that one: clinvk runs apply {of}{folder.where}",
        )


def about(folder: RunFolder, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What to record when the results have been applied, for any process."""
    return {"run": folder.id, "folder": str(folder.path), "events": [dict(e) for e in events]}


def record(what: Mapping[str, Any]) -> None:
    """Record what `about` has put together; once only for each token in it. It is on disk when this
    returns. Raises `SessionError`."""
    path, token = Path(what["folder"]) / NAME, str(what.get("token") or "")
    at = rfc3339(datetime.now(UTC))
    lines = [{"version": VERSION, "at": at, **event, "token": token} for event in what["events"]]
    try:
        if token and token.encode() in _content(path):
            return
        append_file(path, b"".join(encode(line) + b"\n" for line in lines))
    except FileNotFoundError:  # the run was deleted meanwhile
        return
    except OSError as error:
        raise file_error("write", path, error) from error


def mark_begun(what: Mapping[str, Any], root: str, note: Path) -> None:
    """Let people find an apply of `what` to `root`, if it is killed, from the run. `note` says there how
    far it is, beside the lock of the process that applies."""
    path = Path(what["folder"]) / MARK
    with suppress(OSError):  # only commands about the run would use it
        replace_own(path, encode({"root": root, "note": os.fspath(note)}), durable=False)


def mark_ended(what: Mapping[str, Any]) -> None:
    with suppress(OSError):
        (Path(what["folder"]) / MARK).unlink(missing_ok=True)


def find_interrupted(folder: Path) -> str | None:
    """The working tree to which results of the run in this directory were being applied when that was
    killed; None if none was, or if another apply has dealt with it."""
    try:
        mark = json.loads(read_file(folder / MARK))
        note = Path(mark["note"])
        about = json.loads(read_file(note, limit=ANY))["about"]
        return None if about["run"] != folder.name or _is_held(note) else str(mark["root"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def describe_interrupted(run: str, root: str, where: str = "") -> str:
    """A sentence about an apply that was killed, with the command that recovers; `where` are the flags
    with which it finds the run."""
    return (
        f"applying results of run {run} to {root} was interrupted; to put everything back, or complete "
        f"it, and apply what is left: cd {shlex.quote(root)} && clinvk runs apply {run}{where}"
    )


def _is_held(note: Path) -> bool:
    """Whether a process is applying there now."""
    with (note.parent / LOCK).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _content(path: Path) -> bytes:
    try:
        return read_file(path, limit=ANY)
    except FileNotFoundError:
        return b""
