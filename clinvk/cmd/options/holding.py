"""What a command opens is closed when it has ended, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar


class Opened(Protocol):
    def close(self) -> None: ...


H = TypeVar("H", bound=Opened)

_opened: ContextVar[ExitStack | None] = ContextVar("opened", default=None)


@contextmanager
def closing_all() -> Iterator[None]:
    """What is opened inside, with `until_end`, is closed at the end of the block."""
    with ExitStack() as stack:
        before = _opened.set(stack)
        try:
            yield
        finally:
            _opened.reset(before)


def until_end(opened: H) -> H:
    """The same, to be closed when the command has ended."""
    stack = _opened.get()
    assert stack is not None  # noqa: S101 - commands run in `main` alone
    stack.callback(opened.close)
    return opened
