"""The server that has the records of runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinvk.cluster import address as addresses
from clinvk.cluster.address import Address
from clinvk.cluster.keys import Keys
from clinvk.cluster.server_errors import explain
from clinvk.disk.closing import Closing

if TYPE_CHECKING:
    import redis

Id = tuple[int, int]  # of an entry of a stream

PAGE = 1000  # entries that are read at a time


class LogServer(Closing):
    """A connection to the server of a cluster. Raises `SessionError` for all errors of the
    server."""

    def __init__(self, client: redis.Redis, address: Address) -> None:
        self.client = client
        self.keys = Keys.of(address.name)
        self.address = address
        self._scripts: dict[str, Any] = {}

    @property
    def place(self) -> str:
        return self.address.place

    def close(self) -> None:
        self.client.close()

    def run(self, script: str, keys: Sequence[str], values: Sequence[Any] = ()) -> Any:
        """The answer of a script; text is decoded."""
        known = self._scripts.get(script)
        if known is None:
            known = self._scripts[script] = self.client.register_script(script)
        with self.errors():
            answer = known(keys=keys, args=values)
        return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of redis-py inside are translated."""
        # 60 ms, and an extra.
        from redis import RedisError

        try:
            yield
        except (RedisError, OSError) as error:
            raise explain(error, self.place, is_tls=self.address.is_tls) from error

    def page(self, stream: str, after: Id, until: Id | None = None) -> list[tuple[Id, Any]]:
        """The next entries of a stream after this one: the id and the fields of each."""
        low, high = format_id((after[0], after[1] + 1)), format_id(until) if until else "+"
        with self.errors():
            found: Any = self.client.xrange(stream, low, high, count=PAGE)
        return [(parse_id(i), fields) for i, fields in found]

    def entries(self, stream: str, after: Id, until: Id | None = None) -> Iterator[tuple[Id, Any]]:
        """All entries of a stream in this range."""
        while page := self.page(stream, after, until):
            yield from page
            after = page[-1][0]
            if len(page) < PAGE:
                return


START: Id = (0, 0)  # before the first entry


def parse_id(text: bytes) -> Id:
    low, _, high = text.partition(b"-")
    return int(low), int(high)


def format_id(of: Id) -> str:
    return f"{of[0]}-{of[1]}"


def open_server(address: Address, *, ca: Path | None = None) -> LogServer:
    """Raises `ConfigError`, and `SessionError` if the server does not answer."""
    return LogServer(addresses.connect_to(address, ca=ca), address)
