"""`clinvk sessions options`, which is also `clinvk session` with the flag of an option."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import Struct

from clinvk.cmd.app import Command, CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.options.turn import FROM_TABLE, TurnOptions, with_turn_options
from clinvk.cmd.sessions.common import VERSION, open_lookup
from clinvk.cmd.sessions.option_words import CLEARED, OF_USER, Cleared, split_cleared
from clinvk.config.schema import Loaded
from clinvk.config.stored_options import (
    STORABLE,
    StoredOptions,
    change_stored_options,
    read_options_file,
)
from clinvk.errors import UsageError
from clinvk.model.option_table import BY_NAME
from clinvk.model.session import Session
from clinvk.terminal import printer

app = CommandModule()
FLAGGED = [BY_NAME[name] for name in STORABLE if BY_NAME[name].flag]


class OptionsCommand(Command):
    """After --clear, the flags of options take no value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--clear" in args and not ctx.resilient_parsing:
            args, ctx.meta[CLEARED] = split_cleared(args, of_user=OF_USER in ctx.meta)
        return super().parse_args(ctx, args)


@app.command("options", cls=OptionsCommand)
@with_storage_options
@with_turn_options(FLAGGED)
def options_(
    ctx: typer.Context,
    session_id: opt.SessionId = None,
    options: TurnOptions = FROM_TABLE,
    skill_set: Annotated[
        list[str] | None,
        typer.Option("--skill-set", metavar="NAME", help="Start new sessions with this skill (repeatable).",
                     autocompletion=opt.complete_skills),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option("--template", metavar="NAME", help="Start new sessions from this template.",
                     autocompletion=opt.complete_templates),
    ] = None,
    option: opt.Option = None,
    show_list: Annotated[bool, typer.Option("--list", help="Show the stored options.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Clear all stored options.")] = False,
    clear: Annotated[
        bool,
        typer.Option("--clear", help="Clear the options whose flags follow, without values; --option takes a KEY."),
    ] = False,
    session: Annotated[
        str | None,
        typer.Option("--session", metavar="ID", autocompletion=opt.complete_sessions, help="Same as the ID argument."),
    ] = None,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:  # fmt: skip
    """Store options for all later prompts, or for those of one session, or show them.

    `clinvk session --temperature 0.7` is the same as `clinvk sessions options --temperature 0.7`. A
    value on the command line of a prompt overrides a stored one for that prompt. Tasks of `parallel`,
    `chain` and `compare` do not use them, unless their file says so: `defaults: {stored_options: true}`."""
    loaded = opt.load_config(config)
    home = loaded.home
    found = _find_session(session_id, session, loaded)
    cleared: Cleared | None = ctx.meta.get(CLEARED) if clear else None
    given = _Given(opt.read_options(options), option or [], skill_set or [], template)
    if (reset and (clear or given.any)) or (clear and given.any):
        raise UsageError(
            "--reset and --clear take no new values", "store options in a second command"
        )
    if clear and not cleared:
        raise UsageError("--clear needs the flags of the options to clear",
                         "e.g. clinvk session --clear --model; to clear all: clinvk session --reset")  # fmt: skip
    key = found.id if found else None
    if reset:
        change_stored_options(home, key, lambda _: StoredOptions())
        _tell(f"All options stored for {_whom(found)} were cleared.", as_json)
    elif cleared:
        _clear(home, found, cleared, as_json=as_json)
    elif given.any:
        _store(home, found, given, loaded, as_json=as_json)
    if show_list or as_json or not (reset or cleared or given.any):
        _show(read_options_file(home).of(key), found, as_json=as_json)


class _Given(Struct, frozen=True):
    """What is to be stored."""

    options: dict[str, Any]
    pairs: list[str]
    skills: list[str]
    template: str | None

    @property
    def any(self) -> bool:
        return bool(self.options or self.pairs or self.skills or self.template is not None)


def _find_session(argument: str | None, flag: str | None, loaded: Loaded) -> Session | None:
    if argument and flag and argument != flag:
        raise UsageError(
            f"{argument} and --session {flag} cannot be used together", "leave out one of them"
        )
    text = argument or flag
    return open_lookup(loaded).lookup_or_last(text) if text else None


def _whom(session: Session | None) -> str:
    return f"session {session.id}" if session else "later prompts"


def _store(
    home: Path, session: Session | None, given: _Given, loaded: Loaded, *, as_json: bool
) -> None:
    # Only where something is stored.
    from clinvk.backend.catalog import Catalog

    # Only where something is stored.
    from clinvk.backend.storable import check_option, explain_lacking

    # Only where something is stored.
    from clinvk.sessions import skills, templates

    catalog = Catalog(home)
    options = given.options | opt.parse_option_pairs(given.pairs)
    for name, value in options.items():
        check_option(name, value, catalog)
    for name in given.skills:
        notice = skills.load_skill([skills.skills_directory(home)], name).notice
        if notice:
            printer.Printer.for_errors().notice(notice)
    if given.template is not None:
        templates.load_template(home, given.template)
    change_stored_options(
        home,
        session.id if session else None,
        lambda old: StoredOptions(
            options=old.options | options,
            skills=tuple(dict.fromkeys(given.skills)) or old.skills,
            template=given.template if given.template is not None else old.template,
        ),
    )
    shown = [f"{name} {value}" for name, value in _rows(options, given.skills, given.template)]
    _tell(f"Stored for {_whom(session)}: {', '.join(shown)}.", as_json)
    backend = (session and session.backend) or loaded.config.default_backend
    for text in explain_lacking(options, backend, catalog):
        printer.Printer.for_errors(printer.color.get()).notice(text)


def _clear(home: Path, session: Session | None, cleared: Cleared, *, as_json: bool) -> None:
    before = read_options_file(home).of(session.id if session else None)
    known = {
        *before.options,
        *(["template"] * bool(before.template)),
        *(["skill_set"] * bool(before.skills)),
    }
    new = change_stored_options(home, session.id if session else None, cleared.remove)
    for name in cleared.names:
        if name in known and not (name == "skill_set" and new.skills == before.skills):
            _tell(f"{name} was cleared for {_whom(session)}.", as_json)
        else:
            printer.Printer.for_errors(printer.color.get()).notice(
                f"{name} was not stored for {_whom(session)}"
            )


def _show(stored: StoredOptions, session: Session | None, *, as_json: bool) -> None:
    if as_json:
        data: dict[str, Any] = stored.to_json()
        if session:
            data = {"id": session.id, "options": session.options, "stored": data}
        printer.print_json({"version": VERSION, **data})
        return
    rows = [[k, v, "stored"] for k, v in _rows(stored.options, stored.skills, stored.template)]
    if session:
        mine = [[k, _format_value(v), "its first turn"] for k, v in session.options.items()
                if k not in stored.options]  # fmt: skip
        rows = [*mine, *rows] if stored else [row[:2] for row in mine]
    if not rows:
        about = f"session {session.id} has no stored options" if session else (
            "no options are stored; e.g.: clinvk session --temperature 0.7")  # fmt: skip
        print(about, file=sys.stderr)
        return
    headers = ["OPTION", "VALUE", "FROM"] if session and stored else ["OPTION", "VALUE"]
    printer.print_table(headers, [row[: len(headers)] for row in rows], shrinks=["VALUE"])


def _rows(options: Mapping[str, Any], skills: Any, template: str | None) -> list[list[str]]:
    rows = [[name, _format_value(value)] for name, value in options.items()]
    rows += [["skill_set", name] for name in skills]
    return rows + ([["template", template]] if template else [])


def _format_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _tell(text: str, quietly: bool) -> None:
    if not quietly:
        printer.print_wrapped(text)
