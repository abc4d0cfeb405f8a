"""A running turn: lines become events, events become a result."""

from __future__ import annotations

import json
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
from msgspec.structs import replace

from clinvk.backend.command_line import matches_native_id
from clinvk.backend.event_parser import EventParser, classify_failure
from clinvk.errors import ClinvkError
from clinvk.model.events import (
    Delta,
    Denied,
    Event,
    Failed,
    Finished,
    Notice,
    Started,
    Text,
    Thinking,
    Tool,
    ToolResult,
)
from clinvk.model.result import Denial, Failure, Result, exit_code
from clinvk.process.child import Child
from clinvk.process.leftovers import find_leftovers
from clinvk.process.pipes import LONGEST
from clinvk.process.threads import for_long, in_thread
from clinvk.text.redact import NOT_EXAMINED, GaveUp
from clinvk.text.sanitize import sanitize

if TYPE_CHECKING:
    from clinvk.dispatch.recorder import Recorder
    from clinvk.dispatch.turn_plan import TurnPlan

MAX_STDERR_LENGTH = 600  # characters of stderr in a message
REFUSED_KINDS = ("auth", "limit", "server", "backend")  # a first turn so ended may leave no session


class Turn:
    """`async for event in run`; the last event is `Finished` or `Failed`, then `run.result`."""

    def __init__(
        self,
        plan: TurnPlan,
        child: Child,
        recorder: Recorder | None,
        started_at: float,
        on_begun: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        self.native_id: str | None = plan.resumes
        self.model: str | None = None
        self.denied: list[Denial] = []
        self._tools: dict[str, Tool] = {}
        self._child = child
        self._recorder = recorder
        self._started_at = started_at
        self._on_begun = on_begun  # told once it has a session, since others may wait for that
        self._events: deque[Event] = deque(Notice(message=text) for text in plan.notices)
        self._parser = EventParser(
            plan.manifest,
            is_first_turn=plan.resumes is None and plan.forks is None,
            previous_totals=plan.previous_totals,
        )
        self._blocks: list[str] = []
        self._pieces: list[str] = []  # of the block that is being said
        self._terminal: Finished | Failed | None = None
        self._stop_reason: Failure | None = None  # we ended it, for this reason
        self._stop_now = False
        self._told_of_skipped = False
        self._stdout_done = False  # it has said all that it has to say
        self._unrecorded_id: str | None = None  # a native id that the record does not have yet
        self._structured: Any = None
        self._last_notice = ""
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
    def deadline(self) -> float:
        """When its time is over, on the clock of the event loop."""
        return self._deadline

    @property
    def pending(self) -> bool:
        """Whether the next event is here already, so that nobody has to wait for it."""
        return bool(self._events)

    def cancel(self, reason: str = "cancelled", *, now: bool = False) -> None:
        """End the run, and all that it started, within three seconds; at once where `now`. The
        events then end with a `Failed` of the kind `cancelled`."""
        if self._result is None:
            self._stop_now = self._stop_now or now
            if now:
                self._child.kill_now()
            self._stop_reason = self._stop_reason or Failure("cancelled", reason)
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
        """End what is still running; the record says that it was cancelled."""
        if self._result is None:
            self.cancel("left before its end")
            with anyio.CancelScope(shield=True):
                await self._stop()

    async def _read_more(self) -> None:
        """Read on: at least one line, or the end."""
        lines = code = None
        with anyio.CancelScope(deadline=self._next_deadline()) as scope:
            self._scope = scope
            if not self._is_ending():
                lines = None if self._stdout_done else await self._child.lines()
                if lines is None:  # it may close its stdout long before it ends
                    code = await self._child.wait()
        if scope.cancelled_caught and not self._is_ending():
            self._stop_reason = self._timeout_failure()
        if self._is_ending():
            await self._stop()
        elif code is not None:
            await self._handle_exit(code)
        elif lines is not None:
            self._handle_lines(lines)
            if self._is_ending():  # a line told that it has to
                await self._stop()

    def _next_deadline(self) -> float:
        """When its time is over, or its silence has been too long."""
        stall = self.plan.request.stall_timeout
        return (
            self._deadline if stall is None else min(self._deadline, anyio.current_time() + stall)
        )

    def _timeout_failure(self) -> Failure:
        if anyio.current_time() >= self._deadline:
            seconds = f"{self.plan.timeout:g}"
            return Failure(
                "timeout", f"no answer within {seconds} s", "allow more with --timeout SECONDS"
            )
        seconds = f"{self.plan.request.stall_timeout:g}"
        return Failure(
            "timeout", f"it said nothing for {seconds} s", "allow more with --stall-timeout SECONDS"
        )

    async def _stop(self) -> None:
        ask = signal.Signals[self.plan.manifest.stop]
        for line in await self._child.stop(ask, now=self._stop_now):
            # Its last words may hold the usage and the native id; the answer is over.
            for event in self._parser.parse_line(line):
                if isinstance(event, (Finished, Failed)):
                    self._handle_terminal(event)
                elif isinstance(event, Started):
                    self._handle_started(event)
        await self._finish(await self._child.wait())

    async def _handle_exit(self, code: int) -> None:
        self._tell_of_skipped()
        for event in self._parser.finish(code):
            self._handle_event(event)
        if left := find_leftovers(
            self._child.pid, self._child.marker, self._child.exited_at_monotonic
        ):
            numbers = ", ".join(map(str, left))
            self._events.append(Notice(message=f"still running in the background: {numbers}"))
        await self._finish(code)

    def _tell_of_skipped(self) -> None:
        """Tell of lines that were too long to be read, once."""
        if self._child.skipped and not self._told_of_skipped:
            self._told_of_skipped = True
            self._add_notices([f"a line of more than {LONGEST:,} bytes was skipped"])

    def _handle_lines(self, lines: list[bytes]) -> None:
        self._tell_of_skipped()
        read, took = self._parser.parse_line, self._handle_event
        for line in lines:
            for event in read(line):
                took(event)
        self._stdout_done = self._terminal is not None and self._child.has_exited
        # At once, unless the turn is over and all of it is kept next.
        if self._recorder and self._unrecorded_id and not self._stdout_done:
            self._add_notices(self._recorder.record_native_id(self._unrecorded_id, self.model))
            self._unrecorded_id = None

    def _handle_event(self, event: Event) -> None:
        """Fold one event in, and pass it on; the last one waits for the exit code."""
        match event:
            case Delta():
                self._pieces.append(event.text)
            case Text():
                self._pieces = []
                self._blocks.append(event.text)
            case Started():
                self._handle_started(event)
            case Tool():
                self._close_block()
                if event.id is not None:
                    self._tools[event.id] = event
            case Thinking() | ToolResult():
                self._close_block()
            case Notice():
                self._last_notice = event.message
            case Denied():
                event = self._with_tool_name(event)
                self.denied.append(Denial(event.name, event.input, event.reason))
            case Finished() | Failed():
                self._handle_terminal(event)
                return
        self._events.append(event)

    def _handle_terminal(self, event: Finished | Failed) -> None:
        """A failure stays one, though a CLI may say success after it; its figures count."""
        if isinstance(self._terminal, Failed) and isinstance(event, Finished):
            event = replace(self._terminal, usage=event.usage, cost=event.cost)
        self._terminal = event

    def _with_tool_name(self, event: Denied) -> Denied:
        tool = self._tools.get(event.id or "")
        if event.name or tool is None:
            return event if event.name else replace(event, name=event.id or "a tool")
        return replace(event, name=tool.name, input=tool.input)

    def _handle_started(self, event: Started) -> None:
        self._on_begun()
        self.model = event.model or self.model
        if event.native_id is None:
            return
        if event.native_id == self.plan.forks:
            self._stop_reason = self._stop_reason or Failure(
                "session",
                f"asked {self.plan.manifest.name} for a copy of {self.plan.forks}, "
                "and it goes on in that one itself",
            )
            return
        asked = self.plan.resumes
        if asked is not None and event.native_id != asked:
            self._stop_reason = self._stop_reason or self._wrong_session_failure(event.native_id)
            return
        if self.native_id != event.native_id or self.model:
            self._unrecorded_id = event.native_id
        self.native_id = event.native_id

    def _add_notices(self, notices: list[str]) -> None:
        self._events.extend(Notice(message=text) for text in notices)

    def _wrong_session_failure(self, native_id: str) -> Failure:
        return Failure(
            "session",
            f"asked {self.plan.manifest.name} to go on with {self.plan.resumes}, "
            f"and it answered from {native_id}",
            "its own session is gone; begin it anew from the transcript with --replay",
        )

    def _is_ending(self) -> bool:
        return self._stop_reason is not None

    def _close_block(self) -> None:
        if self._pieces:
            self._blocks.append("".join(self._pieces))
            self._pieces = []

    async def _finish(self, code: int) -> None:
        """The last event and the result, now that the exit code is known."""
        self._close_block()
        if self.native_id is None:
            self.native_id = self._parser.native_id
        terminal = self._terminal
        if isinstance(terminal, Finished) and "schema" in self.plan.settings:
            self._structured = _parse_structured(
                terminal.structured, terminal.text or self._last_block
            )
        failure = self._find_failure(code)
        said = "\n\n".join(block for block in self._blocks if block)
        final = terminal.text if isinstance(terminal, Finished) else None
        result = Result(
            ok=failure is None,
            text=final or (self._last_block if failure is None else said),
            backend=self.plan.manifest.name,
            exit_code=exit_code(failure.kind, code) if failure else 0,
            session_id=self.plan.session.id if self.plan.session else None,
            native_id=self.native_id,
            model=self.model or self._requested_model,
            usage=terminal.usage if terminal else None,
            cost=terminal.cost if terminal else None,
            seconds=time.monotonic() - self._started_at,
            denied=tuple(self.denied),
            structured=self._structured,
            error=failure,
            backend_exit_code=code,
        )
        result = await self._record(result, said or result.text)
        self._events.append(_last_event(result, terminal))
        self._result = result

    async def _record(self, result: Result, said: str) -> Result:
        if self._recorder is None:
            await self._delete_native_session()
            return result
        if self._unrecorded_id:
            self._add_notices(self._recorder.shared_id_notices(self._unrecorded_id))
        lost = (
            result.error is not None
            and self.plan.manifest.lost_after_error
            and self.plan.resumes is None
            and result.error.kind in REFUSED_KINDS
            and (result.backend_exit_code or 0) >= 0  # after a signal it can be resumed
        )
        try:
            kept = await for_long(said, self._recorder.kept, lambda: self._stop_now)
        except GaveUp:  # the second signal: there is no time to search a long answer for secrets
            kept = NOT_EXAMINED
        try:
            self._recorder.record_result(result, kept, self._parser.totals, lost=lost)
        except ClinvkError as error:
            failure = Failure("session", f"the answer could not be kept: {error}", error.hint)
            return replace(result, ok=False, error=failure, exit_code=error.exit_code)
        return result

    async def _delete_native_session(self) -> None:
        """Delete what the CLI kept of an ephemeral run, if it could not be told to keep nothing."""
        if self.plan.command.removals and self.native_id:
            # Only for an ephemeral turn of some backends.
            from clinvk.backend.cleanup import delete_native_session

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

    def _find_failure(self, code: int) -> Failure | None:
        """Why it failed; nothing where the stream said success and the exit code agrees."""
        if self._stop_reason is not None:
            return self._stop_reason
        terminal, manifest, stderr = self._terminal, self.plan.manifest, self._child.stderr
        if self.plan.resumes and self._parser.native_id not in (None, self.plan.resumes):
            return self._wrong_session_failure(self._parser.native_id or "")
        if isinstance(terminal, Failed):
            return classify_failure(
                manifest, sanitize(terminal.message) or self._last_notice or f"{manifest.name} failed",
                stderr=stderr, status=terminal.status, code=code, retry_at=terminal.retry_at,
            )  # fmt: skip
        said = _shorten_output(stderr) or _shorten_output("\n".join(self._parser.noise))
        if isinstance(terminal, Finished):
            if code == 0:
                return self._denial_failure() or self._schema_failure()
            message = f"{manifest.name} said success and exited with {_describe_exit_code(code)}"
            return classify_failure(
                manifest, _append_detail(message, said), stderr=stderr, code=code
            )
        if code == 0:
            message = f"{manifest.name} ended without saying whether it succeeded"
            if self._child.skipped:
                message += f"; a line of more than {LONGEST:,} bytes was skipped"
            return Failure(
                "incomplete", _append_detail(message, said), "its answer may be cut; try again"
            )
        message = (
            said or f"{manifest.name} exited with {_describe_exit_code(code)} and said nothing"
        )
        return classify_failure(manifest, message, stderr=stderr, code=code)

    def _denial_failure(self) -> Failure | None:
        if not (self.plan.request.fail_on_denied and self.denied):
            return None
        names = ", ".join(dict.fromkeys(d.name for d in self.denied))
        return Failure(
            "denied", f"tools were denied: {names}", "allow them: --approval, --allowed-tools"
        )

    def _schema_failure(self) -> Failure | None:
        """An answer that is not what the schema asked for is no success, whatever the CLI says."""
        if "schema" not in self.plan.settings or self._structured is not None:
            return None
        return Failure("schema", "the answer does not fit --schema", "try again, or another model")

    @property
    def _requested_model(self) -> str | None:
        """Some CLIs do not say which model answered; the one that was asked for did, then."""
        setting = self.plan.settings.get("model")
        return str(setting.value) if setting else None

    @property
    def _last_block(self) -> str:
        return next((block for block in reversed(self._blocks) if block), "")


def _parse_structured(structured: Any, text: str) -> Any:
    """The answer to a schema: as the CLI gave it, else the text, if it is JSON."""
    if structured is not None:
        return structured
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _last_event(result: Result, terminal: Any) -> Event:
    raw = terminal.raw if terminal else None
    if result.error is None:
        return Finished(
            text=result.text, usage=result.usage, cost=result.cost,
            structured=result.structured, raw=raw,
        )  # fmt: skip
    e = result.error
    return Failed(
        kind=e.kind, message=e.message, hint=e.hint, retry_at=e.retry_at, status=e.status,
        usage=result.usage, cost=result.cost, raw=raw,
    )  # fmt: skip


def _describe_exit_code(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"code {code}"


def _append_detail(message: str, said: str) -> str:
    return f"{message}: {said}" if said else message


def _shorten_output(text: str) -> str:
    """The first line and the end of what was said, as much as a message can hold: the reason is
    in one of them, and a page of usage may stand between."""
    text = "\n".join(line for line in sanitize(text).splitlines() if line.strip())
    if len(text) <= MAX_STDERR_LENGTH:
        return text
    first = text.split("\n", 1)[0][: MAX_STDERR_LENGTH // 2]
    return f"{first}\n…{text[len(first) - MAX_STDERR_LENGTH :]}"
