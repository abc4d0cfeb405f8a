"""A request on the command line: signals in, events out, an exit code at the end."""

from __future__ import annotations

import gc
import json
import signal
import sys
from typing import Any

from msgspec.structs import replace

from clinvk.clean import Cleaner, clean, one_line
from clinvk.cmd.options import Output
from clinvk.cmd.show import Printer, Status
from clinvk.dispatcher import Dispatcher, Plan
from clinvk.messages import (
    Delta,
    Denied,
    Event,
    Failed,
    Notice,
    Request,
    Result,
    Text,
    Thinking,
    Tool,
)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TICK = 0.12  # seconds between two frames of the status line
PATIENT = 0.6  # seconds of silence before there is one


def drive(dispatcher: Dispatcher, request: Request, output: Output) -> int:
    """Run the request and show it; the exit code. Raises `ClinvkError` before anything runs."""
    import anyio

    from clinvk.process import lone_exception

    _pidfd()
    try:
        with lone_exception():
            return anyio.run(_drive, dispatcher, request, output)
    finally:
        gc.disable()


async def _drive(dispatcher: Dispatcher, request: Request, output: Output) -> int:
    import anyio

    printer = Printer.for_errors(output.colour)
    held = _Held()
    async with anyio.create_task_group() as tasks:
        await tasks.start(_watch_signals, held, tasks.cancel_scope)
        async with dispatcher.stream(request, notify=printer.notice) as run:
            gc.enable()
            held.run = run
            viewer = _viewer(output, printer, run.plan)
            if viewer.status.wanted:
                tasks.start_soon(_tick, viewer.status)
            try:
                async for event in run:
                    viewer.show(event)
                    if not run.pending:
                        viewer.flush()
                viewer.end(run.result)
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


class _Held:
    """What the signals end: the run, or the wait for it."""

    run: Any = None


async def _watch_signals(held: _Held, scope: Any, *, task_status: Any) -> None:
    """The first signal ends the run and all that it started; the second one does it at once."""
    import anyio

    wanted = [s for s in SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]  # as under nohup
    if not wanted:
        task_status.started()
        return
    count = 0
    with anyio.open_signal_receiver(*wanted) as signals:
        task_status.started()
        async for number in signals:
            count += 1
            if held.run is None:
                scope.cancel()
                return
            name = "cancelled" if number == signal.SIGINT else f"cancelled by {number.name}"
            held.run.cancel(name, now=count > 1)


async def _tick(status: Status) -> None:
    import anyio

    await anyio.sleep(PATIENT)
    while status.wanted:
        status.tick()
        await anyio.sleep(TICK)


class _Viewer:
    """Shows the events of one run."""

    def __init__(self, output: Output, printer: Printer, plan: Plan) -> None:
        self.output = output
        self.printer = printer
        self.plan = plan
        wanted = output.format == "text" and sys.stderr.isatty() and sys.stdin.isatty()
        self.status = Status(printer, f"{plan.manifest.name} is working", wanted=wanted)

    def show(self, event: Event) -> None: ...

    def flush(self) -> None:
        sys.stdout.flush()

    def end(self, result: Result) -> None: ...


class _TextViewer(_Viewer):
    """The answer as it comes; what else happens on stderr."""

    def __init__(self, output: Output, printer: Printer, plan: Plan) -> None:
        super().__init__(output, printer, plan)
        self.cleaner = Cleaner()
        self.block = ""  # what was shown of the answer's present block
        self.fresh = True  # at the beginning of a line
        self.begun = False

    def show(self, event: Event) -> None:
        match event:
            case Delta():
                self._write(event.text)
                self.block += event.text
            case Text():
                # The whole of a block: what its deltas have not shown yet is the rest of it.
                shown, self.block = self.block, ""
                self._write(event.text.removeprefix(shown) if shown else event.text)
                self._newline()
            case Tool():
                self._newline()
                self.status.what = f"{self.plan.manifest.name}: {event.name}"
                self._aside(f"{event.name}: {_brief(event.input)}")
            case Thinking():
                self._newline()
                self._aside(event.text)
            case Denied():
                self._newline()
                self._clear()
                self.printer.warning(f"{event.name} was denied", self._allow(event))
            case Notice():
                self._newline()
                self._clear()
                self.printer.notice(event.message)
            case Failed():
                self._newline()

    def end(self, result: Result) -> None:
        if not self.begun:  # it came all at once, at the end
            self._write(result.text)
        self._newline()
        sys.stdout.flush()
        self._clear()
        self.status.wanted = False
        if result.error is not None:
            _tell(result, self.printer)
        if footer := _footer(result, self.output):
            self.printer.stream.write(self.printer.paint(footer, "2") + "\n")

    def _allow(self, event: Denied) -> str | None:
        """How to allow it, where the approval was left to the CLI, which has nobody to ask."""
        if "approval" in self.plan.settings:
            return event.reason
        return "let it edit with --approval auto, or do everything with --approval none"

    def _write(self, text: str) -> None:
        text = text if self.output.raw else self.cleaner.feed(text)
        if not text:
            return
        self._clear()
        self.status.wanted = self.status.wanted and not sys.stdout.isatty()
        if self.fresh and self.begun and not self.block:
            text = "\n" + text  # an empty line between two blocks of the answer
        sys.stdout.write(text)
        self.begun = True
        self.fresh = text.endswith("\n")

    def _newline(self) -> None:
        if rest := self.cleaner.end():
            sys.stdout.write(rest)
        if self.begun and not self.fresh:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self.fresh = True
        self.block = ""

    def _aside(self, text: str) -> None:
        if self.output.verbose and text:
            self._clear()
            self.printer.stream.write(self.printer.paint(f"· {clean(text)}", "2") + "\n")

    def _clear(self) -> None:
        self.status.clear()


class _JsonViewer(_Viewer):
    """One object at the end."""

    def show(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.printer.notice(event.message)

    def end(self, result: Result) -> None:
        print(json.dumps(result.to_json(), ensure_ascii=False, indent=2))
        if result.error is not None:
            _tell(result, self.printer)


class _StreamViewer(_Viewer):
    """Our events, one a line; the last one says how it went."""

    def show(self, event: Event) -> None:
        line = event.to_json(raw=self.output.raw)
        if event.type in ("finished", "failed"):
            self.last = line
            return
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")

    def end(self, result: Result) -> None:
        about = result.to_json()
        line = {k: v for k, v in self.last.items() if k in ("version", "type", "raw")}
        sys.stdout.write(json.dumps({**line, **about}, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        if result.error is not None:
            _tell(result, self.printer)


def _viewer(output: Output, printer: Printer, plan: Plan) -> _Viewer:
    kinds = {"text": _TextViewer, "json": _JsonViewer, "stream-json": _StreamViewer}
    return kinds[output.format](output, printer, plan)


def _tell(result: Result, printer: Printer) -> None:
    """The failure, in a sentence; and how to go on."""
    error = result.error
    assert error is not None  # noqa: S101 - asked only then
    hint = error.hint
    if error.retry_at is not None:
        when = error.retry_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        hint = f"the limit ends at {when}" + (f"; {hint}" if hint else "")
    if error.kind in ("timeout", "cancelled") and result.session_id and result.native_id:
        go_on = f'go on with: clinvk resume {result.session_id} "..."'
        hint = f"{hint}; {go_on}" if hint else go_on
    printer.error(f"{result.backend}: {error.message}", hint)


def _footer(result: Result, output: Output) -> str:
    parts = []
    if output.tokens and result.usage:
        parts.append(f"{result.usage.input:,} tokens in, {result.usage.output:,} out")
    if output.tokens and result.cost is not None:
        parts.append(f"${result.cost:.4f} as reported")
    if output.timing:
        parts.append(f"{result.seconds:.1f} s")
    return " · ".join(parts)


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = one_line(text)
    return line if len(line) <= 100 else line[:99] + "…"


def dry_run(dispatcher: Dispatcher, request: Request, output: Output) -> int:
    """Print what would be started, and where each setting came from."""
    from clinvk.config import MASK

    plan = dispatcher.plan(request)
    secret = dispatcher.config.backend(plan.manifest.name).env
    settings = {k: {"value": s.value, "from": s.origin} for k, s in plan.settings.items()}
    prompt = plan.command.stdin.decode("utf-8", "replace")
    if output.format != "text":
        data = {
            "version": 1,
            "backend": plan.manifest.name,
            "command": list(plan.command.argv),
            "env": plan.command.changed | dict.fromkeys(secret, MASK),
            "workdir": str(plan.command.cwd),
            "session_id": plan.session.id if plan.session else None,
            "native_id": plan.resumes,
            "prompt": prompt,
            "timeout_seconds": plan.timeout,
            "settings": settings,
        }
        print(json.dumps(data, ensure_ascii=False, indent=2))
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
        print(f"# {name}: {one_line(str(value))}  ({origin})")
    if plan.session:
        print(f"# session: {plan.session.id}, native id {plan.resumes or '- (a new one)'}")
    print(f"# prompt on stdin: {len(plan.command.stdin):,} bytes: {_brief(prompt)}")
    for text in plan.notices:
        Printer.for_errors(output.colour).notice(text)
    return 0


def _pidfd() -> None:
    """On 3.11 asyncio watches each child with a thread; a pidfd costs a third less. Later ones do
    so by themselves."""
    import sys as system

    if system.version_info < (3, 12) and system.platform == "linux":
        import asyncio

        try:
            asyncio.get_event_loop_policy().set_child_watcher(asyncio.PidfdChildWatcher())
        except (OSError, NotImplementedError):
            return
