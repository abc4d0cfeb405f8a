"""What a run of a plan needs from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from clinvk.backend.selection import BackendSelector
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.engine.executor import Executor, LocalExecutor
from clinvk.errors import LimitError
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Plan
from clinvk.runs.folder import RunStore
from clinvk.runs.log import RunLog, Runs
from clinvk.store.base import Store

FindLimit = Callable[[str, Mapping[str, str], str | None], LimitError | None]


class ClusterRuns(Protocol):
    """What a run needs to know about the cluster that runs its tasks."""

    address: str  # without its password

    def place(self, plan: Plan, notify: Callable[[str], None]) -> Plan:
        """The plan in which each task says where workers get its files from. Raises `ClinvkError` if
        a task of it could not run there."""
        ...

    def create_executor(self, log: RunLog | None) -> Executor:
        """Runs the tasks of the run with these records; None: of an ephemeral one."""
        ...

    def joinable(self, run: str, attempts: Sequence[tuple[int, int]]) -> set[int]:
        """The positions of the tasks whose last attempt is running there, has ended, or was never
        sent: running it again with the same number only gets its result. `attempts` are positions
        and numbers."""
        ...

    def stop_left(self, run: str, outcomes: Sequence[Outcome]) -> str | None:
        """Stop the last attempts at these tasks, which no process waits for; returns a sentence about what
        was stopped. It blocks. Raises `ClinvkError`."""
        ...

    def why_waiting(self, plan: Plan, outcomes: Sequence[Outcome]) -> dict[int, str]:
        """Why tasks wait that no worker has taken yet, by their position. It blocks; empty if the
        server does not say."""
        ...

    def free_accounts(self, backend: str) -> frozenset[str]:
        """The accounts of the backend, of workers that take tasks, that are at no rate limit as far as
        is known. It blocks."""
        ...


class RunContext(Struct, frozen=True, kw_only=True):
    """What a run of a plan needs from outside."""

    selector: BackendSelector  # chooses the backend of each task
    runs: Runs  # where the run is recorded
    redact: bool  # whether secrets in the answers are recorded without their values
    env: Mapping[str, str]  # of this process
    open_store: Callable[[], Store]  # the sessions of the tasks; an ephemeral run has none
    # Runs the tasks. All programs that it starts carry the marker; without one, none do.
    create_executor: Callable[[str], Executor]
    # The rate limit of a backend, with these variables and this model, that was remembered.
    find_limit: FindLimit = lambda _backend, _env, _model: None
    cluster: ClusterRuns | None = None  # the tasks run on its workers
    is_chosen: bool = False  # the user wants this machine, though tasks may ask for other ones


def local_context(dispatcher: Dispatcher) -> RunContext:
    """The context of a run whose tasks run on this machine."""
    config = dispatcher.config

    def create_executor(marker: str) -> Executor:
        if not marker:
            return LocalExecutor(dispatcher)
        return LocalExecutor(dispatcher.with_marker(marker))

    return RunContext(
        selector=dispatcher.selector,
        runs=RunStore(config.home),
        redact=config.config.session.redact,
        env=dispatcher.env,
        open_store=lambda: dispatcher.store,
        create_executor=create_executor,
        find_limit=dispatcher.find_limit,
    )
