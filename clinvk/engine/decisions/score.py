"""The score of a candidate: the last number that a command prints in its worktree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from clinvk.checks.check import DEFAULT_TIMEOUT, CheckRun
from clinvk.checks.output import CheckOutput
from clinvk.engine.decisions.checkout import files_of
from clinvk.errors import ClinvkError
from clinvk.model.plan import Worktree
from clinvk.model.result import WorktreeResult
from clinvk.plans.ranking import last_number
from clinvk.process.marker import MARKER
from clinvk.runs.secrets import create_scrubber
from clinvk.worktrees.git import is_local_variable


class Score(NamedTuple):
    number: float | None
    problem: str = ""  # why there is none
    output: str = ""  # the end of what was printed, without secrets


async def score_result(
    made: WorktreeResult,
    wanted: Worktree,
    command: str,
    env: Mapping[str, str],
    log: Path | None,
    *,
    home: Path,
    secrets: Sequence[str] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> Score:
    """The score of a result; there is none if the command fails or prints no number, or if the files are
    gone. It runs in the worktree; if that is not on this machine, in a new one with the same files. Its
    output is in the file `log`, without the `secrets`."""
    clean = {k: v for k, v in env.items() if not is_local_variable(k)}
    try:
        async with files_of(made, wanted, home, clean, tell) as cwd:
            run = CheckRun((command,), cwd, clean, env.get(MARKER, ""), DEFAULT_TIMEOUT)
            done = await run.run(CheckOutput(log, create_scrubber(secrets, redacting=True)))
    except ClinvkError as error:
        return Score(None, error.message)
    if not done.ok:
        why = (done.message or "it failed").removeprefix("check ")
        return Score(None, f"the command {why}", done.output)
    number = last_number(done.output)
    problem = "" if number is not None else "the command printed no number"
    return Score(number, problem, done.output)
