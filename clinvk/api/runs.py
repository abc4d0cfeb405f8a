"""Runs that exist already, from Python: cancel one, wherever it is driven.

    result = clinvk.cancel_run("last")
    print(result.state, result.counts)

`run` is the id of a run, a unique prefix of one, or "last" for the newest.
"""

from __future__ import annotations

from collections.abc import Callable

from clinvk.api.sync import blocking
from clinvk.dispatch.dispatcher import Dispatcher, own_unless
from clinvk.model.outcome import RunResult
from clinvk.runs import control
from clinvk.runs.folder import RunStore


async def acancel_run(
    run: str,
    *,
    now: bool = False,
    notify: Callable[[str], None] = lambda _: None,
    dispatcher: Dispatcher | None = None,
) -> RunResult:
    """Where a run stands that was ended: one that another process drives, or one that was cut off
    and left something running. With `now`, what runs is not given time to end by itself. `notify`
    gets a sentence on what a run that was cut off had left running.

    Raises `UsageError` if the run has ended already; `SessionError` if there is no such run, if
    this process drives it, if it cannot be ended from here, or if it does not end in 15 seconds."""
    with own_unless(dispatcher) as where:
        folder = RunStore(where.config.home).find(run)
        await control.cancel(folder, now=now, notify=notify)
        return folder.with_outputs(folder.result())


cancel_run = blocking(acancel_run)
