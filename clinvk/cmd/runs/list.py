"""`clinvk runs list` and `show`."""

from __future__ import annotations

import sys
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.drive import many
from clinvk.cmd.drive.cluster import Insecure, flags_for_cluster, flags_of, why_waiting
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.completions import complete_tasks
from clinvk.cmd.runs.common import VERSION, LastRun, RunsCluster, open_runs
from clinvk.cmd.views import summary, taken
from clinvk.errors import ClinvkError, UsageError
from clinvk.model import figures
from clinvk.model.outcome import format_counts, state_label
from clinvk.terminal import printer as show
from clinvk.text import duration
from clinvk.text.json_output import dumps
from clinvk.text.sanitize import one_line, sanitize
from clinvk.text.suggest import did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from clinvk.model.outcome import Outcome
    from clinvk.model.plan import Plan
    from clinvk.runs.log import RunLog

app = CommandModule()

STATES = ("running", "done", "failed", "cancelled", "waiting", "interrupted", "damaged", "queued")


@app.command("list")
def list_(
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="STATE",
            help="Only runs in this state.",
            autocompletion=lambda: STATES,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, metavar="N", help="Show at most N.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Show all, on a terminal too.")] = False,
    wide: Annotated[bool, typer.Option("--wide", help="Also show the size of worktrees.")] = False,
    as_json: opt.Json = False,
    cluster: RunsCluster = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> None:
    """List runs, newest first."""
    if state is not None and state not in STATES:
        raise UsageError(f"invalid state {state!r}", f"valid: {', '.join(STATES)}")
    loaded = opt.load_config(config)
    runs = open_runs(loaded, cluster, insecure=insecure)
    where = flags_of(cluster, loaded, insecure=insecure)
    summaries = map(_run_summary, runs.newest_first())
    matches = (about for about in summaries if state in (None, about["state"]))
    on_screen = sys.stdout.isatty() and not (all_ or as_json)
    found = list(islice(matches, show.LISTED if on_screen and limit is None else limit))
    if wide:
        _add_sizes(found, loaded.home)
    cut_off = taken.interrupted_applies(loaded.home, [about["id"] for about in found])
    if as_json:
        for about in found:
            if root := cut_off.get(about["id"]):
                about["apply_interrupted"] = root
        show.print_json({"version": VERSION, "runs": found})
        return
    if not found and state is not None and runs.ids():
        print(f"no runs are {state}; see all: clinvk runs list{where}", file=sys.stderr)
        return
    if not found:
        detached = f"{where} --detach" if where else ""  # what is listed then
        print(f"no runs; start one with: clinvk parallel tasks.yaml{detached}", file=sys.stderr)
        return
    headers = ["ID", "KIND", "STATE", "STARTED", "TOOK", "TASKS", "FROM"]
    spared = ["KIND", "TOOK", "FROM", "STARTED", "TASKS"]
    rows = map(_run_row, found)
    if wide:
        headers.insert(-1, "WORKTREES")
        rows = map(_wide_row, found)
    show.print_table(headers, rows, shrinks=["FROM"], spared=spared, state="STATE")
    if limit is None and (more := sum(1 for _ in matches)):
        print(f"… and {more:,} more (--all)")
    taken.warn_of_interrupted(cut_off, where)


def _run_summary(folder: RunLog) -> dict[str, Any]:
    try:
        return {**folder.summary(), **taken.describe_counts(folder)}
    except ClinvkError as error:
        show.Printer.for_errors().warning(error.message, error.hint)
        return {"id": folder.id, "state": "damaged", "problem": error.message}


def _add_sizes(found: list[dict[str, Any]], home: Path) -> None:
    # Only with --wide.
    from clinvk.worktrees.cleaning import sizes

    known = sizes(home)
    for about in found:
        count, size = known.get(about["id"], (0, 0))
        about["worktrees"] = {"count": count, "bytes": size}


def _wide_row(about: dict[str, Any]) -> list[str]:
    # Only with --wide.
    from clinvk.disk.sizes import format_size

    *cells, source = _run_row(about)
    count, size = about["worktrees"]["count"], about["worktrees"]["bytes"]
    return [*cells, f"{count} ({format_size(size)})" if count else "-", source]


def _run_row(about: dict[str, Any]) -> list[str]:
    if about["state"] == "damaged":
        return [about["id"], "-", "damaged", "-", "-", "-", one_line(about["problem"])]
    started = datetime.fromisoformat(about["started_at"]) if about["started_at"] else None
    return [
        about["id"],
        about["kind"],
        about["state"],
        duration.format_age(started) if started else "-",
        duration.format_duration(about["total_duration_seconds"]) if started else "-",
        format_counts({**about["counts"], **{k: about[k] for k in taken.EVENTS if k in about}}),
        show.short_path(about["source"] or "-"),
    ]


@app.command("show")
def show_(
    run_id: LastRun = "last",
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="[TASK]",
            help="Show one task, by name or number.",
            autocompletion=complete_tasks,
        ),
    ] = None,
    events: Annotated[
        bool,
        typer.Option("--events", help="Print the events of the task, one JSON object per line."),
    ] = False,
    answers: Annotated[bool, typer.Option("--answers", help="Also print all answers.")] = False,
    plain: opt.Plain = False,
    as_json: opt.Json = False,
    cluster: RunsCluster = None,
    insecure: Insecure = False,
    config: opt.Config = None,
) -> None:
    """Show a run, or one of its tasks."""
    loaded = opt.load_config(config)
    folder = open_runs(loaded, cluster, insecure=insecure).find(run_id)
    plan = folder.plan()
    result = folder.result(plan)
    waiting: dict[int, str] = {}
    if result.state == "running":
        waiting = why_waiting(loaded, cluster, plan, result.results, insecure=insecure)
    if task is not None:
        outcome = folder.with_output(_find_task(folder, result.results, plan, task))
        if events:
            for line in folder.events(outcome.index):
                print(dumps(line))
        elif as_json:
            prompt = plan.tasks[outcome.index].prompt
            about = _task_data(outcome.to_json(), waiting)
            show.print_json({"version": VERSION, "run": folder.id, "prompt": prompt, **about})
        else:
            _show_task(folder, plan, outcome, waiting.get(outcome.index))
        return
    if events:
        raise UsageError(
            "--events is about one task",
            f"name it: clinvk runs show {folder.id} TASK --events{folder.where}",
        )
    if as_json:
        data = many.result_data(folder.with_outputs(result))
        data["results"] = [_task_data(about, waiting) for about in data["results"]]
        if root := taken.interrupted_applies(folder.home, [folder.id]).get(folder.id):
            data["apply_interrupted"] = root
        show.print_json(taken.add_to_run(folder, data))
        return
    with summary.without_workflow_commands():
        for outcome in result.answers if answers else ():
            summary.print_answer(folder.with_output(outcome))
        summary.print_summary(result, waiting=waiting)
    printer = show.Printer.for_errors()
    show.print_wrapped(
        f"state: {result.state}"
        + (f" ({one_line(result.why)})" if result.why not in (None, "", result.state) else "")
    )
    if result.kind == "compare":
        from clinvk.cmd.views import comparison  # not needed for other runs

        whole = folder.with_outputs(result)
        comparison.print_verdict(whole)
        comparison.print_ranking(whole)
    taken.print_taken(folder, result)
    taken.warn_of_interrupted(taken.interrupted_applies(folder.home, [folder.id]), folder.where)
    if hint := summary.next_step(result, plan, cluster=flags_for_cluster(folder, plan)):
        printer.notice(hint)


def _find_task(run: RunLog, outcomes: tuple[Outcome, ...], plan: Plan, text: str) -> Outcome:
    if found := plan.find_tasks(text):
        return outcomes[found[0]]
    meant = did_you_mean(text, [o.name for o in outcomes])
    raise UsageError(
        f"the run has no task {text!r}{meant}",
        f"see its tasks: clinvk runs show {run.id}{run.where}",
    )


def _task_data(about: dict[str, Any], waiting: dict[int, str]) -> dict[str, Any]:
    """The object of a task, with why it waits for a worker."""
    why = waiting.get(about["index"])
    return about if why is None else {**about, "why_waiting": why}


def _show_task(folder: RunLog, plan: Plan, outcome: Outcome, why_waiting: str | None) -> None:
    task = plan.tasks[outcome.index]
    fields: dict[str, Any] = {
        "Task": f"{outcome.name} ({outcome.index + 1} of {len(plan.tasks)} in run {folder.id})",
        "State": state_label(outcome),
        **({"Waiting": one_line(why_waiting)} if why_waiting else {}),
        "Backend": outcome.backend or "-",
        **({"Node": one_line(outcome.node)} if outcome.node is not None else {}),
        "Model": outcome.model or "-",
        "Session": outcome.session_id or "-",
        "Attempts": outcome.attempts,
        "Time": figures.time_taken(outcome, "-"),
        "Tokens": figures.tokens(outcome, "-"),
        "Cost": figures.cost(outcome, "-"),
        "Directory": show.short_path(str(task.cwd or plan.cwd or "-")),
        "Prompt": one_line(task.prompt)[:300],
    }
    if outcome.check is not None:
        # Only for a task with a check.
        from clinvk.model.checks.check import describe_check

        fields["Check"] = one_line(describe_check(outcome.check))
    if outcome.candidate_of is not None:
        fields["Candidate of"] = one_line(outcome.candidate_of)
    if outcome.error is not None:
        fields["Error"] = f"{outcome.error.kind}: {outcome.error.message}"
    show.print_fields(fields, state="State")
    if outcome.decision is not None:
        # Only for a task with candidates.
        from clinvk.cmd.views import decisions

        decisions.print_ranking(outcome.decision)
    if outcome.output.strip():
        print()
        show.print_markdown(outcome.output)
    if outcome.check is not None and not outcome.check.ok and outcome.check.output:
        print()
        print(show.for_output().paint("── output of the check ──", show.BOLD))
        print(sanitize(outcome.check.output))
