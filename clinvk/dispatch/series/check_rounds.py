"""A turn whose work is checked, and that continues in further turns of its session until it passes."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from msgspec import Struct
from msgspec.structs import replace

from clinvk.checks import protected
from clinvk.checks.changes import OF_GIT, ChangeDetector
from clinvk.checks.check import DEFAULT_TIMEOUT, CheckRun
from clinvk.checks.directory_lock import hold_directory
from clinvk.checks.output import CheckOutput
from clinvk.checks.same_failure import failure_key
from clinvk.disk.atomic import make_folder, replace_own
from clinvk.dispatch.series.turn_series import NextTurn, Open, TurnSeries
from clinvk.errors import ClinvkError, UsageError
from clinvk.model.checks.check import CheckResult, commands_of
from clinvk.model.checks.progress import CheckProgress
from clinvk.model.events import Checked, Checking, Event, Failed, Finished, Round
from clinvk.model.fence import fence, random_word
from clinvk.model.request import Request
from clinvk.model.result import EXIT_CODES, Failure, Result
from clinvk.model.session_ref import SessionById
from clinvk.process.marker import MARKER
from clinvk.process.threads import in_thread
from clinvk.runs.secrets import create_scrubber
from clinvk.worktrees.in_use import keep_worktree

if TYPE_CHECKING:
    from clinvk.dispatch.turn_plan import TurnPlan

BEFORE_NAME = "protected.json"  # in the directory of a task's checks
MAX_PROMPT_OUTPUT = 12_000  # characters of a check's output in a prompt, the last ones

ROUND_PROMPT = """\
Your work was checked, and the check failed: {why}

{output}

Fix the cause, and end your turn when it is fixed: the same check is run again then. Do not change \
the check itself, and do not remove or weaken tests to make it pass.{protected}"""


class _Look:
    """Looks at the files before a turn of the series."""

    def __init__(self, series: CheckedTurn) -> None:
        self._series = series

    async def start(self, plan: TurnPlan) -> None:
        await self._series.look_before_start(plan)

    async def prompt(self) -> None:
        await self._series.look_before_prompt()


MayContinue = Callable[
    [Result], "str | None"
]  # why there may be no further turn; None if there may


class CheckSettings(Struct, frozen=True, kw_only=True):
    """What is checked after a turn, and how."""

    commands: tuple[str, ...] = ()
    rounds: int = 0
    protect: tuple[str, ...] = ()
    timeout: float = DEFAULT_TIMEOUT
    expect_change: bool = False


def check_settings(options: Mapping[str, Any]) -> CheckSettings:
    """The settings of a turn with these options."""
    return CheckSettings(
        commands=commands_of(options.get("check")),
        rounds=options.get("rounds") or 0,
        protect=commands_of(options.get("protect")),
        timeout=options.get("check_timeout") or DEFAULT_TIMEOUT,
        expect_change=bool(options.get("expect_change")),
    )


class CheckedTurn(TurnSeries):
    """Looks like a `Turn`. After a turn that succeeded, its check is run. If that fails, and there
    are rounds left, another turn of the session gets its output."""

    kind = "check"

    def __init__(
        self,
        open_turn: Callable[[_Look], Open],
        request: Request,
        notify: Callable[[str], None],
        *,
        home: Path,
        env: Mapping[str, str],
        redacting: bool,
        plan: Callable[[Request], Any],
        may_continue: MayContinue = lambda _: None,
    ) -> None:
        """`open_turn` gets what is to be done before a turn. `plan` plans a request,
        for checks that are done before any turn."""
        super().__init__(open_turn(_Look(self)), request, notify)
        self._first = request
        self._home = home
        self._env = env
        self._make_plan = plan
        self._may_continue = may_continue
        self._progress = request.check_progress or CheckProgress()
        self._round = self._progress.round
        self._changed = self._progress.changed
        self._failures = list(self._progress.failures)
        self._settings = CheckSettings()
        self._last_check = self._progress.check
        self._early_plan: TurnPlan | None = None  # if there was no turn yet
        self._detector: ChangeDetector | None = None
        self._state_before: str | None = None  # of the directory, before the turn
        self._has_begun_turn = False
        self._round_changed = True
        self._protected: dict[str, str] | None = None  # before the first turn
        self._events: deque[Event] = deque()
        self._answered: tuple[Event, Result] | None = None  # the turn that is to be checked
        self._check_run: CheckRun | None = None
        scrub = create_scrubber(request.secrets, redacting=redacting)
        self._scrub: Callable[[str], str] = scrub

    # Before a turn.

    async def _start(self) -> None:
        done = self._progress.result
        if done is None:
            await super()._start()
            return
        request = self._first.replace(
            session=SessionById(done.session_id or ""), backend=None, to=None, title=None, tags=(),
            options=self._first.options_of_follow_up,
        )  # fmt: skip
        self._early_plan = plan = await self._make_plan(request)
        self._prepare(plan)
        self._protected = await in_thread(self._load_protected)
        if self._progress.check is None:
            self._notify("the CLI had answered before; only the check runs again")
        # Its usage was counted by the attempt that it was a turn of.
        done = replace(done, usage=None, cost=None, seconds=0.0)
        self._answered = (Finished(text=done.text), done)

    async def look_before_start(self, plan: TurnPlan) -> None:
        """Look at the files before the program starts."""
        if self._has_begun_turn:  # the same turn on another backend, or a correction of its answer
            return
        self._prepare(plan)
        settings = self._settings
        if settings.protect and self._protected is None:
            if self._first.check_progress is not None:
                self._protected = await in_thread(self._load_protected)
            if self._protected is None:
                self._protected = await in_thread(lambda: self._take_protected(_refuse_link))
                await in_thread(self._store_protected)
                for pattern in protected.unmatched(self._protected, settings.protect):
                    self._notify(f"--protect: {pattern!r} matches no file")
        if not plan.command.stdin:
            await self.look_before_prompt()

    async def look_before_prompt(self) -> None:
        """Look at the directory before the program can change it. A CLI that reads its prompt from
        stdin boots meanwhile."""
        if self._detector is not None and not self._has_begun_turn:
            self._has_begun_turn = True
            self._state_before = await self._detector.state()

    def _prepare(self, plan: TurnPlan) -> None:
        if self._detector is None:
            self._settings = check_settings({k: s.value for k, s in plan.settings.items()})
            self._detector = ChangeDetector(plan.command.cwd, self._env, self._home)

    # Events.

    @property
    def plan(self) -> TurnPlan:
        if self._turn is None and self._early_plan is not None:
            return self._early_plan
        return super().plan

    @property
    def is_between_turns(self) -> bool:
        return self._next is not None or self._answered is not None

    @property
    def pending(self) -> bool:
        return bool(self._events) or (self._turn is not None and super().pending)

    @property
    def deadline(self) -> float:
        return float("inf") if self._turn is None else super().deadline

    def has_unread_output(self) -> bool:
        return self._turn is not None and super().has_unread_output()

    @property
    def native_id(self) -> str | None:
        if self._turn is None and self._progress.result is not None:
            return self._progress.result.native_id
        return super().native_id

    @property
    def model(self) -> str | None:
        if self._turn is None and self._progress.result is not None:
            return self._progress.result.model
        return super().model

    @property
    def denied(self) -> list[Any]:
        return [] if self._turn is None else super().denied

    def cancel(self, reason: str = "cancelled", *, now: bool = False) -> None:
        if self._result is not None:
            return
        if self._answered is None:
            super().cancel(reason, now=now)
            return
        self._cancelled = self._cancelled or reason
        if self._scope is not None:
            self._scope.cancel()
        if now and self._check_run is not None:
            self._check_run.kill_now()

    async def __anext__(self) -> Event:
        if self._events:
            return self._events.popleft()
        if self._result is not None:
            raise StopAsyncIteration
        if self._answered is not None:
            await self._check(*self._answered)
            return self._events.popleft()
        if self._next is not None and (event := await self._continue(self._next)):
            return event
        event = await self._current.__anext__()
        if isinstance(event, Finished) and self._cancelled is None:
            self._answered = (event, self._current.result)
            await self._note_changes()
            command = " && ".join(self._settings.commands)
            return Checking(
                round=self._round,
                command=command,
                changed=self._changed,
                result=self._current.result,
            )
        return event

    async def _note_changes(self) -> None:
        """Look whether the turn has changed a file."""
        assert self._detector is not None  # noqa: S101 - a turn has begun
        self._has_begun_turn = False
        after = await self._detector.state()
        self._round_changed = after is None or after != self._state_before
        self._changed = self._changed or self._round_changed

    # The check.

    async def _check(self, event: Event, result: Result) -> None:
        """Check the work of the turn, and decide how it continues."""
        known = earlier = self._progress.check if self._turn is None else None
        if known is None:
            with anyio.CancelScope() as self._scope:
                if self._cancelled is not None:
                    self._scope.cancel()
                known = await self._run_check()
                known = await self._with_files(known)
            cancelled, self._scope, self._check_run = self._scope.cancelled_caught, None, None
            if cancelled:
                self._answered = None
                self._end(result, Failure("cancelled", self._cancelled or "cancelled"))
                return
        assert known is not None  # noqa: S101 - it was not cancelled
        check = replace(known, rounds=self._round)
        self._answered = None
        stopped = self._why_no_round(check, result, is_known=earlier is not None)
        failure = None
        if check.state == "failed" and earlier is None:
            self._failures.append(failure := failure_key(check))
        self._last_check = check = replace(check, stopped=stopped)
        self._events.append(
            Checked(round=self._round, check=check, failure=failure, again=earlier is not None)
        )
        if self._is_passed(check):
            self._result = self._combine(result)
            self._events.append(event)
        elif self._may_fix(check) and stopped is None:
            await self._begin_round(check, result)
        else:
            self._end(result, self._failure_of(check))

    def _is_passed(self, check: CheckResult) -> bool:
        return check.ok and not (check.state == "unchanged" and self._settings.expect_change)

    def _may_fix(self, check: CheckResult) -> bool:
        """Whether another turn could make it pass."""
        return check.state == "failed" and not check.protected and self._settings.rounds > 0

    def _why_no_round(self, check: CheckResult, result: Result, *, is_known: bool) -> str | None:
        """Why no further turn is tried; None if one is, or there is no reason for one."""
        if not self._may_fix(check):
            return None
        if result.session_id is None or not self.plan.manifest.resumes:
            return "the conversation cannot be continued"
        if is_known:  # what was decided then
            return check.stopped
        if self._round > 0 and not self._round_changed:
            return "the last round changed no file"
        if failure_key(check) in self._failures:
            return "the same failure occurred again"
        if self._round >= self._settings.rounds:
            count = self._settings.rounds
            return f"{count} round{'s' * (count != 1)} did not fix it"
        return self._may_continue(self._combine(result))

    async def _run_check(self) -> CheckResult:
        settings, plan = self._settings, self.plan
        if not settings.commands:
            return CheckResult(state="none")
        env = {**self._env, **self._first.env}
        if self._first.started_in is not None:  # a worktree, which a hook of git does not know
            env = {k: v for k, v in env.items() if k not in OF_GIT}
        run = CheckRun(settings.commands, plan.command.cwd, env, self._marker, settings.timeout)
        self._check_run = run
        output = CheckOutput(self._log_path(), self._scrub)
        async with hold_directory(self._home, plan.command.cwd, run.marker, self._notify):
            with keep_worktree(self._home, plan.command.cwd):
                check = await run.run(output)
        if output.problem:
            self._notify(output.problem)
        return replace(
            check, message=check.message and self._scrub(check.message),
            command=check.command and self._scrub(check.command),
        )  # fmt: skip

    async def _with_files(self, check: CheckResult) -> CheckResult:
        """The result, with what is to be said about the files."""
        if self._protected is not None:
            before, after = self._protected, await in_thread(self._take_protected)
            if changed := protected.changed_files(before, after):
                said = self._scrub(protected.describe_changed(changed))
                if check.state in ("failed", "could_not_run"):
                    said = f"{said}; {check.message}"
                return replace(check, state="failed", protected=tuple(changed), message=said)
        if check.ok and not self._changed:
            expects = self._settings.expect_change
            if check.state == "passed" or expects:
                return replace(check, state="unchanged", message="no file was changed")
        return check

    def _failure_of(self, check: CheckResult) -> Failure:
        message, hint = check.message or "check failed", None
        if check.stopped:
            message = f"{message}; no further round: {check.stopped}"
        elif check.state == "unchanged":
            hint = "allow it by leaving out --expect-change"
        elif check.state == "failed" and not check.protected and self._is_continuable:
            hint = "have it fixed with --rounds N"
        return Failure("check", message, hint)

    @property
    def _is_continuable(self) -> bool:
        return self.plan.session is not None and self.plan.manifest.resumes

    def _end(self, result: Result, failure: Failure) -> None:
        """End with this failure; the turns themselves have succeeded."""
        code = EXIT_CODES[failure.kind]
        self._result = replace(self._combine(result), ok=False, error=failure, exit_code=code)
        usage, cost = self._result.usage, self._result.cost
        self._events.append(
            Failed(
                kind=failure.kind,
                message=failure.message,
                hint=failure.hint,
                usage=usage,
                cost=cost,
            )
        )

    # Rounds.

    async def _begin_round(self, check: CheckResult, result: Result) -> None:
        self._round += 1
        self._ended.append(result)
        request = self._first.replace(
            prompt=self._round_prompt(check), session=SessionById(result.session_id or ""),
            backend=None, to=None, replay=False, title=None, tags=(), check_progress=None,
            resends=False, options=self._first.options_of_follow_up,
        )  # fmt: skip
        self._next = NextTurn(request, "")
        self._events.append(
            Round(round=self._round, rounds=self._settings.rounds, message=check.message or "")
        )

    def _round_prompt(self, check: CheckResult) -> str:
        output = check.output[-MAX_PROMPT_OUTPUT:]
        said = fence("its output", output, random_word()) if output else "It printed nothing."
        names = ", ".join(self._settings.protect)
        kept = f" These files must not be changed: {names}." if names else ""
        return ROUND_PROMPT.format(why=check.message, output=said, protected=kept)

    def _explain(self, error: ClinvkError, last: Result) -> Failure | None:
        del last  # it has succeeded
        message = f"round {self._round} could not start: {error.message}"
        return Failure(error.kind, message, error.hint)

    def _combine(self, result: Result) -> Result:
        return replace(super()._combine(result), check=self._last_check)

    @property
    def _marker(self) -> str:
        """The marker of the turn, so that what a killed clinvk left of a check is found with it."""
        return self._current.marker if self._turn is not None else self._env.get(MARKER, "")

    # Files.

    def _log_path(self) -> Path | None:
        folder = self._first.check_dir
        return folder and folder / f"round-{self._round}.log"

    def _take_protected(
        self, refuse: Callable[[str, str], None] = lambda *_: None
    ) -> dict[str, str]:
        assert self._detector is not None  # noqa: S101 - a turn has begun
        folder = self._detector.folder
        return protected.take_snapshot(folder, self._settings.protect, refuse=refuse)

    def _store_protected(self) -> None:
        """Store what the files were, for a later attempt; if that fails, it looks again."""
        folder = self._first.check_dir
        if folder is not None and self._protected is not None:
            with suppress(OSError):
                make_folder(folder)
                data = json.dumps(self._protected).encode()
                replace_own(folder / BEFORE_NAME, data, durable=False)

    def _load_protected(self) -> dict[str, str] | None:
        folder = self._first.check_dir
        if folder is None or not self._settings.protect:
            return None
        with suppress(OSError, ValueError):
            data = json.loads((folder / BEFORE_NAME).read_bytes())
            if isinstance(data, dict):
                return data
        return None


def _refuse_link(link: str, target: str) -> None:
    raise UsageError(
        f"--protect: {protected.shown(link)!r} is a link to {protected.shown(target)}, which is not in "
        "the repository of the task, so it cannot be protected",
        "protect files of the repository; what others use outside of it may change at any time",
    )
