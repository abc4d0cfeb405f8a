"""A request on the command line: signals in, events out, an exit code at the end."""

from __future__ import annotations

import gc
import signal
from typing import Any

from msgspec.structs import replace

from clinvk.cmd.options.request import Output
from clinvk.cmd.signals import said, watch
from clinvk.cmd.views.turn import brief, viewer_for
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.model.events import Delta, Text
from clinvk.model.request import Request
from clinvk.terminal.printer import Printer, Status
from clinvk.text.addresses import without_passwords
from clinvk.text.json_output import dumps
from clinvk.text.sanitize import one_line

TICK = 0.12  # seconds between two frames of the status line
PATIENT = 0.6  # seconds of silence before there is one


def drive(dispatcher: Dispatcher, request: Request, output: Output) -> int:
    """Run the request and show it; the exit code. Raises `ClinvkError` before anything runs."""
    # 45 ms, and needed only once something runs.
    import anyio

    # Anyio, 45 ms: needed only once something runs.
    from clinvk.process.child import lone_exception, watch_by_pidfd

    watch_by_pidfd()
    try:
        with lone_exception():
            return anyio.run(_drive, dispatcher, request, output)
    finally:
        gc.disable()


async def _drive(dispatcher: Dispatcher, request: Request, output: Output) -> int:
    # 45 ms, and needed only once something runs.
    import anyio

    printer = Printer.for_errors(output.colour)
    held = _Held()
    async with anyio.create_task_group() as tasks:
        held.scope = tasks.cancel_scope
        await tasks.start(watch, held.heard)
        async with dispatcher.stream(request, notify=printer.notice) as run:
            gc.enable()
            _say_session(request, run.plan, printer)
            held.run = run
            held.viewer = viewer = viewer_for(output, printer, run.plan)
            if viewer.status.wanted:
                tasks.start_soon(_tick, viewer.status)
            try:
                async for event in run:
                    if not isinstance(event, (Delta, Text)):  # it may say something on stderr
                        await viewer.out.flush(run.deadline)
                    await viewer.show(event)
                    if not run.pending:
                        await viewer.out.flush(run.deadline)
                await viewer.end(run.result)
                await viewer.out.flush()
                viewer.tell(run.result)
            except BrokenPipeError:
                run.cancel("the reader of the output has gone")
                raise
            finally:
                viewer.status.clear()
        tasks.cancel_scope.cancel()
    if held.run is None:
        printer.error("cancelled")
        return 7
    code: int = held.run.result.exit_code
    return code


def _say_session(request: Request, plan: TurnPlan, printer: Printer) -> None:
    """Which named session this is, before its answer; for people."""
    if request.name and plan.session and printer.stream.isatty():
        session = plan.session
        count = sum(session.counts.values()) if session.turns or session.native_ids else 0
        printer.stream.write(f"📂 Session: {session.id} ({count} messages)\n")


class _Held:
    """What the signals end: the run, or the wait for it. The first signal ends the run and all
    that it started; the second one does it at once."""

    run: Any = None
    viewer: Any = None
    scope: Any = None

    def heard(self, number: signal.Signals, count: int) -> None:
        if self.run is None:
            self.scope.cancel()
            return
        self.run.cancel(said(number), now=count > 1)
        if self.viewer is not None:
            self.viewer.give_up()


async def _tick(status: Status) -> None:
    # 45 ms, and needed only once something runs.
    import anyio

    await anyio.sleep(PATIENT)
    while status.wanted:
        status.tick()
        await anyio.sleep(TICK)


def dry_run(dispatcher: Dispatcher, request: Request, output: Output) -> int:
    """Print what would be started, and where each setting came from."""
    # Only a dry run needs it.
    from clinvk.config.schema import MASK, shown

    plan = dispatcher.plan(request)
    secret = dispatcher.config.backend(plan.manifest.name).env
    settings = {k: {"value": shown(s.value), "from": s.origin} for k, s in plan.settings.items()}
    prompt = plan.command.stdin.decode("utf-8", "replace")
    if output.format != "text":
        data = {
            "version": 1,
            "backend": plan.manifest.name,
            "command": [without_passwords(word) for word in plan.command.argv],
            "env": {k: v and without_passwords(v) for k, v in plan.command.changed.items()}
            | dict.fromkeys(secret, MASK),
            "workdir": str(plan.command.cwd),
            "session_id": plan.session.id if plan.session else None,
            "native_id": plan.resumes,
            "prompt": prompt,
            "timeout_seconds": plan.timeout,
            "settings": settings,
        }
        print(dumps(data, indent=2))
        return 0
    command = replace(plan.command, changed=plan.command.changed | dict.fromkeys(secret, MASK))
    print(command)
    backend = "command line" if request.to or request.backend else "session" if plan.session else (
        dispatcher.config.origin("default_backend"))  # fmt: skip
    for name, value, origin in (
        ("backend", plan.manifest.name, backend),
        (
            "folder",
            plan.command.cwd,
            "command line" if request.cwd else "session" if plan.session else "here",
        ),
        *((k, s["value"], s["from"]) for k, s in settings.items()),
    ):
        print(f"# {name}: {one_line(without_passwords(str(value)))}  ({one_line(origin)})")
    if plan.session:
        native_id = one_line(plan.resumes or "- (a new one)")
        print(f"# session: {plan.session.id}, native id {native_id}")
    print(f"# prompt on stdin: {len(plan.command.stdin):,} bytes: {brief(prompt)}")
    for text in plan.notices:
        Printer.for_errors(output.colour).notice(text)
    return 0
