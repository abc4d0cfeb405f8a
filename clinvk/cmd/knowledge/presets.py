"""What `clinvk templates` and `clinvk skills` have in common: list, show, new."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import Struct

from clinvk.cmd.app import App, new_app
from clinvk.cmd.options import request as opt
from clinvk.errors import ClinvkError
from clinvk.terminal import printer

VERSION = 1  # of the JSON


class Preset(Struct, frozen=True):
    """A template or a skill, as it is shown."""

    name: str
    source: str  # a file, or "built in"
    description: str
    fields: Mapping[str, str] = {}  # for people, beside these
    data: Mapping[str, Any] = {}  # in JSON, beside these
    text: str = ""  # the instructions
    notice: str | None = None  # what is wrong with it, though it can be used


class Kind(Struct, frozen=True):
    word: str  # such as "template"
    names: Callable[[Path], list[str]]  # in this home
    load: Callable[[Path, str], Preset]  # raises `ClinvkError`
    complete: Callable[[str], list[str]]
    empty: Callable[[Path], str]  # what to do if there are none


Description = Annotated[
    str, typer.Option("--description", metavar="TEXT", help="What it is for, in a sentence.")
]


def new_group(kind: Kind, help_: str) -> App:
    """The commands `list` and `show` of this kind."""
    app = new_app(no_args_is_help=True, help=help_)
    name_argument = Annotated[
        str,
        typer.Argument(
            metavar="NAME", help=f"{kind.word.capitalize()}.", autocompletion=kind.complete
        ),
    ]

    @app.command("list", help=f"List {kind.word}s.")
    def list_(as_json: opt.Json = False, config: opt.Config = None) -> int:
        home = opt.load_config(config).home
        found, code = [], 0
        for name in kind.names(home):
            try:
                found.append(kind.load(home, name))
            except ClinvkError as error:
                printer.Printer.for_errors().error(error.message, error.hint)
                code = error.exit_code
        for notice in (preset.notice for preset in found if preset.notice):
            printer.Printer.for_errors().notice(notice)
        if as_json:
            rows = [
                {"name": p.name, "description": p.description, "source": p.source} for p in found
            ]
            printer.print_json({"version": VERSION, f"{kind.word}s": rows})
        elif found:
            heading = kind.word.upper()
            printer.print_table(
                ["NAME", heading, "WHAT FOR"],
                [[p.name, p.source, p.description or "-"] for p in found],
                shrinks=["WHAT FOR", heading],
                spared=[heading],
            )
        elif code == 0:
            printer.Printer.for_errors().notice(kind.empty(home))
        return code

    def show_(name: str, as_json: opt.Json = False, config: opt.Config = None) -> None:
        found = kind.load(opt.load_config(config).home, name)
        if found.notice:
            printer.Printer.for_errors().notice(found.notice)
        if as_json:
            about = {"name": name, "source": found.source, "description": found.description}
            printer.print_json({"version": VERSION, **about, **found.data})
            return
        about = {"Name": name, kind.word.capitalize(): found.source}
        printer.print_fields({**about, "What For": found.description or "-", **found.fields})
        if found.text:
            print(f"\n{printer.safe(found.text).rstrip()}")

    show_.__annotations__["name"] = name_argument
    app.command("show", help=f"Show what a {kind.word} says.")(show_)
    return app


def report_new(kind: str, name: str, path: Path, *, as_json: bool) -> None:
    """Say which file was written."""
    if as_json:
        printer.print_json({"version": VERSION, "name": name, "source": str(path)})
        return
    print(path)
    printer.Printer.for_errors().notice(f"edit that file; then see: clinvk {kind}s show {name}")
