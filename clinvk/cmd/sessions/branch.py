"""`clinvk sessions branch` and `merge`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.sessions.common import VERSION, open_manager, session_data
from clinvk.errors import UsageError
from clinvk.terminal import printer

if TYPE_CHECKING:
    from clinvk.api.sessions import SessionManager
    from clinvk.sessions.transform import MessageRef

app = CommandModule()
STRATEGIES = ("chronological", "smart", "manual")
_MESSAGE_REF = re.compile(r"([ab]):(\d+)(?:-(\d+))?")


@app.command("branch")
@with_storage_options
def branch(
    session_id: opt.OneSession,
    at: Annotated[
        int | None,
        typer.Option(
            "--at", metavar="N", help="Up to and with message N, counted from 0; else all."
        ),
    ] = None,
    title: opt.Title = None,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Begin a new session with what another one began with, and print its id."""
    sessions = open_manager(config)
    source = sessions.lookup(session_id)
    _print_new_session(
        sessions, sessions.branch_session(source, at, title), f"of {source}", as_json=as_json
    )


@app.command("merge")
@with_storage_options
def merge(
    a: Annotated[str, typer.Argument(metavar="A", autocompletion=opt.complete_sessions)],
    b: Annotated[str, typer.Argument(metavar="B", autocompletion=opt.complete_sessions)],
    strategy: Annotated[
        str,
        typer.Option("--strategy", metavar="|".join(STRATEGIES),
                     autocompletion=opt.complete_words(STRATEGIES),
                     help="By time; by time with exchanges kept whole and repeats left out; "
                     "A before B, or as --order says."),
    ] = "chronological",
    order: Annotated[
        str | None,
        typer.Option("--order", metavar="a:0-3,b:2,…", help="manual: these messages, in this order."),
    ] = None,
    title: opt.Title = None,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:  # fmt: skip
    """Make a new session of two, and print its id. What they have in common at their beginning is
    there once; title and settings are those of A."""
    sessions = open_manager(config)
    first, second = sessions.lookup(a), sessions.lookup(b)
    places = None if order is None else [*_parse_message_refs(order, {"a": first, "b": second})]
    new = sessions.merge_sessions(first, second, strategy, order=places, title=title)
    _print_new_session(sessions, new, f"of {first} and {second}", as_json=as_json)


def _print_new_session(
    sessions: SessionManager, session_id: str, of: str, *, as_json: bool
) -> None:
    """The new session: its id for scripts, and for people what can be done with it."""
    session = sessions.store.get(session_id)
    if as_json:
        printer.print_json({"version": VERSION, **session_data(session)})
        return
    count = sum(session.counts.values())
    print(session_id)
    printer.Printer.for_errors().notice(
        f'{count} message{"s" * (count != 1)} {of}; go on with: clinvk resume {session_id} "your prompt"'
    )


def _parse_message_refs(text: str, session_ids: dict[str, str]) -> Iterator[MessageRef]:
    """The messages that `a:0-3,b:2` names. Raises `UsageError`."""
    for word in text.split(","):
        found = _MESSAGE_REF.fullmatch(word.strip())
        if not found:
            raise UsageError(f"--order: {word!r} names no messages", "such as: a:0-3,b:2,a:4")
        which, start, end = found.groups()
        for at in range(int(start), int(end or start) + 1):
            yield session_ids[which], at
