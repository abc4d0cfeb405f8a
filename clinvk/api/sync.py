"""What is awaited, for code without an event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from clinvk.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")


def blocking(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """The same for code without an event loop."""

    @wraps(function)
    def wrapper(*args: P.args, **named: P.kwargs) -> T:
        return run_blocking(lambda: function(*args, **named), f"clinvk.{function.__name__}(...)")

    return wrapper


def run_blocking(function: Callable[[], Awaitable[T]], async_equivalent: str) -> T:
    """What the function comes to. Raises `UsageError` where there is an event loop already, which
    would stand still: `awaited` is what belongs there."""
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
        raise UsageError(
            "an event loop is running here, and would stand still until the end",
            f"in async code, and in a notebook, say: await {async_equivalent}",
        ) from error
