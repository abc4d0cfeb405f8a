"""`clinvk doctor`: what is installed, what is missing, and what to do about it."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio

from clinvk import __version__
from clinvk.backend.catalog import Catalog
from clinvk.backend.probe import BackendStatus, probe_backends
from clinvk.cmd.app import new_app
from clinvk.cmd.options import request as opt
from clinvk.cmd.views.taken import interrupted_applies
from clinvk.config.paths import home_problem, private_hint
from clinvk.disk.sizes import format_size
from clinvk.dispatch.limit_check import format_time
from clinvk.dispatch.remembered_limits import LimitStore, list_limits
from clinvk.errors import NotInstalledError, SessionError
from clinvk.runs.folder import RunStore
from clinvk.terminal import printer
from clinvk.text.sanitize import one_line
from clinvk.worktrees.cleaning import sizes
from clinvk.worktrees.results.taken import describe_interrupted

app = new_app()

VERSION = 1  # of the JSON
MODELLESS_BACKEND = "echo"  # always installed, and not an AI CLI


@app.command()
def doctor(as_json: opt.Json = False, config: opt.Config = None) -> int:
    """Check which CLIs are installed, logged in and usable. Calls no model.

    Exits with 2 if no AI CLI is installed, and with 4 if sessions cannot be stored."""
    loaded = opt.load_config(config)
    catalog = Catalog(loaded.home)
    findings = anyio.run(probe_backends, catalog, catalog.names(), loaded, os.environ)
    limits = list_limits(LimitStore(loaded.home))
    problem = _find_store_problem(loaded.home)
    worktrees = _worktrees(loaded.home)
    runs = RunStore(loaded.home)
    cut_off = interrupted_applies(loaded.home, sorted(runs.ids()))
    if as_json:
        report = _report_json(findings, loaded, problem)
        applies = [{"run": run, "root": root} for run, root in cut_off.items()]
        about = {"limits": limits, "worktrees": worktrees, "interrupted_applies": applies}
        printer.print_json({**report, **about})
    else:
        _print_report(findings, loaded, problem)
        _print_limits(limits)
        _print_worktrees(worktrees)
        for run, root in cut_off.items():
            printer.print_wrapped(f"warning: {describe_interrupted(run, root)}")
    if problem is not None:
        return SessionError.exit_code
    return 0 if _has_model(findings) else NotInstalledError.exit_code


def _has_model(findings: list[BackendStatus]) -> bool:
    return any(f.state == "installed" and f.name != MODELLESS_BACKEND for f in findings)


def _find_store_problem(home: Path) -> str | None:
    """Why sessions cannot be stored; None if they can."""
    folder = home
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        return f"{folder} is not a directory"
    if not os.access(folder, os.W_OK):
        return f"{folder} is not writable; set CLINVK_HOME, or use --ephemeral"
    return None


def _print_report(findings: list[BackendStatus], loaded: Any, problem: str | None) -> None:
    has_model = _has_model(findings)
    missing = [f.name for f in findings if f.state == "not installed"] if has_model else []
    shown = [f for f in findings if f.name not in missing]
    rows = [
        [
            f.name,
            f.state,
            f.version or "-",
            f.login,
            ", ".join(f.can) or "-",
            printer.short_path(f.path or "-"),
        ]
        for f in shown
    ]
    printer.print_table(
        ["BACKEND", "STATE", "VERSION", "LOGIN", "CAN", "PROGRAM"], rows,
        shrinks=["CAN", "PROGRAM", "VERSION"], spared=["CAN", "PROGRAM", "VERSION", "LOGIN"],
        state="STATE", ends=["PROGRAM"],
    )  # fmt: skip
    print()
    for f in shown:
        if f.advice:
            printer.print_wrapped(f"{f.name}: {one_line(f.advice)}")
    if missing:
        printer.print_wrapped(
            f"not installed: {', '.join(missing)}; to install one, see: clinvk backends show NAME"
        )
    if not has_model:
        printer.print_wrapped(
            "no AI CLI is installed; to try clinvk without one: clinvk -b echo hello"
        )
    printer.print_wrapped(
        f"clinvk {__version__}; sessions in {printer.short_path(one_line(str(loaded.home)))}"
        + (f": {one_line(problem)}" if problem else "")
    )
    path = printer.short_path(one_line(str(loaded.path)))
    printer.print_wrapped(
        f"configuration: {path}"
        + ("" if loaded.path.exists() else " (not found; using the defaults)")
    )
    if open_ := home_problem(loaded.home):
        printer.print_wrapped(f"warning: {one_line(open_)}; {one_line(private_hint(loaded.home))}")


def _print_limits(limits: list[dict[str, Any]]) -> None:
    for limit in limits:
        which = limit["window"] or limit["model"]
        until = format_time(datetime.fromisoformat(limit["until"]))
        name = one_line(f"{limit['backend']} ({which})" if which else limit["backend"])
        print(f"rate limit: {name} until {until}; see: clinvk limits")


def _worktrees(home: Path) -> dict[str, int]:
    """How many worktrees there are, of how many runs, and the bytes that they take."""
    found = sizes(home)
    return {
        "runs": len(found),
        "count": sum(count for count, _ in found.values()),
        "bytes": sum(size for _, size in found.values()),
    }


def _print_worktrees(about: dict[str, int]) -> None:
    if about["count"]:
        count, runs = about["count"], about["runs"]
        print(
            f"worktrees: {count} of {runs} run{'s' * (runs != 1)}, {format_size(about['bytes'])}; "
            "see: clinvk runs list --wide; to remove those of finished runs: clinvk runs clean"
        )


def _report_json(findings: list[BackendStatus], loaded: Any, problem: str | None) -> dict[str, Any]:
    return {
        "version": VERSION,
        "clinvk": __version__,
        "home": str(loaded.home),
        "config": str(loaded.path),
        "problem": problem,
        "backends": [f.to_json() for f in findings],
    }
