"""Rate limits that the CLIs have reported, stored for all processes until they end.

Each account of a backend has a file in `~/.clinvk/limits/`, which exists only while there is a limit.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from clinvk.disk.atomic import file_error, make_folder, replace_own
from clinvk.disk.opening import open_own
from clinvk.dispatch.account import Account
from clinvk.text.redact import redact
from clinvk.text.sanitize import one_line

VERSION = 1  # of a file
LONGEST = timedelta(days=7)  # a later end is not plausible
SHORTEST = timedelta(seconds=1)  # one that ends earlier is not worth remembering
MAX_MESSAGE = 300  # characters
MAX_SIZE = 1024 * 1024  # bytes of a file


class RememberedLimit(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A rate limit that a CLI has reported. It applies to all models, unless the CLI named one."""

    until: datetime
    reported_at: datetime
    message: str = ""
    window: str | None = None  # which limit of the account: "five_hour"
    model: str | None = None  # the one that the CLI named
    requested_model: str | None = None  # what was requested when a model was named
    reported_until: datetime | None = None  # what the CLI reported, if it was not plausible

    def applies_to(self, model: str | None) -> bool:
        """Whether a turn for this model (None: the default) would be refused."""
        if self.model is None or model == self.requested_model:
            return True
        if model is None:
            return False
        named, asked = self.model.lower(), model.lower()
        return named in asked or asked in named


class AccountLimits(Struct, frozen=True, kw_only=True):
    """The limits of one account, as stored."""

    backend: str
    account: str
    folder: str | None = None  # the configuration directory of the CLI
    node: str | None = None  # in a cluster: the worker that has met them
    limits: tuple[RememberedLimit, ...] = ()
    version: int = VERSION


def utc_now() -> datetime:
    return datetime.now(UTC)


class LimitList(Protocol):
    """Limits that can be listed."""

    def list_all(self) -> list[AccountLimits]:
        """Those of all accounts that have not ended."""
        ...


class LimitStore:
    """The limits in the directory `home` of clinvk. Files that cannot be read count as empty: the
    CLI then reports its limit again."""

    def __init__(self, home: Path, now: Callable[[], datetime] = utc_now) -> None:
        self.folder = home / "limits"
        self.now = now

    def has_any(self, backend: str) -> bool:
        """Whether there may be limits of this backend: a look at the directory."""
        return any(name.startswith(f"{backend}.") for name in self._names())

    def find(self, account: Account, model: str | None) -> RememberedLimit | None:
        """The limit of the account that ends last, of those that apply to the model."""
        found = [
            limit
            for limit in self._in_force(self.folder / account.file_name)
            if limit.applies_to(model)
        ]
        return max(found, key=lambda limit: limit.until, default=None)

    def record(self, account: Account, limit: RememberedLimit) -> RememberedLimit | None:
        """Store it in place of an earlier one of the same window and model. Returns it as stored:
        its end is at most a week away; None if it has ended. Raises `SessionError`."""
        now = self.now()
        if limit.until - now < SHORTEST:
            return None
        if limit.until - now > LONGEST:
            limit = replace(limit, until=now + LONGEST, reported_until=limit.until)
        limit = replace(limit, message=redact(one_line(limit.message))[:MAX_MESSAGE])
        same = (limit.window, limit.model)
        self._change(
            account, lambda known: [*(k for k in known if (k.window, k.model) != same), limit]
        )
        return limit

    def clear_after_success(
        self, account: Account, models: tuple[str | None, ...], started_at: datetime
    ) -> None:
        """Forget the limits that a turn for these models has disproved. One that started before a
        limit was reported proves nothing. Raises `SessionError`."""

        def is_over(limit: RememberedLimit) -> bool:
            return limit.reported_at <= started_at and any(map(limit.applies_to, models))

        if any(map(is_over, self._in_force(self.folder / account.file_name))):
            self._change(account, lambda known: [k for k in known if not is_over(k)])

    def forget_reported_before(self, account: Account, moment: datetime) -> None:
        """Forget what was reported until then. Raises `SessionError`."""
        known = self._in_force(self.folder / account.file_name)
        if any(limit.reported_at <= moment for limit in known):
            self._change(account, lambda known: [k for k in known if k.reported_at > moment])

    def list_all(self) -> list[AccountLimits]:
        """The limits of all accounts, those that have ended left out and deleted."""
        found = []
        for name in sorted(self._names()):
            path = self.folder / name
            stored = _read(path)
            limits = tuple(self._in_force(path))
            if stored and limits:
                found.append(replace(stored, limits=limits))
        return found

    def clear(self, backend: str | None = None) -> int:
        """Forget all limits, or those of one backend; returns their number. Raises
        `SessionError`."""
        count = 0
        try:
            with self._locked() as is_open:
                for name in self._names() if is_open else ():
                    # A backend's name may contain a period; the id and the suffix do not.
                    if backend is None or name.rsplit(".", 2)[0] == backend:
                        stored = _read(self.folder / name)
                        count += len(self._plausible(stored))
                        self._delete(self.folder / name)
        except OSError as error:
            raise file_error("delete", self.folder, error) from error
        return count

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.folder) if name.endswith(".json")]
        except OSError:
            return []

    def _in_force(self, path: Path) -> Iterator[RememberedLimit]:
        """The limits in this file that have not ended. Deletes a file without one."""
        stored = _read(path)
        limits = self._plausible(stored)
        yield from limits
        if stored and not limits:
            with suppress(Exception), self._locked() as is_open:
                if is_open and not self._plausible(_read(path)):
                    self._delete(path)

    def _plausible(self, stored: AccountLimits | None) -> list[RememberedLimit]:
        """Those that have not ended, and that the clock, which may have been set, allows."""
        now = self.now()
        limits = stored.limits if stored else ()
        return [limit for limit in limits if now < limit.until <= now + LONGEST]

    def _change(
        self,
        account: Account,
        change: Callable[[list[RememberedLimit]], list[RememberedLimit]],
    ) -> None:
        path = self.folder / account.file_name
        try:
            with self._locked(create=True):
                limits = change(self._plausible(_read(path)))
                if limits:
                    stored = AccountLimits(
                        backend=account.backend, account=account.id, folder=account.folder,
                        limits=tuple(limits),
                    )  # fmt: skip
                    replace_own(path, msgspec.json.encode(stored) + b"\n", durable=False)
                else:
                    self._delete(path)
        except OSError as error:
            raise file_error("write", path, error) from error

    @contextmanager
    def _locked(self, *, create: bool = False) -> Iterator[bool]:
        """A lock on the directory; whether it exists. It is deleted when it is empty, so the one
        that was locked may be another one."""
        while True:
            if create:
                make_folder(self.folder)
            try:
                fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                if create:
                    continue
                yield False
                return
            try:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(fd, fcntl.LOCK_EX)
                if _is_at(fd, self.folder):
                    yield True
                    return
            finally:
                os.close(fd)

    def _delete(self, path: Path) -> None:
        """Delete it, and the directory if it is empty then, so that the next start sees at once
        that there is no limit. Only while the lock is held."""
        with suppress(FileNotFoundError):
            path.unlink()
        with suppress(OSError):
            self.folder.rmdir()


def _is_at(fd: int, folder: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(fd), os.stat(folder))
    return False


def _read(path: Path) -> AccountLimits | None:
    """The content of the file; None if it is missing or invalid."""
    with suppress(OSError, msgspec.MsgspecError, ValueError):
        fd = open_own(path, os.O_RDONLY)
        with os.fdopen(fd, "rb") as file:
            stored = msgspec.json.decode(file.read(MAX_SIZE), type=AccountLimits)
        if all(limit.until.tzinfo and limit.reported_at.tzinfo for limit in stored.limits):
            return stored
    return None


def list_limits(*stores: LimitList) -> list[dict[str, Any]]:
    """The entries of `clinvk limits --json`, in the order in which they end."""
    owners = [owner for store in stores for owner in store.list_all()]
    found = [(limit, owner) for owner in owners for limit in owner.limits]
    return [_to_json(owner, limit) for limit, owner in sorted(found, key=lambda e: e[0].until)]


def _to_json(owner: AccountLimits, limit: RememberedLimit) -> dict[str, Any]:
    # Only to print it.
    from clinvk.model.usage import rfc3339

    return {
        "backend": owner.backend,
        "account": owner.account,
        "config_dir": owner.folder,
        **({"node": owner.node} if owner.node is not None else {}),
        "window": limit.window,
        "model": limit.model,
        "until": rfc3339(limit.until),
        "reported_until": rfc3339(limit.reported_until) if limit.reported_until else None,
        "reported_at": rfc3339(limit.reported_at),
        "message": limit.message,
    }
