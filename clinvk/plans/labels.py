"""Labels: what a worker of a cluster says about itself, and what a task needs of one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from clinvk.errors import UsageError
from clinvk.model.plan import Plan

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,62}")
MAX_LABELS = 6  # of a worker, which has a queue for each set of them


def labels_problem(labels: Sequence[str]) -> tuple[str, str] | None:
    """What is wrong with these labels, and what to do; None if nothing is."""
    for label in labels:
        if not LABEL.fullmatch(label):
            return (
                f"invalid label {label!r}",
                "use letters, digits, '.', '_', '=' and '-', starting with a letter or digit",
            )
    if len(set(labels)) > MAX_LABELS:
        return f"{len(set(labels))} labels are too many", f"use at most {MAX_LABELS}"
    return None


def missing_labels(wanted: Iterable[str], present: Iterable[str]) -> str:
    """`the label gpu` or `the labels big and gpu`, of those that are not there; empty if all are."""
    return name_labels(sorted({*wanted} - {*present}))


def name_labels(labels: Sequence[str]) -> str:
    """The same, of all of them."""
    if len(labels) < 2:
        return "".join(f"the label {label}" for label in labels)
    return f"the labels {', '.join(labels[:-1])} and {labels[-1]}"


def check_place(plan: Plan, notify: Callable[[str], None], *, is_chosen: bool) -> None:
    """Raise `UsageError` if a task of a run on this machine has labels, unless the user has chosen
    this machine."""
    labeled = next((task for task in plan.tasks if task.labels), None)
    if labeled is None:
        return
    if is_chosen:
        notify("labels are ignored, since the tasks run on this machine")
        return
    what = labeled.description or f"task {labeled.name!r}"
    raise UsageError(
        f"{what}: it needs a worker with {name_labels(labeled.labels)}, and this run is not on a cluster",
        "pass --cluster URL; --cluster none runs it on this machine all the same",
    )
