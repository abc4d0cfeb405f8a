"""What a misspelled word was meant to be."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def did_you_mean(word: str, known: Iterable[str], *, quote: Callable[[str], str] = repr) -> str:
    """`; did you mean 'prompt'?` for the end of a message; empty if no known word is near."""
    from difflib import get_close_matches  # 10 ms, and only on the way to an error

    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {quote(near[0])}?" if near else ""


def is_typo(word: str, name: str) -> bool:
    """Whether one letter was left out, added, replaced or swapped; or none."""
    if abs(len(word) - len(name)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(word, name, strict=False)) if a != b), None)
    if start is None:
        return True  # equal, or one letter at the end
    a, b = word[start:], name[start:]
    swapped = len(a) > 1 and len(b) > 1 and a[0] == b[1] and a[1] == b[0] and a[2:] == b[2:]
    return swapped or a[1:] == b[1:] or a[1:] == b or a == b[1:]
