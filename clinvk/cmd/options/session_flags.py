"""The flags that choose the session, as one `SessionRef`."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from clinvk.errors import UsageError
from clinvk.model.session_ref import (
    DefaultSession,
    LatestSession,
    NamedSession,
    NewSession,
    SessionRef,
)


class Rule(Struct, frozen=True):
    """The error if `flag` is given together with any of `others`, or, with `needed`, with none."""

    flag: str
    others: tuple[str, ...]
    problem: str
    hint: str = "leave out one of them"
    needed: bool = False


CONTINUED = ("-c", "--session")  # flags that may name an existing session
RULES = (
    *(
        Rule(
            flag,
            ("--ephemeral",),
            f"{flag} and --ephemeral cannot be used together: nothing is saved",
        )
        for flag in ("-c", "--session", "--title", "--tag", "--template")
    ),
    Rule("-c", ("--session",), "-c and --session cannot be used together"),
    *(
        Rule(
            flag,
            CONTINUED,
            f"{flag} needs a session",
            "add -c, or use: clinvk resume ID",
            needed=True,
        )
        for flag in ("--to", "--replay")
    ),
    Rule("--history", CONTINUED, "--history starts a new session", "leave out -c and --session"),
    Rule("--anywhere", ("-c",), "--anywhere needs -c", "add -c", needed=True),
    Rule("--new", ("-c",), "--new and -c cannot be used together"),
    Rule("-c", ("--template",), "-c and --template cannot be used together"),
    Rule("--history", ("--template",), "--history and --template cannot be used together"),
)  # the first that is broken is reported


def check_flags(flags: Mapping[str, object]) -> None:
    """Raise `UsageError` if flags, given with their values, cannot be used together."""
    given = {flag for flag, value in flags.items() if value}
    for rule in RULES:
        if rule.flag in given and given.isdisjoint(rule.others) is rule.needed:
            raise UsageError(rule.problem, rule.hint)


def session_ref(
    *, continue_: bool, anywhere: bool, name: str | None, history: int, new: bool
) -> SessionRef:
    """The session that valid flags choose."""
    if continue_:
        return LatestSession(anywhere)
    if name is not None:
        return NamedSession(name)
    return NewSession(history=history) if new or history else DefaultSession()
