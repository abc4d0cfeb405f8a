"""The results that `clinvk runs diff`, `apply` and `drop` are about."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.options.completions import complete_results
from clinvk.cmd.options.holding import enter_until_end
from clinvk.cmd.runs.common import open_local_runs, open_runs
from clinvk.errors import UsageError
from clinvk.terminal import printer as show

if TYPE_CHECKING:
    from clinvk.config.schema import Loaded
    from clinvk.runs.folder import RunFolder

SomeTasks = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TASK...]",
        help="Only these tasks, by name or number.",
        autocompletion=complete_results,
    ),
]


def current_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current directory no longer exists", "cd to another one") from None


def find_results(
    loaded: Loaded, run_id: str, here: Path, cluster: str | None, *, insecure: bool
) -> RunFolder:
    """The run, with its results in a repository of this machine. Raises `ClinvkError`."""
    # Only for these commands.
    from clinvk.api.recorded import with_results

    local = open_local_runs(loaded)
    is_local = cluster is None and run_id in local.ids()
    runs = local if is_local else open_runs(loaded, cluster, insecure=insecure)
    return enter_until_end(with_results(runs, run_id, here, os.environ))


def tell_run(folder: RunFolder) -> None:
    """Say on a terminal which run it is, and of which repository: it may be of another one."""
    if not sys.stderr.isatty():
        return
    # Only for these commands.
    from clinvk.worktrees.results.reading import repositories

    places = ", ".join(map(show.short_path, repositories(folder.plan())))
    show.Printer.for_errors().notice(f"run {folder.id}" + (f" of {places}" if places else ""))


def format_changes(files: int, insertions: int, deletions: int) -> str:
    """`3 files, +10 -2`."""
    return f"{files:,} file{'s' * (files != 1)}, +{insertions:,} -{deletions:,}"
