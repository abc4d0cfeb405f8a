"""What became of the results of tasks in worktrees, in `runs show` and `runs list`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinvk.errors import ClinvkError
from clinvk.terminal import printer

if TYPE_CHECKING:
    from clinvk.model.outcome import Outcome, RunResult
    from clinvk.runs.log import RunLog
    from clinvk.worktrees.results.taken import History

EVENTS = ("applied", "dropped")


def add_to_run(folder: RunLog, data: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a run, with `applied` and `dropped` for each task that was."""
    history = _history(folder)
    for task in data.get("results") or []:
        for event in EVENTS:
            if found := history.last_of(int(task["index"]), event):
                task[event] = found.to_json()
    return data


def warn_of_interrupted(found: Mapping[str, str], where: str) -> None:
    """Say on stderr to which working trees results of runs, by their ids, were being applied when that
    was killed. `where` are the flags with which a command finds them."""
    # Only after a kill.
    from clinvk.worktrees.results.taken import describe_interrupted

    for run, root in found.items():
        printer.Printer.for_errors().warning(describe_interrupted(run, root, where))


def interrupted_applies(home: Path, ids: Iterable[str]) -> dict[str, str]:
    """The working trees to which results of these runs were being applied when that was killed, by the
    ids of the runs."""
    # Only for runs.
    from clinvk.worktrees.results.taken import find_interrupted

    # Those of this machine, and what is noted here of those of a cluster.
    folders = [home / "runs", home / "cluster" / "results"]
    return {run: root for run in ids for f in folders if (root := find_interrupted(f / run))}


def print_taken(folder: RunLog, result: RunResult) -> None:
    """Say which results were applied or dropped, and how to look at the others."""
    history = _history(folder)
    for outcome in result.results:
        if found := history.last(outcome.index):
            printer.print_wrapped(f"{outcome.name}: {found.description}")
    print_how_to_apply(folder, result)


def print_how_to_apply(folder: RunLog, result: RunResult, color: str | None = None) -> None:
    """Say on stderr how to look at the results that were neither applied nor dropped, if any."""
    changed = [o for o in result.tasks if o.worktree is not None and o.worktree.is_changed]
    if not changed or result.state == "running":
        return
    history = _history(folder)
    fresh = [o.index for o in changed if not any(map(history.last, _with_winner(o)))]
    if number := _count_applicable(folder, result, fresh):
        count = "1 result is" if number == 1 else f"{number} results are"
        run = f"{folder.id}{folder.where}"
        printer.Printer.for_errors(color).notice(
            f"{count} not applied; see: clinvk runs diff {run}; then: clinvk runs apply {run}"
        )


def _with_winner(outcome: Outcome) -> tuple[int, ...]:
    """The positions of a task and of the candidate that it has chosen, which has the same result."""
    winner = outcome.decision.winner if outcome.decision is not None else None
    return (outcome.index,) if winner is None else (outcome.index, winner)


def _count_applicable(folder: RunLog, result: RunResult, indexes: Iterable[int]) -> int:
    """How many results `runs apply` would take of these tasks: those of a loop are one."""
    # Only for worktrees.
    from clinvk.model.loops.goal import find_loop, why_not_taken

    plan = folder.plan()
    taken = [i for i in indexes if why_not_taken(plan, result.results, i) is None]
    loops = [find_loop(plan, i) for i in taken]
    return loops.count(None) + len({loop.rounds for loop in loops if loop is not None})


def describe_counts(folder: RunLog) -> dict[str, int]:
    """How many results of a run were applied, and dropped; empty if it cannot be read."""
    try:
        return _history(folder).counts()
    except ClinvkError:  # a list shows the rest of it
        return {}


def _history(folder: RunLog) -> History:
    # Only for runs.
    from clinvk.worktrees.results.taken import read_history

    return read_history(folder)
