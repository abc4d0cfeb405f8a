"""The rate limits of a cluster in Redis, each until it ends by the clock of the server.

They are in one hash. Its fields are `[BACKEND, ACCOUNT, WINDOW, MODEL]` as JSON, its values
`UNTIL REPORTED_AT JSON`, with times in milliseconds. The field `["cleared", BACKEND]`, with "*" for all
backends, says when users have cleared them: what a worker remembers from before counts no more. The field
`["rejected", BACKEND, ACCOUNT]` says that the provider has rejected the login of an account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from clinvk.cluster.keys import Keys
from clinvk.dispatch.account import Account
from clinvk.dispatch.remembered_limits import (
    LONGEST,
    MAX_MESSAGE,
    SHORTEST,
    AccountLimits,
    RememberedLimit,
    utc_now,
)
from clinvk.text.redact import redact
from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    import redis

KEEP = 2 * LONGEST  # for which the server keeps the hash after its last change
MILLISECOND = timedelta(milliseconds=1)
CLEARED = "cleared"
REJECTED = "rejected"
REJECTED_FOR = timedelta(days=1)  # unless a task succeeds before
ALL = "*"

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# What has not ended: {now, field, value, …}. The rest is deleted, and so is what ends too late to be
# plausible.
#
# KEYS: limits. ARGV: 1 the longest that a limit lasts (ms)
_READ = (
    _NOW
    + """
local found, known = {now}, redis.call('HGETALL', KEYS[1])
for i = 1, #known, 2 do
    local till = tonumber(string.match(known[i + 1], '^%d+'))
    if till and till > now and till <= now + tonumber(ARGV[1]) then
        found[#found + 1], found[#found + 2] = known[i], known[i + 1]
    else
        redis.call('HDEL', KEYS[1], known[i])
    end
end
return found
"""
)

# KEYS: limits. ARGV: 1 field, 2 how long it lasts (ms), 3 JSON, 4 how long to keep the hash (ms)
_RECORD = (
    _NOW
    + """
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f ', now + tonumber(ARGV[2]), now) .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""
)

# Delete fields whose values have not changed since.
#
# KEYS: limits. ARGV: field, value, …
_FORGET = """
for i = 1, #ARGV, 2 do
    if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return 1
"""


class Entry(Struct, frozen=True, kw_only=True):
    """A limit as the server has it; times are milliseconds on its clock."""

    backend: str
    account: str
    limit: RememberedLimit
    until: int
    reported_at: int
    folder: str | None
    node: str
    field: bytes
    value: bytes


class Rejection(Struct, frozen=True, kw_only=True):
    """A login that the provider has rejected."""

    backend: str
    account: str
    field: bytes
    value: bytes


class Snapshot(Struct, frozen=True):
    """The limits of a cluster at a moment: `now` on the server's clock, `here` on that of this
    process."""

    now: int
    here: datetime
    entries: tuple[Entry, ...] = ()
    cleared: Mapping[str, int] = {}  # by backend
    rejected: tuple[Rejection, ...] = ()

    def of_account(self, backend: str, account: str) -> list[Entry]:
        return [e for e in self.entries if (e.backend, e.account) == (backend, account)]

    def find(self, backend: str, account: str, model: str | None) -> RememberedLimit | None:
        """The limit that ends last, of those that a turn for this model would meet."""
        found = [e.limit for e in self.of_account(backend, account) if e.limit.applies_to(model)]
        return max(found, key=lambda limit: limit.until, default=None)

    def rejections_of(self, backend: str, account: str) -> list[Rejection]:
        return [r for r in self.rejected if (r.backend, r.account) == (backend, account)]

    def cleared_at(self, backend: str) -> datetime | None:
        """When users last cleared the limits of this backend, on the clock of this process."""
        times = [self.cleared[name] for name in (backend, ALL) if name in self.cleared]
        return self.to_here(max(times)) if times else None

    def to_here(self, moment: int) -> datetime:
        return self.here + (moment - self.now) * MILLISECOND

    def to_server(self, moment: datetime) -> int:
        return self.now + (moment - self.here) // MILLISECOND


class SharedLimits:
    """Raises the errors of redis-py. Everything blocks."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.client = client
        self.key = keys.limits
        self._scripts: dict[str, Any] = {}

    def read(self) -> Snapshot:
        answer = self._run(_READ, [LONGEST // MILLISECOND])
        now, *flat = answer
        snapshot = Snapshot(now, utc_now())
        entries, cleared, rejected = [], dict[str, int](), []
        for field, value in zip(flat[::2], flat[1::2], strict=True):
            # Of another version, or forged.
            with suppress(ValueError, IndexError, OverflowError, msgspec.MsgspecError):
                names = msgspec.json.decode(field, type=list[str | None])
                if names[0] == CLEARED:
                    moment = int(value.split(b" ")[1])
                    snapshot.to_here(moment)
                    cleared[str(names[1])] = moment
                elif names[0] == REJECTED:
                    backend, account = map(str, names[1:])
                    rejected.append(
                        Rejection(backend=backend, account=account, field=field, value=value)
                    )
                else:
                    entries.append(_entry(snapshot, names, field, value))
        return Snapshot(now, snapshot.here, tuple(entries), cleared, tuple(rejected))

    def record(self, account: Account, limit: RememberedLimit, node: str) -> None:
        """Store a limit, in place of an earlier one of the same window and model."""
        left = min(limit.until - utc_now(), LONGEST)
        if left < SHORTEST:
            return
        about = _About(
            message=redact(one_line(limit.message))[:MAX_MESSAGE], folder=account.folder, node=node,
            requested_model=limit.requested_model,
        )  # fmt: skip
        field = _field(account.backend, account.id, limit.window, limit.model)
        self._record(field, left, msgspec.json.encode(about))

    def record_rejection(self, account: Account) -> None:
        """Store that the provider has rejected a login."""
        self._record(_field(REJECTED, account.backend, account.id), REJECTED_FOR, b"{}")

    def forget(self, entries: Sequence[Entry | Rejection]) -> None:
        """Delete what a turn has disproved."""
        if entries:
            self._run(_FORGET, [part for e in entries for part in (e.field, e.value)])

    def list_all(self) -> list[AccountLimits]:
        """The limits of all accounts."""
        found: dict[tuple[str, str, str], AccountLimits] = {}
        for entry in sorted(self.read().entries, key=lambda e: (e.backend, e.account, e.node)):
            key = (entry.backend, entry.account, entry.node)
            known = found[key].limits if key in found else ()
            found[key] = AccountLimits(
                backend=entry.backend, account=entry.account, folder=entry.folder, node=entry.node,
                limits=(*known, entry.limit),
            )  # fmt: skip
        return list(found.values())

    def clear(self, backend: str | None = None) -> int:
        """Forget all limits, or those of one backend, also those that workers have of their own;
        returns the number of those that were known here."""
        found = [e for e in self.read().entries if backend in (None, e.backend)]
        self._record(_field(CLEARED, backend or ALL), LONGEST, b"{}")
        self.forget(found)
        return len(found)

    def _record(self, field: bytes, lasts: timedelta, about: bytes) -> None:
        values = [field, lasts // MILLISECOND, about, KEEP // MILLISECOND]
        self._run(_RECORD, values)

    def _run(self, script: str, values: Sequence[Any]) -> Any:
        known = self._scripts.get(script)
        if known is None:
            known = self._scripts[script] = self.client.register_script(script)
        return known(keys=[self.key], args=values)


class _About(Struct, frozen=True, kw_only=True, omit_defaults=True):
    message: str = ""
    requested_model: str | None = None
    folder: str | None = None
    node: str = ""


def _field(*names: str | None) -> bytes:
    return msgspec.json.encode(names)


def _entry(snapshot: Snapshot, names: Sequence[str | None], field: bytes, value: bytes) -> Entry:
    """Raises `ValueError`, and errors of msgspec."""
    backend, account, window, model = names
    until, reported_at, data = value.split(b" ", 2)
    about = msgspec.json.decode(data, type=_About)
    limit = RememberedLimit(
        until=snapshot.to_here(int(until)), reported_at=snapshot.to_here(int(reported_at)),
        message=one_line(about.message), window=window, model=model,
        requested_model=about.requested_model,
    )  # fmt: skip
    return Entry(
        backend=str(backend), account=str(account), limit=limit, until=int(until),
        reported_at=int(reported_at), folder=about.folder, node=about.node, field=field, value=value,
    )  # fmt: skip
