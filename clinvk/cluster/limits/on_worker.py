"""The rate limits of a worker's accounts: which attempts it leaves to others, and what it reports."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from clinvk.cluster.limits.shared import Entry, Rejection, SharedLimits, Snapshot
from clinvk.dispatch.limit_check import SAME_MODEL, limit_error
from clinvk.dispatch.remembered_limits import LimitStore, RememberedLimit, utc_now
from clinvk.errors import ClinvkError, LimitError
from clinvk.model.request import Request
from clinvk.model.result import Failure, Result

if TYPE_CHECKING:
    from clinvk.dispatch.account import Account
    from clinvk.dispatch.dispatcher import Dispatcher


class Refusal(Struct, frozen=True):
    """Why an attempt is left to another account: `until` is when it may run here, in milliseconds on
    the clock of the server; None if that is not known."""

    reason: str
    until: int | None


class AttemptLimits:
    """The limits that concern one attempt. Nothing fails because the server does not answer: then the
    CLI reports its limit again."""

    def __init__(
        self, shared: SharedLimits, dispatcher: Dispatcher, node: str, request: Request
    ) -> None:
        """`request` has the variables of this node in its `env`."""
        self.shared = shared
        self.dispatcher = dispatcher
        self.node = node
        self.request = request
        self.backend = request.to or request.backend or ""
        self._before: list[Entry] = []  # those of its account when it began
        self._rejected: list[Rejection] = []

    def check(self) -> Refusal | None:
        """Why the attempt is not to be started here now."""
        snapshot = self._read()
        if snapshot is None or not (snapshot.entries or snapshot.cleared or snapshot.rejected):
            return None
        account = self._account()
        self._rejected = snapshot.rejections_of(self.backend, account.id)
        self._before = snapshot.of_account(self.backend, account.id)
        if cleared := snapshot.cleared_at(self.backend):
            with suppress(ClinvkError):
                LimitStore(self.dispatcher.config.home).forget_reported_before(account, cleared)
        found = snapshot.find(self.backend, account.id, self._model)
        if found is None or self.request.ignore_limit:
            return None
        return Refusal(limit_error(self.backend, found).message, snapshot.to_server(found.until))

    def refusal(self, error: LimitError) -> Refusal:
        """The same, of a limit that is remembered on this node alone."""
        snapshot = self._read()
        return Refusal(error.message, snapshot.to_server(error.retry_at) if snapshot else None)

    def are_affected_by(self, result: Result) -> bool:
        """Whether `note_result` has something to do."""
        if result.ok:
            return bool(self._before or self._rejected)
        error = result.error
        return error is not None and (error.kind == "auth" or error.retry_at is not None)

    def note_result(self, result: Result) -> None:
        """Tell the others about the limit that the attempt has met, or that its login was rejected; or
        forget what it has disproved."""
        if result.ok:
            models = (self._model, result.model)
            over = [e for e in self._before if any(map(e.limit.applies_to, models))]
            with suppress(OSError, _redis_error()):
                self.shared.forget([*over, *self._rejected])
        elif result.error is not None and result.error.kind == "auth":
            with suppress(OSError, _redis_error()):
                self.shared.record_rejection(self._account())
        elif (error := result.error) and error.kind == "limit" and error.retry_at is not None:
            limit = self._limit_of(result, error, error.retry_at)
            with suppress(OSError, _redis_error()):
                self.shared.record(self._account(), limit, self.node)

    def _limit_of(self, result: Result, error: Failure, until: datetime) -> RememberedLimit:
        model = result.model if error.model == SAME_MODEL else error.model
        return RememberedLimit(
            until=until, reported_at=utc_now(), message=error.message, window=error.window,
            model=model, requested_model=self._model if model else None,
        )  # fmt: skip

    def _account(self) -> Account:
        return self.dispatcher.find_account(self.backend, self.request.env)

    @property
    def _model(self) -> str | None:
        """The model that the request asks for."""
        configured = getattr(self.dispatcher.config.backend(self.backend), "model", None)
        found = self.request.options.get("model") or configured
        return str(found) if found else None

    def _read(self) -> Snapshot | None:
        with suppress(OSError, _redis_error()):
            return self.shared.read()
        return None


def _redis_error() -> type[Exception]:
    import redis  # an extra, which only workers of a cluster have

    return redis.RedisError
