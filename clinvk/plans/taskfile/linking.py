"""The tasks of a file as those of a plan: with positions in place of the names by which they refer to
each other, and with all rounds of loops and all candidates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from clinvk.model.plan import Loop, Task
from clinvk.plans.candidates import expand
from clinvk.plans.loops.expansion import Expansion
from clinvk.plans.loops.reading import WrittenLoop, read_loops
from clinvk.plans.references import Linked, link
from clinvk.plans.schema import TaskFile
from clinvk.plans.taskfile.tasks import WrittenTask
from clinvk.text.typed import ShapeError, quoted


def link_tasks(
    written: Sequence[WrittenTask], whole: TaskFile, *, chain: bool
) -> tuple[list[Task], tuple[Loop, ...]]:
    """The tasks of the plan, and its loops. Raises `ShapeError`, and `TaskError` with the position of
    a task of the file."""
    tasks = [one.task for one in written]
    choices = [one.choices for one in written]
    loops = read_loops(whole.repeat, tasks, choices, chain=chain)
    again = _later_prompts(written, loops)
    linked = link(tasks, [one.references for one in written], chain=chain, loops=loops, again=again)
    if not chain:
        return expand(linked.tasks, choices, chain=False), ()
    if whole.pass_working_dir:
        linked = _pass_directory(linked)
    expansion = Expansion(linked.tasks, linked.later, loops)
    steps = expansion.tasks(pass_session=whole.pass_session)
    found = expand(steps, [choices[i] for i in expansion.origins], chain=True)
    places = [i for i, task in enumerate(found) if task.candidate_of is None]
    return found, expansion.loops(places)


def _later_prompts(written: Sequence[WrittenTask], loops: Iterable[WrittenLoop]) -> dict[int, Task]:
    """The steps of loops that have another prompt from the second round on. Raises `ShapeError` for
    one that is in no loop."""
    inside = {step for loop in loops for step in loop.steps}
    for i, one in enumerate(written):
        if one.again is not None and i not in inside and "again" in one.entry:
            raise ShapeError(
                (*one.path, "again"), f"step {quoted(one.task.name)} is not part of a loop",
                "name it in `repeat: {steps: [...]}`, or leave out `again`",
            )  # fmt: skip
    return {
        i: replace(one.task, prompt=one.again, template=True)
        for i, one in enumerate(written)
        if one.again is not None and i in inside
    }


def _pass_directory(linked: Linked) -> Linked:
    """The steps, each without a directory in that of the steps before it."""
    folder, tasks, later = None, [], dict(linked.later)
    for i, task in enumerate(linked.tasks):
        folder = task.cwd or folder
        tasks.append(replace(task, cwd=folder))
        if i in later:
            later[i] = replace(later[i], cwd=folder)
    return Linked(tasks, later)
