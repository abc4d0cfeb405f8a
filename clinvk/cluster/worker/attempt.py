"""Run one attempt, in a process of a worker."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from anyio.from_thread import BlockingPortal, start_blocking_portal
from msgspec.structs import replace

from clinvk import __version__
from clinvk.backend.options import resolve_settings
from clinvk.cluster import payload
from clinvk.cluster.address import open_client
from clinvk.cluster.files.checks import new_folder, remove_checks
from clinvk.cluster.files.on_worker import WorkerFiles
from clinvk.cluster.keys import AttemptId, Keys, native_session
from clinvk.cluster.ledger.ledger import Claim, Ledger, Owner
from clinvk.cluster.limits.on_worker import AttemptLimits, Refusal
from clinvk.cluster.limits.shared import SharedLimits
from clinvk.cluster.nodes import Nodes
from clinvk.cluster.shared import SharedDirectories
from clinvk.cluster.worker.allowed import Allowed
from clinvk.cluster.worker.lease import Lease
from clinvk.cluster.worker.settings import RUN, Orders, WorkerSettings
from clinvk.cluster.worker.supervisor import Guard, boot_clock
from clinvk.disk.jsonl import encode
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.engine.attempt import failed_result
from clinvk.engine.executor import Allowance, LocalExecutor, RunningRequest
from clinvk.engine.mishaps import failure_of, lacks_room
from clinvk.errors import ClinvkError, LimitError, NotInstalledError
from clinvk.model.events import Checking, Event
from clinvk.model.request import Request
from clinvk.model.result import Failure, Result
from clinvk.plans.labels import missing_labels
from clinvk.plans.preflight import MIN_SECRET_LENGTH, VARIABLE
from clinvk.process.marker import new_marker
from clinvk.process.ownership import prepare_loop
from clinvk.process.threads import in_thread
from clinvk.runs.secrets import event_without_secrets, result_without_secrets
from clinvk.store import open_store
from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    from clinvk.store.base import Store

MAX_FINISH_WAIT = 600.0  # seconds for which a result is kept that Redis does not take


class Node:
    """What an attempt needs, in a process of a worker: made once in each process."""

    def __init__(self, settings: WorkerSettings, orders: Orders, guard: Guard) -> None:
        self.settings = settings
        self.orders = orders
        self.guard = guard
        allow = settings.config.config.worker.allow
        shared = SharedDirectories(settings.config.config.cluster.shared, allow.directories)
        self.allowed = Allowed(allow, shared)
        self.files = WorkerFiles(
            settings.config.home,
            settings.env,
            shared=shared,
            limit=settings.config.config.cluster.cache_gb * 1000**3,
            node=settings.name,
        )
        self._ledger: Ledger | None = None
        self._store: Store | None = None
        self._dispatcher: Dispatcher | None = None
        self._open = ExitStack()  # until the process ends
        self._portal: BlockingPortal | None = None

    def run(self, backend: str, attempt: AttemptId) -> None:
        """Run the attempt in a slot of the backend, unless somebody else does, or this node cannot."""
        settings, ledger = self.settings, self._open_ledger()
        token = f"{settings.name}.{os.getpid()}.{os.urandom(8).hex()}"
        owner = Owner(attempt, token, settings.name, backend)
        claimed_at = boot_clock()
        claim = _patiently(lambda: ledger.claim(owner, payload.PROTOCOL))
        if claim.status == "version":
            why = f"it has clinvk {__version__}, and the task is of clinvk {claim.detail}"
            ledger.decline(attempt, self._refusal(why))
            self._say(attempt, f"not taken: {why}")
        if claim.status != "run":
            return
        try:
            self._run_claimed(owner, claim, claimed_at)
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not look like a lost worker
            self._report_mistake(owner, error)

    def _run_claimed(self, owner: Owner, claim: Claim, claimed_at: float) -> None:
        attempt, ledger = owner.attempt, self._open_ledger()
        try:
            request = payload.request_from_json(claim.payload)
        except (ValueError, TypeError) as error:
            result = failed_result("-", ClinvkError(f"invalid task in Redis: {error}"))
            ledger.finish(owner, payload.result_to_json(result), None)
            self._say(attempt, f"failed: invalid task in Redis: {error}")
            return
        try:
            request = self._localized(request)
        except ClinvkError as error:
            refusal = self._refusal(error.message)
            _patiently(lambda: ledger.refuse(owner, refusal))
            self._say(attempt, f"refused: {error.message}")
            return

        limits = self.limits_of(request)
        if (limited := limits.check()) is not None:
            data = self._refusal(limited.reason, limited)
            _patiently(lambda: ledger.refuse(owner, data))
            self._say(attempt, f"left to another account: {limited.reason}")
            return

        notices = []
        if home := self._other_home(request):
            request = request.replace(replay=True)
            notices.append(f"its conversation is on {home}; starting it over from the transcript")

        async def run() -> None:
            running = RunningAttempt(self, owner, request, limits, ledger, claimed_at)
            await running.run(notices)

        self._loop().call(run)

    def _loop(self) -> BlockingPortal:
        """The event loop of this process. It is kept from one attempt to the next, with its threads, since
        starting those takes longer than what they do."""
        if self._portal is None:
            self._portal = self._open.enter_context(start_blocking_portal())
            self._portal.call(prepare_loop)
        return self._portal

    def _report_mistake(self, owner: Owner, error: Exception) -> None:
        traceback.print_exception(error)
        result = payload.result_to_json(failed_result("", error))
        _patiently(lambda: self._open_ledger().finish(owner, result, None))

    @property
    def store(self) -> Store:
        """The sessions of the cluster."""
        if self._store is None:
            self._store = open_store(
                self.settings.address.url, self.settings.config.home, patient=True
            )
        return self._store

    def _open_ledger(self) -> Ledger:
        if self._ledger is None:
            settings = self.settings
            client = open_client(settings.address, settings.ca)
            # Its answer is of no use once the lease is over.
            kwargs = client.connection_pool.connection_kwargs
            kwargs["socket_timeout"] = kwargs["socket_connect_timeout"] = settings.lease / 4
            self._ledger = Ledger(
                client, Keys.of(settings.address.name), lease=settings.lease, grace=settings.grace
            )
        return self._ledger

    def _localized(self, request: Request) -> Request:
        """The request with what is from this node: variables and directories. Raises `ClinvkError`
        if this node may not or cannot run it."""
        backend = request.to or request.backend or ""
        allow = self.settings.config.config.worker.allow
        if backend not in self.settings.slots or (allow.backends and backend not in allow.backends):
            raise ClinvkError(f"it does not run {backend}")
        if missing := missing_labels(request.labels, self.settings.labels):
            raise ClinvkError(f"it does not have {missing}")
        manifest = self._selector().select(backend).manifest
        request = self.allowed.checked(request, manifest, self._configured(backend))
        if request.cwd is None and request.session is not None:
            began_in = self.store.get(request.session).cwd
            request = request.replace(cwd=Path(began_in) if began_in else None)
        if problem := self.files.problem(request):
            raise ClinvkError(problem)
        env, secrets = _resolve(request.env, self.settings.env)
        home = self.settings.config.home
        return request.replace(
            env=env, secrets=secrets,
            check_dir=new_folder(home, request.task) if request.check_dir is not None else None,
        )  # fmt: skip

    def _other_home(self, request: Request) -> str | None:
        """The node whose CLI has the native session that the request continues; None if that is this
        one, or is not known."""
        if request.session is None:
            return None
        session = native_session(request.session, request.to or request.backend or "")
        home = _patiently(lambda: self._open_ledger().home_of(session))
        return None if home in (None, self.settings.name) else str(home)

    def _configured(self, backend: str) -> dict[str, Any]:
        """The options that this worker sets for a backend."""
        asked = Request(prompt="-", backend=backend)
        found = resolve_settings(asked, None, self.settings.config, backend)
        return {name: setting.value for name, setting in found.items()}

    def _selector(self) -> Any:
        return self.dispatcher("").selector

    def dispatcher(self, marker: str) -> Dispatcher:
        if self._dispatcher is None:
            self._dispatcher = Dispatcher(
                self.settings.config, store=self.store, env=self.settings.env
            )
        return self._dispatcher.with_marker(marker) if marker else self._dispatcher

    def limits_of(self, request: Request) -> AttemptLimits:
        """The rate limits that concern a request, whose `env` has the values of this node."""
        ledger = self._open_ledger()
        shared = SharedLimits(ledger.client, ledger.keys)
        return AttemptLimits(shared, self.dispatcher(""), self.settings.name, request)

    def _refusal(self, why: str, limited: Refusal | None = None) -> bytes:
        return refusal(self.settings.name, why, limited)

    def _say(self, attempt: AttemptId, text: str) -> None:
        say(attempt.shown, text)


class RunningAttempt:
    """An attempt that runs: the reporter of its request."""

    def __init__(
        self,
        node: Node,
        owner: Owner,
        request: Request,
        limits: AttemptLimits,
        ledger: Ledger,
        claimed_at: float,
    ) -> None:
        self.node = node
        self.owner = owner
        self.request = request
        self.limits = limits
        self.allowance = Allowance()
        self.ledger = ledger
        self.claimed_at = claimed_at
        self.name = owner.attempt.shown
        self.scope = anyio.CancelScope()
        self.running: RunningRequest | None = None
        self.lease: Lease | None = None

    async def run(self, notices: Sequence[str] = ()) -> None:
        """Run it to its end, and report that, the notices first."""
        marker = new_marker(self.node.settings.env)
        self.lease = lease = Lease(
            self.ledger, self.owner, self.node.orders, self.stop, self.node.guard, marker,
            self.claimed_at, self.name,
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
                remove_checks(self.request.check_dir)
        if lease.lost is not None:
            with suppress(OSError, _redis_error()):
                await in_thread(self._forget)
        elif result is not None:
            state = (
                "done" if result.ok else f"failed: {result.error.message if result.error else ''}"
            )
            say(self.name, f"{state} ({time.monotonic() - began:.1f} s)")

    def _forget(self) -> None:
        """Do not list it as running any more."""
        Nodes(self.ledger.client, self.ledger.keys).forget(self.owner.node, self.owner.attempt)

    async def _result(self, marker: str) -> Result | None:
        """The result; None if nothing has started, and another node should try."""
        backend = self.request.to or self.request.backend or ""
        try:
            async with AsyncExitStack() as stack:
                files = self.node.files
                try:
                    request = await stack.enter_async_context(
                        files.attempt(self.request, self.on_notice)
                    )
                except ClinvkError as error:  # another node may have access to them, or more room
                    await self._refuse(error.message)
                    return None
                executor = LocalExecutor(self.node.dispatcher(marker))
                result = await executor.run(request, self)
                result = await files.deliver(request, result, self.on_notice)
                if self.limits.are_affected_by(result):
                    # Before its end is known, since the run may look for another account then.
                    await in_thread(lambda: self.limits.note_result(result))
        except NotInstalledError as error:
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
        say(self.name, f"refused: {why}")

    async def _patiently(self, call: Callable[[], Awaitable[object]]) -> None:
        """Repeat the call until the server answers. The lease is renewed meanwhile."""
        deadline = time.monotonic() + MAX_FINISH_WAIT
        while True:
            try:
                await call()
                return
            except Exception as error:  # noqa: BLE001 - the server is asked again
                if time.monotonic() > deadline or (self.lease and self.lease.lost):
                    say(self.name, f"its end could not be reported: {error}")
                    return
            await anyio.sleep(0.5)

    def stop(self, why: str, now: bool) -> None:
        if self.running is not None:
            self.running.cancel(why, now=now)
        else:
            self.scope.cancel()

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
        return self.allowance.why_not(result)

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


def say(attempt: str, text: str) -> None:
    """Print a line about an attempt. Parts of it are from CLIs and from other machines."""
    print(one_line(f"{attempt}: {text}"), file=sys.stderr, flush=True)


def interrupted(node: str) -> Failure:
    """The failure of an attempt that a worker did not finish."""
    return Failure(
        "indeterminate",
        f"the worker {node} was shut down while it ran; the work may be partly done",
        "check what it did; run it again with --rerun-indeterminate",
    )


def _resolve(
    written: Mapping[str, str], env: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The variables with `${NAME}` replaced by the values here, and those values. Raises
    `ClinvkError` for one that is not set."""
    found, secrets = {}, []
    for key, value in written.items():
        for name in VARIABLE.findall(value):
            if name not in env:
                raise ClinvkError(f"${name} is not set there, which env.{key} needs")
            if len(env[name]) >= MIN_SECRET_LENGTH:
                secrets.append(env[name])
        found[key] = VARIABLE.sub(lambda m: env[m.group(1)], value)
    return found, tuple(secrets)


def _patiently(call: Any) -> Any:
    """The value of the call, repeated for a while if the server does not answer."""
    for pause in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0):
        with suppress(OSError, _redis_error()):
            return call()
        time.sleep(pause)
    return call()


def _redis_error() -> type[Exception]:
    import redis  # an extra, which only workers of a cluster have

    return redis.RedisError
