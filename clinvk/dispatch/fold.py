"""Folding the events of a turn into its result: no process, no event loop, no clock."""

from __future__ import annotations

import signal
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from clinvk.backend.manifest import Manifest
from clinvk.backend.output.failures import classify_failure, find_reason, without_noise
from clinvk.backend.patterns import Patterns
from clinvk.dispatch.answer_blocks import AnswerBlocks
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.errors import ConfigError
from clinvk.model.events import (
    Delta,
    Denied,
    Event,
    Failed,
    Finished,
    Notice,
    RateLimit,
    Started,
    Text,
    Thinking,
    Tool,
    ToolResult,
)
from clinvk.model.result import Denial, Failure, Result, exit_code
from clinvk.model.usage import Usage, sum_costs
from clinvk.process.pipes import LONGEST
from clinvk.text.sanitize import sanitize

SIGNALS = (1, 2, 3, 6, 9, 11, 15)  # that a program may report as an exit code above 128
MAX_STDERR_LENGTH = 600  # characters of stderr in a message


class Exit(Struct, frozen=True, kw_only=True):
    """How the program exited, and its output other than events."""

    code: int  # below 0: the signal that killed it
    stderr: str = ""  # the end of it
    noise: tuple[str, ...] = ()  # lines of stdout that were not JSON, a few of them
    recognized: int = 0  # objects on stdout that the manifest's rules could read
    unrecognized: int = 0  # those that they could not
    ends_unrecognized: bool = False  # the last one was among those
    release: str | None = None  # of the program, if it was asked for
    native_id: str | None = None  # the last one that any line named
    model: str | None = None  # the last one that a line named other than at the start
    # Of the steps after the last event that reported success or failure.
    steps_usage: Usage = Usage()
    steps_costs: tuple[float | None, ...] = ()
    unfinished: str | None = None  # why the CLI cannot have finished, though it exited
    skipped_lines: bool = False  # some were too long to read
    seconds: float = 0.0


class TurnFold:
    """Call `add` for each event, then `finish`. `stop` records that the turn ends early, and
    why."""

    def __init__(self, plan: TurnPlan) -> None:
        self.plan = plan
        self._is_renewed = False  # the session has a new id, by design of the CLI
        self.is_elsewhere = False  # another conversation answered
        self.native_id: str | None = plan.resumes
        self.model: str | None = None
        self.denied: list[Denial] = []
        self.terminal: Finished | Failed | None = None
        self.stop_reason: Failure | None = None  # the first one counts
        self.has_started = False
        self.is_settled = False  # it is ended after its result, which counts
        # A native id that the record does not have yet; set to None once it is recorded.
        self.unrecorded_id: str | None = None
        self._tools: dict[str, Tool] = {}
        self._open_tools: list[str | None] = []  # the calls that have no result yet
        self._is_retrying = False  # the model service is asked again
        self._blocks = AnswerBlocks()
        self._answers: list[str] = []  # of the results so far: a turn may have several
        self._is_answer_stated = False  # the last result states it
        self._exit_excused = False  # its exit code is that of an error that does not count
        self._last_notice = ""
        self.limit: RateLimit | None = None  # a rate limit that was reached, as last reported

    @property
    def has_begun(self) -> bool:
        """Whether the CLI has begun a session or an answer."""
        return self.has_started or self._blocks.has_begun

    def stop(self, reason: Failure) -> None:
        """Make the turn fail for this reason, whatever its last events say."""
        self.stop_reason = self.stop_reason or reason

    def settle(self) -> None:
        """Make the last result count, whatever the program does until it has ended."""
        self.is_settled = True

    @property
    def waits_for_tool(self) -> bool:
        """Whether a tool is running, so that silence means nothing."""
        return bool(self._open_tools) and not self._is_retrying and self.limit is None

    def add(self, event: Event) -> Event | None:
        """Fold one event in. Returns the event to show; None if there is none yet: the last event
        depends on the exit code."""
        match event:
            case Delta():
                self._is_retrying = False
                self._blocks.add_piece(event.text, event.message_id)
            case Text():
                self._is_retrying = False
                self._blocks.add(event.text, event.message_id)
            case Started():
                self._add_started(event)
            case Tool():
                self._blocks.close()
                self._is_retrying = False
                if event.id is not None:
                    self._tools[event.id] = event
                if not event.ended:
                    self._open_tools.append(event.id)
            case Thinking():
                self._blocks.close()
            case ToolResult():
                self._blocks.close()
                self._is_retrying = False
                self._close_tool(event.id)
            case Notice():
                self._last_notice = event.message
                self._is_retrying = self._is_retrying or event.retrying
            case RateLimit():
                if event.reached:
                    self.limit = event
                elif self.limit is not None and event.window in (None, self.limit.window):
                    self.limit = None  # it is over; that of another window is not
                return event if event.reached else None
            case Denied():
                self._close_tool(event.id)
                event = self._with_tool_name(event)
                self.denied.append(Denial(event.name, event.input, event.reason, event.hint))
            case Failed() if event.turns == 0 and isinstance(self.terminal, Finished):
                # It failed before it asked the model again: the answer is complete.
                self._exit_excused = True
                return Notice(message=f"after its answer: {event.message}", raw=event.raw)
            case Finished() | Failed():
                self._add_terminal(event)
                return None
        return event

    def add_after_stop(self, event: Event) -> None:
        """Fold in an event of a program that was asked to stop: it may still report its usage and
        native id, but no more of its answer."""
        if isinstance(event, (Finished, Failed)):
            self._add_terminal(event)
        elif isinstance(event, Started):
            self._add_started(event)

    def finish(self, end: Exit) -> Result:
        """The result, now that the program has exited."""
        self._blocks.close()
        if self.stop_reason is None and self._is_other_session(end.native_id):
            self.is_elsewhere = True
            self.stop(self._wrong_session_failure(end.native_id or ""))
        if self.native_id is None or self._is_renewed:
            self.native_id = end.native_id or self.native_id
        terminal = self.terminal
        if isinstance(terminal, Finished):
            self._add_answer(self._blocks.late)
        answers = self._answers or [self._blocks.last]
        schema, structured, mismatch = self.plan.schema, None, None
        if schema is not None and isinstance(terminal, Finished):
            structured, mismatch = schema.read(terminal.structured, answers)
        failure = self._find_failure(end, mismatch)
        answer = "\n\n".join(answers)
        if failure is not None and not self._is_answer_stated:
            answer = self.transcript or answer
        if self.is_elsewhere:  # neither its answer nor its figures are those of this session
            terminal, answer, end = None, "", replace(end, steps_usage=Usage(), steps_costs=())
        return Result(
            ok=failure is None,
            text=answer,
            backend=self.plan.manifest.name,
            exit_code=exit_code(failure.kind, end.code) if failure else 0,
            session_id=self.plan.session.id if self.plan.session else None,
            native_id=self.native_id,
            model=self.model or end.model or self._requested_model,
            usage=_add_usage(terminal, end.steps_usage),
            cost=sum_costs([*([terminal.cost] if terminal else []), *end.steps_costs]),
            seconds=end.seconds,
            denied=tuple(self.denied),
            structured=structured if mismatch is None else None,
            structured_attempts=None if schema is None else 1,
            error=failure,
            backend_exit_code=end.code,
            unrecognized_lines=end.unrecognized,
        )

    def is_format_unknown(self, end: Exit) -> bool:
        """Whether the output has another format than the manifest describes, rather than being
        incomplete: no rule could read it, or not the line that ended it."""
        if self.terminal is not None or self.stop_reason is not None or end.code < 0:
            return False
        return end.unrecognized > 0 and (end.recognized == 0 or end.ends_unrecognized)

    def last_event(self, result: Result) -> Event:
        """The event that ends the turn: `Finished` or `Failed`, as the result says."""
        raw = self.terminal.raw if self.terminal else None
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

    @property
    def transcript(self) -> str:
        """The whole answer of the model, block by block."""
        return "" if self.is_elsewhere else self._blocks.transcript

    def _add_terminal(self, event: Finished | Failed) -> None:
        """Fold in a result. Several are one turn: the later ones are about what it did in the
        background. A failure stays one even if the CLI reports success later, but usage counts."""
        before = self.terminal
        self._open_tools = []
        if self.is_settled and before is not None and isinstance(event, Failed):
            usage, cost = _add(before.usage, event.usage), _add(before.cost, event.cost)
            self.terminal = replace(before, usage=usage, cost=cost)
            return
        if isinstance(event, Finished):
            self._is_answer_stated = bool(event.text)
            self._add_answer(self._blocks.complete(event.text))
        elif isinstance(before, Finished):
            self._is_answer_stated = False
        if before is not None:
            usage, cost = _add(before.usage, event.usage), _add(before.cost, event.cost)
            if isinstance(before, Failed) and isinstance(event, Finished):
                event = before
            elif isinstance(before, Finished) and isinstance(event, Finished):
                event = replace(event, structured=_either(event.structured, before.structured))
            event = replace(event, usage=usage, cost=cost)
        self.terminal = event

    def _add_answer(self, text: str) -> None:
        """Add the answer of a result, unless an earlier one has the same."""
        if text.strip() and text not in self._answers:
            self._answers.append(text)

    def _close_tool(self, id_: str | None) -> None:
        if id_ in self._open_tools:
            self._open_tools.remove(id_)

    def _with_tool_name(self, event: Denied) -> Denied:
        tool = self._tools.get(event.id or "")
        if event.name or tool is None:
            return event if event.name else replace(event, name=event.id or "a tool")
        return replace(event, name=tool.name, input=tool.input)

    def _add_started(self, event: Started) -> None:
        self.has_started = True
        self.model = event.model or self.model
        if event.native_id is None:
            return
        if event.native_id == self.plan.forks:
            self.is_elsewhere = True
            self.stop(
                Failure(
                    "session",
                    f"asked {self.plan.manifest.name} for a copy of {self.plan.forks}, "
                    "and it continued the original instead",
                )
            )
            return
        if self._is_other_session(event.native_id):
            self.is_elsewhere = True
            self.stop(self._wrong_session_failure(event.native_id))
            return
        if self.native_id != event.native_id or self.model:
            self.unrecorded_id = event.native_id
        self.native_id = event.native_id

    def _is_other_session(self, native_id: str | None) -> bool:
        """Whether this is not the session that was to be resumed."""
        asked = self.plan.resumes
        if asked is None or native_id in (None, asked, self.native_id):
            return False
        if self._is_renewed:  # a third one
            return True
        self._is_renewed = self.plan.manifest.new_id_on_resume
        return not self._is_renewed

    def _wrong_session_failure(self, native_id: str) -> Failure:
        return Failure(
            "session",
            f"asked {self.plan.manifest.name} to resume {self.plan.resumes}, "
            f"and it answered from {native_id}",
            "the CLI has lost its session, or its release gives a new id to each resumed one (see "
            "clinvk doctor); update it, or start over from the transcript with --replay",
        )

    def _find_failure(self, end: Exit, mismatch: str | None) -> Failure | None:
        """Why it failed; None if the stream reported success and the exit code agrees."""
        if self.stop_reason is not None:
            return self.stop_reason
        terminal, manifest, code = self.terminal, self.plan.manifest, end.code
        stderr = without_noise(manifest, end.stderr)
        noise = without_noise(manifest, "\n".join(end.noise))
        if self.is_settled:
            code = 0  # its exit code is that of the signal that ended it
        classify = partial(
            classify_failure, manifest, limit=self.limit, zone=self.plan.command.env.get("TZ")
        )
        if isinstance(terminal, Failed):
            message = sanitize(terminal.message) or self._last_notice
            return classify(
                message or f"{manifest.name} failed", stderr="" if message else stderr,
                status=terminal.status, code=code, retry_at=terminal.retry_at,
            )  # fmt: skip
        said = self._message_on_stderr(stderr) or _shorten_output(noise)
        if isinstance(terminal, Finished) and end.unfinished is not None:
            return self._unfinished_failure(end.unfinished)
        if isinstance(terminal, Finished):
            if terminal.incomplete:
                return self._unfinished_failure(terminal.incomplete)
            if code == 0 or (code > 0 and self._exit_excused):
                return self._denial_failure() or self._schema_failure(mismatch)
            message = f"{manifest.name} reported success but {_describe_exit(code)}"
            failure = classify_failure(manifest, message, stderr=stderr, code=code)
            reason = self._find_reason(failure, stderr) or said
            message = _append_detail(message, reason)
            return replace(
                failure, message=message, hint=failure.hint or _memory_hint(code, stderr)
            )
        if code == 0 and end.unfinished is not None:
            return self._unfinished_failure(end.unfinished)
        if code == 0 and self.is_format_unknown(end):
            return Failure("backend", self._format_message(end), _format_hint(manifest))
        if code == 0:
            message = f"{manifest.name} exited without reporting success or failure"
            if end.skipped_lines:
                message += f"; a line of more than {LONGEST:,} bytes was skipped"
            if self.limit is not None:
                return classify(message)
            return Failure(
                "incomplete",
                _append_detail(message, said),
                "its answer may be incomplete; try again",
            )
        failure = classify("", stderr=stderr or noise, code=code)
        if self.is_format_unknown(end):
            message = _append_detail(self._format_message(end), said)
            return replace(failure, message=message, hint=failure.hint or _format_hint(manifest))
        message = f"{manifest.name} {_describe_exit(code)}"
        if reason := self._find_reason(failure, stderr or noise):
            message = reason
        elif _signal_of(code):
            message = _append_detail(message, said)
        elif said:
            message = said
        elif not self.has_begun:
            message += " without output"
        hint = failure.hint or _memory_hint(code, stderr or noise)
        return replace(failure, message=message, hint=hint)

    def _find_reason(self, failure: Failure, text: str) -> str:
        """The line that a rule has found on stderr, unless the manifest says where the message is."""
        if self.plan.manifest.stderr_message:
            return ""
        return _shorten_output(find_reason(self.plan.manifest, failure, sanitize(text)) or "")

    def _message_on_stderr(self, stderr: str) -> str:
        """The error message on stderr, if the manifest says where it is; otherwise all of it,
        shortened."""
        manifest, found = self.plan.manifest, None
        if manifest.stderr_message and stderr:
            with suppress(ConfigError):  # the pattern takes too long
                found = Patterns(manifest.source).find(manifest.stderr_message, sanitize(stderr))
        return _shorten_output(found or "") or _shorten_output(stderr)

    def _unfinished_failure(self, why: str) -> Failure:
        return Failure(
            "incomplete",
            f"{self.plan.manifest.name} stopped before it was done: {sanitize(why)}",
        )

    def format_notice(self, end: Exit, result: Result) -> str | None:
        """A notice if an answer is empty although there was output that was not recognized."""
        if not result.ok or result.text.strip() or not end.unrecognized:
            return None
        return f"the answer is empty: {self._format_message(end)}"

    def _format_message(self, end: Exit) -> str:
        """How much of the output the manifest does not recognize, and which versions it is for."""
        name = self.plan.manifest.name
        lines = f"{end.unrecognized:,} line{'s' * (end.unrecognized > 1)}"
        if end.recognized:
            lines = f"{end.unrecognized:,} of {end.unrecognized + end.recognized:,} lines"
        tested = _describe_versions(self.plan.manifest, end.release)
        return f"{name} printed {lines} that its manifest does not recognize{tested}"

    def _denial_failure(self) -> Failure | None:
        if not (self.plan.request.fail_on_denied and self.denied):
            return None
        names = ", ".join(dict.fromkeys(d.name for d in self.denied))
        general = (
            "allow edits with --approval auto, these tools with --allowed-tools, or everything "
            "with --approval none"
        )
        hints = dict.fromkeys(denied.hint or general for denied in self.denied)
        return Failure("denied", f"tools were denied: {names}", "; ".join(hints))

    def _schema_failure(self, mismatch: str | None) -> Failure | None:
        """The failure of an answer that does not match the schema, whatever the CLI reports."""
        if mismatch is None:
            return None
        message = f"the answer does not match the schema: {sanitize(mismatch)}"
        return Failure("schema", message, "try again, or use another model")

    @property
    def _requested_model(self) -> str | None:
        """The model that answers if the CLI does not report it: the requested one, or else its
        default."""
        setting = self.plan.settings.get("model")
        return str(setting.value) if setting else self._default_model

    @property
    def _default_model(self) -> str | None:
        env = self.plan.command.env
        names = (
            env.get(name[1:]) if name.startswith("$") else name
            for name in self.plan.manifest.default_model
        )
        return next(filter(None, names), None)


def _add_usage(terminal: Finished | Failed | None, steps: Usage) -> Usage | None:
    """The usage that is known."""
    total = steps + (terminal.usage if terminal and terminal.usage else Usage())
    return None if total.is_unknown else total


def _either(a: Any, b: Any) -> Any:
    return b if a is None else a


def _add(a: Any, b: Any) -> Any:
    """The sum of two figures; if one is unknown, the other."""
    return _either(a, b) if a is None or b is None else a + b


def _describe_versions(manifest: Manifest, version: str | None) -> str:
    """` (tested with 0.169.0 to 0.171.0, this is 0.144.0)`, as far as that is known."""
    tested = dict.fromkeys(filter(None, (manifest.versions.oldest, manifest.versions.newest)))
    parts = [f"tested with {' to '.join(tested)}"] if tested else []
    if version:
        parts.append(f"this is {version}")
    return f" ({', '.join(parts)})" if parts else ""


def _format_hint(manifest: Manifest) -> str:
    """What to do about a CLI whose output has another format."""
    install = f"{manifest.install}; or " if manifest.install else ""
    return (
        f"install a release that it was tested with: {install}update clinvk, or describe the new "
        f"format in ~/.clinvk/backends/{manifest.name}.yaml (see: clinvk backends show {manifest.name})"
    )


def _describe_exit(code: int) -> str:
    number = _signal_of(code)
    return f"was terminated by signal {number}" if number else f"exited with code {code}"


def _signal_of(code: int) -> int:
    """The signal that ended a program; 0 if there was none. Some catch it, and exit as a shell
    reports it."""
    if code < 0:
        return -code
    return code - 128 if code - 128 in SIGNALS else 0


def _memory_hint(code: int, stderr: str) -> str | None:
    """What to do if memory is the likely reason: the system ends a program by SIGKILL then, and
    node reports it."""
    if _signal_of(code) != signal.SIGKILL and "heap out of memory" not in stderr:
        return None
    return "there may not be enough memory: run fewer tasks at once (-j), or allow more memory"


def _append_detail(message: str, said: str) -> str:
    return f"{message}: {said}" if said else message


def _shorten_output(text: str) -> str:
    """The first line and the end of stderr, as much as fits in a message: the reason is in one of
    them, and a page of usage may be between them."""
    text = "\n".join(line for line in sanitize(text).splitlines() if line.strip())
    if len(text) <= MAX_STDERR_LENGTH:
        return text
    first = text.split("\n", 1)[0][: MAX_STDERR_LENGTH // 2]
    return f"{first}\n…{text[len(first) - MAX_STDERR_LENGTH :]}"
