"""`clinvk memory`: add, list, forget."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.options import request as opt
from clinvk.disk.reading import directory_problem
from clinvk.errors import UsageError
from clinvk.knowledge.notes import Note, Notes
from clinvk.sessions.lookup import real_path
from clinvk.sessions.masking import redact_for_store
from clinvk.terminal import printer, questions
from clinvk.text import duration

app = new_app(
    no_args_is_help=True,
    help="Store, list and forget notes about a directory, which --memory adds to a prompt.",
)
VERSION = 1  # of the JSON

Directory = Annotated[
    Path | None,
    typer.Option("--workdir", "-w", metavar="DIR", help="The notes of this directory."),
]


@app.command("add")
def add(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]", help="Note; - reads standard input.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", metavar="FILE", help="Read the note from FILE; - is stdin."),
    ] = None,
    workdir: Directory = None,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Store a note about the current directory."""
    loaded = opt.load_config(config)
    if not words and file is None and sys.stdin.isatty():
        raise UsageError("no note given", 'try: clinvk memory add "tests need redis"')
    words = [" ".join(words)] if words and words != [opt.STDIN] else words
    text, _ = opt.read_prompt(words, file, [])
    kept = redact_for_store(text, loaded.config.session)
    note = Notes(loaded.home).add(_directory(workdir), kept)
    if kept != text:
        printer.Printer.for_errors().notice("what looks like a key was not stored")
    if as_json:
        printer.print_json({"version": VERSION, "note": note.to_json()})
    else:
        print(f"Note {note.id} stored.")


@app.command("list")
def list_(
    everywhere: Annotated[
        bool, typer.Option("--all", help="List the notes of all directories.")
    ] = False,
    workdir: Directory = None,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """List the notes about the current directory."""
    notes = Notes(opt.load_config(config).home)
    directory = _directory(workdir)
    found = notes.list_all() if everywhere else notes.of(directory)
    if as_json:
        printer.print_json({"version": VERSION, "notes": [note.to_json() for note in found]})
    elif found:
        _print_table(found, everywhere=everywhere)
    else:
        where = "" if everywhere else f" for {directory}"
        printer.Printer.for_errors().notice(
            f'no notes are stored{where}; add one: clinvk memory add "tests need redis"'
        )


@app.command("forget")
def forget(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID...]", help="Ids of notes, or the beginnings of some."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Forget all notes about the directory.")
    ] = False,
    yes: opt.Yes = False,
    workdir: Directory = None,
    config: opt.Config = None,
) -> int:
    """Delete notes about the current directory."""
    notes = Notes(opt.load_config(config).home)
    directory = _directory(workdir)
    if bool(ids) is everything:
        raise UsageError(
            "ids and --all cannot be used together" if ids else "no note given",
            "name notes by their ids (clinvk memory list), or pass --all",
        )
    found = notes.of(directory) if everything else notes.find(directory, ids or ())
    what = f"{len(found):,} note{'s' * (len(found) != 1)}"
    if found and not yes and not questions.confirm_deletion(f"Delete {what}?"):
        return 4
    notes.forget(directory, found)
    print(f"{what} deleted.")
    return 0


def _directory(workdir: Path | None) -> str:
    if workdir is not None and (problem := directory_problem(workdir)):
        raise UsageError(f"--workdir: {workdir}: {problem}", "name a directory")
    return real_path(workdir)


def _print_table(found: list[Note], *, everywhere: bool) -> None:
    headers = ["ID", "AGE", *(["DIRECTORY"] if everywhere else []), "NOTE"]
    rows = [
        [n.id, duration.format_age(n.created_at), *([n.directory] if everywhere else []), n.text]
        for n in found
    ]
    shrinks = ["NOTE", *(["DIRECTORY"] if everywhere else [])]
    printer.print_table(headers, rows, shrinks=shrinks, spared=["ID", "AGE"])
