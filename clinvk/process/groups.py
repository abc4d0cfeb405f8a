"""What was raised inside of a task group, as it was: the groups around it are our own affair."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unwrap_single_exception() -> Iterator[None]:
    """Raise an exception that is alone in its groups without them."""
    try:
        yield
    except BaseExceptionGroup as group:
        lone: BaseException = group
        while isinstance(lone, BaseExceptionGroup) and len(lone.exceptions) == 1:
            lone = lone.exceptions[0]
        raise lone from lone.__cause__


@contextmanager
def raise_first(*kinds: type[Exception]) -> Iterator[None]:
    """Raise the first of several exceptions, if all are of these kinds: mostly they have one
    reason."""
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
