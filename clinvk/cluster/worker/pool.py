"""The Celery worker of one backend of a node, in a process of its own: so each backend has its own
slots, and `celery inspect` sees them."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import sys
import warnings
from contextlib import suppress
from typing import Any

from celery import Celery
from celery.concurrency.thread import TaskPool
from celery.exceptions import SecurityWarning
from redis import RedisError

from clinvk.cluster import app as apps
from clinvk.cluster.keys import DRIVE, queues_of
from clinvk.cluster.worker import preload  # noqa: F401 - before the processes are forked
from clinvk.cluster.worker.driver import RunDriver
from clinvk.cluster.worker.resources import WorkerProcess
from clinvk.cluster.worker.settings import WorkerSettings
from clinvk.cluster.worker.slots import Slots

PR_SET_PDEATHSIG = 1  # of Linux
LOG_FORMAT = "%(asctime)s celery: %(message)s"
CHUNK_SIZE = 4096  # bytes


class WakingThreads(TaskPool):  # type: ignore[misc]
    """Celery's pool of threads, which tells Celery's event loop when one of them is free. By itself that
    loop would look for another message up to a second later, so each slot would run one task a
    second at most."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pipe = os.pipe()
        for fd in self.pipe:
            os.set_blocking(fd, False)

    def register_with_event_loop(self, loop: Any) -> None:
        loop.add_reader(self.pipe[0], self._clear)

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        made = super().on_apply(*args, **kwargs)
        made.f.add_done_callback(self._wake)
        return made

    def _wake(self, _: object) -> None:
        with suppress(BlockingIOError):  # it is full, so the loop will wake up
            os.write(self.pipe[1], b".")

    def _clear(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.pipe[0], CHUNK_SIZE)


def fork_pool(made: Celery, backend: str, process: WorkerProcess) -> int:
    """Start the Celery worker of a backend; returns the id of its process."""
    parent = os.getpid()
    sys.stderr.flush()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _prepare(parent)
        code = _serve(made, backend, process)
    except BaseException as error:  # noqa: BLE001 - this process ends here, whatever it is
        print(
            f"clinvk worker: the Celery worker of {backend} has failed: {error!r}", file=sys.stderr
        )
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _prepare(parent: int) -> None:
    """A session of its own, so that Ctrl-C reaches the node only; no output but on stderr; and no
    life after it."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    if sys.__stdout__ is not None:  # Celery says there that it is stopped, as the node has done
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.close(sink)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _serve(made: Celery, backend: str, process: WorkerProcess) -> int:
    settings: WorkerSettings = process.settings
    # The messages are JSON, and are not more dangerous for root than for anybody else.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    logging.basicConfig(level=logging.ERROR, format=LOG_FORMAT)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_traceback)
    if backend == DRIVE:
        apps.set_driver(RunDriver(settings).drive)
        # A run is driven as by its user: in a process of its own, which has its own event loop.
        return _work(made, f"{DRIVE}@{settings.name}", "prefork", [DRIVE], settings.drivers)
    with Slots(process, backend) as slots:
        apps.set_handler(slots.run)
        queues = queues_of(backend, settings.name, settings.labels)
        count = settings.slots[backend]
        return _work(made, f"{backend}@{settings.name}", WakingThreads, queues, count)


def _work(made: Celery, name: str, pool: str | type, queues: list[str], count: int) -> int:
    """Run the tasks of these queues, at most `count` at a time; returns the exit code."""
    worker = made.Worker(
        hostname=name, pool=pool, concurrency=count, queues=queues, loglevel="ERROR", quiet=True,
        without_mingle=True, without_gossip=True, without_heartbeat=True,
    )  # fmt: skip
    # A message that is lost with a worker is sent again by its sender, so Redis need not keep it: that
    # would be four requests for each.
    for queue in made.amqp.queues.values():
        queue.no_ack = True
    gc.freeze()  # nothing of this is garbage; and children share these pages
    worker.start()
    return int(worker.exitcode or 0)


def _without_traceback(record: logging.LogRecord) -> bool:
    """What Redis refuses is said in a line; the node says what to do."""
    if record.exc_info and isinstance(record.exc_info[1], RedisError):
        record.exc_info = record.exc_text = None
    return True


def send_signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_pool(pid: int) -> None:
    """Kill a Celery worker with its processes; what they ran is ended by the supervisor."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
