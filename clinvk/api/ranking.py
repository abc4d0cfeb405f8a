"""Choose between the candidates of a comparison in worktrees."""

from __future__ import annotations

from collections.abc import Mapping

from clinvk.engine.decisions.score import score_result
from clinvk.errors import UsageError
from clinvk.model.candidates.ranking import Ranking
from clinvk.model.checks.check import check_problem
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Task, Worktree
from clinvk.plans.ranking import rank
from clinvk.runs.folder import RunFolder
from clinvk.runs.scores import Scored, Scores, write_scores

SHOWN = 500  # characters of the output of a score that are stored


def check_score(score: str | None) -> None:
    """Raise `UsageError` for an invalid command."""
    if score is not None and (problem := check_problem("check", score)):
        raise UsageError(f"--score: {problem}", "use a shell command that prints a number")


async def score_candidates(
    folder: RunFolder, command: str, *, lowest_wins: bool, env: Mapping[str, str]
) -> None:
    """Run the command in the worktree of each candidate that succeeded, one after another, and record
    the last number that it prints. Raises `SessionError`."""
    plan = folder.plan()
    tasks: dict[int, Scored] = {}
    for outcome in folder.result(plan).results:
        task = plan.tasks[outcome.index]
        if outcome.ok and outcome.worktree is not None and outcome.worktree.is_changed:
            tasks[outcome.index] = await _score(folder, task, outcome, command, env)
    write_scores(folder.path, Scores(command=command, lowest_wins=lowest_wins, tasks=tasks))


async def _score(
    folder: RunFolder, task: Task, outcome: Outcome, command: str, env: Mapping[str, str]
) -> Scored:
    made = outcome.worktree
    assert made is not None  # noqa: S101 - the caller has checked it
    log = folder.path / "scores" / f"{outcome.index + 1:04}.log"
    wanted = task.worktree or Worktree()
    score = await score_result(made, wanted, command, env, log, home=folder.home)
    return Scored(made.commit, score.number, score.output[-SHOWN:] or score.problem)


def find_ranking(folder: RunFolder) -> Ranking | None:
    """The ranking of the candidates of a recorded comparison; None if there is none."""
    plan = folder.plan()
    if plan.kind != "compare":
        return None
    return rank(folder.with_outputs(folder.result(plan)))
