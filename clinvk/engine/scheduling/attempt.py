"""One attempt at a task: its request is run, its events are logged and passed on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Protocol

import anyio

from clinvk.engine import mishaps
from clinvk.errors import ClinvkError
from clinvk.model.events import Checked, Checking, Event, Round
from clinvk.model.outcome import Outcome
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.runs.event_log import EventLog
from clinvk.runs.secrets import event_without_secrets, result_without_secrets

if TYPE_CHECKING:
    from clinvk.engine.executor import Executor, RunningRequest
    from clinvk.runs.journal import Journal


Ask = Callable[[], Awaitable[Result]]


class Reports(Protocol):
    """What is told of an attempt while it runs."""

    def on_session(self, i: int, session_id: str) -> None:
        """The session of the attempt is known."""

    async def on_node(self, i: int, node: str) -> None:
        """A worker of a cluster has taken the attempt."""

    def on_event(self, i: int, event: Event) -> None:
        """The backend has sent an event; secrets are removed."""

    def on_notice(self, i: int, message: str) -> None: ...

    async def on_turn(self, i: int, turn: Checking, result: Result, events: int | None) -> None:
        """A turn of the attempt has succeeded, and is checked now; secrets are removed. `events` is
        its event log, open once more, which has to be closed."""

    async def on_check(self, i: int, event: Checked) -> None:
        """The check has ended."""

    async def on_round(self, i: int, event: Round) -> None:
        """A further turn of the attempt begins."""


class Owner(Protocol):
    """The owner of the attempt, which decides what follows."""

    def may_continue(self, result: Result) -> str | None:
        """Why the attempt may have no further turn; None if it may."""

    async def on_result(self, i: int, result: Result, events: int | None) -> None:
        """The attempt has ended. `events` is its open event log, which the owner has to close."""


class Attempt:
    """An attempt at task `i`. `cancel` may be called from anywhere in the event loop."""

    def __init__(
        self, i: int, backend: str, outcome_before: Outcome, owner: Owner, reports: Reports
    ) -> None:
        self.i = i
        self.backend = backend
        self.outcome_before = outcome_before  # the task's state before
        self.owner = owner
        self.reports = reports
        self.scope = anyio.CancelScope()
        self.running: RunningRequest | None = None
        self.room: anyio.Event | None = None  # set while it waits for files or processes
        self.cancel_reason = "cancelled"
        self.is_urgent = False  # it was asked to stop at once
        self._log: EventLog | None = None
        self._secrets: tuple[str, ...] = ()

    def cancel(self, reason: str, *, now: bool) -> None:
        self.is_urgent = self.is_urgent or now
        self.cancel_reason = reason
        if self.running is not None:
            self.running.cancel(reason, now=now)
        else:
            self.scope.cancel()

    async def run(
        self,
        executor: Executor,
        request: Request | Exception,
        room: WaitingRoom,
        journal: Journal | None,
        *,
        check: Callable[[Request], None],
        check_answer: Callable[[Result], Result],
        is_dry_run: bool,
    ) -> None:
        """Run the request, and give the owner the result. `check` raises `UsageError` for an
        invalid request. Raises `SessionError` if the run's directory cannot be written."""

        async def ask() -> Result:
            if isinstance(request, Exception):
                raise request  # to be reported like all others
            check(request)
            if is_dry_run:
                command = await executor.describe(request)
                return Result(ok=True, text=command, backend=self.backend, exit_code=0)
            self._secrets = request.secrets
            result = check_answer(await executor.run(request, self))
            return result_without_secrets(result, request.secrets)

        while (error := await self._try(ask, journal)) is not None:
            if not await room.wait(self, error):
                await self.owner.on_result(self.i, failed_result(self.backend, error), None)
                return

    # Reports of the executor.

    def on_notice(self, message: str) -> None:
        self.reports.on_notice(self.i, message)

    def on_started(self, running: RunningRequest) -> None:
        self.running = running
        if running.session_id is not None:
            self.reports.on_session(self.i, running.session_id)

    async def on_node(self, node: str) -> None:
        await self.reports.on_node(self.i, node)

    async def on_event(self, event: Event) -> None:
        if self._log is not None:
            await self._log.add(event)
        if isinstance(event, Checking):
            await self._on_turn(event)
        elif isinstance(event, Checked):
            await self.reports.on_check(self.i, event)
        elif isinstance(event, Round):
            await self.reports.on_round(self.i, event)
        if seen := event_without_secrets(event, self._secrets):
            self.reports.on_event(self.i, seen)

    def may_continue(self, result: Result) -> str | None:
        return self.owner.may_continue(result)

    async def _on_turn(self, event: Checking) -> None:
        """Record the turn before its check begins. Shielded, as its end is."""
        if event.result is None:
            return
        result = result_without_secrets(event.result, self._secrets)
        events = None
        if self._log is not None:
            events = await self._log.add_turn(result)
        with anyio.CancelScope(shield=True):
            await self.reports.on_turn(self.i, event, result, events)

    async def _try(self, ask: Ask, journal: Journal | None) -> Exception | None:
        """Run the request and pass its result on. Returns an error instead if there were too few
        files or processes, or too little memory, to start it. No file is left open then."""
        if journal is None:
            result = await self._result_of(ask)
            if isinstance(result, Exception):
                return result
            await self.owner.on_result(self.i, result, None)
            return None
        try:
            opened = EventLog(
                journal.folder.open_events(self.i), journal.scrub, lambda: self.is_urgent
            )
        except ClinvkError as error:
            if mishaps.shortage(error) is None:
                raise
            return error
        with opened as self._log:
            result = await self._result_of(ask)
            if isinstance(result, Exception):
                return result
            result = await _log_result(opened, result)
            with anyio.CancelScope(shield=True):
                await self.owner.on_result(self.i, result, opened.detach())
        return None

    async def _result_of(self, ask: Ask) -> Result | Exception:
        """The result. An exception fails only this task; it is returned if the program could not be
        started for lack of files, processes or memory."""
        try:
            return await ask()
        except Exception as error:
            if self._log is not None and self._log.problem is not None:
                raise self._log.problem from error  # the run cannot record the task
            if self.running is None and mishaps.shortage(error):
                return error
            return failed_result(self.backend, error)


class WaitingRoom:
    """Attempts that wait until another one ends, for lack of files, processes or memory."""

    def __init__(self, attempts: Collection[Attempt], on_first: Callable[[int, str], None]) -> None:
        """`attempts` is a view of all running attempts. `on_first` is called once, with a task and
        a message, when the first attempt waits."""
        self._attempts = attempts
        self._on_first: Callable[[int, str], None] | None = on_first

    @property
    def is_occupied(self) -> bool:
        return any(attempt.room for attempt in self._attempts)

    async def wait(self, attempt: Attempt, error: Exception) -> bool:
        """Whether another attempt has ended since. False at once if there is none that could."""
        others = [
            other
            for other in self._attempts
            if other is not attempt and not (other.room and not other.room.is_set())
        ]
        if not others:
            return False
        if self._on_first is not None:
            tell, self._on_first = self._on_first, None
            short = mishaps.shortage(error)
            tell(attempt.i, f"{short}: tasks will only start as others end")
        attempt.room = anyio.Event()
        try:
            await attempt.room.wait()
        finally:
            attempt.room = None
        return True

    def release_one(self) -> None:
        """An attempt has ended: let one of the waiting ones try again."""
        for attempt in self._attempts:
            if attempt.room is not None and not attempt.room.is_set():
                attempt.room.set()
                return


async def _log_result(log: EventLog, result: Result) -> Result:
    """Append the result to the events. A result that cannot be written as JSON is a failure.
    Raises `SessionError` if the run's directory cannot be written."""
    try:
        await log.end(result)
    except ClinvkError:
        raise
    except Exception as error:  # noqa: BLE001 - the answer is at fault, not the directory
        result = failed_result(result.backend, error)
        await log.end(result)
    return result


def failed_result(backend: str, error: Exception) -> Result:
    """The result of a request that raised this error."""
    code = error.exit_code if isinstance(error, ClinvkError) else 1
    failure = mishaps.failure_of(error)
    return Result(ok=False, text="", backend=backend, exit_code=code, error=failure)
