"""A request on the command line: signals in, events out, an exit code at the end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from clinvk.cmd.drive.signals import cancel_reason, watch_signals
from clinvk.cmd.options.reading import OutputOptions
from clinvk.config.schema import Loaded
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.model.request import Request
from clinvk.process import ownership
from clinvk.process.groups import unwrap_single_exception
from clinvk.terminal.printer import Printer, StatusLine
from clinvk.text.addresses import without_passwords
from clinvk.text.json_output import dumps
from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from anyio import CancelScope
    from anyio.abc import TaskGroup

    from clinvk.cmd.views.turn import TurnViewer
    from clinvk.dispatch.series.turn_series import TurnSeries
    from clinvk.dispatch.turn import Turn
    from clinvk.model.events import Event
    from clinvk.model.result import Result

    OnEvent = Callable[[Event], Awaitable[None]]
    IsTold = Callable[[Event, Collection[str]], bool]  # gets the notices of the turn, too
    Finish = Callable[[Result], Awaitable[Result]]

VERSION = 1  # of the JSON of a dry run
MODELLESS_BACKEND = "echo"  # it edits nothing
FRAME_INTERVAL = 0.12  # seconds between two frames of the status line
CANCELLED = 7  # the exit code
SHOW_STATUS_AFTER = 0.6  # seconds of silence before there is one


def drive_prompt(dispatcher: Dispatcher, request: Request, output: OutputOptions) -> int:
    """Run the request and show it; return the exit code. Raises `ClinvkError` before anything
    runs."""
    result = drive_turn(dispatcher, request, output)
    return result.exit_code if result is not None else CANCELLED


def drive_turn(
    dispatcher: Dispatcher, request: Request, output: OutputOptions, is_told: IsTold | None = None
) -> Result | None:
    """Run the request and show it, except for events that `is_told` says were shown before; return the
    result, or None if it was cancelled before anything ran. Raises `ClinvkError` before anything
    runs."""
    # 45 ms, and needed only once something runs.
    import anyio

    first = is_first_prompt(dispatcher, request, output)
    ownership.prepare_for_turn()
    with unwrap_single_exception():
        return anyio.run(_drive_prompt, dispatcher, request, output, first, is_told)


def is_first_prompt(dispatcher: Dispatcher, request: Request, output: OutputOptions) -> bool:
    """Whether the user, on a terminal, has neither a configuration nor a session yet."""
    for_people = output.format == "text" and sys.stderr.isatty() and not request.ephemeral
    if not for_people or dispatcher.config.path.exists():
        return False
    return not dispatcher.store.find_ids("", 1)


async def _drive_prompt(
    dispatcher: Dispatcher,
    request: Request,
    output: OutputOptions,
    first: bool,
    is_told: IsTold | None,
) -> Result | None:
    # 45 ms, and needed only once something runs.
    import anyio

    printer = Printer.for_errors(output.color)
    printer.quiet = output.quiet
    held = Interruptible()
    result: Result | None = None
    async with anyio.create_task_group() as tasks:
        held.scope = tasks.cancel_scope
        await tasks.start(watch_signals, held.on_signal)
        async with dispatcher.stream(request, printer.notice) as run:
            shown = ShownTurn(request, output, printer, held, tasks, first=first, is_told=is_told)
            result = await shown.follow(run, None, _as_it_is)
        tasks.cancel_scope.cancel()
    if held.turn is None:
        printer.error("cancelled")
        return None
    return result


class ShownTurn:
    """How a turn is shown."""

    def __init__(
        self,
        request: Request,
        output: OutputOptions,
        printer: Printer,
        held: Interruptible,
        tasks: TaskGroup,
        *,
        first: bool = False,
        is_told: IsTold | None = None,
    ) -> None:
        """`tasks` runs what goes on meanwhile; its owner cancels that afterwards. `first`: it is
        the user's first prompt."""
        self.request = request
        self.output = output
        self.printer = printer
        self.held = held
        self.tasks = tasks
        self.first = first
        self.is_told = is_told

    async def follow(
        self, run: Turn | TurnSeries, on_event: OnEvent | None, finish: Finish
    ) -> Result:
        """Show a turn to its end, and its result as `finish` returns it. `on_event` gets each
        event."""
        # The program boots while this is imported.
        from clinvk.cmd.views.viewers import create_turn_viewer
        from clinvk.model.events import Delta, Text

        output, printer = self.output, self.printer
        ownership.prepare_for_stream()
        _announce_session(self.request, run.plan, printer)
        if self.first:
            explain_approval(run.plan, printer)
        self.held.turn = run
        self.held.viewer = viewer = create_turn_viewer(output, printer, run.plan)
        viewer.has_unread_output = run.has_unread_output
        if viewer.status.enabled:
            self.tasks.start_soon(_animate, viewer.status)
        self.tasks.start_soon(viewer.work)
        try:
            async for event in run:
                if on_event is not None:
                    await on_event(event)
                if not isinstance(event, (Delta, Text)):  # it may say something on stderr
                    await viewer.flush(run.deadline)
                if self.is_told is None or not self.is_told(event, run.plan.notices):
                    await viewer.show(event)
                if not run.pending:
                    await viewer.flush(run.deadline)
            result = await finish(run.result)
            await viewer.end(result)
            await viewer.out.flush()
            viewer.show_outcome(result)
        except BrokenPipeError:
            run.cancel("the reader of the output has closed it")
            raise
        finally:
            viewer.status.clear()
        return result


async def _as_it_is(result: Result) -> Result:
    return result


def _announce_session(request: Request, plan: TurnPlan, printer: Printer) -> None:
    """Print the named session before its answer, as text."""
    if request.name and plan.session and printer.stream.isatty() and not printer.quiet:
        session = plan.session
        count = sum(session.counts.values()) if session.turns or session.native_ids else 0
        printer.stream.write(f"📂 Session: {session.id} ({count} messages)\n")


def explain_approval(plan: TurnPlan, printer: Printer) -> None:
    """Say once that nothing can be edited by default: the first prompt is often to fix a bug."""
    may_decide = plan.manifest.options.get("approval") or {}
    chosen = {"approval", "sandbox", "allowed_tools"} & plan.settings.keys()
    if plan.manifest.name == MODELLESS_BACKEND or chosen or not may_decide:
        return
    printer.notice(
        f"{plan.manifest.name} cannot edit files by default; to allow it: --approval auto, or for "
        "all prompts: clinvk config set unified_flags.approval_mode auto"
    )


class Interruptible:
    """What the signals stop: the run, or the wait for it. The first signal stops the run and
    all processes that it started; the second one kills them."""

    turn: Turn | TurnSeries | None = None
    viewer: TurnViewer | None = None
    scope: CancelScope

    def on_signal(self, number: signal.Signals, count: int) -> None:
        if self.turn is None:
            self.scope.cancel()
            return
        self.turn.cancel(cancel_reason(number), now=count > 1)
        if self.viewer is not None:
            self.viewer.give_up()


async def _animate(status: StatusLine) -> None:
    # 45 ms, and needed only once something runs.
    import anyio

    await anyio.sleep(SHOW_STATUS_AFTER)
    while status.enabled:
        status.tick()
        await anyio.sleep(FRAME_INTERVAL)


def print_dry_run(dispatcher: Dispatcher, request: Request, output: OutputOptions) -> int:
    """Print what would be started, and where each setting came from."""
    # Only a dry run needs them.
    from clinvk.cmd.views.turn import shorten_value
    from clinvk.config.schema import MASK

    plan = dispatcher.plan(request)
    masked = dict.fromkeys(dispatcher.config.backend(plan.manifest.name).env, MASK)
    plan = replace(
        plan,
        command=replace(plan.command, env_changes=plan.command.env_changes | masked),
    )
    if output.format != "text":
        print(dumps(_dry_run_data(plan), indent=2))
        return 0
    print(plan.command)
    for name, value, origin in _origins(plan, request, dispatcher.config):
        print(f"# {name}: {one_line(without_passwords(str(value)))}  ({one_line(origin)})")
    if plan.session:
        native_id = one_line(plan.resumes or "- (a new one)")
        print(f"# session: {plan.session.id}, native id {native_id}")
    stdin = plan.command.stdin
    print(f"# prompt on stdin: {len(stdin):,} bytes: {shorten_value(_prompt_of(plan))}")
    for text in plan.notices:
        Printer.for_errors(output.color).notice(text)
    return 0


def _dry_run_data(plan: TurnPlan) -> dict[str, Any]:
    command = plan.command
    return {
        "version": VERSION,
        "backend": plan.manifest.name,
        "command": [without_passwords(word) for word in command.argv],
        "env": {k: v and without_passwords(v) for k, v in command.env_changes.items()},
        "workdir": str(command.cwd),
        "session_id": plan.session.id if plan.session else None,
        "native_id": plan.resumes,
        "prompt": _prompt_of(plan),
        "timeout_seconds": plan.timeout,
        "settings": {
            name: {"value": value, "from": origin} for name, value, origin in _settings(plan)
        },
    }


def _origins(plan: TurnPlan, request: Request, config: Loaded) -> Iterator[tuple[str, Any, str]]:
    """The settings of the turn, and the origin of each."""
    of_session = "session" if plan.session else None
    named = "command line" if request.to or request.backend else of_session
    yield "backend", plan.manifest.name, named or config.origin("default_backend")
    yield "directory", plan.command.cwd, "command line" if request.cwd else of_session or "here"
    yield from _settings(plan)


def _settings(plan: TurnPlan) -> Iterator[tuple[str, Any, str]]:
    # Only a dry run needs it.
    from clinvk.config.keys import shown

    return ((name, shown(s.value), s.origin) for name, s in plan.settings.items())


def _prompt_of(plan: TurnPlan) -> str:
    return plan.command.stdin.decode("utf-8", "replace")
