"""Drive detached runs, in processes of a worker. Such a process may be killed at any time: another one
resumes the run once its lease has ended."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from functools import partial

import anyio

from clinvk.cluster.context import Cluster, cluster_context, with_cluster_store
from clinvk.cluster.drive import drive
from clinvk.cluster.log.runs import open_runs_at
from clinvk.cluster.shared import SharedDirectories
from clinvk.cluster.worker.allowed import Allowed
from clinvk.cluster.worker.settings import WorkerSettings
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ClinvkError
from clinvk.text.sanitize import one_line


class RunDriver:
    """Drives one run at a time, in a process of a worker."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        config = settings.config.config
        shared = SharedDirectories(config.cluster.shared, config.worker.allow.directories)
        self._allowed = Allowed(config.worker.allow, shared)

    def drive(self, run_id: str) -> None:
        """Drive the run to its end, unless another process does, or it has ended."""
        try:
            self._drive(run_id)
        except ClinvkError as error:
            self._say(f"run {run_id}: {error.message}")

    def _drive(self, run_id: str) -> None:
        settings = self.settings
        home = settings.config.home
        with (
            open_runs_at(
                settings.address, home, ca=settings.ca, seconds=settings.driver_lease
            ) as runs,
            Dispatcher(settings.config, env=settings.env) as local,
            with_cluster_store(local, settings.address) as dispatcher,
            Cluster(dispatcher, settings.address) as cluster,
        ):  # fmt: skip
            run = runs.at(run_id)
            if run.find_driver() is not None:
                return  # the message came twice
            run.on_lost = _end
            context = cluster_context(dispatcher, cluster)
            try:
                anyio.run(
                    partial(
                        drive, context, run, notify=lambda text: self._say(f"run {run_id}: {text}"),
                        check=self._allowed.check_plan,
                    )
                )  # fmt: skip
            except ClinvkError as error:
                run.note_problem(f"{settings.name} cannot drive it: {error.message}")
                raise

    def _say(self, text: str) -> None:
        with suppress(OSError):  # the terminal was closed, or the reader of a pipe has left
            said = one_line(f"clinvk worker {self.settings.name}: {text}")
            print(said, file=sys.stderr, flush=True)


def _end() -> None:
    """Another process drives the run: end here as if killed, since ending in any other way would
    cancel the tasks that it has taken over."""
    os.kill(os.getpid(), signal.SIGKILL)
