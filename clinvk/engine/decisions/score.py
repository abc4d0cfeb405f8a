"""The score of a candidate: the last number that a command prints in its worktree."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from clinvk.checks.check import DEFAULT_TIMEOUT, CheckRun
from clinvk.checks.output import CheckOutput
from clinvk.plans.ranking import last_number
from clinvk.process.marker import MARKER
from clinvk.runs.secrets import create_scrubber
from clinvk.worktrees.git import is_local_variable


class Score(NamedTuple):
    number: float | None
    problem: str = ""  # why there is none
    output: str = ""  # the end of what was printed, without secrets


async def score_in(
    cwd: Path,
    command: str,
    env: Mapping[str, str],
    log: Path | None,
    secrets: Sequence[str] = (),
) -> Score:
    """The score; there is none if the command fails or prints no number, or if the directory is gone.
    Its output is in the file `log`, without the `secrets`."""
    if not os.path.isdir(cwd):  # noqa: ASYNC240 - once, and on a local disk
        return Score(None, f"there is no directory {cwd} on this machine")
    clean = {k: v for k, v in env.items() if not is_local_variable(k)}
    run = CheckRun((command,), cwd, clean, env.get(MARKER, ""), DEFAULT_TIMEOUT)
    done = await run.run(CheckOutput(log, create_scrubber(secrets, redacting=True)))
    if not done.ok:
        why = (done.message or "it failed").removeprefix("check ")
        return Score(None, f"the command {why}", done.output)
    number = last_number(done.output)
    problem = "" if number is not None else "the command printed no number"
    return Score(number, problem, done.output)
