"""Suggestions for misspelled words."""

from __future__ import annotations

from collections.abc import Callable, Iterable

MOST = 2  # names that are suggested
LONG = 5  # letters from which on a word may have two typos
PREFIX = 4  # letters that may stand for a longer word


def did_you_mean(word: str, known: Iterable[str], *, quote: Callable[[str], str] = repr) -> str:
    """`; did you mean 'prompt'?` for the end of a message; empty if no known word is near."""
    from difflib import get_close_matches  # 10 ms, and only on the way to an error

    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {quote(near[0])}?" if near else ""


def similar(word: str, names: Iterable[str], *, most: int = MOST) -> list[str]:
    """The names that differ from `word` by a typo or an ending, the nearest first."""
    plain = _plain(word)
    ranked = []
    for name in dict.fromkeys(names):
        if (other := _plain(name)) == plain:
            return [name]
        mistakes = edits(plain, other)
        if mistakes <= _allowed(plain, other):
            ranked.append((mistakes, name))
        elif len(plain) >= PREFIX and other.startswith(f"{plain}-"):
            ranked.append((LONG, name))  # any misspelled one is nearer
    if not ranked:
        return []
    least = min(rank for rank, _ in ranked)
    return sorted(name for rank, name in ranked if rank == least)[:most]


def _plain(word: str) -> str:
    return word.lstrip("-").replace("_", "-").lower()


def _allowed(a: str, b: str) -> int:
    """The number of typos that leave a word recognizable."""
    shortest = min(len(a), len(b))
    return 0 if shortest < 2 else 1 if shortest < LONG else 2


def edits(a: str, b: str) -> int:
    """How many letters were left out, added, replaced or swapped with the next one."""
    if abs(len(a) - len(b)) > 2:
        return 3  # more than any caller needs
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, above, row = row, before, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
    return row[-1]
