"""Runs that exist already, from Python: follow and cancel them, wherever they are driven.

    for change in clinvk.follow_run("last"):
        print(change.kind, change.outcome)
    result = clinvk.cancel_run("last")
    print(result.state, result.counts)

`run` is the id of a run, a unique prefix of one, or "last" for the newest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from clinvk.api.sync import blocking, refuse_event_loop
from clinvk.dispatch.dispatcher import Dispatcher, own_unless
from clinvk.model.outcome import RunResult
from clinvk.model.progress import Change
from clinvk.runs import control
from clinvk.runs.folder import RunStore
from clinvk.runs.follow import RunChanges, RunFollower


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


def follow_run(
    run: str = "last", *, after: str = "", dispatcher: Dispatcher | None = None
) -> Iterator[Change]:
    """Each `Change` of a run that another process drives, or that has ended, from its beginning to
    its end. Blocks between changes; the run does not notice.

    `after` is the `position` of a change, to get those that come after it; or "now", to get only
    those that are still to come. Raises `UsageError` for an invalid position, `SessionError` if
    there is no such run, or if it is damaged."""
    refuse_event_loop("clinvk.afollow_run(...)", "async for change in")
    with own_unless(dispatcher) as where:
        home = where.config.home
    yield from RunFollower(RunStore(home).find(run), after).changes()


def afollow_run(
    run: str = "last", *, after: str = "", dispatcher: Dispatcher | None = None
) -> RunChanges:
    """The same for an event loop, asyncio or trio: `async for change in clinvk.afollow_run(run)`.
    Other tasks go on meanwhile. The loop may be left at any time, nothing stays open."""

    def follow() -> RunFollower:
        with own_unless(dispatcher) as where:
            home = where.config.home
        return RunFollower(RunStore(home).find(run), after)

    return RunChanges(follow)


cancel_run = blocking(acancel_run)
