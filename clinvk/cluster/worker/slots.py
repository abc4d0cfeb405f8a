"""Take attempts, if nobody else has, and this node may and can run them."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
from anyio.from_thread import start_blocking_portal

from clinvk import __version__
from clinvk.backend.options import resolve_settings
from clinvk.cluster import payload
from clinvk.cluster.files.checks import new_folder
from clinvk.cluster.keys import AttemptId
from clinvk.cluster.ledger.ledger import Claim, Owner
from clinvk.cluster.limits.on_worker import Refusal
from clinvk.cluster.worker.attempt import RunningAttempt, refusal
from clinvk.cluster.worker.homes import why_start_over
from clinvk.cluster.worker.resources import WorkerProcess
from clinvk.cluster.worker.supervisor import boot_clock
from clinvk.disk.closing import Closing
from clinvk.engine.scheduling.attempt import failed_result
from clinvk.errors import ClinvkError
from clinvk.model.request import Request
from clinvk.plans.labels import missing_labels
from clinvk.plans.preflight import MIN_SECRET_LENGTH, VARIABLE
from clinvk.process.ownership import prepare_loop

THREADS = 4  # that a slot uses at a time, at most: for its lease, its files, and its limits


class Slots(Closing):
    """The slots of a backend. Each is a thread of the Celery worker, and takes one attempt at a time. All
    attempts run on one event loop, as in a run on one machine, so that many slots cost little more than
    their programs. A context manager."""

    def __init__(self, process: WorkerProcess, backend: str) -> None:
        """To be created in the process that runs the attempts."""
        self.process = process
        self.backend = backend
        process.open()
        self._opened = ExitStack()
        self._opened.enter_context(process.lines)
        self._portal = self._opened.enter_context(start_blocking_portal())
        self._portal.call(self._prepare_loop)

    def close(self) -> None:
        """Returns once no attempt is running."""
        self._opened.close()

    def _prepare_loop(self) -> None:
        prepare_loop()
        # One slot must not have to wait for what others do in threads: it would lose its lease.
        threads = anyio.to_thread.current_default_thread_limiter()
        threads.total_tokens += THREADS * self.process.settings.slots[self.backend]

    def run(self, attempt: AttemptId) -> None:
        """Run the attempt in a slot, unless somebody else does, or this node cannot."""
        settings, ledger = self.process.settings, self.process.ledger
        token = f"{settings.name}.{os.getpid()}.{os.urandom(8).hex()}"
        owner = Owner(attempt, token, settings.name, self.backend)
        # Its lease begins with the claim that succeeds, or a little before.
        claimed_at, claim = _patiently(
            lambda: (boot_clock(), ledger.claim(owner, payload.PROTOCOL))
        )
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
        attempt, ledger = owner.attempt, self.process.ledger
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

        limits = self.process.limits_of(request)
        if claim.has_limits and (limited := limits.check()) is not None:
            data = self._refusal(limited.reason, limited)
            _patiently(lambda: ledger.refuse(owner, data))
            self._say(attempt, f"left to another account: {limited.reason}")
            return

        notices = []
        if why := _patiently(partial(why_start_over, self.process, request)):
            request = request.replace(replay=True)
            notices.append(f"{why}; starting it over from the transcript")

        async def run() -> None:
            running = RunningAttempt(self.process, owner, request, limits, ledger, claimed_at)
            await running.run(notices)

        self._portal.call(contained, run)

    def _report_mistake(self, owner: Owner, error: Exception) -> None:
        self.process.lines.add("".join(traceback.format_exception(error)))
        result = payload.result_to_json(failed_result("", error))
        _patiently(lambda: self.process.ledger.finish(owner, result, None))

    def _localized(self, request: Request) -> Request:
        """The request with what is from this node: variables and directories. Raises `ClinvkError`
        if this node may not or cannot run it."""
        backend = request.to or request.backend or ""
        allow = self.process.settings.config.config.worker.allow
        if backend not in self.process.settings.slots or (
            allow.backends and backend not in allow.backends
        ):
            raise ClinvkError(f"it does not run {backend}")
        if missing := missing_labels(request.labels, self.process.settings.labels):
            raise ClinvkError(f"it does not have {missing}")
        manifest = self.process.dispatcher("").selector.select(backend).manifest
        request = self.process.allowed.checked(request, manifest, self._configured(backend))
        if request.cwd is None and request.session is not None:
            began_in = self.process.store.get(request.session).cwd
            request = request.replace(cwd=Path(began_in) if began_in else None)
        if problem := self.process.files.problem(request):
            raise ClinvkError(problem)
        env, secrets = _resolve(request.env, self.process.settings.env)
        home = self.process.settings.config.home
        return request.replace(
            env=env, secrets=secrets,
            check_dir=new_folder(home, request.task) if request.check_dir is not None else None,
        )  # fmt: skip

    def _configured(self, backend: str) -> dict[str, Any]:
        """The options that this worker sets for a backend."""
        asked = Request(prompt="-", backend=backend)
        found = resolve_settings(asked, None, self.process.settings.config, backend)
        return {name: setting.value for name, setting in found.items()}

    def _refusal(self, why: str, limited: Refusal | None = None) -> bytes:
        return refusal(self.process.settings.name, why, limited)

    def _say(self, attempt: AttemptId, text: str) -> None:
        self.process.lines.say(attempt.shown, text)


async def contained(work: Callable[[], Awaitable[None]]) -> None:
    """Do the work, and raise nothing but an `Exception` if it fails: anything else would end the event loop,
    and with it all other attempts."""
    try:
        await work()
    except (Exception, anyio.get_cancelled_exc_class()):
        raise
    except BaseException as error:
        raise RuntimeError(f"it ended with {error!r}") from error


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
