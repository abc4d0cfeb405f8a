"""One run in Redis.

    log:RUN      its plan, as it was when the run started, and when it was created and last written to
    journal:RUN  a stream: what happened to each task, in order
    events:RUN   a stream: the events of all tasks, each attempt ending with its result
    index:RUN    where the events of each task begin and end, and where its results are
    driver:RUN   the lease of the process that drives it

The journal has a stream of its own, so that the state of a run can be read without its events.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from clinvk.cluster.keys import AttemptId
from clinvk.cluster.ledger.ledger import Ledger
from clinvk.cluster.log import scripts
from clinvk.cluster.log.lease import LEASE, WHERE, RunLease
from clinvk.cluster.log.reader import StreamReader
from clinvk.cluster.log.server import Id, LogServer, format_id, parse_id
from clinvk.cluster.log.sinks import StreamEvents, StreamJournal
from clinvk.cluster.log.taken import TakenLog
from clinvk.disk.jsonl import decode_line, encode
from clinvk.errors import SessionError
from clinvk.model.outcome import Outcome, RunResult
from clinvk.model.plan import Plan, Worktree
from clinvk.model.usage import rfc3339
from clinvk.process import note as turn_note
from clinvk.runs.log import JOURNAL, PLAN, Line, RunLog, RunNotFound
from clinvk.runs.replay import VERSION, summary_from_ends

AT_A_TIME = 500  # results that are read at a time


class RedisRun(RunLog):
    """The records of a run on a server."""

    alive_interval = 0.25

    def __init__(
        self, server: LogServer, run: str, home: Path, *, seconds: float = LEASE, where: str = WHERE
    ) -> None:
        """A process that has died drives the run for so many `seconds` more."""
        self.id = run
        self.where = where
        self.server = server
        self._home = home
        self._seconds = seconds
        self._lease: RunLease | None = None  # while this process drives it
        self.on_lost: Callable[[], None] = lambda: None  # another process drives it now
        keys = server.keys
        self._log, self._journal = keys.run_log(run), keys.journal(run)
        self._events, self._index = keys.events(run), keys.event_index(run)

    @property
    def home(self) -> Path:
        return self._home

    # Reading.

    def read_plan(self, *, trusted: bool) -> bytes:  # noqa: ARG002 - who may write there may do all
        if (data := self._field("plan")) is None:
            raise self._deleted()
        return data

    def plan(self, *, trusted: bool = False) -> Plan:
        plan = super().plan(trusted=trusted)
        for task in plan.tasks:
            if task.worktree is not None and (name := _forged_name(task.worktree)) is not None:
                raise self._damaged(PLAN, f"invalid name {name[:100]!r}")
        return plan

    def place_of(self, what: str = "") -> str:
        key = {PLAN: self._log, JOURNAL: self._journal}.get(what, self._log)
        return f"the key {key} of the redis at {self.server.place}"

    def read_journal(self, *, trusted: bool = False) -> list[Line]:  # noqa: ARG002 - as above
        return StreamReader(self.server, self.id).journal()

    def events(self, index: int) -> list[Line]:
        first, last = (self._place(f"{index}:{name}") for name in ("first", "last"))
        if first is None or last is None:
            return []
        found = self.server.entries(self._events, (first[0], first[1] - 1), last)
        lines = (
            decode_line(fields[b"line"]) for _, fields in found if int(fields[b"task"]) == index
        )
        return [line for line in lines if line is not None]

    def reader(self) -> StreamReader:
        return StreamReader(self.server, self.id)

    def read_state(
        self, plan: Plan, *, is_driver: bool = False, trusted: bool = False
    ) -> tuple[RunResult, list[Line]]:
        result, lines = super().read_state(plan, is_driver=is_driver, trusted=trusted)
        if is_driver or not self.awaits_driver(has_begun=True) or self.find_driver() is not None:
            return result, lines
        problem = self._field("problem")
        return replace(
            result, state=result.state if lines else "queued",
            why=problem.decode("utf-8", "replace") if problem else result.why,
        ), lines  # fmt: skip

    def is_driven(self) -> bool:
        return super().is_driven() or self.awaits_driver(has_begun=True)

    def summary(self) -> Line:
        if not self.is_driven():
            first, last = self._ends()
            try:
                return {"id": self.id, **summary_from_ends(first, last)}
            except (KeyError, TypeError, ValueError, AttributeError):
                pass  # if the lines do not match, reading all of them reports the error
        if self._ends()[0]:
            return super().summary()
        about = msgspec.json.decode(self._field("about") or b"{}")
        if about.get("version", 0) > VERSION or "total" not in about:
            return super().summary()
        return {
            "id": self.id, "kind": about["kind"], "source": about["source"],
            "state": "queued" if self.is_driven() else "interrupted",
            "total_tasks": about["total"], "counts": {"queued": about["total"]},
            "started_at": None, "ended_at": None, "total_duration_seconds": 0.0,
            "usage": None, "cost": None,
        }  # fmt: skip

    def has_begun(self) -> bool:
        """Whether a process has driven it."""
        return bool(self._ends()[0])

    def _ends(self) -> tuple[Line, Line]:
        """The first and the last line of the journal; empty if there are none."""
        with self.server.errors(), self.server.client.pipeline(transaction=False) as pipe:
            pipe.xrange(self._journal, count=1)
            pipe.xrevrange(self._journal, count=1)
            found = pipe.execute()
        first, last = (decode_line(e[0][1][b"line"]) if e else None for e in found)
        return first or {}, last or {}

    def created_at(self) -> datetime:
        return self._moment("created") or datetime.fromtimestamp(0, UTC)

    def modified_at(self) -> datetime:
        if (moment := self._moment("modified")) is None:
            raise self._deleted()
        return moment

    def last_sign(self, tasks: Iterable[int]) -> datetime | None:
        places = [self._place(f"{index}:last") for index in tasks]
        times = [datetime.fromtimestamp(p[0] / 1000, UTC) for p in places if p is not None]
        alive = self._moment("alive")
        return max([*times, *([alive] if alive else [])], default=None)

    # The answers of tasks, by the index.

    def with_outputs(self, result: RunResult) -> RunResult:
        begun = [o.index for o in result.results if o.attempts]
        answers: dict[int, Line] = {}
        for i in range(0, len(begun), AT_A_TIME):
            answers |= self._answers(begun[i : i + AT_A_TIME])
        return replace(
            result, results=tuple(_with_answer(o, answers.get(o.index)) for o in result.results)
        )

    def answer(self, index: int) -> Line:
        return self._answers([index]).get(index, {})

    def _answers(self, tasks: list[int]) -> dict[int, Line]:
        with self.server.errors():
            found: Any = self.server.client.hmget(self._index, [f"{i}:result" for i in tasks])
            places = {i: place for i, place in zip(tasks, found, strict=True) if place}
            with self.server.client.pipeline(transaction=False) as pipe:
                for place in places.values():
                    pipe.xrange(self._events, place, place)
                entries = pipe.execute()
        lines = {
            i: decode_line(e[0][1][b"line"]) for i, e in zip(places, entries, strict=True) if e
        }
        return {i: line for i, line in lines.items() if line is not None}

    def result_of(self, outcome: Outcome, *, alone: bool) -> Line | None:
        last, session = self.answer(outcome.index), outcome.session_id
        if not last:
            return None
        with self.server.errors():
            count: Any = self.server.client.hget(self._index, f"{outcome.index}:results")
        is_named = alone and session is not None and last.get("session_id") == session
        return last if is_named or int(count or 0) == outcome.attempts else None

    def last_turn(self, index: int) -> Line:
        place = self._place(f"{index}:turn")
        if place is None:
            return {}
        found = self.server.page(self._events, (place[0], place[1] - 1), place)
        return (decode_line(found[0][1][b"line"]) if found else None) or {}

    @contextmanager
    def open_repository(
        self, worktree: Worktree, commits: Iterable[str], env: Mapping[str, str]
    ) -> Iterator[str]:
        if not worktree.remote:
            yield worktree.repository
            return
        # Git, which most runs do without.
        from clinvk.cluster.files.exchange import open_results

        with open_results(self.home, self.id, worktree.remote, env, commits) as git:
            yield git.text("rev-parse", "--absolute-git-dir")

    def read_taken(self) -> list[Line]:
        return [line for text in self.taken.lines() if (line := decode_line(text)) is not None]

    @property
    def taken(self) -> TakenLog:
        return TakenLog(self.server, self.id, self._home)

    # Writing.

    def append_event(self, index: int, line: Line) -> None:
        self._sink(index).append([encode(line) + b"\n"])

    def copy_events(self, other: RunLog, index: int) -> None:
        self._sink(index).append([encode(line) + b"\n" for line in other.events(index)])

    def drop_unfinished_events(self, index: int) -> None:
        """Delete the events of an attempt that has no result: they will be written again. Raises
        `SessionError`."""
        names = ("first", "last", "result", "turn")
        first, last, result, turn = (self._place(f"{index}:{name}") for name in names)
        if first is None or last is None:
            return
        after = result or (first[0], first[1] - 1)
        left = [
            format_id(place)
            for place, fields in self.server.entries(self._events, after, last)
            if int(fields[b"task"]) == index
        ]
        keys = [self._log, self.server.keys.driver(self.id), self._events, self._index]
        about = [index, format_id(result) if result else "", int(turn is not None and turn > after)]
        for i in range(0, len(left) or 1, AT_A_TIME):
            held, some = self._held(), left[i : i + AT_A_TIME]
            held.check(self.server.run(scripts.DROP, keys, [held.token, *about, *some]))

    def checks_path(self, index: int) -> Path | None:
        """Of a task that runs here; those of a worker are on its machine."""
        return self.home / "cluster" / "checks" / self.id / f"{index + 1:04}"

    def open_journal(self) -> StreamJournal:
        return StreamJournal(self.server, self.id, self._held())

    def open_events(self, index: int) -> StreamEvents:
        return self._sink(index)

    def _sink(self, index: int) -> StreamEvents:
        return StreamEvents(self.server, self.id, self._held(), index)

    def _held(self) -> RunLease:
        if self._lease is None:
            raise SessionError(f"run {self.id} is written to only by the process that drives it")
        return self._lease

    # Driving.

    def note_problem(self, text: str) -> None:
        """Let everybody see why no worker drives the run, until one does."""
        with suppress(SessionError):  # the worker says so, too
            if self._field("created") and self.find_driver() is None:
                with self.server.errors():
                    self.server.client.hset(self._log, "problem", text)

    def find_driver(self) -> dict[str, Any] | None:
        note = self.server.run(scripts.DRIVER, [self.server.keys.driver(self.id)])
        return None if note is None else turn_note.decode(note) or {}

    def awaits_driver(self, *, has_begun: bool) -> bool:  # noqa: ARG002 - before and after
        """Whether a worker is to drive it, or to continue it after its driver has died."""
        with self.server.errors():
            return self.server.client.zscore(self.server.keys.due(), self.id) is not None

    def is_idle(self) -> bool:
        return not self.is_driven()

    def lock(self) -> RunLease:
        self._lease = RunLease(self.server, self.id, self._seconds, self.on_lost, self.where)
        with self.server.errors():
            self.server.client.hdel(self._log, "problem")
        return self._lease

    def note_alive(self) -> int:
        """The lease is renewed in a thread."""
        return self._lease.asked if self._lease else 0

    def other_drivers(self) -> Iterable[dict[str, Any] | None]:
        return ()

    def ask_to_stop(self, facts: dict[str, Any]) -> bool:
        driver = self.server.keys.driver(self.id)
        with self.server.errors():
            note: Any = self.server.client.hget(driver, "note")
        if note is None or (turn_note.decode(note) or {}) != facts:
            return False
        return bool(self.server.run(scripts.ASK, [driver], [note]))

    def stop_attempts(self, outcomes: Iterable[Outcome]) -> None:
        ledger = Ledger(self.server.client, self.server.keys)
        attempts = [AttemptId(self.id, outcome.index, outcome.attempts) for outcome in outcomes]
        with self.server.errors():
            ledger.cancel_all(attempts, "cancelled", now=False)

    def delete(self) -> None:
        if self.awaits_driver(has_begun=True):
            raise SessionError(
                f"run {self.id} is running",
                f"see it with: clinvk runs watch {self.id}{self.where}; cancel it with: "
                f"clinvk runs cancel {self.id}{self.where}",
            )
        with self.lock():
            self.delete_locked()

    def delete_locked(self) -> None:
        keys = self.server.keys
        with self.server.errors(), self.server.client.pipeline() as pipe:
            pipe.zrem(keys.runs(), self.id)
            pipe.zrem(keys.due(), self.id)
            pipe.unlink(self._log, self._journal, self._events, self._index)
            pipe.unlink(keys.driver(self.id), keys.taken(self.id))
            pipe.execute()
        self.taken.delete_folder()

    # Fields.

    def _field(self, name: str) -> bytes | None:
        with self.server.errors():
            found: Any = self.server.client.hget(self._log, name)
        return found if isinstance(found, bytes) else None

    def _moment(self, name: str) -> datetime | None:
        text = self._field(name)
        return datetime.fromtimestamp(int(text) / 1000, UTC) if text else None

    def _place(self, field: str) -> Id | None:
        with self.server.errors():
            found: Any = self.server.client.hget(self._index, field)
        return parse_id(found) if found else None

    def _deleted(self) -> RunNotFound:
        return RunNotFound(
            f"run {self.id} has been deleted", f"see them all: clinvk runs list{self.where}"
        )


def plan_data(plan: Plan) -> bytes:
    """The plan as it is stored."""
    return encode({"created_at": rfc3339(datetime.now(UTC)), **plan.to_json()})


def about_data(plan: Plan) -> bytes:
    """What a list shows of a run that has not begun."""
    return encode(
        {"version": VERSION, "kind": plan.kind, "source": plan.source, "total": len(plan.tasks)}
    )


def _forged_name(worktree: Worktree) -> str | None:
    """A name that could mean another place on the disk, or something else to git."""
    for name in (worktree.slug, worktree.directory):
        if not _NAME.fullmatch(name) or ".." in name:
            return name
    return None if _COMMIT.fullmatch(worktree.commit) else worktree.commit


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def _with_answer(outcome: Outcome, line: Line | None) -> Outcome:
    if line is None:
        return outcome
    return replace(
        outcome, output=str(line.get("content") or ""), structured=line.get("structured")
    )
