"""The scores of the candidates of a comparison.

runs/<id>/scores.json    written after the run; counts for the commits that it names
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from clinvk.disk.atomic import file_error, replace_own
from clinvk.disk.reading import read_file
from clinvk.model.outcome import RunResult

NAME = "scores.json"


class Scored(Struct, frozen=True):
    commit: str  # of the candidate
    score: float | None  # None: its command printed no number, or failed
    output: str = ""  # the end of what it printed


class Scores(Struct, frozen=True, kw_only=True):
    command: str
    lowest_wins: bool = False
    tasks: dict[int, Scored] = {}
    version: int = 1


def read_scores(folder: Path) -> Scores | None:
    """The scores of the run in this directory; None if there are none, or they are damaged."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(read_file(folder / NAME), type=Scores)
    return None


def write_scores(folder: Path, scores: Scores) -> None:
    """Raises `SessionError`."""
    try:
        replace_own(folder / NAME, msgspec.json.encode(scores) + b"\n", durable=True)
    except OSError as error:
        raise file_error("write", folder / NAME, error) from error


def with_scores(result: RunResult, folder: Path) -> RunResult:
    """The result with the scores that count for its candidates."""
    scores = read_scores(folder)
    if scores is None:
        return result
    found = {
        o.index: scored.score
        for o in result.results
        if (scored := scores.tasks.get(o.index)) is not None
        and scored.score is not None
        and o.worktree is not None
        and o.worktree.commit == scored.commit
    }
    return replace(result, scores=found, lowest_wins=scores.lowest_wins)
