"""`clinvk runs watch`: a run that another process drives, as it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from clinvk.cmd.app import CommandModule
from clinvk.cmd.drive import many
from clinvk.cmd.options import plan
from clinvk.cmd.options import request as opt
from clinvk.cmd.runs.common import LastRun, open_runs
from clinvk.cmd.views import run
from clinvk.disk.reading import open_regular
from clinvk.model.events import event_from_json
from clinvk.model.outcome import ACTIVE_STATES, Outcome
from clinvk.model.progress import Change
from clinvk.model.result import EXIT_CODES
from clinvk.terminal import printer

if TYPE_CHECKING:
    from clinvk.model.events import Event
    from clinvk.runs.folder import RunFolder

app = CommandModule()

POLL_INTERVAL = 0.25  # seconds between looks


@app.command("watch")
def watch(
    run_id: LastRun = "last",
    as_json: opt.Json = False,
    output_format: opt.Format = None,
    quiet: plan.Quiet = False,
    config: opt.Config = None,
) -> int:
    """Watch a run that is going on, until its end; the exit code is the run's. Ctrl-C ends the
    watching alone."""
    # 45 ms, and needed only once something runs.
    import anyio

    loaded = opt.load_config(config)
    view = many.build_view(loaded, as_json=as_json, output_format=output_format, quiet=quiet)
    folder = open_runs(loaded).find(run_id)
    viewer = run.create_run_viewer(view)
    try:
        anyio.run(_follow, folder, viewer)
    except KeyboardInterrupt:
        viewer.close()
        printer.Printer.for_errors(view.color).notice(f"run {folder.id} goes on")
        return EXIT_CODES["cancelled"]
    finally:
        viewer.close()
    result = folder.result()
    many.print_result(folder, result, view)
    return result.exit_code


async def _follow(folder: RunFolder, viewer: Any) -> None:
    # 45 ms, and needed only once something runs.
    import anyio

    look = _RunReader(folder)
    viewer.begin_following(len(look.plan.tasks), folder.id, look.outcomes)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(viewer.live)
        running = True
        while running:
            running = folder.find_driver() is not None  # asked first: the last look sees the end
            for change in look.poll():
                viewer.observe(change)
            if running:
                await anyio.sleep(POLL_INTERVAL)
        if isinstance(viewer, run.JsonLinesViewer):
            await viewer.flush()
        tasks.cancel_scope.cancel()


class _RunReader:
    """What has happened in a run since the last look at its files."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.plan = folder.plan()
        result, lines = folder.read_state(self.plan)
        self.outcomes: tuple[Outcome, ...] = result.results
        self._reported = len(lines)  # of the journal
        # Bytes of a task's events that were seen: all, where it does not run now.
        self._read_events = {
            o.index: self._size(o.index) for o in self.outcomes if o.state != "running"
        }

    def poll(self) -> Iterator[Change]:
        before = self.outcomes
        result, lines = self.folder.read_state(self.plan)
        self.outcomes, new_lines = result.results, lines[self._reported :]
        self._reported = len(lines)
        waits = [change for line in new_lines if (change := self._parse_wait(line))]
        for old, new in zip(before, self.outcomes, strict=True):
            its = [w for w in waits if w.outcome and w.outcome.index == new.index]
            is_other = (new.state, new.attempts) != (old.state, old.attempts)
            begun = replace(new, state="running", ended_at=None)
            yield from (w for w in its if w.outcome and w.outcome.attempts < new.attempts)
            if new.attempts > old.attempts:  # it may have ended by now
                yield Change(kind="started", outcome=begun)
            if new.state == "running" or is_other:
                for event in self._events(new.index):
                    yield Change(kind="event", outcome=begun, event=event)
            yield from (w for w in its if w.outcome and w.outcome.attempts == new.attempts)
            if is_other and new.state not in ACTIVE_STATES:
                yield Change(kind="ended", outcome=self.folder.with_output(new))

    def _parse_wait(self, line: dict[str, Any]) -> Change | None:
        return Change.wait_from_json(line, self.outcomes[line["task"]]) if "wait" in line else None

    def _size(self, index: int) -> int:
        try:
            return self.folder.events_path(index).stat().st_size
        except OSError:  # it has said nothing yet
            return 0

    def _events(self, index: int) -> Iterator[Event]:
        try:
            with open_regular(self.folder.events_path(index)) as file:
                file.seek(self._read_events.get(index, 0))
                whole, _, _ = file.read().rpartition(b"\n")
        except OSError:  # it has said nothing yet
            return
        self._read_events[index] = self._read_events.get(index, 0) + len(whole) + bool(whole)
        for line in whole.split(b"\n"):
            if event := _parse_event(line):
                yield event


def _parse_event(line: bytes) -> Event | None:
    """The event that a line tells of; nothing for the line of a result, or one of a newer kind."""
    try:
        return event_from_json(msgspec.json.decode(line, type=dict[str, Any]))
    except ValueError:
        return None
