"""The time in which a scheduler runs: other processes see that the run is alive, and may stop it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clinvk.process.groups import unwrap_single_exception
from clinvk.runs.log import RunLog

if TYPE_CHECKING:
    from clinvk.engine.scheduling.scheduler import Scheduler


async def run_until_ended(scheduler: Scheduler, folder: RunLog | None) -> None:
    """Run it to its end; `folder` has the records of the run, if there are any. Cancelling this stops the run as Ctrl-C does, before it returns."""
    # 45 ms, and needed only once something runs.
    import anyio

    ended = anyio.Event()

    async def run() -> None:
        with anyio.CancelScope(shield=True):
            await scheduler.run()
        ended.set()

    async def note_alive() -> None:
        stopped = 0  # how often it was asked to stop
        while folder is not None and not ended.is_set():
            if (asked := folder.note_alive()) > stopped:
                scheduler.stop(now=asked > 1)
                stopped = asked
            with anyio.move_on_after(folder.alive_interval):
                await ended.wait()

    with unwrap_single_exception():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            tasks.start_soon(note_alive)
            try:
                await ended.wait()
            except BaseException:  # also KeyboardInterrupt, which trio raises here
                scheduler.stop()
                raise
