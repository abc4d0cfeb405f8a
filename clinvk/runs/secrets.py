"""Secrets of a run, taken out of what is written of it and of what is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from clinvk.model.events import Delta, Event
from clinvk.model.result import Denial, Result
from clinvk.text.redact import everywhere, redact, without

HARMLESS = 8  # characters: a shorter text holds nothing that looks like a key

Hide = Callable[[Any], Any]


def scrubber(secrets: Iterable[str], *, redacting: bool) -> Hide:
    """What takes these, and what looks like a key where `redacting`, out of whatever is written."""
    known = tuple(dict.fromkeys(secrets))

    def clean(text: str) -> str:
        text = without(text, known)
        return redact(text) if redacting and len(text) >= HARMLESS else text

    return lambda data: everywhere(data, clean)


def hider(secrets: tuple[str, ...]) -> Hide:
    """What takes these out of whatever is shown."""
    return lambda data: everywhere(data, lambda text: without(text, secrets))


def shown(event: Event, secrets: tuple[str, ...]) -> Event | None:
    """The event as it may be seen. Where there are secrets, pieces of an answer may not: one can
    be said in two of them."""
    if not secrets:
        return event
    if isinstance(event, Delta):
        return None
    hide = hider(secrets)
    return replace(event, **{f: hide(getattr(event, f)) for f in event.__struct_fields__})


def result_without(result: Result, secrets: tuple[str, ...]) -> Result:
    """The result as it may be seen."""
    if not secrets:
        return result
    hide, error = hider(secrets), result.error
    if error is not None:
        error = replace(error, message=hide(error.message), hint=hide(error.hint))
    return replace(
        result, text=hide(result.text), structured=hide(result.structured), error=error,
        denied=tuple(Denial(hide(d.name), hide(d.input), hide(d.reason)) for d in result.denied),
    )  # fmt: skip
