"""What `--dry-run` shows of a run: its tasks as they would be run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct, to_builtins
from msgspec.structs import asdict

from clinvk.config.schema import MASK
from clinvk.plans import halt as halting
from clinvk.plans import preflight
from clinvk.plans.loops.findings import named_schema
from clinvk.plans.loops.reading import CHECK
from clinvk.terminal import printer as show
from clinvk.terminal.printer import Printer
from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    from clinvk.backend.selection import BackendSelector
    from clinvk.cmd.views.run import RunView
    from clinvk.model.plan import Loop, Plan, Rules, Worktree

VERSION = 1  # of the JSON


def print_plan(selector: BackendSelector, plan: Plan, view: RunView) -> int:
    """Print the tasks as they would be run. Raises an error if they could not be."""
    checked = preflight.check_plan(plan, selector)
    printer = Printer.for_errors(view.color)
    tasks = [_dry_run_task(plan, i, ask.backend) for i, ask in enumerate(checked.tasks)]
    if view.format != "text":
        show.print_json(
            {
                "version": VERSION,
                "kind": plan.kind,
                "rules": _rules_data(plan.rules),
                **({"loops": _loops_data(plan)} if plan.loops else {}),
                "tasks": tasks,
            }
        )
        return 0
    # The second round shows the prompts of all later ones.
    later = [positions for loop in plan.loops for positions in loop.rounds[2:]]
    hidden = {i for positions in later for i in plan.with_candidates(positions)}
    rows = [
        [
            t["name"],
            t["backend"],
            ", ".join(t.get("candidates") or _needed_names(plan, t)) or "-",
            _describe_task(t, plan.rules) or "-",
            t["prompt"],
        ]
        for t in tasks
        if t["index"] not in hidden
    ]
    show.print_table(
        ["TASK", "BACKEND", "NEEDS", "OPTIONS", "PROMPT"], rows,
        shrinks=["PROMPT", "TASK", "OPTIONS"], spared=["NEEDS", "PROMPT", "OPTIONS"],
    )  # fmt: skip
    print("\n" + _describe_plan(plan))
    for loop in plan.loops:
        print(_describe_loop(loop))
    for text in checked.notices:
        printer.notice(text)
    return 0


def _dry_run_task(plan: Plan, i: int, backend: str) -> dict[str, Any]:
    task = plan.tasks[i]
    return {
        "index": i,
        "name": task.name,
        "backend": backend,
        "prompt": task.prompt,
        "options": task.options,
        "args": list(task.args),
        "workdir": task.cwd,
        "worktree": _worktree_data(task.worktree),
        "env": dict.fromkeys(task.env, MASK),
        "needs": [plan.tasks[n].name for n in task.needs],
        "timeout": task.timeout,
        "stall_timeout": task.stall_timeout,
        "retries": plan.retries_of(i),
        "labels": list(task.labels),
        "tags": list(task.tags),
        "title": task.title,
        "meta": task.meta,
        "idempotent": task.idempotent and task.decides is None,
        "lenient": task.lenient,
        "dry_run": task.dry_run,
        **_candidates_data(plan, i),
    }


def _candidates_data(plan: Plan, i: int) -> dict[str, Any]:
    """The task that chooses a candidate, or what a task chooses between."""
    task = plan.tasks[i]
    if task.candidate_of is not None:
        return {"candidate_of": plan.name_of(task.candidate_of)}
    if task.decides is None:
        return {}
    order = "lower" if task.decides.lowest_wins else "higher"
    return {
        "candidates": [plan.tasks[n].name for n in task.candidates],
        "score": task.decides.score,
        "score_order": order if task.decides.score else None,
        "judge": task.decides.judge,
    }


def _needed_names(plan: Plan, task: dict[str, Any]) -> list[str]:
    """The tasks that it needs; of a loop before it, the step and not each round."""
    loops = {
        i: loop
        for loop in plan.loops
        for positions in loop.rounds
        for i in plan.with_candidates(positions)
    }
    named = {}
    for n in plan.tasks[task["index"]].needs:
        loop = loops.get(n)
        is_outside = loop is not None and loop is not loops.get(task["index"])
        named[n] = plan.tasks[n].name.rpartition("#")[0] if is_outside else plan.tasks[n].name
    return list(dict.fromkeys(named.values()))


def _worktree_data(worktree: Worktree | None) -> bool | dict[str, Any] | None:
    """The key as in a task file."""
    return None if worktree is None else to_builtins(worktree.as_written) or True


def _describe_task(task: dict[str, Any], rules: Rules) -> str:
    """The settings of this task alone: `model=m timeout=60 env=TOKEN`."""
    names = ("args", "workdir", "worktree", "timeout", "stall_timeout", "retries", "labels", "tags", "title", "meta",
             "idempotent", "lenient", "dry_run", "score", "score_order", "judge")  # fmt: skip
    options = dict(task["options"])
    if name := named_schema(options.get("schema")):
        options["schema"] = name
    said = {**options, **{name: task.get(name) for name in names}, "env": list(task["env"])}
    if said["retries"] == rules.retries:
        del said["retries"]
    return _format_pairs(said)


def _describe_plan(plan: Plan) -> str:
    """`40 tasks, 3 at a time`, and the rules that are not the default, as in a task file."""
    said = to_builtins(plan.rules)  # without defaults
    said.pop("max_parallel", None)
    limits, halt = said.pop("limits", {}), plan.rules.halt
    said["halt"] = halting.format_halt(halt) if halt.when != "never" else None
    if limits.get("at_start") == "wait":
        said["on_limit"] = "wait"
    said["ignore_limit"] = limits.get("at_start") == "ignore"
    if "action" in limits:
        said["on_limit"] = ":".join([limits["action"], *limits.get("to", ())])
    said |= {"limit_wait": limits.get("first_wait"), "max_wait": limits.get("max_wait")}
    count = sum(task.candidate_of is None for task in plan.tasks)
    words = f"{count} task{'s' * (count != 1)}, {plan.rules.max_parallel} at a time"
    return f"{words}; {told}" if (told := _format_pairs(said)) else words


def _describe_loop(loop: Loop) -> str:
    """`repeat fix, review until check, in at most 3 rounds`."""
    count = len(loop.rounds)
    until = "the checks pass" if loop.until == CHECK else one_line(loop.until)
    rounds = f"{count} round{'s' * (count != 1)}"
    return f"repeat {', '.join(map(one_line, loop.names))} until {until}, in at most {rounds}"


def _loops_data(plan: Plan) -> list[dict[str, Any]]:
    return [
        {"steps": list(loop.names), "until": loop.until, "max": len(loop.rounds)}
        for loop in plan.loops
    ]


def _rules_data(rules: Rules) -> dict[str, Any]:
    """All rules; when stored, those with default values are left out."""
    return {k: asdict(v) if isinstance(v, Struct) else v for k, v in asdict(rules).items()}


def _format_pairs(said: dict[str, Any]) -> str:
    """`name=value` of each that is there."""
    return " ".join(
        f"{k}={_format_value(v)}" for k, v in said.items() if v not in (None, False, "", [], {})
    )


def _format_value(value: Any) -> str:
    match value:
        case float():
            return f"{value:g}"
        case list() | tuple():
            return ",".join(map(_format_value, value))
        case dict():
            return ",".join(f"{k}:{_format_value(v)}" for k, v in value.items())
    return one_line(str(value))
