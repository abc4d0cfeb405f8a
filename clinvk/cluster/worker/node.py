"""`clinvk worker`: a node, with a Celery worker for each of its backends, and the supervisor that
outlives them."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING

from clinvk import __version__
from clinvk.cluster import app as apps
from clinvk.cluster.address import connect_to
from clinvk.cluster.files.room import remove_debris
from clinvk.cluster.keys import DRIVE, Keys
from clinvk.cluster.ledger.ledger import Ledger
from clinvk.cluster.log.runs import RedisRuns
from clinvk.cluster.log.server import LogServer
from clinvk.cluster.nodes import Node as NodeFacts
from clinvk.cluster.nodes import Nodes
from clinvk.cluster.server_errors import explain
from clinvk.cluster.worker.clis import CliProbe
from clinvk.cluster.worker.pool import fork_pool, kill_pool, send_signal
from clinvk.cluster.worker.resources import WorkerProcess
from clinvk.cluster.worker.settings import STOP, STOP_NOW, Orders, WorkerSettings
from clinvk.cluster.worker.supervisor import Guard
from clinvk.cluster.worker.watchdog import Watchdog
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ClinvkError, UsageError
from clinvk.process.ownership import prepare_for_many

if TYPE_CHECKING:
    import redis
    from celery import Celery

ALIVE_INTERVAL = 2.0  # seconds between reports that the node is alive
ACCOUNTS_INTERVAL = 10.0  # seconds between looks at which accounts its CLIs use
ALIVE_FOR = 10.0  # seconds for which such a report counts
POLL_INTERVAL = 0.2  # seconds
STOP_PATIENCE = 10.0  # seconds for running attempts to be stopped and reported
MAX_FAILURES = 3  # of a Celery worker in a row, before the node gives up
FAILED_EARLY = 10.0  # seconds: one that ends sooner has failed


class WorkerNode:
    """The process that a user starts and stops. The first SIGTERM (or Ctrl-C) lets running attempts
    finish, the second one stops them."""

    def __init__(self, settings: WorkerSettings, say: Callable[[str], None]) -> None:
        self.settings = settings
        self._print = say
        self.orders = Orders()
        self.signals = 0
        self._pools: dict[int, tuple[str, float]] = {}  # by process: the backend, and since when
        self._failures: dict[str, int] = {}
        self._ended: list[str] = []  # backends whose Celery worker is started again
        self._outage = ""  # why Redis has not taken the last report
        self._failed: str | None = None
        self._clis = CliProbe(settings)
        self._dispatcher = Dispatcher(settings.config, env=settings.env)  # opens nothing here
        self._accounts: dict[str, str] = {}
        self._next_accounts = 0.0
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._phase = "running"  # then draining, stopping, killing
        self._deadline = float("inf")  # of the phase

    def run(self) -> int:
        """Run until it is stopped; returns the exit code. Raises `ClinvkError` if it cannot start."""
        settings = self.settings
        client = connect_to(settings.address, ca=settings.ca)
        ledger = Ledger(client, Keys.of(settings.address.name))
        self._check_name(ledger)
        remove_debris(settings.config.home)
        _do_not_retry(client)
        read, write = os.pipe()
        watchdog = Watchdog(read)
        os.close(read)
        made = apps.create_app(settings.address)
        prepare_for_many()  # of the processes that are forked, too
        process = WorkerProcess(settings, self.orders, Guard(write))
        try:
            with self._watching_signals():
                client.connection_pool.disconnect()
                for backend in settings.pools:
                    self._start(made, backend, process)
                self._say(_describe(settings))
                return self._serve(ledger, made, process, watchdog)
        finally:
            for pid in self._pools:
                kill_pool(pid)
            self._clis.close()
            os.close(write)
            watchdog.wait()
            with suppress(Exception):
                watchdog.report(ledger)
                ledger.say_gone(settings.name, settings.slots)
                Nodes(client, ledger.keys).remove(settings.name)
            watchdog.close()
            client.close()

    def _check_name(self, ledger: Ledger) -> None:
        name = self.settings.name
        if any(name in ledger.live_nodes(backend) for backend in self.settings.slots):
            raise UsageError(
                f"there is a worker named {name!r} already, or it was killed a moment ago",
                "wait some seconds if it was killed; otherwise choose another name: --name NAME",
            )

    def _serve(
        self,
        ledger: Ledger,
        made: Celery,
        process: WorkerProcess,
        watchdog: Watchdog,
    ) -> int:
        next_report = 0.0
        nodes = Nodes(ledger.client, ledger.keys)
        runs = RedisRuns(LogServer(ledger.client, self.settings.address), self.settings.config.home)
        while self._pools or self._ended:
            now = time.monotonic()
            if now >= next_report:
                self._report(ledger, nodes)
                if self._phase == "running":
                    self._wake_drivers(runs, made)
                next_report = now + ALIVE_INTERVAL
            if watchdog.is_gone and self._phase == "running":
                self._fail("its supervisor was killed, so nothing could be cleaned up any more")
            with suppress(_redis_errors()):  # it is tried again
                watchdog.report(ledger)
            self._follow_signals(now)
            self._reap()
            self._restart(made, process)
            time.sleep(POLL_INTERVAL)
        return 1 if self._failed else 0

    def _follow_signals(self, now: float) -> None:
        if self.signals and self._phase == "running":
            self._drain(now)
        if self._phase == "draining" and (self.signals > 1 or now >= self._deadline):
            self._stop(now)
        elif self._phase == "stopping" and now >= self._deadline:
            self._phase, self._deadline = "killing", float("inf")
            for pid in self._pools:
                kill_pool(pid)

    def _drain(self, now: float) -> None:
        """Take no more attempts, and let those that run end."""
        limit = self.settings.drain_timeout
        self._phase, self._deadline = "draining", float("inf") if limit is None else now + limit
        for pid, (backend, _) in self._pools.items():
            if backend == DRIVE:
                kill_pool(pid)  # another worker resumes the runs that it drove
            else:
                send_signal(pid, signal.SIGTERM)
        if self.signals == 1:
            within = "" if limit is None else f", or {limit:g} s have passed"
            self._say(
                f"taking no more tasks, and ending once those that run have ended{within}; "
                "to stop them, send the signal again"
            )

    def _stop(self, now: float) -> None:
        """Stop the attempts that run."""
        self._phase, self._deadline = "stopping", now + STOP_PATIENCE
        self._say("stopping what is running")
        self.orders.give(STOP_NOW if self.signals > 1 else STOP)

    def _report(self, ledger: Ledger, nodes: Nodes) -> None:
        settings = self.settings
        try:
            if self._phase == "running":
                ledger.say_alive(settings.name, settings.slots, ALIVE_FOR)
            nodes.write(
                NodeFacts(
                    name=settings.name, slots=settings.slots, host=socket.gethostname(),
                    pid=os.getpid(), version=__version__, labels=tuple(settings.labels),
                    clis=self._clis.look(), accounts=self._find_accounts(),
                    started_at=self._started_at,
                    draining=self._phase != "running",
                )
            )  # fmt: skip
            self._note_outage("")
        except _redis_errors() as error:
            is_tls = settings.address.is_tls
            self._note_outage(explain(error, settings.address.place, is_tls=is_tls).message)

    def _note_outage(self, why: str) -> None:
        """Say why Redis refuses something, or does not answer, and when that is over."""
        if why != self._outage:
            self._say(why or "Redis answers again")
        self._outage = why

    def _find_accounts(self) -> dict[str, str]:
        """The accounts of the CLIs, found again now and then: a user may log in to another one."""
        now = time.monotonic()
        if now >= self._next_accounts:
            self._next_accounts = now + ACCOUNTS_INTERVAL
            with suppress(ClinvkError, OSError):
                self._accounts = {
                    name: self._dispatcher.find_account(name, {}).id for name in self.settings.slots
                }
        return self._accounts

    def _wake_drivers(self, runs: RedisRuns, made: Celery) -> None:
        """Have the detached runs driven whose message was lost, or whose driver has died."""
        try:
            for run in runs.take_due() if self.settings.drivers else ():
                apps.send_run(made, run)
        except ClinvkError as error:
            self._say(error.message)
        except Exception as error:  # noqa: BLE001 - of Celery and its transport; they are due again
            self._say(f"a detached run was not sent to a driver: {error!r}")

    def _start(self, made: Celery, backend: str, process: WorkerProcess) -> None:
        self._pools[fork_pool(made, backend, process)] = backend, time.monotonic()

    def _reap(self) -> None:
        """Notice Celery workers that have ended: they were killed, or Redis has refused something."""
        for pid, (backend, since) in list(self._pools.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            del self._pools[pid]
            kill_pool(pid)
            if self._phase != "running":
                continue
            if self._outage:
                self._ended.append(backend)
                continue
            early = time.monotonic() - since < FAILED_EARLY
            self._failures[backend] = self._failures.get(backend, 0) + 1 if early else 1
            code = os.waitstatus_to_exitcode(status)
            if self._failures[backend] > MAX_FAILURES:
                self._fail(f"the Celery worker of {backend} keeps ending (exit code {code})")
                continue
            self._say(
                f"the Celery worker of {backend} has ended (exit code {code}); starting it again"
            )
            self._ended.append(backend)

    def _restart(self, made: Celery, process: WorkerProcess) -> None:
        """Start those again once Redis takes what they need."""
        if self._phase != "running":
            self._ended.clear()
        elif not self._outage:
            for backend in self._ended:
                self._start(made, backend, process)
            self._ended.clear()

    def _fail(self, why: str) -> None:
        self._say(why)
        self._failed = why
        self.signals = max(self.signals, 2)

    @contextmanager
    def _watching_signals(self) -> Iterator[None]:
        def count(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the protocol
            self.signals += 1

        ends = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            ends.append(signal.SIGHUP)  # its terminal was closed
        before = {n: signal.signal(n, count) for n in ends}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _say(self, text: str) -> None:
        with suppress(OSError):  # the terminal was closed, or the reader of a pipe has left
            self._print(text)


def _do_not_retry(client: redis.Redis) -> None:
    """What is reported every few seconds is not repeated: signals are looked at in between."""
    # Only on workers.
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client.set_retry(Retry(NoBackoff(), 0))


def _describe(settings: WorkerSettings) -> str:
    slots = ", ".join(f"{count} {backend}" for backend, count in settings.slots.items())
    return f"ready for {slots} at a time; cluster {settings.address.name!r} on {settings.address.place}"


def _redis_errors() -> type[redis.RedisError]:
    import redis  # an extra

    return redis.RedisError
