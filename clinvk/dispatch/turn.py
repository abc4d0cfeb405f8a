"""A running turn: reads a program's lines, enforces timeouts, stops it, and records the result."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TYPE_CHECKING

import anyio
from msgspec.structs import replace

from clinvk.backend.command_line import matches_native_id
from clinvk.backend.manifest import all_rules
from clinvk.backend.native import find_native_id, has_state
from clinvk.backend.output.event_parser import EventParser
from clinvk.dispatch.folding.fold import TurnFold
from clinvk.dispatch.folding.turn_failure import Exit
from clinvk.dispatch.off_loop import ENDED_TIMEOUT, HURRIED_TIMEOUT, StoreGaveUp
from clinvk.errors import ClinvkError
from clinvk.model.events import Event, Failed, Finished, Notice, Started
from clinvk.model.result import Denial, Failure, Result
from clinvk.process.child import Child
from clinvk.process.leftovers import find_leftovers
from clinvk.process.pipes import LONGEST
from clinvk.process.threads import for_long, in_thread
from clinvk.text.redact import NOT_EXAMINED, GaveUp

if TYPE_CHECKING:
    from clinvk.dispatch.recorder import Recorder
    from clinvk.dispatch.turn_plan import TurnPlan

# Returns the result with what has changed; the function gets notices.
Save = Callable[[Result, Callable[[str], None]], Awaitable[Result]]

VERSION_KINDS = ("backend", "config", "incomplete", "schema")  # failures that a version can explain

REFUSED_KINDS = (
    "auth",
    "limit",
    "server",
    "backend",
)  # a first turn that failed this way may have left no session


async def _forget_result(result: Result) -> list[str]:  # noqa: ARG001 - the protocol
    return []


class Turn:
    """`async for event in run`; the last event is `Finished` or `Failed`, then see `run.result`."""

    def __init__(
        self,
        plan: TurnPlan,
        child: Child,
        recorder: Recorder | None,
        started_at: float,
        on_begun: Callable[[], None] = lambda: None,
        remember: Callable[[Result], Awaitable[list[str]]] = _forget_result,
        save: Save | None = None,
    ) -> None:
        self.plan = plan
        self._fold = TurnFold(plan)
        self._child = child
        self._recorder = recorder
        self._started_at = started_at
        self._remember = remember  # stores or forgets rate limits, and returns notices
        self._save = save  # commits what has changed in the worktree of its session
        self._on_begun = on_begun  # called once it has a session, since others may wait for that
        self._events: deque[Event] = deque(Notice(message=text) for text in plan.notices)
        self._parser = EventParser(
            plan.manifest,
            is_first_turn=plan.resumes is None and plan.forks is None,
            previous_totals=plan.previous_totals,
        )
        self._stop_now = False
        self._told_of_skipped = False
        self._found_id: str | None = None  # the native id, if it is in no event
        self._stdout_done = False  # stdout is at its end
        self._output_read = False  # the end of an output that is one value was read
        self._examined_size = 0  # bytes of such an output that were found to be incomplete
        self._quiet_since = anyio.current_time()  # the last sign of life that means something
        self._limit = "timeout"  # the one that is reached next
        self._scope: anyio.CancelScope | None = None
        self._result: Result | None = None
        self._deadline = float("inf")
        if plan.timeout is not None:
            self._deadline = anyio.current_time() + plan.timeout

    @property
    def result(self) -> Result:
        """Raises `RuntimeError` while the turn is running."""
        if self._result is None:
            raise RuntimeError("the run has not ended")
        return self._result

    @property
    def marker(self) -> str:
        """The marker of all that it has started."""
        return self._child.marker

    @property
    def native_id(self) -> str | None:
        """The backend's own id of the session, once it is known."""
        return self._fold.native_id

    @property
    def model(self) -> str | None:
        """The model that the backend has reported."""
        return self._fold.model

    @property
    def denied(self) -> list[Denial]:
        """The tools that were denied so far."""
        return self._fold.denied

    @property
    def deadline(self) -> float:
        """The time of its timeout, on the clock of the event loop."""
        return self._deadline

    @property
    def pending(self) -> bool:
        """Whether the next event is available without waiting."""
        return bool(self._events)

    def has_unread_output(self) -> bool:
        """Whether the program has printed something that was not read yet."""
        return self.pending or self._child.has_unread_output

    def cancel(self, reason: str = "cancelled", *, now: bool = False) -> None:
        """Stop the run, and all that it started, within three seconds; with `now`, immediately. The
        events then end with a `Failed` of the kind `cancelled`."""
        if self._result is None:
            self._stop_now = self._stop_now or now
            if now:
                self._child.kill_now()
            self._fold.stop(Failure("cancelled", reason))
            self._limit_store_wait()
            if self._scope is not None:
                self._scope.cancel()

    def __aiter__(self) -> Turn:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._result is not None:
                raise StopAsyncIteration
            await self._read_more()
        return self._events.popleft()

    async def close(self) -> None:
        """Stop what is still running, and record that it was cancelled."""
        if self._result is None:
            self.cancel("left before its end")
            with anyio.CancelScope(shield=True):
                await self._stop()

    async def _read_more(self) -> None:
        """Read at least one line, or the end."""
        lines = code = None
        with anyio.CancelScope(deadline=self._next_deadline()) as scope:
            self._scope = scope
            if not self._is_ending():
                lines = None if self._stdout_done else await self._child.lines()
                if lines is None:  # it may close its stdout long before it exits
                    self._stdout_done = True
                    self._read_value()
                    scope.deadline = self._next_deadline()
                    code = await self._child.wait()
        if scope.cancelled_caught and not self._is_ending():
            self._handle_deadline()
        if self._is_ending():
            await self._stop()
        elif code is not None:
            await self._handle_exit(code)
        elif lines is not None:
            await self._handle_lines(lines)
            if self._is_ending():  # a line made it stop
                await self._stop()

    def _next_deadline(self) -> float:
        """When to stop waiting for output: at its timeout, after too long without output, or if it
        has reported its result and does not exit."""
        limits = {
            "timeout": self._deadline,
            "stall": self._stall_deadline(),
            "exit": self._exit_deadline(),
        }
        self._limit = min(limits, key=limits.__getitem__)
        return limits[self._limit]

    def _stall_deadline(self) -> float:
        stall = self.plan.request.stall_timeout
        if stall is None or (self._reports_results and self._fold.waits_for_tool):
            return float("inf")
        return anyio.current_time() + stall

    def _exit_deadline(self) -> float:
        manifest = self.plan.manifest
        if self._fold.terminal is None:
            if manifest.output != "json" or self._parser.size == self._examined_size:
                return float("inf")
            return anyio.current_time() + manifest.exit_timeout  # it may be complete
        seconds = manifest.exit_timeout
        if self.plan.exit_timeout is not None:
            seconds = self.plan.exit_timeout
        if self._is_working_on():
            seconds = max(seconds, manifest.background_timeout)
        return self._quiet_since + seconds

    def _is_working_on(self) -> bool:
        """Whether it works although it has reported a result."""
        parser = self._parser
        is_unfinished = parser.unfinished is not None
        return parser.is_working_again or parser.background_tasks > 0 or is_unfinished

    @cached_property
    def _reports_results(self) -> bool:
        """Whether the end of a tool call is known."""
        return any(rule.emit == "tool_result" for rule in all_rules(self.plan.manifest.events))

    def _handle_deadline(self) -> None:
        """It is to be stopped. A result that it has reported counts."""
        self._read_value()
        if self._fold.terminal is not None:
            doing = "still worked in the background" if self._is_working_on() else "did not exit"
            self._add_notices(
                [f"{self.plan.manifest.name} had reported its result but {doing}, so it was ended"]
            )
            self._fold.settle()
        elif self._limit == "exit":  # not complete yet
            self._examined_size = self._parser.size
        else:
            self._fold.stop(self._timeout_failure())

    def _read_value(self) -> None:
        """Read the output of a CLI that prints one JSON value, if it is complete."""
        if self.plan.manifest.output != "json" or self._output_read:
            return
        noise = len(self._parser.noise)
        events = self._parser.finish(0)
        del self._parser.noise[noise:]  # it is read again at the end
        if any(isinstance(event, (Finished, Failed)) for event in events):
            self._output_read = True
            self._quiet_since = anyio.current_time()
            for event in events:
                self._show(self._fold.add(event))

    def _timeout_failure(self) -> Failure:
        if anyio.current_time() >= self._deadline:
            seconds = f"{self.plan.timeout:g}"
            return Failure(
                "timeout", f"no answer within {seconds} s", "allow more with --timeout DURATION"
            )
        seconds = f"{self.plan.request.stall_timeout:g}"
        return Failure(
            "timeout", f"no output for {seconds} s", "allow more with --stall-timeout DURATION"
        )

    def _limit_store_wait(self) -> None:
        """Called when the turn is ending: the store may not delay that for long."""
        if self._recorder is not None:
            self._recorder.calls.limit_wait(HURRIED_TIMEOUT if self._stop_now else ENDED_TIMEOUT)

    async def _stop(self) -> None:
        self._limit_store_wait()
        ask = signal.Signals[self.plan.manifest.stop]
        for line in await self._child.stop(ask, now=self._stop_now):
            # Its last lines may contain the usage and the native id; the answer is over.
            self._fold_after_stop(line)
        self._tell_of_beginning()
        await self._finish(await self._child.wait())

    def _fold_after_stop(self, line: bytes) -> None:
        for event in self._parser.parse_line(line):
            self._fold.add_after_stop(event)

    async def _handle_exit(self, code: int) -> None:
        self._tell_of_skipped()
        if not self._output_read:
            for event in self._parser.finish(code):
                self._show(self._fold.add(event))
        self._tell_of_beginning()
        if left := find_leftovers(
            self._child.pid, self._child.marker, self._child.exited_at_monotonic
        ):
            numbers = ", ".join(map(str, left))
            self._events.append(Notice(message=f"still running in the background: {numbers}"))
        await self._finish(code)

    def _tell_of_skipped(self) -> None:
        """Report once that lines were too long to read."""
        if self._child.skipped and not self._told_of_skipped:
            self._told_of_skipped = True
            self._add_notices([f"a line of more than {LONGEST:,} bytes was skipped"])

    async def _handle_lines(self, lines: list[bytes]) -> None:
        self._tell_of_skipped()
        read, fold, events = self._parser.parse_line, self._fold.add, self._events
        meant = self._is_working_on()
        for line in lines:
            if self._fold.stop_reason is not None:  # such as: another conversation answers
                self._fold_after_stop(line)
                continue
            for event in read(line):
                meant = True
                if (shown := fold(event)) is not None:
                    events.append(shown)
        # A sign of life that means nothing is not a reason to wait.
        if meant or self._is_working_on():
            self._quiet_since = anyio.current_time()
        self._look_for_native_id()
        self._tell_of_beginning()
        self._stdout_done = self._fold.terminal is not None and self._child.has_exited
        # At once, unless the turn is over and all of it is stored next.
        new_id = self._fold.unrecorded_id
        if self._recorder and new_id and not self._stdout_done:
            await self._record_native_id(self._recorder, new_id)

    async def _record_native_id(self, recorder: Recorder, native_id: str) -> None:
        """Store the id; if the store cannot be written in time, the turn times out as usual."""
        with anyio.CancelScope(deadline=self._next_deadline()) as scope:
            self._scope = scope
            self._add_notices(await recorder.record_native_id(native_id, self.model))
            self._fold.unrecorded_id = None
        if scope.cancelled_caught and not self._is_ending():
            self._handle_deadline()

    def _tell_of_beginning(self) -> None:
        if self._fold.has_started:
            self._on_begun()

    def _show(self, event: Event | None) -> None:
        if event is not None:
            self._events.append(event)

    def _add_notices(self, notices: list[str]) -> None:
        self._events.extend(Notice(message=text) for text in notices)

    def _is_ending(self) -> bool:
        return self._fold.stop_reason is not None or self._fold.is_settled

    async def _finish(self, code: int) -> None:
        """The last event and the result, now that the exit code is known."""
        self._look_for_native_id()
        end = Exit(
            code=code,
            stderr=self._child.stderr,
            noise=tuple(self._parser.noise),
            native_id=self._parser.native_id or self._found_id or self._begun_id(code),
            model=self._parser.model,
            steps_usage=self._parser.sums.steps.usage,
            steps_costs=tuple(self._parser.sums.steps.costs),
            unfinished=self._parser.unfinished,
            skipped_lines=bool(self._child.skipped),
            recognized=self._parser.recognized,
            unrecognized=self._parser.unrecognized,
            ends_unrecognized=self._parser.ends_unrecognized,
            seconds=time.monotonic() - self._started_at,
        )
        if self._fold.is_format_unknown(end):
            end = replace(end, release=await self._find_version())
        result = self._fold.finish(end)
        if end.release is None:  # otherwise its message names the version
            result = self._with_version(result)
        if result.ok and not result.has_answer:
            used = f" ({result.usage.counted:,} tokens)" if result.usage else ""
            self._add_notices([f"{result.backend} reported success without an answer{used}"])
        self._add_notices(await self._remember(result))
        if self._save is not None:
            told: list[str] = []
            result = await self._save(result, told.append)
            self._add_notices(told)
        if notice := self._fold.format_notice(end, result):
            self._add_notices([notice])
        result = await self._record(result, self._fold.transcript or result.text)
        self._events.append(self._fold.last_event(result))
        self._result = result

    async def _find_version(self) -> str | None:
        """The version of the program, which is asked if it is not known."""
        # Only for an error.
        from clinvk.backend.probe import ask_version
        from clinvk.backend.versions.installed import known_version

        manifest, command, home = self.plan.manifest, self.plan.command, self.plan.home
        if home is None:
            return None
        if known := known_version(command.argv[0], home):
            return known.version
        return await ask_version(manifest, command.argv[0], command.env, home)

    def _with_version(self, result: Result) -> Result:
        """The result; if it failed for reasons that a version can have, its hint says which version
        of the CLI that was, unless its manifest was tested with it."""
        error, home = result.error, self.plan.home
        if error is None or error.kind not in VERSION_KINDS or home is None:
            return result
        # Only for an error.
        from clinvk.backend.versions.installed import describe_range, known_version

        known = known_version(self.plan.command.argv[0], home)
        said = describe_range(self.plan.manifest, known.version if known else None)
        if said is None:
            return result
        return replace(
            result, error=replace(error, hint="; ".join(filter(None, (error.hint, said))))
        )

    def _begun_id(self, code: int) -> str | None:
        """The native id that clinvk chose, if the CLI has begun that session."""
        command = self.plan.command
        if command.state is not None:
            return command.new_id if has_state(command.state) else None
        return command.new_id if code == 0 or self._fold.has_begun else None

    def _look_for_native_id(self) -> None:
        """Look where the CLI leaves the id of its session, unless that is known."""
        manifest = self.plan.manifest
        if manifest.native_id_in is None or self._found_id is not None:
            return
        try:
            found = find_native_id(manifest, self._child.stderr, self.plan.command.temp_dir)
        except ClinvkError as error:
            self._found_id = ""  # it is as slow the next time
            self._add_notices([f"the id of {manifest.name}'s session could not be found: {error}"])
            return
        if found:
            self._found_id = found
            self._show(self._fold.add(Started(native_id=found)))

    async def _record(self, result: Result, said: str) -> Result:
        if self._recorder is None:
            await self._delete_native_session()
            return result
        if self._fold.unrecorded_id:
            self._add_notices(await self._recorder.shared_id_notices(self._fold.unrecorded_id))
        lost = (
            result.error is not None
            and self.plan.manifest.lost_after_error
            and self.plan.resumes is None
            and (
                self.plan.command.state is not None
                or _was_refused(result, result.error, by_itself=self._fold.is_settled)
            )
        )
        try:
            kept = await for_long(said, self._recorder.kept, lambda: self._stop_now)
        except GaveUp:  # the second signal: there is no time to search a long answer for secrets
            kept = NOT_EXAMINED
        try:
            totals = {} if self._fold.is_elsewhere else self._parser.sums.totals
            await self._recorder.record_result(result, kept, totals, lost=lost)
        except ClinvkError as error:
            if isinstance(error, StoreGaveUp) and result.error is not None:
                self._add_notices([f"the turn could not be recorded: {error}"])
                return result
            failure = Failure("session", f"the answer could not be saved: {error}", error.hint)
            return replace(result, ok=False, error=failure, exit_code=error.exit_code)
        return result

    async def _delete_native_session(self) -> None:
        """Delete what the CLI saved of an ephemeral run, if it has no option to save nothing."""
        if self.plan.command.removals and self.native_id:
            # Only for an ephemeral turn of some backends.
            from clinvk.backend.files.cleanup import delete_native_session

            manifest = self.plan.manifest
            try:
                is_valid = matches_native_id(manifest, self.native_id)
            except ClinvkError as error:
                self._add_notices([f"no file of {manifest.name} was deleted: {error}"])
                return
            if is_valid:
                command, native_id = self.plan.command, self.native_id
                # There may be years of conversations to search.
                self._add_notices(
                    await in_thread(lambda: delete_native_session(command, native_id))
                )
            else:
                what = f"{manifest.name} printed an invalid session id"
                self._add_notices(
                    [f"{what}, so none of its files were deleted: {self.native_id[:40]!r}"]
                )


def _was_refused(result: Result, error: Failure, *, by_itself: bool) -> bool:
    """Whether the CLI ended by itself, so that it may have kept nothing; after a signal it has,
    unless it had reported its result (`by_itself`)."""
    return error.kind in REFUSED_KINDS and (by_itself or (result.backend_exit_code or 0) >= 0)
