"""The runs that are recorded on a server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from clinvk.cluster.address import Address, parse
from clinvk.cluster.keys import RUN_ID
from clinvk.cluster.log import scripts
from clinvk.cluster.log.lease import LEASE, WHERE
from clinvk.cluster.log.run import RedisRun, about_data, plan_data
from clinvk.cluster.log.server import LogServer, open_server
from clinvk.cluster.log.submitted import remember
from clinvk.disk.closing import Closing
from clinvk.errors import UsageError
from clinvk.model.plan import Plan
from clinvk.runs.log import RunNotFound, Runs, find_id

ID_BYTES = 4
MAX_PLAN = 64 * 1024 * 1024  # bytes
FIRST_DRIVER = 10.0  # seconds in which a worker is expected to take a run that was submitted


class RedisRuns(Closing, Runs):
    """The runs of a cluster. Closes its server."""

    def __init__(
        self,
        server: LogServer,
        home: Path,
        *,
        seconds: float = LEASE,
        detached: bool = False,
        where: str = WHERE,
    ) -> None:
        """`home` is that of this clinvk. A run that is created here is driven by a worker if it is
        `detached`, and otherwise by this process. A process that has died drives a run for so many
        `seconds` more. `where` are the flags with which a command finds these runs."""
        self.server = server
        self.home = home
        self.seconds = seconds
        self.detached = detached
        self.where = where

    def close(self) -> None:
        self.server.close()

    def create(self, plan: Plan, prepare: Callable[[str], None] = lambda _: None) -> RedisRun:
        """`prepare` gets the id before the run is recorded, and what it raises is passed on."""
        data = plan_data(plan)
        if len(data) > MAX_PLAN:
            raise UsageError(
                f"the tasks are too large for the cluster: {len(data):,} bytes",
                f"at most {MAX_PLAN:,}; put long texts into files, or split the tasks into several runs",
            )
        keys, answer, run_id = self.server.keys, "taken", ""
        missed = round(FIRST_DRIVER * 1000) if self.detached else ""
        while answer == "taken":
            run_id = "r" + os.urandom(ID_BYTES).hex()
            with self.server.errors():
                if self.server.client.exists(keys.run_log(run_id)):
                    continue
            prepare(run_id)
            answer = self.server.run(
                scripts.CREATE, [keys.run_log(run_id), keys.runs(), keys.due()],
                [run_id, data, about_data(plan), missed],
            )  # fmt: skip
        if self.detached:
            remember(self.home, run_id)
        return self.at(run_id)

    def ids(self) -> list[str]:
        """Newest first."""
        with self.server.errors():
            found = cast(
                "list[bytes]", self.server.client.zrevrange(self.server.keys.runs(), 0, -1)
            )
        return valid_ids(found)

    def find(self, text: str) -> RedisRun:
        ids = self.ids()
        try:
            return self.at(find_id(text, ids, lambda: ids[0], self.where))
        except RunNotFound as error:
            raise self.why_missing(text) or error from error

    def why_missing(self, text: str) -> RunNotFound | None:
        with self.server.errors():
            if not self.server.client.exists(self.server.keys.run(text)):
                return None
        return RunNotFound(
            f"run {text} was not detached, so it is recorded only on the machine where it was started",
            "run the command there; a run with --detach is seen from all machines",
        )

    def newest_first(self) -> Iterator[RedisRun]:
        return map(self.at, self.ids())

    def remove_remains(self) -> None:
        """Does nothing: a run is deleted in one step."""

    def take_due(self, most: int = 100, wait: float = 30.0, restarts: int = 20) -> list[str]:
        """The detached runs that need a driver now: none has taken them, or theirs has died. They
        are returned again after `wait` seconds, if they still have none then, and no more after so
        many `restarts` in which nothing was recorded."""
        found: Any = self.server.run(
            scripts.DUE, [self.server.keys.due()],
            [most, round(wait * 1000), restarts, self.server.keys.run_logs()],
        )  # fmt: skip
        return [i.decode() for i in found]

    def at(self, run_id: str) -> RedisRun:
        """The run with this id, whether it exists or not. Raises `RunNotFound` for one that no run can
        have."""
        if not RUN_ID.fullmatch(run_id):
            raise RunNotFound(
                f"invalid id of a run: {run_id[:100]!r}", f"see clinvk runs list{self.where}"
            )
        return RedisRun(self.server, run_id, self.home, seconds=self.seconds, where=self.where)


def valid_ids(found: Iterable[bytes]) -> list[str]:
    texts = (i.decode("utf-8", "replace") for i in found)
    return [text for text in texts if RUN_ID.fullmatch(text)]


def open_runs(
    url: str,
    home: Path,
    *,
    ca: Path | None = None,
    insecure: bool = False,
    detached: bool = False,
    seconds: float = LEASE,
    where: str = WHERE,
) -> RedisRuns:
    """The runs of the cluster with this address. Raises `ConfigError`, and `SessionError` if its
    server does not answer."""
    address = parse(url, insecure=insecure)
    return open_runs_at(address, home, ca=ca, detached=detached, seconds=seconds, where=where)


def open_runs_at(
    address: Address,
    home: Path,
    *,
    ca: Path | None = None,
    detached: bool = False,
    seconds: float = LEASE,
    where: str = WHERE,
) -> RedisRuns:
    """The same, of an address that was checked."""
    return RedisRuns(
        open_server(address, ca=ca), home, detached=detached, seconds=seconds, where=where
    )
