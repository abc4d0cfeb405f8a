"""The words of a prompt as a query of a full-text index, and text as the index has it."""

from __future__ import annotations

import re
from itertools import pairwise

from clinvk.store.search_text import normalize_text, separate_characters

MAX_TERMS = 48
EXAMINED = 20_000  # characters of a prompt
LONGEST = 60  # characters of a word
_WORD = re.compile(r"\w+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_COMMON = frozenset(
    "a about after all also an and any are as at be because been before but by can could did do does"  # noqa: SIM905 - or a hundred lines
    " don for from get give had has have he her here him his how i if in into is it its just let like"
    " make me my no not now of off on once one only or other our out over please same she should so"
    " some such tell than that the their them then there these they this those to too under until up"
    " us use very want was we were what when where which while who why will with would you your".split()
)


def index_text(text: str) -> str:
    """The text for the index: with the parts of names like `parseFile` beside them, and spaces
    between the characters of scripts without them."""
    parts = [part for word in dict.fromkeys(_WORD.findall(text)) for part in _parts(word)]
    whole = separate_characters(text).replace("\0", " ")
    return f"{whole} {' '.join(parts)}" if parts else whole


def match_of(prompt: str) -> str | None:
    """The query for passages that have any of the words; None if there are none."""
    terms: dict[str, None] = {}
    for word in _WORD.findall(prompt[:EXAMINED]):
        for part in (word, *word.split("_"), *_parts(word)):
            terms |= dict.fromkeys(_terms(part))
    chosen = [term for term in terms if term not in _COMMON] or list(terms)
    return " OR ".join(f'"{term}"' for term in chosen[:MAX_TERMS]) or None


def _parts(word: str) -> list[str]:
    """The parts of a name such as `parseFile`; none of another word."""
    if word.islower() or word.isupper() or word.isdigit() or word[1:].islower():
        return []
    parts = [part for part in _HUMP.split(word[:LONGEST]) if len(part) > 1]
    return parts if len(parts) > 1 else []


def _terms(word: str) -> list[str]:
    """A word; of a script without spaces between words, each two characters that follow each
    other, since the words are not known."""
    if word.isascii():
        return [word.lower()] if 1 < len(word) <= LONGEST else []
    pieces = separate_characters(normalize_text(word)).split()
    singles = [piece for piece in pieces if len(piece) == 1 and not piece.isascii()]
    whole = [piece for piece in pieces if 1 < len(piece) <= LONGEST]
    pairs = [f"{a} {b}" for a, b in pairwise(singles)]
    return [*whole, *(pairs or singles)]
