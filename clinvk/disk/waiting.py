"""How long a store call may block its thread. A call that would block longer raises `WouldWait`
before it has changed anything, so it can be repeated elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum

from clinvk.errors import SessionError

BRIEF = 0.05  # seconds


class Patience(Enum):
    FULL = "full"  # the default: the call takes as long as it needs
    BRIEF = "brief"  # in a thread: its own work, and a brief wait for other processes
    NONE = "none"  # on an event loop: only what takes a moment


_patience: ContextVar[Patience] = ContextVar("patience", default=Patience.FULL)


class WouldWait(Exception):  # noqa: N818 - reads as what it says
    """The call would block longer than it may. Nothing has been changed.

    `error` is what to raise if repeating the call for `timeout` seconds did not help. With
    `is_held`, a lock is held, mostly for less than a hundredth of a second."""

    def __init__(
        self, error: SessionError, timeout: float = float("inf"), *, is_held: bool = False
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.timeout = timeout
        self.is_held = is_held


@contextmanager
def limit_patience(patience: Patience) -> Iterator[None]:
    """Limit how long store calls inside may block."""
    token = _patience.set(patience)
    try:
        yield
    finally:
        _patience.reset(token)


def lock_timeout() -> float | None:
    """Seconds to wait for a lock that another process holds; None: no limit."""
    match _patience.get():
        case Patience.FULL:
            return None
        case Patience.BRIEF:
            return BRIEF
        case Patience.NONE:
            return 0.0


def check_may_block() -> None:
    """Raise `WouldWait` on an event loop. Call it before work that takes more than a moment."""
    if _patience.get() is Patience.NONE:
        raise WouldWait(SessionError("the call blocks, and was made on an event loop"))
