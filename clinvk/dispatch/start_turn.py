"""Starts the program of a turn that was planned, with the files and locks that it needs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from clinvk.backend import native
from clinvk.backend.files import tempfiles
from clinvk.config import schema as configs
from clinvk.dispatch.limit_check import remember_result
from clinvk.dispatch.recorder import Recorder, prompt_messages
from clinvk.dispatch.turn_plan import TurnPlan

if TYPE_CHECKING:
    from clinvk.dispatch.turn import Save, Turn


class BeforeTurn(Protocol):
    """What is to be done before a turn."""

    async def start(self, plan: TurnPlan) -> None:
        """Called before the program is started."""

    async def prompt(self) -> None:
        """Called before it gets its prompt, if that is on stdin."""


@asynccontextmanager
async def start_turn(
    plan: TurnPlan,
    config: configs.Loaded,
    env: Mapping[str, str],
    marker: str,
    recorder: Recorder | None,
    before: BeforeTurn | None,
    *,
    new: bool = False,
    read_interval: float = 0.0,
) -> AsyncIterator[Turn]:
    # Anyio, 45 ms: needed only once something runs.
    import signal

    # Anyio, 45 ms: needed only once something runs.
    from clinvk.backend.files import login_lock
    from clinvk.process import child as process  # anyio: only once something is to run

    began = time.monotonic()
    ask = signal.Signals[plan.manifest.stop]
    home = config.home
    with (
        tempfiles.temp_files(plan.command, env),
        keep_state(plan, home),
        _keep_worktree(plan, home),
    ):
        async with (
            _own_directory(plan, home),
            login_lock.login_lock(plan.manifest, plan.command.env, home) as begun,
        ):
            if recorder is not None and not new and not plan.request.resends:
                await recorder.record_prompt(await prompt_messages(plan, recorder.settings))
            if before is not None:
                await before.start(plan)
            async with process.start(
                plan.command,
                marker,
                stop_signal=ask,
                holds_prompt=before is not None,
                read_interval=read_interval,
            ) as child:
                if before is not None:  # it boots meanwhile
                    await before.prompt()
                    child.send_prompt()
                # The child boots while this is imported: jmespath is not needed to start it.
                from clinvk.dispatch.turn import Turn

                started_at = datetime.now(UTC)
                remember = partial(remember_result, plan, home, started_at=started_at)
                save = _save_changes(plan, home, env)
                run = Turn(plan, child, recorder, began, begun, remember, save)
                try:
                    yield run
                finally:
                    await run.close()


@contextmanager
def keep_state(plan: TurnPlan, home: Path) -> Iterator[None]:
    """The conversation that clinvk keeps for the CLI: at the end, one that has not begun is
    deleted, otherwise the one that it replaces. Raises `ClinvkError`."""
    command, name = plan.command, plan.manifest.name
    if command.state is None or command.new_id is None:
        yield
        return
    native.make_place(command.state)
    try:
        yield
    finally:
        before = plan.session.native_ids.get(name) if plan.session else None
        if not native.has_state(command.state):
            native.remove_state(home, name, command.new_id)
        elif before not in (None, command.new_id):
            native.remove_state(home, name, before or "")


def _save_changes(plan: TurnPlan, home: Path, env: Mapping[str, str]) -> Save | None:
    """Commits what a further turn of a session in a worktree has changed; None for others. For a task
    in a new worktree, its executor does that."""
    if not _is_further_turn_in_worktree(plan):
        return None
    # Only in a worktree.
    from clinvk.worktrees.attempt import save_session_result

    cwd = plan.command.cwd
    return partial(save_session_result, home=home, cwd=cwd, env=env)


def _is_further_turn_in_worktree(plan: TurnPlan) -> bool:
    session = plan.session
    return bool(session and session.started_in) and plan.request.started_in is None


def _own_directory(plan: TurnPlan, home: Path) -> AbstractAsyncContextManager[None]:
    """An empty directory, if the turn has one of its own: a further turn gets it again."""
    cwd = plan.command.cwd
    if plan.request.started_in is None and (
        plan.session is None or plan.session.started_in is None
    ):
        return nullcontext()
    # Only for few turns.
    from clinvk.disk.empty import is_empty_directory

    if not is_empty_directory(home, cwd):
        return nullcontext()
    # The same.
    from clinvk.dispatch.planning.own_directory import hold_directory

    return hold_directory(home, cwd)


def _keep_worktree(plan: TurnPlan, home: Path) -> AbstractContextManager[None]:
    """Nothing removes the worktree during a further turn in it; a run keeps those of its tasks."""
    if not _is_further_turn_in_worktree(plan):
        return nullcontext()
    # Only in a worktree.
    from clinvk.worktrees.in_use import keep_worktree

    return keep_worktree(home, plan.command.cwd)
