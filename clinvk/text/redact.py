"""Keys and passwords in texts, by their shapes: what is stored says `[redacted: github token]`.

The shapes are in `key_shapes`. A text is searched for the few characters that a shape begins with,
or follows; an expression is compiled only once they are found, so that a text without them costs
some 30 ms per megabyte, and a start nothing. The time is linear in the text, whatever it
contains: each expression is bounded, and each place is examined once per shape.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import Any

from clinvk.text.key_shapes import RULES, Rule

LONG = 65_536  # characters: the result for a longer text is remembered
SHORT = 128  # characters: so are the last results for short texts, such as keys and states
NOT_EXAMINED = "[not stored: stopped before it was searched for secrets]"
PLACES = 1024  # places that are examined between two checks whether to give up
PASSES = 4  # at most: a replacement may turn the text before it into a key
_ESCAPED = 24  # characters of an escape that may precede a key

# What may end in a letter or digit before a key and is not part of its word: a color, an
# escape as in JSON or Python, a character of an address that is percent-encoded.
_ESCAPE = (
    r"(?:(?:\x1b|\x9b|\\e|\\033|\\x(?:1b|9b)|\\u00(?:1b|9b))\[?[0-9;:?]*[A-Za-z]"
    r"|\\[abefnrtv0]|\\[0-7]{3}|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}|\\u\{[0-9a-f]{1,6}\}"
    r"|%[0-9a-f]{2})\Z"
)


_WITHOUT_TEXT = (int, float, bool, type(None))

# A secret: (its beginning, the number of its rule in `RULES`, its end). Tuples, and no structs,
# since there may be a hundred thousand.
Span = tuple[int, int, int]


class GaveUp(Exception):  # noqa: N818 - reads as what it says
    """The result is no longer needed."""


# Whether a search should end with `GaveUp`; checked all the time, per thread of the caller.
is_given_up: ContextVar[Callable[[], bool]] = ContextVar("is_given_up", default=lambda: False)


def redact(text: str) -> str:
    """The text with a note in place of each secret."""
    if len(text) <= SHORT:
        return _redact_short(text)
    return _redact_long(text) if len(text) > LONG else _redact(text)


def _redact(text: str) -> str:
    for _ in range(PASSES):
        spans = list(_spans(text))
        if not spans:
            break
        text = _replace_spans(text, spans)
        # Of all shapes, only a private key may follow a letter or a hyphen; the text before it is
        # not a key then.
        if all(RULES[number].label != "private key" for _, number, _ in spans):
            break
    return text


# The keys of a line are the same in each, and most of its values.
@lru_cache(maxsize=4096)
def _redact_short(text: str) -> str:
    folded = _fold(text)
    return _redact(text) if any(map(folded.__contains__, _hints())) else text


@cache
def _hints() -> tuple[str, ...]:
    """Strings of which a text contains at least one if it contains a secret: the beginnings of all
    shapes in lower case, without those in which another one occurs."""
    begins = sorted({begin.lower() for rule in RULES for begin in rule.begins}, key=len)
    hints: list[str] = []
    for begin in begins:
        if not any(hint in begin for hint in hints):
            hints.append(begin)
    return tuple(hints)


# An answer is stored as an event, a result and a message, shortly after each other.
_redact_long = lru_cache(maxsize=1)(_redact)


def replace_secrets(text: str, secrets: Iterable[str]) -> str:
    """The text with a note in place of each of these."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, "[redacted: from the environment]")
    return text


def without_long_texts(data: Any) -> Any:
    """A structure of mappings and lists with a note in place of each long text."""
    return everywhere(data, lambda text: text if len(text) <= LONG else NOT_EXAMINED)


def map_texts(data: Any, change: Callable[[str], str]) -> Any:
    """A structure of mappings and lists with every text in it changed, but not the keys."""
    if isinstance(data, str):
        return change(data)
    if isinstance(data, dict):
        return {key: map_texts(value, change) for key, value in data.items()}
    return [map_texts(value, change) for value in data] if isinstance(data, list) else data


def everywhere(data: Any, change: Callable[[str], str]) -> Any:
    """A structure of mappings and lists with every text in it changed, the keys of mappings too.
    Of keys that become the same, the later ones are numbered."""
    if isinstance(data, dict):
        return _with_changed_keys(data, change)
    if isinstance(data, list):
        return [everywhere(value, change) for value in data]
    return change(data) if isinstance(data, str) else data


def _with_changed_keys(data: dict[Any, Any], change: Callable[[str], str]) -> dict[Any, Any]:
    changed: dict[Any, Any] = {}
    numbers: dict[str, int] = {}  # the last one of each name
    for key, value in data.items():
        name = change(key) if isinstance(key, str) else key
        if name != key:  # it was changed, which is rare
            unused = name
            while unused != key and (unused in changed or unused in data):
                numbers[name] = numbers.get(name, 1) + 1
                unused = f"{name} ({numbers[name]})"
            name = unused
        kind = type(value)
        if kind is str:
            changed[name] = change(value)
        else:  # most of the rest are numbers and nulls
            changed[name] = value if kind in _WITHOUT_TEXT else everywhere(value, change)
    return changed


def _spans(text: str) -> Iterator[Span]:
    """The secrets from left to right, none within another. Of two that start at the same place,
    that of the earlier rule is used."""
    folded = _fold(text)
    places: list[tuple[int, int, str]] = []  # a heap: where a shape may start next
    for number, rule in enumerate(RULES):
        for begin in rule.begins:
            at = (folded if rule.folded else text).find(begin)
            if at >= 0:  # mostly not, and then nothing else is done
                places.append((at, number, begin))
    heapq.heapify(places)
    found: list[Span] = []  # a heap
    done = 0  # the end of the last secret
    give_up, looked = is_given_up.get(), 0
    while places or found:
        looked += 1
        if not looked % PLACES and give_up():
            raise GaveUp
        if found and not (places and places[0][0] <= found[0][0]):
            span = heapq.heappop(found)
            if span[0] >= done:
                yield span
                done = span[2]
            continue
        at, number, begin = places[0]
        rule, after = RULES[number], at + len(begin)
        if at < done:
            after = max(done, after)
        elif not rule.behind or at == done > 0 or not _is_within_word(rule, text, at):
            match = _compile(rule.pattern).match(text, at)
            if match:
                after = match.end()
                group = match.lastgroup or 0
                if rule.check(match.group(group)):
                    heapq.heappush(found, (match.start(group), number, match.end(group)))
        at = (folded if rule.folded else text).find(begin, after)
        if at >= 0:
            heapq.heapreplace(places, (at, number, begin))
        else:
            heapq.heappop(places)


def _fold(text: str) -> str:
    """The text in lower case, with unchanged positions: İ alone would become two characters."""
    return text.replace("İ", "i").lower()


def _is_within_word(rule: Rule, text: str, at: int) -> bool:
    """Whether this is the middle of a word, such as "task-…" or an image in base64. The letters of
    other alphabets, and those that end an escape, belong to no such word."""
    before = text[at - 1 : at]
    if not rule.behind or not before:
        return False
    if before in rule.behind:
        return True
    if not (before.isascii() and before.isalnum()):
        return False
    near = text[max(0, at - _ESCAPED) : at]
    if not any(mark in near for mark in "\\%\x1b\x9b"):
        return True
    return not _compile(_ESCAPE).search(near)


def _replace_spans(text: str, spans: list[Span]) -> str:
    pieces, at = [], 0
    for start, number, end in spans:
        pieces += [text[at:start], f"[redacted: {RULES[number].label}]"]
        at = end
    return "".join([*pieces, text[at:]])


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    flags = re.ASCII | re.IGNORECASE if pattern == _ESCAPE else re.ASCII
    return re.compile(pattern, flags)
