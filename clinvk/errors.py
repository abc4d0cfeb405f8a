"""Errors before a program runs, each with an exit code that scripts can rely on.

    ClinvkError (1)
    ├── UsageError (1)
    ├── NotInstalledError (2)
    ├── ConfigError (3)
    ├── SessionError (4)
    │   └── SessionNotFound (4, also a FileNotFoundError)
    └── LimitError (75)

Once a program runs, its failure is an outcome, not an exception: see `model.result.Failure`, and
`model.result.TurnError` for interfaces that return nothing but an answer.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in `typing`, which takes 5 ms
if TYPE_CHECKING:
    from datetime import datetime


class ClinvkError(Exception):
    """Something that the user can fix: what happened, and what to do next. Neither shows the
    password of an address."""

    kind: str = "error"
    exit_code: int = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = _without_passwords(message)
        self.hint = hint and _without_passwords(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class UsageError(ClinvkError):
    kind = "usage"


class NotInstalledError(ClinvkError):
    kind = "not_installed"
    exit_code = 2


class ConfigError(ClinvkError):
    kind = "config"
    exit_code = 3


class SessionError(ClinvkError):
    kind = "session"
    exit_code = 4


class SessionNotFound(SessionError, FileNotFoundError):  # noqa: N818 - the published name
    """There is no session with that id, prefix or name."""


class LimitError(ClinvkError):
    """`backend` is at a rate limit that it reported earlier, which ends at `retry_at`."""

    kind = "limit"
    exit_code = 75

    def __init__(
        self, message: str, hint: str | None = None, *, backend: str, retry_at: datetime
    ) -> None:
        super().__init__(message, hint)
        self.backend = backend
        self.retry_at = retry_at


def _without_passwords(text: str) -> str:
    if "://" not in text:
        return text
    # 3 ms, and few messages hold an address.
    from clinvk.text.addresses import without_passwords

    return without_passwords(text)
