"""The names of all keys in Redis. Those of one cluster begin with `clinvk:{NAME}:`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import combinations

from msgspec import Struct

# Of a run: it is part of paths and of git refs, and comes from the network.
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
DRIVE = "clinvk.drive"  # the Celery task that drives a detached run, and its queue
DEFAULT_NAME = "default"  # of a cluster whose URL names none


class AttemptId(Struct, frozen=True):
    """An attempt at a task: its run, the position of the task in its plan, and its number, from
    1."""

    run: str
    task: int
    number: int

    @property
    def member(self) -> str:
        """Its name in its run."""
        return f"{self.task}.{self.number}"

    @property
    def shown(self) -> str:
        """For people, who count tasks from 1."""
        again = f", attempt {self.number}" if self.number > 1 else ""
        return f"{self.run} {self.task + 1}{again}"

    def __str__(self) -> str:
        return f"{self.run}.{self.member}"


class Keys(Struct, frozen=True):
    """The keys below a prefix."""

    prefix: str

    @classmethod
    def of(cls, name: str = DEFAULT_NAME) -> Keys:
        return cls(f"clinvk:{name}:")

    @property
    def identity(self) -> str:
        """A text that no other cluster has, and that is lost with its data."""
        return f"{self.prefix}identity"

    # The records of runs.

    def runs(self) -> str:
        """The ids of all runs that are recorded here, by their age."""
        return f"{self.prefix}runs"

    def due(self) -> str:
        """Detached runs that have not ended, by the time at which they need another driver."""
        return f"{self.prefix}due"

    def run_log(self, run: str) -> str:
        """The plan of a run, and when it was created and changed."""
        return f"{self.run_logs()}{run}"

    def run_logs(self) -> str:
        """What the keys of all such plans begin with."""
        return f"{self.prefix}log:"

    def driver(self, run: str) -> str:
        """The lease of the process that drives a run."""
        return f"{self.prefix}driver:{run}"

    def journal(self, run: str) -> str:
        return f"{self.prefix}journal:{run}"

    def events(self, run: str) -> str:
        """The events of all tasks of a run."""
        return f"{self.prefix}events:{run}"

    def event_index(self, run: str) -> str:
        """Where the events of each task of a run are."""
        return f"{self.prefix}index:{run}"

    def taken(self, run: str) -> str:
        """What became of the results of a run."""
        return f"{self.prefix}taken:{run}"

    # Attempts.

    def run(self, run: str) -> str:
        """Facts about a run, as long as the server has not lost them."""
        return f"{self.prefix}run:{run}"

    def task(self, attempt: AttemptId) -> str:
        """The number of the newest attempt at a task."""
        return f"{self.prefix}task:{attempt.run}:{attempt.task}"

    def attempt(self, attempt: AttemptId) -> str:
        return f"{self.attempts(attempt.run)}{attempt.member}"

    def attempts(self, run: str) -> str:
        """What the keys of all attempts of a run begin with."""
        return f"{self.prefix}attempt:{run}:"

    def leases(self, run: str) -> str:
        """The running attempts of a run, by the end of their lease."""
        return f"{self.prefix}leases:{run}"

    def news(self, run: str) -> str:
        """The stream of what happens to the attempts of a run."""
        return f"{self.prefix}news:{run}"

    def allowance(self, run: str) -> str:
        """What is left for further turns of the tasks of a run."""
        return f"{self.prefix}allowance:{run}"

    def home(self, session: str) -> str:
        """The node whose CLI has the native session of a session: see `native_session`."""
        return f"{self.prefix}home:{session}"

    def live(self, backend: str) -> str:
        """The nodes that run a backend, by the time until which they count as alive."""
        return f"{self.prefix}live:{backend}"

    def waiting(self, queue: str) -> str:
        """The messages of a queue that no worker has taken yet."""
        return f"{self.prefix}{queue}"

    @property
    def limits(self) -> str:
        """The rate limits that workers have met."""
        return f"{self.prefix}limits"

    @property
    def nodes(self) -> str:
        """The names of the nodes, by the time of their last heartbeat."""
        return f"{self.prefix}nodes"

    def node(self, name: str) -> str:
        """What a node says about itself."""
        return f"{self.prefix}node:{name}"

    def busy(self, name: str) -> str:
        """The attempts that a node says it is running."""
        return f"{self.prefix}busy:{name}"


def native_session(session: str, backend: str) -> str:
    """What has a home: a session may have a native session of each backend, on different nodes."""
    return f"{session}:{backend}"


def queue_of(backend: str, node: str | None = None, labels: Iterable[str] = ()) -> str:
    """The Celery queue of a backend: for tasks that need these labels, which all nodes that have
    them take from; with a node, the one that only this node takes from."""
    if node is not None:
        return f"tasks.{backend}@{node}"
    return "+".join([f"tasks.{backend}", *sorted(labels)])


def queues_of(backend: str, node: str, labels: Sequence[str]) -> list[str]:
    """The queues that a node with these labels takes from."""
    sets = (chosen for n in range(len(labels) + 1) for chosen in combinations(labels, n))
    return [*(queue_of(backend, labels=chosen) for chosen in sets), queue_of(backend, node)]
