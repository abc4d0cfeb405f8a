"""What the subcommands of `runs` share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.config import loading
from clinvk.errors import ClinvkError

if TYPE_CHECKING:
    from clinvk.config.schema import Loaded
    from clinvk.runs.folder import RunStore

VERSION = 1  # of the JSON that they print


def complete_runs(incomplete: str) -> list[str]:
    # Completion and `--help` do not need it.
    from clinvk.runs.folder import RunStore

    try:
        runs = RunStore(loading.find_home(os.environ))
        ids = [folder.id for folder in runs.newest_first()]
    except ClinvkError:  # a completing shell has no place for it
        return []
    return [i for i in ["last", *ids] if i.startswith(incomplete)]


def open_runs(loaded: Loaded) -> RunStore:
    # Completion and `--help` do not need it.
    from clinvk.runs.folder import RunStore

    return RunStore(loaded.home)


OneRun = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="Run id, the beginning of one, or last.", autocompletion=complete_runs
    ),
]
LastRun = Annotated[
    str,
    typer.Argument(
        metavar="[ID]",
        help="Run id or the beginning of one (default: last).",
        autocompletion=complete_runs,
    ),
]
SomeRuns = Annotated[
    list[str],
    typer.Argument(
        metavar="ID...", help="Run ids, or the beginnings of some.", autocompletion=complete_runs
    ),
]
