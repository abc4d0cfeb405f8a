"""`clinvk version`."""

from __future__ import annotations

from typing import Annotated

import typer

from clinvk import __version__
from clinvk.cmd.app import new_app

app = new_app()

VERSION = 1  # of the JSON


@app.command()
def version(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the version."""
    if as_json:
        # Only with --json.
        import json
        import platform

        about = {"version": VERSION, "clinvk": __version__, "python": platform.python_version()}
        print(json.dumps(about, indent=2))
    else:
        print(f"clinvk {__version__}")
