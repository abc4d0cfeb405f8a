"""The parts that only one of several texts contains.

Texts are aligned by their lines, and lines that differ by their words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import groupby

from msgspec import Struct

# A word, or any other character, each with the spaces before it; Chinese and Japanese are read by
# the character.
_WORD = re.compile(r"\s*(?:[^\W\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]+|\S)|\s+")
_LINE = re.compile(r"[^\n]*\n+|[^\n]+")  # empty ones belong to the previous one

SIMILAR_RATIO = 0.5  # lines that share so much are one line in two versions
MIN_RUN = 4  # consecutive words that are not a coincidence if lines differ
MAX_WORD_PAIRS = 9_000_000  # pairs of words that are compared; beyond that, whole lines are marked
MAX_LINE_PAIRS = 25_000_000  # pairs of lines


class Piece(Struct, frozen=True):
    """A part of a text, and whether only this text has it."""

    text: str
    is_unique: bool


def mark_unique(texts: Sequence[str]) -> list[list[Piece]]:
    """Each text in pieces; unique ones are, in the first, what no other one has, and in the others,
    what the first one lacks."""
    if not texts:
        return []
    first = [True] * len(texts[0])
    masks = []
    for other in texts[1:]:
        in_first, in_other = find_unique(texts[0], other)
        first = [a and b for a, b in zip(first, in_first, strict=True)]
        masks.append(in_other)
    if len(texts) == 1:
        first = [False] * len(texts[0])
    return [list(_pieces(t, m)) for t, m in zip(texts, [first, *masks], strict=True)]


def find_unique(a: str, b: str) -> tuple[list[bool], list[bool]]:
    """For each character of two texts, whether the other text lacks it. The rest of both is the
    same."""
    mine, theirs = _LINE.findall(a), _LINE.findall(b)
    if len(mine) * len(theirs) > MAX_LINE_PAIRS:
        return _all_unique(a, b)
    in_a: list[bool] = []
    in_b: list[bool] = []
    for tag, i, j, k, m in SequenceMatcher(None, mine, theirs).get_opcodes():
        left, right = "".join(mine[i:j]), "".join(theirs[k:m])
        if tag == "equal":
            found = [False] * len(left), [False] * len(right)
        else:
            found = _find_unique_words(left, right)
        in_a += found[0]
        in_b += found[1]
    return in_a, in_b


def _find_unique_words(a: str, b: str) -> tuple[list[bool], list[bool]]:
    mine, theirs = _WORD.findall(a), _WORD.findall(b)
    if not mine or not theirs or len(mine) * len(theirs) > MAX_WORD_PAIRS:
        return _all_unique(a, b)
    matcher = SequenceMatcher(None, mine, theirs)
    # Any two texts share some words: marking all but those would be hard to read.
    least = 1 if matcher.ratio() >= SIMILAR_RATIO else MIN_RUN
    in_a, in_b = _all_unique(a, b)
    ends_a, ends_b = _word_offsets(mine), _word_offsets(theirs)
    for i, k, size in matcher.get_matching_blocks():
        if size >= least:
            length = ends_a[i + size] - ends_a[i]
            in_a[ends_a[i] : ends_a[i + size]] = [False] * length
            in_b[ends_b[k] : ends_b[k + size]] = [False] * length
    return in_a, in_b


def _all_unique(a: str, b: str) -> tuple[list[bool], list[bool]]:
    return [True] * len(a), [True] * len(b)


def _word_offsets(words: Sequence[str]) -> list[int]:
    """The start of each word, and the end of the text."""
    ends = [0]
    for word in words:
        ends.append(ends[-1] + len(word))
    return ends


def _pieces(text: str, mask: Sequence[bool]) -> Iterator[Piece]:
    at = 0
    for is_own, group in groupby(mask):
        length = sum(1 for _ in group)
        yield Piece(text[at : at + length], is_own)
        at += length
