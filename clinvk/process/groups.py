"""Unwrap exceptions raised in a task group: the groups around them are internal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unwrap_single_exception() -> Iterator[None]:
    """Raise a single exception without its groups."""
    try:
        yield
    except BaseExceptionGroup as group:
        lone: BaseException = group
        while isinstance(lone, BaseExceptionGroup) and len(lone.exceptions) == 1:
            lone = lone.exceptions[0]
        raise lone from lone.__cause__


@contextmanager
def raise_first(*kinds: type[Exception]) -> Iterator[None]:
    """Raise the first of several exceptions if all are of these kinds, since they usually share a
    cause."""
    try:
        yield
    except BaseExceptionGroup as group:
        first, *others = _leaves(group)
        if not all(isinstance(error, kinds) for error in (first, *others)):
            raise
        raise first from first.__cause__


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
