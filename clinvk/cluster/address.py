"""The address of a cluster, `rediss://USER:PASSWORD@HOST:6379/0?name=NAME`, and the connection to its
server."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from msgspec import Struct
from msgspec.structs import replace

from clinvk.cluster.keys import DEFAULT_NAME
from clinvk.cluster.server_errors import explain
from clinvk.config.cluster_values import PLACE, address_problem, parameters
from clinvk.config.extras import install_hint
from clinvk.disk.waiting import check_may_block
from clinvk.errors import ConfigError
from clinvk.text import addresses

if TYPE_CHECKING:
    import redis

CONNECT_TIMEOUT = 5.0  # seconds to connect, and for TLS
ANSWER_TIMEOUT = 30.0  # seconds
# A server that was restarted reads its data for some seconds. The waits are 0.1, 0.2, 0.4, … 3 s,
# so that they add up to half a minute.
RETRIES = 14
FIRST_WAIT = 0.05
LONGEST_WAIT = 3.0


class Address(Struct, frozen=True):
    """A checked address. `url` is what Redis clients accept, with its password: never show it."""

    url: str
    name: str  # of the cluster; several can share a server
    host: str
    port: int
    is_tls: bool

    @property
    def place(self) -> str:
        """The server, for messages."""
        return f"{self.host}:{self.port}"

    @property
    def shown(self) -> str:
        """The address without its password, which says the same however it was written."""
        parts = urlsplit(self.url)
        query = parse_qsl(parts.query, keep_blank_values=True)
        given = dict(query)
        place = parts.netloc.rpartition("@")[2]
        user = parts.username or quote(given.get("username", ""), safe="")
        if parts.password or given.get("password"):
            user += f":{addresses.HIDDEN}"
        rest = [(k, v) for k, v in query if k not in ("username", "password")]
        name = [] if self.name == DEFAULT_NAME else [("name", self.name)]
        kept = parts._replace(
            netloc=f"{user}@{place}" if user else place, query=urlencode([*rest, *name], safe="/:")
        )
        return addresses.mask_password(urlunsplit(kept))

    @property
    def is_local(self) -> bool:
        return is_loopback(self.host)

    @property
    def without_password(self) -> Address:
        """The same server, for a client that does not say who it is."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        query = [(k, v) for k, v in parse_qsl(parts.query) if k not in ("username", "password")]
        url = urlunsplit(parts._replace(netloc=host, query=urlencode(query)))
        return replace(self, url=url)


def parse(url: str, *, insecure: bool = False) -> Address:
    """The address of a cluster. A server on another machine needs a password, unless `insecure`.
    Raises `ConfigError`, which does not show the password."""
    url = url.strip()
    if found := address_problem(url):
        shown = addresses.mask_password(url)
        raise ConfigError(f"the address of the cluster {shown!r}: {found[0]}", found[1])
    name, url = _split_name(url)
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    address = Address(
        url=url, name=name, host=unquote(parts.hostname or "localhost"),
        port=parts.port or 6379, is_tls=parts.scheme == "rediss",
    )  # fmt: skip
    has_password = bool(parts.password or query.get("password"))
    if not (has_password or insecure or address.is_local):
        raise ConfigError(
            f"the address of the cluster has no password, and {address.host} is not this machine: "
            "everyone who reaches the server could run commands on the workers",
            f"set a password in Redis and {PLACE}; if you trust the whole network: --insecure",
        )
    return address


def _split_name(url: str) -> tuple[str, str]:
    """The name of the cluster, and the address without it."""
    given = parameters(url)
    names = [unquote(value) for key, value in given if key == "name"]
    kept = "&".join(f"{key}={value}" for key, value in given if key != "name")
    scheme, _, rest = url.partition("?")[0].partition("://")
    return names[-1] if names else DEFAULT_NAME, f"{scheme.lower()}://{rest}" + f"?{kept}" * bool(
        kept
    )


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def connect(url: str, *, ca: Path | None = None, insecure: bool = False) -> redis.Redis:
    """A client of the cluster's server, which has answered once. From then on it retries for half a
    minute, so that a restart of the server is no error. `ca` is the certificate of the authority that
    signed the server's. Raises `ConfigError`, and `SessionError` if the server does not answer; neither
    shows the password."""
    return connect_to(parse(url, insecure=insecure), ca=ca)


def connect_to(address: Address, *, ca: Path | None = None) -> redis.Redis:
    """See `connect`."""
    lib = _import_redis()
    client = open_client(address, ca)
    try:
        client.ping()
    except (lib.RedisError, OSError) as error:
        client.close()
        raise explain(error, address.place, is_tls=address.is_tls) from error
    lost = lib.exceptions
    client.set_retry(
        lib.retry.Retry(
            lib.backoff.ExponentialBackoff(cap=LONGEST_WAIT, base=FIRST_WAIT),
            RETRIES,
            supported_errors=(
                lost.ConnectionError, lost.TimeoutError, lost.BusyLoadingError, OSError,
            ),
        )
    )  # fmt: skip
    return client


def open_client(address: Address, ca: Path | None) -> redis.Redis:
    """A client that has not connected yet, and does not retry. Raises `ConfigError`."""
    check_may_block()
    lib = _import_redis()
    more: dict[str, Any] = {}
    if ca is not None:
        _check_authority(address, ca)
        more["ssl_ca_certs"] = str(ca)
    try:
        client: redis.Redis = lib.Redis.from_url(
            address.url, socket_connect_timeout=CONNECT_TIMEOUT, socket_timeout=ANSWER_TIMEOUT,
            decode_responses=False, retry=lib.retry.Retry(lib.backoff.NoBackoff(), 0), **more,
        )  # fmt: skip
        client.connection_pool.make_connection()  # does not connect yet
    except (ValueError, TypeError, lib.RedisError):
        # Not the text of the error: it may quote part of a password.
        raise ConfigError(
            f"the address of the cluster {addresses.mask_password(address.url)!r} has an invalid parameter",
            "times are seconds, db is a number; leave a parameter out for its default",
        ) from None
    return client


def _check_authority(address: Address, ca: Path) -> None:
    if not address.is_tls:
        raise ConfigError(
            "a certificate authority is of no use without TLS",
            "write rediss:// in the address of the cluster, or leave the certificate out",
        )
    if not ca.is_file():
        raise ConfigError(
            f"the file of the certificate authority does not exist: {ca}", "copy it to this machine"
        )


def _import_redis() -> Any:
    try:
        # 60 ms, and an extra.
        import redis.backoff
        import redis.exceptions
        import redis.retry
    except ImportError:
        raise ConfigError(
            "a cluster needs packages that are not installed", install_hint("cluster")
        ) from None
    return redis
