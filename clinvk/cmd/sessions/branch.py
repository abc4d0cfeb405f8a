"""`clinvk sessions branch` and `merge`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.sessions.common import VERSION, find_id, open_manager, session_data
from clinvk.errors import UsageError
from clinvk.terminal import printer

if TYPE_CHECKING:
    from clinvk.api.sessions.manager import SessionManager
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
            "--at",
            metavar="N",
            help="Copy up to and including message N, counted from 0 (default: all).",
        ),
    ] = None,
    title: opt.Title = None,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Copy a session, or its first messages, to a new one and print the new id."""
    sessions = open_manager(config)
    source = find_id(sessions, session_id)
    _print_new_session(
        sessions, sessions.branch_session(source, at, title), f"of {source}", as_json=as_json
    )


@app.command("merge")
@with_storage_options
def merge(
    a: Annotated[str, typer.Argument(metavar="A", help="First session.", autocompletion=opt.complete_sessions)],
    b: Annotated[str, typer.Argument(metavar="B", help="Second session.", autocompletion=opt.complete_sessions)],
    strategy: Annotated[
        str,
        typer.Option("--strategy", metavar="STRATEGY",
                     autocompletion=opt.complete_words(STRATEGIES),
                     help="chronological: by time; smart: by time, with exchanges kept together and "
                     "repeats left out; manual: A before B, or as in --order."),
    ] = "chronological",
    order: Annotated[
        str | None,
        typer.Option("--order", metavar="LIST", help="With manual: messages in this order, e.g. a:0-3,b:2."),
    ] = None,
    title: opt.Title = None,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:  # fmt: skip
    """Merge two sessions into a new one and print its id.

    Messages that both begin with appear once. Title and settings are those of A."""
    sessions = open_manager(config)
    first, second = sessions.lookup(a), sessions.lookup(b)
    places = None if order is None else [*_parse_message_refs(order, {"a": first, "b": second})]
    new = sessions.merge_sessions(first, second, strategy, order=places, title=title)
    _print_new_session(sessions, new, f"of {first} and {second}", as_json=as_json)


def _print_new_session(
    sessions: SessionManager, session_id: str, of: str, *, as_json: bool
) -> None:
    """Print the id of the new session for scripts, and as a notice how to resume it."""
    session = sessions.store.get(session_id)
    if as_json:
        printer.print_json({"version": VERSION, **session_data(session)})
        return
    count = sum(session.counts.values())
    print(session_id)
    printer.Printer.for_errors().notice(
        f'{count} message{"s" * (count != 1)} {of}; resume with: clinvk resume {session_id} "your prompt"'
    )


def _parse_message_refs(text: str, session_ids: dict[str, str]) -> Iterator[MessageRef]:
    """The messages named by `a:0-3,b:2`. Raises `UsageError`."""
    for word in text.split(","):
        found = _MESSAGE_REF.fullmatch(word.strip())
        if not found:
            raise UsageError(f"--order: {word!r} names no messages", "use e.g. a:0-3,b:2,a:4")
        which, start, end = found.groups()
        for at in range(int(start), int(end or start) + 1):
            yield session_ids[which], at
