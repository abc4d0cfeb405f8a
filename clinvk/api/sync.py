"""Blocking versions of async functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from clinvk.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")


def blocking(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """The blocking version of an async function."""

    @wraps(function)
    def wrapper(*args: P.args, **named: P.kwargs) -> T:
        return run_blocking(lambda: function(*args, **named), f"clinvk.{function.__name__}(...)")

    return wrapper


def refuse_event_loop(async_equivalent: str, keyword: str = "await") -> None:
    """Raise `UsageError` if an event loop is running here, which would be blocked."""
    # 45 ms, and needed only once something runs.
    import anyio

    try:
        anyio.current_time()
    except RuntimeError:  # the errors of anyio and sniffio derive from it
        return
    raise _event_loop_error(async_equivalent, keyword)


def _event_loop_error(async_equivalent: str, keyword: str = "await") -> UsageError:
    return UsageError(
        "an event loop is running here, and would be blocked until the end",
        f"in async code and in notebooks, use: {keyword} {async_equivalent}",
    )


def run_blocking(function: Callable[[], Awaitable[T]], async_equivalent: str) -> T:
    """The result of the async function. Raises `UsageError` if an event loop is running, which
    would be blocked: `awaited` is the async equivalent to use there."""
    # 45 ms, and needed only once something runs.
    import anyio

    begun = False

    async def main() -> T:
        nonlocal begun
        begun = True
        return await function()

    try:
        return anyio.run(main)
    except RuntimeError as error:
        if begun:
            raise
        raise _event_loop_error(async_equivalent) from error
