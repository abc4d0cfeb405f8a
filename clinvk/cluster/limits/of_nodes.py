"""At which rate limits the workers of a cluster are, as those see it who submit runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from clinvk.cluster.limits.shared import Snapshot
from clinvk.dispatch.limit_check import LIMIT_HINT, format_time
from clinvk.errors import LimitError
from clinvk.model.result import Failure

if TYPE_CHECKING:
    import redis

    from clinvk.backend.manifest import Manifest

VARIABLE = re.compile(r"\$(\w+)")


def limits_of(accounts: Mapping[str, str], snapshot: Snapshot) -> dict[str, datetime]:
    """Until when a node is at a rate limit, by backend; only those that are. `accounts` are its accounts,
    by backend."""
    found = {}
    for backend, account in accounts.items():
        if limit := snapshot.find(backend, account, None):
            found[backend] = limit.until
    return found


def rejected_of(accounts: Mapping[str, str], snapshot: Snapshot) -> tuple[str, ...]:
    """The backends of a node whose login was rejected."""
    return tuple(
        name for name, account in accounts.items() if snapshot.rejections_of(name, account)
    )


def limit_of_all(
    backend: str, accounts: Iterable[str | None], snapshot: Snapshot, model: str | None
) -> LimitError | None:
    """The rate limit of a backend, if all nodes that run it are at one. `accounts` are those of the
    nodes; None: not known."""
    found = [snapshot.find(backend, account, model) if account else None for account in accounts]
    if not found or not all(found):
        return None
    until = min(limit.until for limit in found if limit)
    return LimitError(_message(backend, until), LIMIT_HINT, backend=backend, retry_at=until)


def limit_failure(backend: str, until: datetime | None, refused: Mapping[str, str]) -> Failure:
    """Why an attempt was not started: all nodes have refused it, some of them for a rate limit that ends
    then, and others for these reasons."""
    others = "".join(f"; {node}: {why}" for node, why in refused.items())
    return Failure("limit", f"{_message(backend, until)}{others}", LIMIT_HINT, until)


def names_account(manifest: Manifest, env: Iterable[str]) -> bool:
    """Whether any of these variables chooses the account of the backend."""
    texts = (*manifest.login.files, *manifest.login.account)
    named = {name for text in texts for name in VARIABLE.findall(text)}
    return not named.union(manifest.login.env).isdisjoint(env)


def local_time(client: redis.Redis, moment: int) -> datetime:
    """A time of the server, in milliseconds, on the clock of this process. Blocks."""
    seconds, micro = client.time()
    left = moment - (seconds * 1000 + micro // 1000)
    return datetime.now(UTC) + timedelta(milliseconds=left)


def _message(backend: str, until: datetime | None) -> str:
    end = f" until {format_time(until)}" if until else ""
    return f"{backend} is at a rate limit{end} on all workers that could run it"
