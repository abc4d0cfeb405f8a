"""What a command opens is closed when it ends, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar


class Opened(Protocol):
    def close(self) -> None: ...


H = TypeVar("H", bound=Opened)
T = TypeVar("T")

_opened: ContextVar[ExitStack | None] = ContextVar("opened", default=None)


@contextmanager
def closing_all() -> Iterator[None]:
    """Close at the end of the block what was opened inside with `until_end`."""
    with ExitStack() as stack:
        before = _opened.set(stack)
        try:
            yield
        finally:
            _opened.reset(before)


def enter_until_end(manager: AbstractContextManager[T]) -> T:
    """Enter a context, which is left when the command ends, however it ends."""
    stack = _opened.get()
    assert stack is not None  # noqa: S101 - commands run in `main` alone
    return stack.enter_context(manager)


def until_end(opened: H) -> H:
    """Return the argument, which is closed when the command ends."""
    stack = _opened.get()
    assert stack is not None  # noqa: S101 - commands run in `main` alone
    stack.callback(opened.close)
    return opened
