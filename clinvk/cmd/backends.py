"""`clinvk backends`: list, show, check."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clinvk.backend import catalog as catalogs
from clinvk.backend.manifest import Manifest, capabilities, check_expressions
from clinvk.cmd.app import new_app
from clinvk.cmd.options import request as opt
from clinvk.config.paths import built_in_manifests
from clinvk.disk.reading import read_named
from clinvk.errors import ClinvkError, ConfigError, NotInstalledError
from clinvk.model.option_table import CHOICES
from clinvk.terminal import printer
from clinvk.text.addresses import without_passwords
from clinvk.text.json_output import dumps
from clinvk.text.sanitize import one_line

app = new_app(no_args_is_help=True, help="List, show and check backends.")

VERSION = 1  # of the JSON that they print


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
        typer.Argument(metavar="[MANIFEST]", help="Manifest file (default: all known backends)."),
    ] = None,
    recording: Annotated[
        Path | None,
        typer.Argument(metavar="[RECORDING]", help="Output of the CLI: print the events in it."),
    ] = None,
    config: opt.Config = None,
) -> int:
    """Check manifests, or print the events in a recording of the CLI's output."""
    if manifest is None:
        return _check_all(catalogs.Catalog(opt.load_config(config).home))
    checked = catalogs.read_manifest(manifest)
    check_expressions(checked)
    if recording is None:
        print(f"{one_line(str(manifest))}: OK")
        return 0
    return _check_recording(checked, recording)


def _check_all(catalog: catalogs.Catalog) -> int:
    code = 0
    for name in catalog.names():
        try:
            found = catalog.load(name)
            check_expressions(found)
            print(f"{one_line(found.source)}: OK")
        except ClinvkError as error:
            printer.Printer.for_errors().error(error.message, error.hint)
            code = error.exit_code
    return code


def _check_recording(manifest: Manifest, recording: Path) -> int:
    """Print the events of a recording, one per line; return 1 if it has no last event."""
    # Only `backends check` reads a recording.
    from clinvk.backend.event_parser import EventParser
    from clinvk.process.pipes import LineSplitter

    reader, lines, last = EventParser(manifest, is_first_turn=True), LineSplitter(), ""
    try:
        data = read_named(recording)
    except OSError as error:
        raise ConfigError(f"{recording}: {error.strerror}") from error
    events = [e for line in (*lines.feed(data), *lines.finish()) for e in reader.parse_line(line)]
    for event in (*events, *reader.finish(0)):
        print(dumps(event.to_json()))
        last = event.type
    if last not in ("finished", "failed"):
        printer.Printer.for_errors().error(
            f"{recording}: no event says how the run ended",
            "a rule has to emit 'finished' or 'failed'",
        )
        return 1
    return 0


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
