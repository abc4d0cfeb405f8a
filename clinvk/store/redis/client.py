"""A Redis server: connection, requests, and the meaning of its errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from clinvk.config.extras import install_hint
from clinvk.disk.closing import Closing
from clinvk.disk.waiting import check_may_block
from clinvk.errors import ConfigError, SessionError
from clinvk.text import addresses

CONNECT_TIMEOUT = 5.0  # seconds to connect, and for TLS
GREETING_TIMEOUT = 15.0  # seconds for the first answer: the server may be busy, or not Redis at all
ANSWER_TIMEOUT = 30.0  # seconds; a script with years of transcript takes less than one second
RETRY_INTERVAL = 0.5  # seconds until a lost connection is retried, once
# Of those who wait for a server that is restarted: 0.1, 0.2, 0.4, … 3 s, about half a minute.
PATIENT_RETRIES = 14
FIRST_WAIT = 0.05
LONGEST_WAIT = 3.0

REBUILD = "rebuild the index: clinvk sessions reindex"
_OTHER_STORE_HINT = (
    "or choose another store: session.storage in the configuration, or --storage-backend"
)


class WrongType(SessionError):  # noqa: N818 - reads as what it says
    """A key has an unexpected type: another program has written it."""


class RedisClient(Closing):
    """Raises `ConfigError` for an invalid address or a missing package, `SessionError` for all
    errors of the server; neither shows the password."""

    def __init__(self, url: str, *, patient: bool = False) -> None:
        """If `patient`, a server that is restarted, or cut off for some seconds, is no error."""
        redis = _import_redis()
        url = _checked(url)
        again = _retry(redis, patient=patient)
        self._tls = url.startswith("rediss:")
        self._met = False  # whether it has ever answered like a Redis server
        self._greeting_timeout: float | None = None  # of the newest connection
        self._closed = False
        try:
            self.client: Any = redis.Redis.from_url(
                url, connection_class=_impatient(tls=self._tls), redis_connect_func=self._greet,
                socket_connect_timeout=CONNECT_TIMEOUT, socket_timeout=ANSWER_TIMEOUT, retry=again, protocol=2,
            )  # fmt: skip
            self.client.connection_pool.make_connection()  # does not connect yet
        except (ValueError, TypeError, redis.RedisError) as error:
            # Neither the error nor its text: both may quote part of a password.
            raise _invalid(url, str(error)) from None
        about = self.client.connection_pool.connection_kwargs
        self.name = f"{about.get('host', 'localhost')}:{about.get('port', 6379)}"
        self._scripts: dict[str, Any] = {}

    def close(self) -> None:
        """Close the connections. A turn that is still running opens one again for each request."""
        self._closed = True
        self._hang_up()

    def run_script(self, script: str, keys: Sequence[str], values: Sequence[Any]) -> Any:
        """The result of a script, decoded if it is text."""
        known = self._scripts.get(script)
        if known is None:
            known = self._scripts[script] = self.client.register_script(script)
        with self.translate_errors() as _:
            answer = known(keys=keys, args=values)
        return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer

    @contextmanager
    def translate_errors(self) -> Iterator[Any]:
        """The client; its errors are translated into clinvk's."""
        check_may_block()
        redis = _import_redis()
        try:
            yield self.client
        except redis.RedisError as error:
            raise self._to_session_error(error) from error
        finally:
            if self._closed:
                self._hang_up()

    def _greet(self, connection: Any) -> None:
        """Set up a new connection. A server that has never answered has less time for its first
        answer than for later ones."""
        timeout = connection.socket_timeout
        if not self._met:
            timeout = self._greeting_timeout = min(timeout or GREETING_TIMEOUT, GREETING_TIMEOUT)
        connection._sock.settimeout(timeout)  # noqa: SLF001 - see `_impatient`
        connection.on_connect()
        connection._sock.settimeout(connection.socket_timeout)  # noqa: SLF001 - the same
        self._met = True

    def _hang_up(self) -> None:
        self.client.connection_pool.disconnect(inuse_connections=False)

    def _to_session_error(self, error: Exception) -> SessionError:
        if "WRONGTYPE" in str(error):
            return WrongType(f"redis at {self.name}: {error}", REBUILD)
        found = None
        if not self._met:
            found = _strange(error, tls=self._tls, greeting_timeout=self._greeting_timeout)
        said, hint = found or _explain_error(error)
        return SessionError(f"redis at {self.name}: {said}", hint)


def _retry(redis: Any, *, patient: bool) -> Any:
    """When a request is sent again. Normally once only: a server that was restarted answers then,
    and one that is down should be reported as down."""
    lost = redis.exceptions.ConnectionError
    if not patient:  # a silent one will not answer the next time
        wait = redis.backoff.ConstantBackoff(RETRY_INTERVAL)
        return redis.retry.Retry(wait, 1, supported_errors=(lost,))
    wait = redis.backoff.ExponentialBackoff(cap=LONGEST_WAIT, base=FIRST_WAIT)
    silent = redis.exceptions.TimeoutError
    return redis.retry.Retry(wait, PATIENT_RETRIES, supported_errors=(lost, silent))


def _checked(url: str) -> str:
    """The address with a lower-case scheme, as redis-py requires. Raises `ConfigError` for an
    unknown parameter."""
    scheme, _, rest = url.partition("://")
    known: tuple[str, ...] = addresses.PARAMETERS
    if scheme.lower() == "rediss":
        known += addresses.TLS_PARAMETERS
    for parameter in filter(None, rest.partition("?")[2].split("&")):
        name = parameter.partition("=")[0]
        if name not in known:
            raise _unknown(url, name, known)
    return f"{scheme.lower()}://{rest}"


def _unknown(url: str, name: str, known: tuple[str, ...]) -> ConfigError:
    from clinvk.text.typed import unknown_key  # only on the way to an error

    shown = unknown_key(name, known).replace("key", "parameter", 1)
    if name in addresses.TLS_PARAMETERS:
        shown += ", which is only valid with rediss://"
    return ConfigError(
        f"session.storage: {addresses.mask_password(url)!r}: {shown}",
        f"known: {', '.join(known)}",
    )


def _invalid(url: str, error: str) -> ConfigError:
    known = addresses.PARAMETERS + addresses.TLS_PARAMETERS
    name = next((name for name in known if f"'{name}'" in error), None)
    return ConfigError(
        f"session.storage: {addresses.mask_password(url)!r}: invalid value"
        + (f" of {name!r}" if name else ""),
        "times are seconds, db is a number; leave the parameter out for its default",
    )


def _strange(
    error: Exception, *, tls: bool, greeting_timeout: float | None
) -> tuple[str, str] | None:
    """The error and hint for a server that has never answered and may not be Redis.
    `greeting_timeout` is the time in seconds for its first answer, once it was connected."""
    # 60 ms, and an extra.
    from redis import exceptions as e

    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
        return (
            f"its certificate is not trusted ({text})",
            "set the file of its certificate authority in session.storage: rediss://…?ssl_ca_certs=FILE",
        )
    other = "redis://" if tls else "rediss://"
    hint = f"if that port {'has no' if tls else 'requires'} TLS, write {other} in session.storage"
    if isinstance(error, e.TimeoutError):
        if greeting_timeout is not None:
            said = f"it accepts connections, but does not answer within {greeting_timeout:g} s"
            retry = "the server may be busy: try again later"
            return f"{said} ({text})", retry if tls else f"{retry}; {hint}"
        if tls:
            return f"the TLS handshake failed ({text})", f"{hint}; otherwise check the server"
        return None
    if isinstance(error, e.InvalidResponse):
        return f"it does not answer as a Redis server ({text})", hint
    if isinstance(error, e.ConnectionError) and any(word in text for word in _HUNG_UP):
        return f"it closes the connection at once ({text})", hint
    return None


_HUNG_UP = ("SSL", "EOF", "closed by server", "reset by peer")


def _explain_error(error: Exception) -> tuple[str, str | None]:
    # 60 ms, and an extra.
    from redis import exceptions as e

    text = str(error)
    if isinstance(error, e.AuthenticationError) or "NOAUTH" in text or "unauthenticated" in text:
        return f"it rejects the user or the password ({text})", "check those in session.storage"
    if isinstance(error, e.NoPermissionError):
        return f"this user may not do that ({text})", "give it the keys clinvk:* and EVALSHA"
    if isinstance(error, e.BusyLoadingError):
        return "it is still reading its data", "try again in a moment"
    if isinstance(error, e.TimeoutError):
        return f"it does not answer ({text})", f"check the server, {_OTHER_STORE_HINT}"
    if isinstance(error, e.ConnectionError):
        return f"it cannot be reached ({text})", f"start it, {_OTHER_STORE_HINT}"
    if isinstance(error, e.ReadOnlyError):
        return "it is a read-only replica", "name the primary server"
    if "DB index" in text:
        return (
            f"it has no database with this number ({text})",
            "most servers have 0 to 15: change the number after the host in session.storage",
        )
    if "MISCONF" in text:
        return "it cannot write to its disk, and accepts no writes", "check the server's disk"
    if isinstance(error, e.OutOfMemoryError) or "OOM" in text:
        return (
            "its memory is full, and it accepts no writes",
            "raise maxmemory, or delete sessions, e.g. with: clinvk sessions clean --older-than 30d",
        )
    return text, None


@cache
def _impatient(*, tls: bool) -> Any:
    """A redis-py connection whose timeout for TLS is that for connecting; its own classes use the
    long timeout for answers."""
    # 60 ms, and an extra.
    from redis import connection as kinds

    kind: Any = kinds.SSLConnection if tls else kinds.Connection

    class Impatient(kind):  # type: ignore[misc]
        socket_timeout: float

        def _connect(self) -> Any:
            patient, self.socket_timeout = self.socket_timeout, self.socket_connect_timeout
            try:
                return super()._connect()
            finally:
                self.socket_timeout = patient

    return Impatient


def _import_redis() -> Any:
    """The redis package: 60 ms, and an extra, so only for a store on a server."""
    try:
        # 60 ms, and an extra.
        import redis.backoff
        import redis.exceptions
        import redis.retry
    except ImportError:
        raise ConfigError(
            "session.storage: the package that talks to redis is not installed",
            install_hint("redis"),
        ) from None
    return redis
