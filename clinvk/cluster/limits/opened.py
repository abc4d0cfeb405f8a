"""The rate limits of a cluster, for people who list and clear them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clinvk.cluster.address import Address, connect_to
from clinvk.cluster.keys import Keys
from clinvk.cluster.limits.shared import SharedLimits
from clinvk.cluster.server_errors import explain
from clinvk.disk.closing import Closing
from clinvk.dispatch.remembered_limits import AccountLimits


class ClusterLimits(Closing):
    """A connection to the server. Raises `ClinvkError`."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._client = connect_to(address)
        self._limits = SharedLimits(self._client, Keys.of(address.name))

    def close(self) -> None:
        self._client.close()

    def list_all(self) -> list[AccountLimits]:
        """The limits of all accounts."""
        with self._errors():
            return self._limits.list_all()

    def clear(self, backend: str | None = None) -> int:
        """Forget all limits, or those of one backend, also on the workers; returns their number."""
        with self._errors():
            return self._limits.clear(backend)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        # 60 ms, and an extra.
        from redis import RedisError

        try:
            yield
        except (RedisError, OSError) as error:
            raise explain(error, self.address.place, is_tls=self.address.is_tls) from error
