"""Run one attempt, on the event loop that it shares with the others of its backend."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
from msgspec.structs import replace

from clinvk.cluster import payload
from clinvk.cluster.files.checks import remove_checks
from clinvk.cluster.files.on_worker import WorkerFiles
from clinvk.cluster.keys import native_session
from clinvk.cluster.ledger.ledger import Ledger, Owner
from clinvk.cluster.limits.on_worker import AttemptLimits, Refusal
from clinvk.cluster.nodes import Nodes
from clinvk.cluster.worker.allowed import NotAllowedError
from clinvk.cluster.worker.lease import Lease
from clinvk.cluster.worker.resources import WorkerProcess
from clinvk.cluster.worker.settings import RUN
from clinvk.disk.jsonl import encode
from clinvk.engine.executor import Allowance, LocalExecutor, RunningRequest
from clinvk.engine.mishaps import failure_of, lacks_room
from clinvk.engine.scheduling.attempt import failed_result
from clinvk.errors import ClinvkError, LimitError, NotInstalledError
from clinvk.model.events import Checking, Event
from clinvk.model.request import Request
from clinvk.model.result import Failure, Result
from clinvk.process.marker import new_marker
from clinvk.process.threads import in_thread
from clinvk.runs.secrets import event_without_secrets, result_without_secrets

# Seconds, once it is to stop, to end the program, and to deliver what it has changed.
DELIVERY_PATIENCE = 7.0
MAX_FINISH_WAIT = 600.0  # seconds for which a result is kept that Redis does not take


class RunningAttempt:
    """An attempt that runs: the reporter of its request."""

    def __init__(
        self,
        process: WorkerProcess,
        owner: Owner,
        request: Request,
        limits: AttemptLimits,
        ledger: Ledger,
        claimed_at: float,
    ) -> None:
        self.process = process
        self.owner = owner
        self.request = request
        self.limits = limits
        self.allowance = Allowance()
        self.ledger = ledger
        self.claimed_at = claimed_at
        self.name = owner.attempt.shown
        self.scope = anyio.CancelScope()
        self.delivery = anyio.CancelScope()  # in which the changes are brought to the remote
        self.running: RunningRequest | None = None
        self.lease: Lease | None = None
        # The request as it runs, and its worktree.
        self._checked: tuple[Request, Path | None] = request, None

    async def run(self, notices: Sequence[str] = ()) -> None:
        """Run it to its end, and report that, the notices first."""
        marker = new_marker(self.process.settings.env)
        self.lease = lease = Lease(
            self.ledger, self.owner, self.process.orders, self.stop, self.process.guard, marker,
            self.claimed_at, self._say,
        )  # fmt: skip
        for notice in notices:
            self.on_notice(notice)
        began = time.monotonic()
        result: Result | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lease.keep)
                tasks.start_soon(lease.watch)
                with self.scope:
                    result = await self._result(marker)
                lease.end()
                if lease.lost is None:
                    await self._finish(lease, result)
                tasks.cancel_scope.cancel()
        finally:
            lease.end()
            if self.request.check_dir is not None:
                await in_thread(partial(remove_checks, self.request.check_dir))
        if lease.lost is not None:
            with suppress(OSError, _redis_error()):
                await in_thread(self._forget)
        elif result is not None:
            state = (
                "done" if result.ok else f"failed: {result.error.message if result.error else ''}"
            )
            self._say(f"{state} ({time.monotonic() - began:.1f} s)")

    def _forget(self) -> None:
        """Do not list it as running any more."""
        Nodes(self.ledger.client, self.ledger.keys).forget(self.owner.node, self.owner.attempt)

    async def _result(self, marker: str) -> Result | None:
        """The result; None if nothing has started, and another node should try."""
        backend = self.request.to or self.request.backend or ""
        try:
            async with AsyncExitStack() as stack:
                files = self.process.files.with_marker(marker)
                try:
                    request = await stack.enter_async_context(
                        files.attempt(self.request, self.on_notice)
                    )
                except ClinvkError as error:  # another node may have access to them, or more room
                    await self._refuse(error.message)
                    return None
                executor = LocalExecutor(self.process.dispatcher(marker), self._check)
                result = await executor.run(request, self)
                result = await self._deliver(files, request, result)
                if self.limits.are_affected_by(result):
                    # Before its end is known, since the run may look for another account then.
                    await in_thread(lambda: self.limits.note_result(result))
        except (NotInstalledError, NotAllowedError) as error:
            if self.running is not None:
                return failed_result(backend, error)
            await self._refuse(error.message)
            return None
        except LimitError as error:  # which another process of this machine has met
            if self.running is not None:
                return failed_result(backend, error)
            limited = await in_thread(partial(self.limits.refusal, error))
            await self._refuse(error.message, limited)
            return None
        except Exception as error:  # noqa: BLE001 - it is about this attempt alone
            if self.running is None and lacks_room(error):
                await self._refuse(failure_of(error).message)
                return None
            result = failed_result(backend, error)
        return result_without_secrets(result, self.request.secrets)

    async def _deliver(self, files: WorkerFiles, request: Request, result: Result) -> Result:
        """The result, whose changes are in the remote; not for long once it is to stop."""
        with self.delivery:
            return await files.deliver(request, result, self.on_notice)
        late = ClinvkError("the git remote did not answer in time after it was cancelled")
        return files.undelivered(request, result, self.on_notice, late)

    async def _finish(self, lease: Lease, result: Result | None) -> None:
        if lease.order != RUN and self.running is None:
            await self._refuse("it was shut down")
            return
        if result is None:
            if self.running is None and not self.scope.cancelled_caught:
                return  # it was refused
            result = Result(
                ok=False, text="", backend=self.request.backend or "", exit_code=7,
                error=Failure("cancelled", lease.asked or "cancelled"),
            )  # fmt: skip
        if lease.order != RUN and lease.asked is None and not result.ok:
            result = replace(result, error=interrupted(self.owner.node), exit_code=1)
        data = payload.result_to_json(result)
        session = None
        if result.session_id and result.native_id:
            session = native_session(result.session_id, result.backend)
        await self._patiently(lambda: lease.finish(data, session))

    async def _refuse(self, why: str, limited: Refusal | None = None) -> None:
        data = refusal(self.owner.node, why, limited)
        await self._patiently(lambda: in_thread(lambda: self.ledger.refuse(self.owner, data)))
        self._say(f"refused: {why}")

    async def _patiently(self, call: Callable[[], Awaitable[object]]) -> None:
        """Repeat the call until the server answers. The lease is renewed meanwhile."""
        deadline = time.monotonic() + MAX_FINISH_WAIT
        while True:
            try:
                await call()
                return
            except Exception as error:  # noqa: BLE001 - the server is asked again
                if time.monotonic() > deadline or (self.lease and self.lease.lost):
                    self._say(f"its end could not be reported: {error}")
                    return
            await anyio.sleep(0.5)

    def stop(self, why: str, now: bool) -> None:
        patience = 2.0 if now else DELIVERY_PATIENCE
        self.delivery.deadline = min(self.delivery.deadline, anyio.current_time() + patience)
        if self.running is not None:
            self.running.cancel(why, now=now)
        else:
            self.scope.cancel()

    def _say(self, text: str) -> None:
        self.process.lines.say(self.name, text)

    # Reports of the executor.

    def on_notice(self, message: str) -> None:
        if self.lease is not None:
            self.lease.add_nowait("notice", encode(message))

    async def on_node(self, node: str) -> None: ...

    def on_started(self, running: RunningRequest) -> None:
        self.running = running
        if self.lease is not None:
            said = {"session": running.session_id, "cwd": str(running.cwd or "")}
            self.lease.add_nowait("started", encode(said))

    async def on_event(self, event: Event) -> None:
        secrets = self.request.secrets
        shown = event_without_secrets(event, secrets)
        if isinstance(shown, Checking) and shown.result is not None:
            shown = replace(shown, result=result_without_secrets(shown.result, secrets))
        if shown is not None and self.lease is not None:
            await self.lease.add("event", payload.event_to_json(shown))
        if isinstance(shown, Checking):
            await self._ask_allowance()

    def may_continue(self, result: Result) -> str | None:
        if self.lease is not None and self.lease.asked:
            return self.lease.asked
        try:  # the last turn may have replaced a directory by a link
            self._check(*self._checked)
        except ClinvkError as error:
            return error.message
        return self.allowance.why_not(result)

    def _check(self, request: Request, worktree: Path | None) -> None:
        self._checked = request, worktree
        self.process.allowed.check_in_place(request, worktree)

    async def _ask_allowance(self) -> None:
        """Ask what is left for a further turn, as known to the process that drives the run."""
        with suppress(OSError, msgspec.MsgspecError, _redis_error()):
            found = await in_thread(lambda: self.ledger.allowance(self.owner.attempt.run))
            self.allowance = msgspec.json.decode(found or b"{}", type=Allowance)


def refusal(node: str, why: str, limited: Refusal | None = None) -> bytes:
    """What the submitter gets: `limited` if another account may run it, or this one later."""
    said: dict[str, Any] = {"node": node, "reason": why}
    if limited is not None:
        said["limit"] = limited.until
    return encode(said)


def interrupted(node: str) -> Failure:
    """The failure of an attempt that a worker did not finish."""
    return Failure(
        "indeterminate",
        f"the worker {node} was shut down while it ran; the work may be partly done",
        "check what it did; run it again with --rerun-indeterminate",
    )


def _redis_error() -> type[Exception]:
    import redis  # an extra, which only workers of a cluster have

    return redis.RedisError
