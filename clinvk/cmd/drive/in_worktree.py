"""A prompt in a git worktree on the command line: shown as every prompt, recorded as a run."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

from clinvk.cmd.drive.signals import cancel_reason, watch_signals
from clinvk.cmd.drive.single import Interruptible, ShownTurn
from clinvk.engine.prompt_run import PromptRun, prepare_run
from clinvk.process import ownership
from clinvk.process.groups import unwrap_single_exception
from clinvk.terminal.printer import Printer

if TYPE_CHECKING:
    from clinvk.cmd.options.reading import OutputOptions
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.model.plan import Worktree
    from clinvk.model.request import Request
    from clinvk.model.result import Result


def drive_in_worktree(
    dispatcher: Dispatcher, request: Request, output: OutputOptions, wanted: Worktree
) -> int:
    """Run the request in a new worktree and show it; return the exit code. Raises `ClinvkError`
    before anything runs."""
    return run_in_worktree(dispatcher, request, output, wanted).exit_code


def run_in_worktree(
    dispatcher: Dispatcher, request: Request, output: OutputOptions, wanted: Worktree
) -> Result:
    """Run the request in a new worktree and show it; return the result. Raises `ClinvkError` before
    anything runs."""
    # 45 ms, and needed only once something runs.
    import anyio

    printer = Printer.for_errors(output.color)
    printer.quiet = output.quiet
    ownership.prepare_for_turn()
    with unwrap_single_exception():
        return anyio.run(_drive, dispatcher, request, output, wanted, printer)


async def _drive(
    dispatcher: Dispatcher,
    request: Request,
    output: OutputOptions,
    wanted: Worktree,
    printer: Printer,
) -> Result:
    # 45 ms, and needed only once something runs.
    import anyio

    held = Interruptible()
    results: list[Result] = []
    async with anyio.create_task_group() as tasks:
        shown = ShownTurn(request, output, printer, held, tasks)
        make = partial(PromptRun, dispatcher, request, wanted, follow=shown.follow)
        run = await prepare_run(lambda tell: make(notify=tell), printer.notice)

        def on_signal(number: signal.Signals, count: int) -> None:
            if held.turn is None:
                run.stop(cancel_reason(number), now=count > 1)
            else:
                held.on_signal(number, count)

        await tasks.start(watch_signals, on_signal)
        results.append(await run.run())
        tasks.cancel_scope.cancel()
    result = results[0]
    if held.turn is None and result.error is not None:
        printer.error(result.error.message, result.error.hint)
    return result
