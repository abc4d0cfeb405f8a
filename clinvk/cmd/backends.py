"""`clinvk backends`: list, show, check, try."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinvk.backend import catalog as catalogs
from clinvk.backend.manifest import Manifest, capabilities
from clinvk.cmd.app import new_app
from clinvk.cmd.options import request as opt
from clinvk.config.paths import built_in_manifests
from clinvk.errors import ClinvkError, NotInstalledError, UsageError
from clinvk.model.option_table import CHOICES
from clinvk.model.usage import format_count
from clinvk.terminal import printer, questions
from clinvk.text.addresses import without_passwords
from clinvk.text.json_output import dumps
from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    from clinvk.api.backends import ManifestCheck
    from clinvk.api.trial import Check as TrialCheck
    from clinvk.dispatch.replay import Replay

app = new_app(no_args_is_help=True, help="List, show, check and try backends.")

VERSION = 1  # of the JSON that they print
SHOWN_LINES = 10  # lines of a recording that are shown because no rule used them


@app.command("list")
def list_(as_json: opt.Json = False, config: opt.Config = None) -> None:
    """List backends and whether they are installed."""
    loaded = opt.load_config(config)
    catalog = catalogs.Catalog(loaded.home)
    rows = [_backend_row(catalog, name, loaded) for name in catalog.names()]
    if as_json:
        printer.print_json({"version": VERSION, "backends": rows})
        return
    cells = [[r["name"], r["title"], r["state"], ", ".join(r["can"]), r["source"]] for r in rows]
    printer.print_table(
        ["NAME", "TITLE", "STATE", "CAN", "MANIFEST"], cells,
        shrinks=["MANIFEST", "CAN", "TITLE"], spared=["MANIFEST", "CAN", "TITLE"],
    )  # fmt: skip


@app.command("show")
def show_(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Backend.", autocompletion=opt.complete_backends)
    ],
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Show what a backend supports and how it is run."""
    loaded = opt.load_config(config)
    catalog = catalogs.Catalog(loaded.home)
    if catalog.find(name) is None:
        raise NotInstalledError(f"unknown backend {name!r}", f"known: {', '.join(catalog.names())}")
    manifest = catalog.load(name)
    about = describe(manifest)
    if as_json:
        printer.print_json({"version": VERSION, **about})
        return
    printer.print_fields(
        {
            "Name": manifest.name,
            "Title": manifest.title,
            "Program": about["command"],
            "Installed": about["path"] or f"no ({manifest.install or 'see its documentation'})",
            "Can": ", ".join(about["can"]),
            "Manifest": manifest.source,
        }
    )
    print("Options:")
    for option, effect in about["options"].items():
        printer.print_wrapped(one_line(without_passwords(effect)), f"  {one_line(option)}: ")
    for note in manifest.notes:
        printer.print_wrapped(one_line(note), "Note: ")


@app.command()
def check(
    manifest: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MANIFEST]",
            help="Manifest file, or the name of a backend (default: all known backends).",
        ),
    ] = None,
    recording: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RECORDING]",
            help="Output of the CLI, or a directory with stdout, stderr and rc: print its events.",
        ),
    ] = None,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> int:
    """Check manifests, or print the events in a recording of the CLI's output."""
    # Only this command needs them, and the group is shared.
    from clinvk.api.backends import check_manifest

    if manifest is None:
        return _check_all(catalogs.Catalog(opt.load_config(config).home), as_json=as_json)
    if not manifest.exists():
        catalog = catalogs.Catalog(opt.load_config(config).home)
        manifest = catalog.find(str(manifest)) or manifest
    checked = check_manifest(manifest, recording)
    if as_json:
        printer.print_json({"version": VERSION, "manifests": [checked.to_json()]})
        return checked.exit_code
    _print_problems(checked)
    if recording is None and checked.ok:
        print(f"{one_line(str(manifest))}: OK")
    for replay in checked.recordings:
        if len(checked.recordings) == 1:
            _print_replay(replay)
        else:
            _print_summary(replay)
    return checked.exit_code


def _check_all(catalog: catalogs.Catalog, *, as_json: bool) -> int:
    # Only `backends check` needs it.
    from clinvk.api.backends import check_manifest

    code, found = 0, []
    for name in catalog.names():
        try:
            path = catalog.find(name)
            checked = check_manifest(path or Path(name))
        except ClinvkError as error:
            printer.Printer.for_errors().error(error.message, error.hint)
            code = error.exit_code
            continue
        found.append(checked)
        code = code or checked.exit_code
        if not as_json:
            _print_problems(checked)
            if checked.ok:
                print(f"{one_line(str(checked.path))}: OK")
    if as_json:
        printer.print_json({"version": VERSION, "manifests": [c.to_json() for c in found]})
    return code


def _print_problems(checked: ManifestCheck) -> None:
    errors = printer.Printer.for_errors()
    for problem in checked.problems:
        where = f"{checked.path}:{problem.line}" if problem.line else str(checked.path)
        errors.error(f"{where}: {problem}", None)


def _print_replay(replay: Replay) -> None:
    for event in replay.events:
        print(dumps(event.to_json()))
    errors = printer.Printer.for_errors()
    for problem in replay.problems:
        errors.notice(problem)
    for lines, what in ((replay.unused, "matched no rule"), (replay.not_json, "are not JSON")):
        if lines:
            errors.notice(f"{len(lines)} of {replay.lines} lines {what}:")
        for line in lines[:SHOWN_LINES]:
            errors.notice(f"  line {line.number}: {one_line(line.text)}")
        if len(lines) > SHOWN_LINES:
            numbers = ", ".join(str(line.number) for line in lines[SHOWN_LINES:])
            errors.notice(f"  and lines {numbers}")
    if not replay.ended:
        errors.error(
            f"{replay.path}: no event says how the run ended",
            "a rule has to emit 'finished' or 'failed'",
        )


def _print_summary(replay: Replay) -> None:
    error = replay.result.error
    how = "finished" if error is None else f"failed ({error.kind})"
    unused = f"{len(replay.unused)} of {replay.lines} lines matched no rule"
    print(f"{one_line(replay.path.name)}: {how}; {unused}")
    for problem in replay.problems:
        printer.Printer.for_errors().notice(f"{replay.path.name}: {one_line(problem)}")


@app.command("try")
def try_(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Backend.", autocompletion=opt.complete_backends)
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="Model to use.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="CHECK", help="Run only this check; can be repeated."),
    ] = None,
    workdir: Annotated[
        Path | None,
        typer.Option(
            "--workdir",
            "-w",
            metavar="DIR",
            help="Run in DIR instead of a temporary directory.",
        ),
    ] = None,
    yes: opt.Yes = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> int:
    """Try a backend's manifest with its CLI. Calls the model, so it asks first.

    Exits with 1 if a check failed."""
    # Only this command needs them, and the group is shared.
    from clinvk.api.trial import expected_cost, try_backend
    from clinvk.dispatch.dispatcher import Dispatcher

    with Dispatcher(opt.load_config(config)) as dispatcher:
        choice = dispatcher.selector.select(name)
        cost = expected_cost(only or ())
        printer.Printer.for_errors().notice(f"{one_line(choice.program)}: {cost}")
        if not yes and not questions.can_ask():
            raise UsageError("refusing to call the model without confirmation", "pass --yes")
        if not yes and not questions.confirm("Run them?"):
            return 1
        trial = try_backend(
            name, model=model, only=only or (), cwd=workdir, dispatcher=dispatcher,
            on_check=(lambda _: None) if as_json else _print_check,
        )  # fmt: skip
    if as_json:
        printer.print_json({"version": VERSION, **trial.to_json()})
    elif trial.usage or trial.cost is not None:
        cost = "" if trial.cost is None else f", ${trial.cost:.4f} as reported"
        tokens = format_count(trial.usage.total if trial.usage else None, "?")
        print(f"{trial.prompts} prompts, {tokens} tokens{cost}")
    return 0 if trial.ok else 1


def _print_check(check: TrialCheck) -> None:
    print(f"{check.name:<13} {check.state:<8} {one_line(check.detail)}", flush=True)


def describe(manifest: Manifest) -> dict[str, Any]:
    """What is known about a backend without starting it."""
    return {
        "name": manifest.name,
        "title": manifest.title,
        "command": sys.executable if manifest.command == "$python" else manifest.command,
        "path": _path(manifest),
        "install": manifest.install,
        "can": capabilities(manifest),
        "options": {
            name: _describe_effect(name, value) for name, value in manifest.options.items()
        },
        "notes": manifest.notes,
        "manifest": manifest.source,
    }


def _describe_effect(name: str, value: Any) -> str:
    if name in CHOICES:
        return ", ".join(("default", *value))
    words = [*value.argv, *(f"{k}={v}" for k, v in value.env.items())]
    return " ".join(words) or "accepted, no effect"


def _backend_row(catalog: catalogs.Catalog, name: str, loaded: Any) -> dict[str, Any]:
    try:
        manifest = catalog.load(name)
    except ClinvkError as error:
        return {"name": name, "title": "-", "state": "broken", "can": [], "options": [],
                "source": str(catalog.find(name)), "problem": error.message}  # fmt: skip
    enabled = loaded.backend(name).enabled
    state = "disabled" if not enabled else "installed" if _path(manifest) else "not installed"
    ours = Path(manifest.source).parent == built_in_manifests()
    return {
        "name": name,
        "title": manifest.title,
        "state": state,
        "can": capabilities(manifest),
        "options": list(manifest.options),
        "source": "built in" if ours else manifest.source,
    }


def _path(manifest: Manifest) -> str | None:
    try:
        return catalogs.find_program(manifest, os.environ)
    except NotInstalledError:
        return None
