"""`clinvk runs report`, `delete` and `clean`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.drive.cluster import HERE, Insecure, flags_of
from clinvk.cmd.options import plan as plan_options
from clinvk.cmd.options import request as opt
from clinvk.cmd.runs.common import (
    VERSION,
    LastRun,
    RunsCluster,
    SomeRuns,
    open_local_runs,
    open_runs,
)
from clinvk.disk.output_file import check_overwriting
from clinvk.errors import ClinvkError, UsageError
from clinvk.model.age import parse_age, time_before
from clinvk.terminal import printer, questions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clinvk.runs.log import RunLog, Runs
    from clinvk.worktrees.remove import Removed

app = CommandModule()

REPORTS = ("html", "markdown", "junit", "json")
SHORT = {"md": "markdown", "htm": "html", "xml": "junit"}  # as a file ends


@app.command("report")
def report(
    run_id: LastRun = "last",
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="html, markdown, junit or json (default: by the ending of --output, or markdown).",
            autocompletion=opt.complete_words(REPORTS),
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write to FILE instead of stdout."),
    ] = None,
    force: plan_options.Force = False,
    cluster: RunsCluster = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> None:
    """Print a report of a run."""
    # Only a report needs it.
    from clinvk import reports

    form = SHORT.get(form or "", form)
    if form not in (None, *REPORTS):
        raise UsageError(f"--format: invalid format {form!r}", f"valid: {', '.join(REPORTS)}")
    wanted = reports.check_report(output, form) if output is not None else None
    if output is not None:
        check_overwriting(output, force=force)
    folder = open_runs(opt.load_config(config), cluster, insecure=insecure).find(run_id)
    plan = folder.plan()
    result = folder.with_outputs(folder.result(plan))
    if wanted is None:
        sys.stdout.write(reports.render(form or "markdown", result, plan))
        return
    reports.write_report(wanted.path, result, plan, wanted.format)
    printer.Printer.for_errors().notice(f"report written to {wanted.path}")


@app.command("delete")
def delete(
    run_ids: SomeRuns,
    yes: opt.Yes = False,
    cluster: RunsCluster = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> int:
    """Delete runs. The sessions of their tasks are kept.

    A run of a checkpoint is not deleted: the chain could not be resumed without it. Nor is one with
    results that were neither applied nor dropped."""
    # Only to delete something.
    from clinvk.cluster.files.forget import Forgetter
    from clinvk.runs import retention
    from clinvk.runs.checkpoints import Checkpoints

    loaded = opt.load_config(config)
    runs, checkpoints = open_runs(loaded, cluster, insecure=insecure), Checkpoints(loaded.home)
    forgetter = Forgetter(loaded.home, os.environ, printer.Printer.for_errors().notice)
    code = 0
    for text in run_ids:
        try:
            folder = runs.find(text)
            retention.check_deletable(folder, checkpoints)
            if not yes and not questions.confirm_deletion(f"Delete run {folder.id}?"):
                code = 4
                continue
            retention.delete(folder, checkpoints, forgetter.release)
            print(f"Run {folder.id} deleted.")
        except ClinvkError as error:
            printer.Printer.for_errors().error(error.message, error.hint)
            code = error.exit_code
    return code


@app.command("clean")
def clean(
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            help="Ended at least this long ago: 30 or 30d (days), 12h, 2w (default: session.retention_days).",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be deleted; delete nothing.")
    ] = False,
    as_json: opt.Json = False,
    cluster: RunsCluster = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> None:
    """Delete old runs (session.retention_days; 0 deletes none), and worktrees.

    Detached runs of a cluster are deleted only with --cluster, and then nothing else is. Worktrees of all runs that have finished are removed; their results stay. Runs in progress, runs
    of a checkpoint, runs with results that were neither applied nor dropped, and interrupted runs
    that may have left a process running are kept."""
    # Only to delete something.
    from clinvk.cluster.files.forget import Forgetter, forget_unrecorded
    from clinvk.runs import retention
    from clinvk.runs.checkpoints import Checkpoints
    from clinvk.worktrees.cleaning import clean_worktrees

    def warn(problem: ClinvkError) -> None:
        text = f"{problem.message}; runs of chains are kept, since one of them may belong to it"
        printer.Printer.for_errors().warning(text, problem.hint)

    kept: list[str] = []

    def release(folder: RunLog) -> Callable[[], object] | None:
        try:
            return forgetter.release(folder, dry_run=dry_run)
        except ClinvkError:
            kept.append(folder.id)
            raise

    loaded = opt.load_config(config)
    forgetter = Forgetter(loaded.home, os.environ, printer.Printer.for_errors().notice)
    age, words = parse_age(older_than, loaded.config.session.retention_days)
    # Those of a cluster may be other people's.
    runs: Runs = open_local_runs(loaded)
    if cluster is not None:
        runs = open_runs(loaded, cluster, insecure=insecure)
    err = printer.Printer.for_errors()
    removed: Sequence[Removed] = ()
    if cluster in (None, HERE):
        removed = clean_worktrees(
            open_local_runs(loaded), os.environ,
            lambda problem: err.warning(problem.message, problem.hint), dry_run=dry_run,
        )  # fmt: skip
    gone: list[str] = []
    if age is not None:
        gone = retention.clean(
            runs, Checkpoints(loaded.home), time_before(age),
            dry_run=dry_run, on_problem=warn, release=release,
        )  # fmt: skip
    forgotten: list[str] = []
    if cluster not in (None, HERE):
        forgotten = forget_unrecorded(
            forgetter, str(cluster), runs, insecure=insecure, dry_run=dry_run
        )
    if as_json:
        freed = sum(found.size for found in removed)
        printer.print_json({
            "version": VERSION, "dry_run": dry_run, "deleted": gone, "kept": kept,
            "worktrees": [str(found.path) for found in removed], "freed_bytes": freed,
            "unrecorded": forgotten,
        })  # fmt: skip
        return
    _print_removed(removed, dry_run=dry_run)
    if kept:
        where = flags_of(cluster, loaded, insecure=insecure)
        err.notice(
            f"kept {len(kept)} run{'s' * (len(kept) != 1)} with results that were neither applied nor dropped: "
            f"{', '.join(kept)}; see: clinvk runs diff ID{where}"
        )
    if gone:
        for run_id in gone if dry_run else []:
            print(run_id)
        verb = "Would delete" if dry_run else "Deleted"
        print(f"{verb} {len(gone)} run{'s' * (len(gone) != 1)} older than {words}.")
    if forgotten:
        verb = "Would delete" if dry_run else "Deleted"
        count = f"{len(forgotten)} run{'s' * (len(forgotten) != 1)}"
        print(
            f"{verb} the results of {count} from the git remote that are recorded nowhere any more."
        )
    if not (gone or removed or kept or forgotten):
        print("no runs to clean", file=sys.stderr)


def _print_removed(removed: Sequence[Removed], *, dry_run: bool) -> None:
    # Only to delete something.
    from clinvk.disk.sizes import format_size

    for found in removed if dry_run else []:
        print(found.path)
    if not removed:
        return
    size = format_size(sum(found.size for found in removed))
    count = f"{len(removed)} worktree{'s' * (len(removed) != 1)}"
    print(f"Would remove {count}." if dry_run else f"Removed {count} ({size}).")
