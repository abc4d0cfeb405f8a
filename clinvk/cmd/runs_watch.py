"""`clinvk runs watch`: a run that another process drives, as it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinvk.cmd import many
from clinvk.cmd import options as opt
from clinvk.cmd.lazy import Commands
from clinvk.cmd.runs_common import LastRun, runs_of

if TYPE_CHECKING:
    from clinvk.journal import RunFolder

app = Commands()

POLL = 0.2  # seconds between looks at the journal


@app.command("watch")
def watch(
    id: LastRun = "last",  # noqa: A002 - the field's name
    once: Annotated[bool, typer.Option("--once", help="Where it stands, and no more.")] = False,
    as_json: opt.Json = False,
    output_format: opt.Format = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The summary alone.")] = False,
    config: opt.Config = None,
) -> int:
    """Watch a run that is going on, until its end; the exit code is the run's. Ctrl-C ends the
    watching alone."""
    loaded = opt.load(config)
    view = many.view_of(loaded, as_json=as_json, output_format=output_format, quiet=quiet)
    folder = runs_of(loaded).find(id)
    viewer = many.viewer_for(view)
    try:
        for change in _changes(folder, once=once):
            viewer.observe(change)
    finally:
        viewer.close()
    result = folder.result()
    many.finish(folder, result, view)
    return result.exit_code if result.state != "running" else 0


def _changes(folder: RunFolder, *, once: bool) -> Iterator[Any]:
    """What has happened since the last look, again and again."""
    from clinvk.scheduler import Change

    before = dict.fromkeys(range(len(folder.plan().tasks)), "queued")
    while True:
        running = folder.running() is not None  # asked first, so that the last look sees the end
        for outcome in folder.result().results:
            known = before[outcome.index]
            if outcome.state != known:
                before[outcome.index] = outcome.state
                kind: Any = "started" if outcome.state == "running" else "ended"
                yield Change(kind=kind, outcome=outcome)
        if once or not running:
            return
        time.sleep(POLL)
