"""A plan as it may be stored: without secrets."""

from __future__ import annotations

import os

from msgspec.structs import replace

from clinvk.model.plan import Plan, Task
from clinvk.runs.secrets import Hide


def storable_plan(plan: Plan, scrub: Hide) -> Plan:
    """The plan, with the directory that it is run in. A task that contained a secret is `redacted`
    there."""
    tasks = tuple(storable_task(task, scrub) for task in plan.tasks)
    return replace(plan, tasks=tasks, cwd=_current_directory())


def storable_task(task: Task, scrub: Hide) -> Task:
    """The task as it may be stored. If its prompt contained a key, it cannot be run from that."""
    asked = {"prompt": task.prompt, "options": task.options, "args": list(task.args)}
    about = {"title": task.title, "tags": list(task.tags), "meta": task.meta}
    kept, told = scrub(asked), scrub(about)
    if (kept, told) == (asked, about):
        return task
    whole = kept == asked
    kept["args"], told["tags"] = tuple(kept["args"]), tuple(told["tags"])
    return replace(task, **kept, **told, redacted=not whole)


def _current_directory() -> str | None:
    """None if it no longer exists: then each task has its own."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
