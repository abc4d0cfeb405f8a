"""The same from Python, on both event loops."""

import anyio
import pytest

from clinvk import Delta, Dispatcher, Event, Finished, Request, Result, Started, Text
from tests.real.user import User, wait_for
from tests.stores import keep

# Both event loops with one CLI: test_dispatcher.py has everything on both.
pytestmark = [
    pytest.mark.real,
    pytest.mark.parametrize(
        ("backend", "loop"),
        [("claude", "asyncio"), ("codex", "asyncio"), ("codex", "trio"), ("gemini", "asyncio")],
        indirect=["backend"],
    ),
]


def stream(user: User, loop: str, request: Request) -> tuple[list[Event], Result]:
    async def main() -> tuple[list[Event], Result]:
        async with keep(Dispatcher(env=user.environment())).stream(request) as run:
            events = [event async for event in run]
        return events, run.result

    return anyio.run(main, backend=loop)


def test_a_run_streams_its_events(user: User, loop: str) -> None:
    request = Request(prompt="hello", backend=user.backend, cwd=user.home.project)

    events, result = stream(user, loop, request)

    assert any(isinstance(event, Started) for event in events)
    assert any(isinstance(event, Delta | Text) for event in events)
    assert isinstance(events[-1], Finished)
    assert result.ok
    assert result.text == "answer 1 to: hello | began with: hello"
    assert [session["id"] for session in user.sessions()] == [result.session_id]


def test_leaving_early_ends_the_program(user: User, loop: str) -> None:
    request = Request(prompt="hello <<pause 60>>", backend=user.backend, cwd=user.home.project)

    async def main() -> Result:
        async with keep(Dispatcher(env=user.environment())).stream(request) as run:
            async for event in run:
                if isinstance(event, Started):
                    await anyio.to_thread.run_sync(wait_for, lambda: user.asked)
                    break
        return run.result

    result = anyio.run(main, backend=loop)

    assert result.error
    assert result.error.kind == "cancelled"
    assert user.processes() == []


def test_a_cancelled_task_leaves_no_program(user: User, loop: str) -> None:
    request = Request(prompt="hello <<pause 60>>", backend=user.backend, cwd=user.home.project)

    async def main() -> bool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep(Dispatcher(env=user.environment())).run, request)
            await anyio.to_thread.run_sync(wait_for, lambda: user.asked)
            tasks.cancel_scope.cancel()
        return tasks.cancel_scope.cancelled_caught

    assert anyio.run(main, backend=loop)
    assert user.processes() == []
