"""Flags that mean nothing without a check, or without candidates."""

from __future__ import annotations

from collections.abc import Iterable

from clinvk.model.plan import Task
from clinvk.plans.candidates import Choices
from clinvk.plans.schema import OF_CANDIDATES
from clinvk.plans.taskfile.levels import Levels
from clinvk.text.typed import ShapeError

OF_CHECK = {"rounds", "check_timeout"}  # keys that mean nothing without a check


def check_flags(levels: Levels, tasks: Iterable[Task], choices: Iterable[Choices | None]) -> None:
    """Raise `ShapeError` for a flag about checks or candidates if no task has any."""
    if not any(task.options.get("check") for task in tasks):
        for key in sorted(OF_CHECK & levels.flags.keys()):
            raise ShapeError(levels.flag_place(key), "there is no check", "add --check CMD")
    for key in OF_CANDIDATES if not any(choices) else ():
        if key in levels.flags:
            raise ShapeError(
                levels.flag_place(key), "there are no candidates", "add e.g.: --candidates 3"
            )
