"""`clinvk parallel`: many tasks, each of them a session."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinvk.cmd import many
from clinvk.cmd import options as opt
from clinvk.cmd.lazy import new_app
from clinvk.cmd.storage import stored
from clinvk.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from clinvk.plan import Plan

app = new_app()

MaxParallel = Annotated[
    int | None, typer.Option("--max-parallel", "-j", min=1, help="So many tasks at a time.")
]
FailFast = Annotated[
    bool | None,
    typer.Option("--fail-fast/--no-fail-fast", help="The first failure ends them all."),
]
Halt = Annotated[
    str | None,
    typer.Option(
        "--halt", metavar="soon|now,fail=N|N%", help="End the run after so many failures."
    ),
]
Retries = Annotated[
    int | None,
    typer.Option("--retries", min=0, metavar="N", help="Again after 5xx, overload, a cut stream."),
]
OnLimit = Annotated[
    str | None,
    typer.Option(
        "--on-limit",
        metavar="wait|fail|switch:BACKEND",
        help="What to do when a provider's limit is met (wait).",
    ),
]
MaxWait = Annotated[
    str | None,
    typer.Option("--max-wait", metavar="TIME", help="Wait no longer than this for a limit: 30m."),
]
BudgetCost = Annotated[
    float | None, typer.Option("--budget-cost", metavar="USD", help="End the run at this cost.")
]
BudgetTokens = Annotated[
    int | None,
    typer.Option("--budget-tokens", min=1, metavar="N", help="End it at so many tokens."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="The summary alone.")]
OutputDir = Annotated[
    Path | None,
    typer.Option("--output-dir", metavar="DIR", help="Each answer as a file, and results.json."),
]
Junit = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="A JUnit XML report.")]
Report = Annotated[
    list[Path] | None,
    typer.Option("--report", metavar="FILE", help="A report: .html, .md, .xml or .json."),
]


@app.command()
@stored
def parallel(
    path: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="YAML, JSON, JSONL or CSV; - is stdin.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", metavar="FILE", help="The same.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="yaml|json|jsonl|csv|lines",
            help="How it is written, if not by its name.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="The prompt of tasks without one: 'review {{file}}'."),
    ] = None,
    backend: opt.Backend = None,
    model: opt.Model = None,
    workdir: opt.Workdir = None,
    approval: opt.Approval = None,
    sandbox: opt.Sandbox = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="TIME", help="Of each task: 90, 5m.")
    ] = None,
    stall_timeout: Annotated[
        str | None,
        typer.Option("--stall-timeout", metavar="TIME", help="End a task that is silent so long."),
    ] = None,
    tag: opt.Tag = None,
    max_parallel: MaxParallel = None,
    fail_fast: FailFast = None,
    halt: Halt = None,
    retries: Retries = None,
    on_limit: OnLimit = None,
    max_wait: MaxWait = None,
    budget_cost: BudgetCost = None,
    budget_tokens: BudgetTokens = None,
    ephemeral: opt.Ephemeral = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the tasks as they would be run.")
    ] = False,
    as_json: opt.Json = False,
    output_format: opt.Format = None,
    quiet: Quiet = False,
    output_dir: OutputDir = None,
    junit: Junit = None,
    report: Report = None,
    config: opt.Config = None,
) -> int:
    """Run many tasks at a time, each of them a session.

    The tasks stand in a file, or are piped in. A run that was cut off, by Ctrl-C or by anything
    else, is carried on with: clinvk runs resume ID."""
    from clinvk.dispatcher import Dispatcher

    loaded = opt.load(config)
    view = many.view_of(loaded, as_json=as_json, output_format=output_format, quiet=quiet)
    given = {
        "prompt": prompt, "backend": backend, "model": model, "approval": approval,
        "sandbox": sandbox, "workdir": str(workdir) if workdir else None, "timeout": timeout,
        "stall_timeout": stall_timeout, "tags": tag or None,
    }  # fmt: skip
    defaults = many.defaults(loaded, {k: v for k, v in given.items() if v is not None})
    plan = read_plan(source_of(path, file), form, "parallel", defaults)
    plan = many.with_rules(
        plan, max_parallel=max_parallel, fail_fast=fail_fast, halt=halt, retries=retries,
        on_limit=on_limit, max_wait=max_wait, budget_cost=budget_cost,
        budget_tokens=budget_tokens, ephemeral=ephemeral, output_dir=output_dir,
    )  # fmt: skip
    dispatcher = Dispatcher(loaded)
    if dry_run or loaded.config.unified_flags.dry_run:
        return many.dry_run(dispatcher, plan, view)
    return many.execute(dispatcher, plan, view, many.reports_of(junit, report))


def source_of(path: str | None, file: str | None) -> str:
    """The file that is meant; `-` for stdin."""
    if path and file and path != file:
        raise UsageError(f"{path} and --file {file} both say where the tasks are", "leave out one")
    chosen = path or file
    if chosen is None and sys.stdin.isatty():
        raise UsageError("there are no tasks", "name a file of them: clinvk parallel tasks.yaml")
    return chosen or "-"


def read_plan(source: str, form: str | None, kind: Any, defaults: Any) -> Plan:
    """Raises `ConfigError`."""
    from clinvk import taskfile

    if source == "-":
        data = sys.stdin.buffer.read()
    else:
        try:
            data = Path(source).expanduser().read_bytes()
        except OSError as error:
            raise ConfigError(f"{source}: {error.strerror}", "name a file of tasks") from error
    name = "stdin" if source == "-" else source
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name}: not UTF-8 text: {error.reason} at byte {error.start}"
        ) from error
    found, form = taskfile.read(None if source == "-" else source, text, form)
    lined = text if form in ("yaml", "json") else ""
    return taskfile.plan_of(found, name, kind, defaults, lined)
