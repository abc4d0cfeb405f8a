"""The options of commands that run many tasks, and the plan that they make."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from msgspec import Struct
from msgspec.structs import replace

from clinvk.cmd.options.completions import complete_labels, complete_limit_actions
from clinvk.cmd.options.request import complete_backends
from clinvk.disk.output_file import check_overwriting
from clinvk.disk.reading import read_named, read_stream
from clinvk.errors import ClinvkError, ConfigError, UsageError
from clinvk.model.option_table import FLAGS
from clinvk.text import duration, template

if TYPE_CHECKING:
    from clinvk.cmd.options.turn import TurnOptions
    from clinvk.config.schema import Loaded
    from clinvk.model.plan import Kind, Plan
    from clinvk.plans.taskfile.defaults import Defaults
    from clinvk.reports import RequestedReport


T = TypeVar("T")

# The flags that set a key of another name.
FLAGS_OF_KEYS = {"tags": "--tag", "labels": "--label", "score_order": "--lowest"}


def complete_checkpoints(incomplete: str) -> list[str]:
    # Only a shell that completes needs it.
    import os

    # Only a shell that completes needs it.
    from clinvk.config import loading
    from clinvk.runs.checkpoints import Checkpoints

    try:
        names = Checkpoints(loading.find_home(os.environ)).names()
    except ClinvkError:  # a completing shell has no place for it
        return []
    return [name for name in names if name.startswith(incomplete)]


MaxParallel = Annotated[
    int | None,
    typer.Option("--max-parallel", "-j", min=1, metavar="N", help="Number of tasks to run at once."),
]  # fmt: skip
FailFast = Annotated[
    bool | None,
    typer.Option("--fail-fast/--no-fail-fast", help="Stop the run at the first failure, or do not."),
]  # fmt: skip
Halt = Annotated[
    str | None,
    typer.Option(
        "--halt",
        metavar="WHEN,fail=N",
        help="Stop the run after N failures, or N%: now,fail=1 or soon,fail=20%.",
    ),
]
Retries = Annotated[
    int | None,
    typer.Option(
        "--retries",
        min=0,
        metavar="N",
        help="Retry a task N times after a server error, an overload or a cut stream.",
    ),
]
OnLimit = Annotated[
    str | None,
    typer.Option(
        "--on-limit",
        metavar="ACTION",
        help="What to do at a rate limit: wait (the default), fail or switch:BACKEND.",
        autocompletion=complete_limit_actions,
    ),
]
MaxWait = Annotated[
    str | None,
    typer.Option(
        "--max-wait", metavar="DURATION", help="Wait at most this long for a rate limit: 90s, 30m."
    ),
]
BudgetCost = Annotated[
    float | None,
    typer.Option("--budget-cost", metavar="USD", help="Stop the run at this cost."),
]
BudgetTokens = Annotated[
    int | None,
    typer.Option("--budget-tokens", min=1, metavar="N", help="Stop the run at this many tokens."),
]
Candidates = Annotated[
    str | None,
    typer.Option(
        "--candidates",
        metavar="A,B|N",
        help="Let each backend try each task, or one N times; the best result counts.",
        autocompletion=complete_backends,
    ),
]
Score = Annotated[
    str | None,
    typer.Option(
        "--score",
        metavar="COMMAND",
        help="Rank by the last number that this prints in each worktree.",
    ),
]
Lowest = Annotated[bool, typer.Option("--lowest", help="With --score: the lowest number is best.")]
CandidateJudge = Annotated[
    str | None,
    typer.Option(
        "--judge",
        metavar="BACKEND[:MODEL]",
        help="Have this backend choose between candidates that are equally good.",
        autocompletion=complete_backends,
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="LABEL",
        help="Run on workers with this label only (repeatable).",
        autocompletion=complete_labels,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print only the summary; a terminal shows live progress."),
]
OutputDir = Annotated[
    Path | None,
    typer.Option(
        "--output-dir", metavar="DIR", help="Write each answer to a file in DIR, and results.json."
    ),
]
Junit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit XML report to FILE.")
]
Report = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write a report to FILE: .html, .md, .xml or .json (repeatable).",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]


def find_source(path: str | None, file: str | None, command: str) -> str:
    """The task file, or `-` for stdin. Raises `UsageError`."""
    if path and file and path != file:
        raise UsageError(f"{path} and --file {file} both name a task file", "leave out one of them")
    chosen = path or file
    if chosen is None and sys.stdin.isatty():
        raise UsageError("no task file given", f"name one: clinvk {command} FILE.yaml")
    return chosen or "-"


def read_plan(
    source: str, form: str | None, kind: Kind, defaults: Defaults, *, null: bool = False
) -> Plan:
    """The plan in a task file. `null`: its tasks are lines that end with a NUL character. Raises
    `ConfigError` and `UsageError`."""
    if null and form not in (None, "lines"):
        raise UsageError(f"-0 reads lines, not {form}", "leave out -0, or --format")
    # Only commands that read a task file need it.
    from clinvk.plans import formats
    from clinvk.plans import parse as taskfile

    try:
        if source == "-":
            data = read_stream(sys.stdin.buffer, "stdin")
        else:
            data = read_named(Path(source).expanduser())
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}", "name a task file") from error
    name = "stdin" if source == "-" else source
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name}: not UTF-8 text: {error.reason} at byte {error.start}"
        ) from error
    by_line = "line" in template.placeholder_names(str(defaults.task.prompt or ""))
    found, form = formats.parse_text(
        None if source == "-" else source, text, form, of_lines=by_line, null=null, kind=kind
    )
    lined = text if form in ("yaml", "json") else ""
    return taskfile.parse_plan(found, name, kind, defaults, lined)


def build_defaults(loaded: Loaded, options: TurnOptions, **keys: Any) -> Defaults:
    """The defaults for keys that a task file does not set, with the flags that set keys of tasks:
    `options`, and the others by their keys; those that are None were not given. Raises
    `UsageError`."""
    # Only commands that read a task file need it.
    from clinvk.plans.halt import configured_limits
    from clinvk.plans.schema import TaskDefaults
    from clinvk.plans.taskfile.defaults import Defaults

    task = {key: value for key, value in {**options, **keys}.items() if value is not None}
    for key in ("timeout", "stall_timeout"):
        if key in task:
            parse_flag(_flag_of_key(key), duration.parse_duration, task[key])
    parallel = loaded.config.parallel
    return Defaults(
        max_parallel=parallel.max_workers,
        max_parallel_per_backend=parallel.max_parallel_per_backend,
        fail_fast=parallel.fail_fast,
        limits=configured_limits(loaded.config.unified_flags),
        task=TaskDefaults(**task),
        flags={key: _flag_of_key(key) for key in task},
    )


def candidate_keys(
    candidates: str | None, score: str | None, judge: str | None, *, lowest: bool
) -> dict[str, str | None]:
    """The keys of tasks that these flags set."""
    order = "lower" if lowest else None
    return {"candidates": candidates, "score": score, "score_order": order, "judge": judge}


def _flag_of_key(key: str) -> str:
    """The flag that sets this key of all tasks."""
    if key in FLAGS_OF_KEYS:
        return FLAGS_OF_KEYS[key]
    return FLAGS.get(key) or f"--{key.replace('_', '-')}"


def parse_flag(flag: str, parse: Callable[[str], T], text: str) -> T:
    """The parsed value. Raises `UsageError` that names the flag."""
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error


class RuleFlags(Struct, frozen=True, kw_only=True):
    """The flags of a command about a plan's rules; None or False if not given."""

    max_parallel: int | None = None
    fail_fast: bool | None = None
    halt: str | None = None
    retries: int | None = None
    on_limit: str | None = None
    fallback: list[str] | None = None
    ignore_limit: bool = False
    max_wait: str | None = None
    budget_cost: float | None = None  # US dollars
    budget_tokens: int | None = None
    ephemeral: bool = False
    output_dir: Path | None = None


def override_rules(plan: Plan, flags: RuleFlags) -> Plan:
    """The plan, with the rules of the command line. Raises `UsageError`."""
    # Only commands that read a task file need it.
    from clinvk.model.plan import Halt
    from clinvk.plans import halt as halting
    from clinvk.plans.taskfile.values import absolute_path

    rules = plan.rules
    if flags.fail_fast is not None:
        rules = replace(rules, halt=Halt(when="now", count=1) if flags.fail_fast else Halt())
    if flags.halt is not None:
        rules = replace(rules, halt=parse_flag("--halt", halting.parse_halt, flags.halt))
    limits = rules.limits
    if flags.on_limit is not None:
        limits = replace(
            parse_flag("--on-limit", halting.parse_on_limit, flags.on_limit),
            first_wait=limits.first_wait, max_wait=limits.max_wait,
        )  # fmt: skip
    if flags.fallback:
        limits = halting.with_fallback(replace(limits, to=()), flags.fallback)
    if flags.ignore_limit:
        limits = replace(limits, at_start="ignore")
    if flags.max_wait is not None:
        max_wait = parse_flag("--max-wait", duration.parse_duration, flags.max_wait)
        limits = replace(limits, max_wait=max_wait)
    budget = rules.budget
    if flags.budget_cost is not None:
        budget = replace(budget, cost=flags.budget_cost)
    if flags.budget_tokens is not None:
        budget = replace(budget, tokens=flags.budget_tokens)
    if budget.cost is not None and not budget.cost > 0:
        raise UsageError(f"--budget-cost: {budget.cost:g} is not greater than 0")
    rules = replace(rules, limits=limits, budget=budget)
    if flags.max_parallel is not None:
        rules = replace(rules, max_parallel=flags.max_parallel)
    if flags.retries is not None:
        rules = replace(rules, retries=flags.retries)
    if flags.ephemeral:
        rules = replace(rules, ephemeral=True)
    if flags.output_dir is not None:
        rules = replace(rules, output_dir=absolute_path(str(flags.output_dir)))
    return replace(plan, rules=rules)


def requested_reports(
    junit: Path | None, report: list[Path] | None, *, force: bool = False
) -> list[RequestedReport]:
    """The files to write. Raises `UsageError` before anything runs. A JUnit file is overwritten, as
    test runners do; other files only with `force`."""
    if not (junit or report):
        return []
    from clinvk import reports  # only if one is wanted

    wanted = [reports.check_report(path) for path in report or []]
    for path in report or []:
        check_overwriting(path, force=force)
    return [*wanted, *([reports.check_report(junit, "junit")] if junit else [])]
