"""Errors of the cluster's server as sentences with a next step."""

from __future__ import annotations

from collections.abc import Callable

from clinvk.errors import SessionError
from clinvk.model.result import Failure

FULL = "used memory > 'maxmemory'"
_HUNG_UP = ("SSL", "EOF", "closed by server", "reset by peer", "Connection reset")
RIGHTS = "give it the rights that the documentation of clusters lists"


def explain(error: Exception, place: str, *, is_tls: bool = False) -> SessionError:
    """The error of clinvk for one of redis-py, or of Celery because of one."""
    # 60 ms, and an extra.
    from redis import RedisError

    cause = error.__cause__
    if isinstance(cause, RedisError) and not isinstance(error, RedisError):
        error = cause
    said, hint = _explain(error, is_tls=is_tls)
    return SessionError(f"the cluster's redis at {place}: {said}", hint)


class Outage:
    """What a run says about a server that refuses, or does not answer, and is asked again."""

    def __init__(self, place: str, *, is_tls: bool = False) -> None:
        self._place = place
        self._is_tls = is_tls
        self._told = ""

    def tell(self, error: Exception, notify: Callable[[str], None]) -> None:
        """Say it, unless that was the last that was said."""
        text = f"{self._explain(error).message}; waiting for it"
        if text != self._told:
            self._told = text
            notify(text)

    def end(self) -> None:
        """It has answered."""
        self._told = ""

    def failure(self, error: Exception) -> Failure:
        """Of an attempt that the server has not accepted."""
        # 60 ms, and an extra.
        from redis import ResponseError

        said = self._explain(error)
        if isinstance(error, ResponseError):
            return Failure("not_started", said.message, said.hint)
        return Failure("indeterminate", f"{said.message}; it may be running", said.hint)

    def _explain(self, error: Exception) -> SessionError:
        return explain(error, self._place, is_tls=self._is_tls)


def _explain(error: Exception, *, is_tls: bool) -> tuple[str, str]:
    # 60 ms, and an extra.
    from redis import exceptions as e

    text = str(error)
    other = "redis://" if is_tls else "rediss://"
    hint = f"if that port {'has no' if is_tls else 'requires'} TLS, write {other} in the address"
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
        return (
            f"its certificate is not trusted ({text})",
            "name the file of the authority that signed it: rediss://…?ssl_ca_certs=FILE",
        )
    if any(word in text for word in _NO_PASSWORD):
        # After a scheme, messages would hide it.
        return "the server wants a password", "add it to the address: :PASSWORD@ before the host"
    if isinstance(error, e.AuthenticationError) or any(word in text for word in _REJECTED):
        return f"it rejects the user or the password ({text})", "check those in the address"
    if isinstance(error, e.NoPermissionError):
        return f"this user may not do that ({text})", RIGHTS
    if isinstance(error, e.BusyLoadingError):
        return "it is still reading its data", "try again in a moment"
    if isinstance(error, e.InvalidResponse):
        return f"it does not answer as a Redis server ({text})", hint
    if isinstance(error, e.TimeoutError):
        return f"it does not answer ({text})", f"check the server and the network; {hint}"
    if isinstance(error, (e.ConnectionError, OSError)):
        if any(word in text for word in _HUNG_UP):
            return f"it closes the connection ({text})", hint
        return f"it cannot be reached ({text})", "start it, or correct the address of the cluster"
    return _explain_answer(error, text)


_NO_PASSWORD = ("NOAUTH", "HELLO must be called", "Authentication required")
_REJECTED = ("WRONGPASS", "unauthenticated", "without any password configured")


def _explain_answer(error: Exception, text: str) -> tuple[str, str]:
    """Of a server that has accepted the connection."""
    # 60 ms, and an extra.
    from redis import exceptions as e

    if isinstance(error, e.ReadOnlyError):
        return "it is a read-only replica", "name the primary server"
    if isinstance(error, e.OutOfMemoryError) or FULL in text:
        return (
            "its memory is full, and it accepts no writes",
            "raise maxmemory there",
        )
    if "MISCONF" in text:
        return "it cannot write to its disk, and accepts no writes", "check the server's disk"
    if "DB index" in text:
        return (
            f"it has no database with this number ({text})",
            "most servers have 0 to 15: change the number after the host",
        )
    if "unknown command" in text.lower():
        return (
            f"it lacks a command ({text})",
            "use Redis itself, or a server that is compatible with it",
        )
    return text, "see the log of the server"
