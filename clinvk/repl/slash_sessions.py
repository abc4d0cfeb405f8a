"""Slash commands about sessions."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from clinvk.errors import SessionError, UsageError
from clinvk.model.session import Session
from clinvk.repl.actions import Action, OnTerminal
from clinvk.repl.command_lines import Offer
from clinvk.repl.sitting import Sitting
from clinvk.store.base import Query
from clinvk.text.duration import format_age
from clinvk.text.sanitize import one_line

FORMATS = ("markdown", "json", "html")
OFFERED = 50  # sessions


def new(sitting: Sitting, argument: str) -> Action | None:
    sitting.conversation.start_new(one_line(argument) or None)
    sitting.say("the next message starts a new session")
    return None


def resume(sitting: Sitting, argument: str) -> Action | None:
    if argument:
        sitting.resume(argument)
        return None
    return OnTerminal(lambda: _pick(sitting), "/resume")


def _pick(sitting: Sitting) -> None:
    # Only to pick one.
    import typer

    # Only to pick one.
    from clinvk.terminal.picker import pick

    found = sitting.conversation.dispatcher.sessions.list_resumable(Query(limit=500))
    if not found:
        sitting.report(SessionError("there are no sessions yet", "send a message to start one"))
        return
    try:
        chosen = pick(found, sitting.conversation.dispatcher.store.messages)
    except (typer.Abort, KeyboardInterrupt):
        return
    except SessionError as error:
        sitting.report(error)
        return
    sitting.resume(chosen.id)


def offer_sessions(sitting: Sitting, words: list[str]) -> Iterable[Offer]:
    if words:
        return
    store = sitting.conversation.dispatcher.store
    for session in store.select(Query(limit=OFFERED, tasks=False)):
        if isinstance(session, Session):
            yield session.id, f"{format_age(session.updated_at)}  {one_line(session.label)[:60]}"


def sessions(sitting: Sitting, argument: str) -> Action | None:
    return sitting.command_line(
        ["sessions", "list", *_words(argument)], f"/sessions {argument}".strip()
    )


def branch(sitting: Sitting, argument: str) -> Action | None:
    # Only to branch.
    from clinvk.api.sessions.manager import SessionManager

    session = _current(sitting, "branch")
    dispatcher = sitting.conversation.dispatcher
    manager = SessionManager(dispatcher.store, config=dispatcher.config)
    copied = manager.branch_session(session.id, title=one_line(argument) or None)
    sitting.conversation.resume(dispatcher.store.get(copied))
    sitting.say(f"now in {copied}, a copy of {session.id}")
    return None


def export(sitting: Sitting, argument: str) -> Action | None:
    session = _current(sitting, "export")
    argv = ["sessions", "export", session.id]
    for word in _words(argument):
        if word in FORMATS and "--format" not in argv:
            argv += ["--format", word]
        elif word.startswith("-") or "--output" in argv:
            argv.append(word)
        else:
            argv += ["--output", word]
    return sitting.command_line(argv, f"/export {argument}".strip())


def offer_formats(_sitting: Sitting, words: list[str]) -> Iterable[Offer]:
    return [] if words else [(name, "") for name in FORMATS]


def _current(sitting: Sitting, doing: str) -> Session:
    session = sitting.conversation.session
    if session is None or not sitting.conversation.has_begun:
        raise SessionError(f"there is nothing to {doing} yet", "send a message first")
    return session


def _words(argument: str) -> list[str]:
    try:
        return shlex.split(argument)
    except ValueError as error:
        raise UsageError(f"{argument[:60]}: {error}", "close the quotes") from error
