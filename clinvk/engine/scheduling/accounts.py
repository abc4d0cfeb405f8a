"""The accounts of backends on the nodes of a cluster: a rate limit is that of an account, so another
node may run a task that has met one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import anyio

from clinvk.engine.scheduling.backend_pool import BackendPool
from clinvk.model.outcome import Outcome

FreeAccounts = Callable[[str], Awaitable[frozenset[str]]]  # of a backend, those at no rate limit
LOOK_INTERVAL = 5.0  # seconds between looks at whether a backend that is waited for has one


class Accounts:
    """`free_accounts` is None if each backend has one account."""

    def __init__(self, backends: BackendPool, free_accounts: FreeAccounts | None) -> None:
        self._backends = backends
        self._free_accounts = free_accounts
        self._free_before: dict[str, frozenset[str]] = {}  # those when the backend was paused
        self._next_look = 0.0
        self._limited_on: dict[int, set[str]] = {}  # nodes on which a task has met a rate limit

    def begin_paused(self, backends: Iterable[str]) -> None:
        """These backends are at a rate limit on all accounts that are known."""
        self._free_before |= dict.fromkeys(backends, frozenset())

    async def end_pauses(self) -> None:
        """Go on with backends that are waited for if they have an account at no rate limit that was not
        there before: a worker has come, or the limit was cleared."""
        free_accounts = self._free_accounts
        if free_accounts is None or not self._free_before:
            return
        if anyio.current_time() < self._next_look:
            return
        self._next_look = anyio.current_time() + LOOK_INTERVAL
        for backend, before in list(self._free_before.items()):
            if not self._backends.is_waited_for(backend):
                del self._free_before[backend]
            elif await free_accounts(backend) - before:
                self._backends.end_pause(backend)
                del self._free_before[backend]

    async def has_another(self, outcome: Outcome) -> bool:
        """Whether a node with another account may run a task now that has met a rate limit. At most
        once for each node, since nodes know little of each other."""
        if self._free_accounts is None:
            return False
        tried = self._limited_on.setdefault(outcome.index, set())
        backend, node = outcome.backend or "", outcome.node
        free = await self._free_accounts(backend)
        if node is None or node in tried or not free:
            tried.clear()
            self._free_before[backend] = free
            return False
        tried.add(node)
        return True
