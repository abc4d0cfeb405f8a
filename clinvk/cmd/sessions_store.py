"""`clinvk sessions reindex`."""

from __future__ import annotations

from clinvk.cmd import options as opt
from clinvk.cmd import show
from clinvk.cmd.lazy import Commands
from clinvk.cmd.sessions_common import VERSION, store_of

app = Commands()


@app.command("reindex")
def reindex(as_json: opt.Json = False, config: opt.Config = None) -> None:
    """Make the index anew from the files: after an edit by hand, say."""
    count = store_of(config).reindex(show.Progress("indexing sessions"))
    if as_json:
        show.print_json({"version": VERSION, "sessions": count})
    else:
        print(f"Indexed {count:,} session(s).")
