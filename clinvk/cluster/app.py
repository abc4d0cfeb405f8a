"""The Celery app of a cluster: it delivers attempts to workers, at least once and in any order. The
ledger decides which of them are run.

`celery -A clinvk.cluster.app …` uses the address in `CLINVK_CLUSTER_URL`, or `cluster.url` of the
configuration.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery import Celery

from clinvk.cluster import address as addresses
from clinvk.cluster.address import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Address
from clinvk.cluster.keys import DRIVE, AttemptId, Keys
from clinvk.config import loading

URL_VARIABLE = "CLINVK_CLUSTER_URL"
TASK = "clinvk.attempt"
REDELIVERED_AFTER = 24 * 3600  # seconds; the ledger makes sure that nothing runs twice even then
IDLE_POLL = 1  # seconds for which an idle worker waits for a message at a time
CHECK_INTERVAL = 10  # seconds between looks whether the server has stopped answering

# A server that was restarted is asked again for half a minute, as by the ledger.
PATIENTLY = {"max_retries": 20, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 3}

# Runs an attempt, or drives a run, in a process of a worker; the worker sets it before it starts.
Handler = Callable[[AttemptId], None]
Driver = Callable[[str], None]
_handler: list[Handler] = []
_driver: list[Driver] = []


def set_handler(handler: Handler) -> None:
    _handler[:] = [handler]


def set_driver(driver: Driver) -> None:
    _driver[:] = [driver]


def create_app(address: Address | None) -> Celery:
    """The app of the cluster at this address."""
    made = Celery("clinvk", set_as_current=False, fixups=[])
    made.conf.update(
        task_serializer="json", result_serializer="json", event_serializer="json",
        accept_content=["json"], task_ignore_result=True, task_store_errors_even_if_ignored=False,
        # An attempt that a killed worker had is never run again by itself.
        task_acks_late=False, task_reject_on_worker_lost=False,
        task_default_queue="tasks", task_create_missing_queues=True,
        worker_prefetch_multiplier=1, worker_disable_prefetch=True,
        worker_hijack_root_logger=False, worker_redirect_stdouts=False,
        worker_send_task_events=False, worker_enable_remote_control=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True, broker_connection_max_retries=None,
        enable_utc=True,
    )  # fmt: skip
    if address is not None:
        made.conf.update(
            broker_url=address.url,
            broker_transport_options={
                "visibility_timeout": REDELIVERED_AFTER,
                "global_keyprefix": Keys.of(address.name).prefix,
                "polling_interval": IDLE_POLL,
                "socket_keepalive": True,
                "socket_connect_timeout": CONNECT_TIMEOUT,
                "socket_timeout": ANSWER_TIMEOUT,
                "health_check_interval": CHECK_INTERVAL,
                # Otherwise redis-py would connect again by itself where Celery listens for commands,
                # and wait there for one, while no tasks are taken.
                "retry_on_timeout": False,
            },
        )
    made.task(_attempt, name=TASK, ignore_result=True)
    made.task(_drive, name=DRIVE, ignore_result=True)
    return made


def _attempt(run: str, task: int, number: int) -> None:
    """The Celery task: its arguments are all that is in the message."""
    if not isinstance(run, str) or not isinstance(task, int) or not isinstance(number, int):
        raise TypeError("not an attempt of clinvk")
    for handler in _handler:
        handler(AttemptId(run, task, number))


def _drive(run: str) -> None:
    if not isinstance(run, str):
        raise TypeError("not a run of clinvk")
    for driver in _driver:
        driver(run)


def send_run(made: Celery, run: str) -> None:
    """Have a detached run delivered to a worker that drives it. Keeps no connection open, since the
    caller may be about to fork."""
    with made.connection_for_write() as connection:
        made.send_task(DRIVE, (run,), queue=DRIVE, connection=connection, retry=True)


def send(made: Celery, attempt: AttemptId, queue: str) -> None:
    """Have the attempt delivered to a worker of the queue."""
    made.send_task(
        TASK, (attempt.run, attempt.task, attempt.number), queue=queue, retry=True,
        retry_policy=PATIENTLY,
    )  # fmt: skip


def _configured() -> Address | None:
    url = os.environ.get(URL_VARIABLE)
    if not url:
        cluster: Any = getattr(loading.load(os.environ).config, "cluster", None)
        url = cluster.url if cluster is not None else None
    return addresses.parse(url, insecure=True) if url else None


def __getattr__(name: str) -> Any:
    """`app`, for the `celery` command: only that reads the configuration."""
    if name != "app":
        raise AttributeError(name)
    made = globals()["app"] = create_app(_configured())
    return made
