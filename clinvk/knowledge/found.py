"""The passages that match a prompt best, for that prompt."""

from __future__ import annotations

from collections.abc import Callable

from clinvk.knowledge.index import Match
from clinvk.knowledge.part import Piece, size_of

MAX_BYTES = 30_000  # of passages in a prompt
MAX_PASSAGES = 24
CANDIDATES = 60  # that are ranked
LEAST = 0.2  # of the best score, below which a passage is left out


def choose(matches: list[Match], describe: Callable[[Match], str]) -> tuple[list[Piece], int, int]:
    """The best passages that fit, the number of their documents, and their size in bytes. Those of
    one document are in its order."""
    chosen: list[Match] = []
    size = 0
    for match in matches[:MAX_PASSAGES]:
        length = size_of(match.passage.text)
        if match.score < LEAST * matches[0].score:
            break
        if size + length <= MAX_BYTES:
            chosen.append(match)
            size += length
    names = list(dict.fromkeys(match.name for match in chosen))
    chosen.sort(key=lambda match: (names.index(match.name), match.passage.line))
    pieces = [Piece(describe(match), match.passage.text) for match in chosen]
    return pieces, len(names), size
