"""Folding the events of a turn into its result: no process, no event loop, no clock."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from clinvk.dispatch.folding.answer_blocks import AnswerBlocks
from clinvk.dispatch.folding.turn_failure import (
    Exit,
    Reported,
    find_failure,
    format_message,
    is_format_unknown,
    wrong_session_failure,
)
from clinvk.dispatch.turn_plan import TurnPlan
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
            self.stop(wrong_session_failure(self.plan, end.native_id or ""))
        if self.native_id is None or self._is_renewed:
            self.native_id = end.native_id or self.native_id
        terminal = self.terminal
        if isinstance(terminal, Finished):
            self._add_answer(self._blocks.late)
        answers = self._answers or [self._blocks.last]
        schema, structured, mismatch = self.plan.schema, None, None
        if schema is not None and isinstance(terminal, Finished):
            structured, mismatch = schema.read(terminal.structured, answers)
        failure = self.stop_reason or find_failure(self.plan, self._reported(mismatch), end)
        answer = "\n\n".join(answers)
        if failure is not None and not self._is_answer_stated:
            answer = self.transcript or answer
        if self.is_elsewhere:  # neither its answer nor its figures are those of this session
            terminal, answer, end = None, "", replace(end, steps_usage=Usage(), steps_costs=())
        own_code = None if self.is_settled else end.code  # the other one is that of our signal
        return Result(
            ok=failure is None,
            text=answer,
            backend=self.plan.manifest.name,
            exit_code=exit_code(failure.kind, own_code) if failure else 0,
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

    def _reported(self, mismatch: str | None) -> Reported:
        return Reported(
            terminal=self.terminal, is_settled=self.is_settled, exit_excused=self._exit_excused,
            limit=self.limit, last_notice=self._last_notice, has_begun=self.has_begun,
            denied=tuple(self.denied), mismatch=mismatch,
        )  # fmt: skip

    def is_format_unknown(self, end: Exit) -> bool:
        """Whether the output has another format than the manifest describes."""
        return self.stop_reason is None and is_format_unknown(self.terminal, end)

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
            self.stop(wrong_session_failure(self.plan, event.native_id))
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

    def format_notice(self, end: Exit, result: Result) -> str | None:
        """A notice if an answer is empty although there was output that was not recognized."""
        if not result.ok or result.text.strip() or not end.unrecognized:
            return None
        return f"the answer is empty: {format_message(self.plan.manifest, end)}"

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
