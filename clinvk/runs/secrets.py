"""Remove the secrets of a run from what is written and shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from msgspec.structs import replace

from clinvk.model.events import Checked, Checking, Delta, Event
from clinvk.model.result import Denial, Result
from clinvk.text.redact import SHORT, everywhere, redact, replace_secrets

MIN_KEY_LENGTH = 8  # characters: a shorter text cannot contain what looks like a key

Hide = Callable[[Any], Any]


def create_scrubber(secrets: Iterable[str], *, redacting: bool) -> Hide:
    """A function that removes these secrets, and with `redacting` what looks like a key, from data
    to be written."""
    known = tuple(dict.fromkeys(secrets))

    def scrub_text(text: str) -> str:
        text = replace_secrets(text, known)
        return redact(text) if redacting and len(text) >= MIN_KEY_LENGTH else text

    # The keys of all lines are the same, and so are most of their values.
    scrub_short = lru_cache(maxsize=4096)(scrub_text)

    def scrub_any(text: str) -> str:
        return scrub_short(text) if len(text) <= SHORT else scrub_text(text)

    return lambda data: everywhere(data, scrub_any)


def create_hider(secrets: tuple[str, ...]) -> Hide:
    """A function that removes these secrets from data to be shown."""
    return lambda data: everywhere(data, lambda text: replace_secrets(text, secrets))


def event_without_secrets(event: Event, secrets: tuple[str, ...]) -> Event | None:
    """The event as it may be shown; None for a piece of an answer if there are secrets, since one
    can be split across two pieces."""
    if not secrets:
        return event
    if isinstance(event, Delta):
        return None
    if isinstance(event, (Checking, Checked)):  # a check's output is without secrets
        return event
    hide = create_hider(secrets)
    return replace(event, **{f: hide(getattr(event, f)) for f in event.__struct_fields__})


def result_without_secrets(result: Result, secrets: tuple[str, ...]) -> Result:
    """The result as it may be shown."""
    if not secrets:
        return result
    hide, error = create_hider(secrets), result.error
    check = result.check
    if check is not None:
        check = replace(check, message=hide(check.message), command=hide(check.command),
                        output=hide(check.output))  # fmt: skip
    if error is not None:
        error = replace(error, message=hide(error.message), hint=hide(error.hint))
    return replace(
        result, text=hide(result.text), structured=hide(result.structured), error=error, check=check,
        denied=tuple(Denial(hide(d.name), hide(d.input), hide(d.reason)) for d in result.denied),
    )  # fmt: skip
