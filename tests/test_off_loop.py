"""A store that makes one task wait holds up no other, whatever it waits for."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, get_ident
from typing import Any

import anyio
import anyio.to_thread
import pytest
from msgspec.structs import replace

from clinvk import Dispatcher, Request
from clinvk.config import loading
from clinvk.disk.lockfile import hold_lock
from clinvk.disk.waiting import WouldWait
from clinvk.dispatch import dispatcher as dispatcher_module
from clinvk.dispatch import off_loop, turn
from clinvk.dispatch.off_loop import StoreCalls, StoreGaveUp
from clinvk.errors import SessionError
from clinvk.model.session import Session
from clinvk.store.base import Query, Store
from clinvk.store.files.store import FileStore
from clinvk.store.sqlite.store import SqliteStore
from tests.conftest import END, READ, START, CommandLine, Home, signal_to_the_end
from tests.stores import KINDS, RedisServer, keep

pytestmark = pytest.mark.anyio

LOCK = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
EXCLUSIVE = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
database.execute("ROLLBACK")
"""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Held:
    """A store that another process holds up, when it is told to."""

    def __init__(self, kind: str, home: Home, server: RedisServer | None) -> None:
        self.kind, self.home, self.server = kind, home, server
        self.path = home.path / "sessions.db"
        self.url = {"file": "file", "sqlite": f"sqlite:///{self.path}"}.get(kind) or server.url  # type: ignore[union-attr]
        (home.path / "config.yaml").write_text(f"session: {{storage: '{self.url}'}}\n")

    @contextmanager
    def held(self) -> Iterator[None]:
        if self.server is not None:
            assert self.server.process is not None
            os.kill(self.server.process.pid, signal.SIGSTOP)
            try:
                yield
            finally:
                os.kill(self.server.process.pid, signal.SIGCONT)
            return
        script, path = (
            (LOCK, self.home.path / "lock") if self.kind == "file" else (EXCLUSIVE, self.path)
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            yield
            holder.stdin.close()


@pytest.fixture(params=KINDS)
def held(request: pytest.FixtureRequest, home: Home) -> Held:
    kind = str(request.param)
    server = request.getfixturevalue("own_server") if kind == "redis" else None
    home.backend("fake")
    return Held(kind, home, server)


@pytest.fixture
def dispatcher(held: Held) -> Dispatcher:
    return keep(Dispatcher(loading.load(held.home.env), env=held.home.env))


def ask(held: Held, backend: str, **more: Any) -> Request:
    return Request(prompt="hello", backend=backend, cwd=held.home.work, **more)


def gated(path: Path) -> str:
    """A CLI that has begun, and answers when that file is there."""
    return READ + START + f"while [ ! -e {path} ]; do sleep 0.05; done\n" + END


async def test_while_one_task_waits_for_the_store_others_go_on(held: Held, dispatcher: Dispatcher):
    gate = held.home.work / "gate"
    held.home.backend("gated", gated(gate), ephemeral={})
    held.home.backend("silent", READ + START + "exec sleep 60\n", ephemeral={})
    assert (await dispatcher.run(ask(held, "fake"))).ok  # the store is there, and open
    ended: dict[str, Any] = {}

    async def recorded(number: int) -> None:
        ended[f"recorded {number}"] = await dispatcher.run(ask(held, "fake"))

    async def read() -> None:
        async with dispatcher.stream(ask(held, "gated", ephemeral=True)) as turn:
            async for event in turn:
                if event.type == "started":
                    gate.touch()
        ended["read"] = turn.result

    async def timed_out() -> None:
        ended["timed out"] = await dispatcher.run(ask(held, "silent", ephemeral=True, timeout=0.5))

    async def cancelled() -> None:
        async with dispatcher.stream(ask(held, "silent", ephemeral=True)) as turn:
            async for event in turn:
                if event.type == "started":
                    turn.cancel()
        ended["cancelled"] = turn.result

    async with anyio.create_task_group() as tasks:
        with held.held():
            for number in range(3):
                tasks.start_soon(recorded, number)
            await anyio.sleep(0.1)
            async with anyio.create_task_group() as others:
                for other in (read, timed_out, cancelled):
                    others.start_soon(other)
            assert ended.keys() == {"read", "timed out", "cancelled"}
    assert ended["read"].ok
    assert ended["timed out"].error.kind == "timeout"
    assert ended["cancelled"].error.kind == "cancelled"
    store = dispatcher.store
    for number in range(3):
        result = ended[f"recorded {number}"]
        assert result.ok
        assert store.get(result.session_id).turns == 1
        assert [m.role for m in store.messages(result.session_id)] == ["user", "assistant"]
    assert store.count(Query()) == 4


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer is given up sooner than for users."""
    for module in (off_loop, turn, dispatcher_module):
        monkeypatch.setattr(module, "ENDED_TIMEOUT", 0.6)


@pytest.mark.usefixtures("brief")
async def test_a_prompt_that_waits_for_the_store_can_be_cancelled(
    held: Held, dispatcher: Dispatcher
):
    assert (await dispatcher.run(ask(held, "fake", name="known"))).ok
    with held.held(), anyio.fail_after(20):  # a server is waited for 30 s, a lock for ever
        for request in (ask(held, "fake"), ask(held, "fake", session="known")):
            with anyio.move_on_after(0.1) as scope:
                await dispatcher.run(request)
            assert scope.cancelled_caught
    assert (await dispatcher.run(ask(held, "fake", session="known"))).ok
    assert dispatcher.store.count(Query()) == 1
    assert len(dispatcher.store.messages("known")) == 4


@pytest.mark.usefixtures("brief")
async def test_a_turn_that_is_cancelled_ends_though_it_cannot_be_recorded(
    held: Held, dispatcher: Dispatcher
):
    held.home.backend("gated", gated(held.home.work / "never"))
    said = []
    async with dispatcher.stream(ask(held, "gated", name="s")) as turn:
        async for event in turn:
            said.append(event)
            if event.type == "started":
                break
        with held.held():
            turn.cancel()
            said += [event async for event in turn]
    assert turn.result.error is not None
    assert turn.result.error.kind == "cancelled"
    assert any("could not be recorded" in getattr(event, "message", "") for event in said)
    assert (await dispatcher.run(ask(held, "fake", to="fake", session="s"))).ok


def test_a_second_signal_ends_a_prompt_that_waits_for_the_store(
    held: Held, dispatcher: Dispatcher, clinvk: CommandLine
):
    begun = held.home.work / "begun"
    held.home.backend("slow", READ + START + f"touch {begun}\nexec sleep 60\n")
    assert anyio.run(dispatcher.run, ask(held, "fake")).ok
    with subprocess.Popen(
        [sys.executable, "-m", "clinvk", "-b", "slow", "hello"], env=held.home.env,
        cwd=held.home.work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as command:  # fmt: skip
        wait_for(begun.exists)
        with held.held():
            command.send_signal(signal.SIGINT)
            time.sleep(0.3)
            signal_to_the_end(
                command, signal.SIGINT
            )  # a server is waited for 30 s, a lock for ever
    assert command.returncode == 7


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Slow:
    """Stands for a store of which nothing is asked."""


async def test_a_call_that_was_given_up_is_undone_if_it_succeeds_later():
    calls: StoreCalls = StoreCalls(Slow())  # type: ignore[arg-type]
    begun, tries = [], []
    given_up = Event()

    def call() -> str:
        if not tries:
            tries.append(1)
            raise WouldWait(SessionError("the call blocks"))
        begun.append(1)
        assert given_up.wait(60)
        return "a lock"

    dropped: list[str] = []
    calls.limit_wait(0.3)
    with pytest.raises(StoreGaveUp):
        await calls(call, dropped.append)
    assert dropped == []
    given_up.set()
    with anyio.fail_after(60):
        await anyio.to_thread.run_sync(wait_for, lambda: bool(dropped))
    assert (dropped, begun) == (["a lock"], [1])


async def test_a_call_is_made_though_no_thread_began_it_in_time(monkeypatch: pytest.MonkeyPatch):
    calls: StoreCalls = StoreCalls(Slow())  # type: ignore[arg-type]
    times = iter([-1.0])
    start = StoreCalls._start  # type: ignore[attr-defined]
    monkeypatch.setattr(
        StoreCalls, "_start", lambda self, call, seconds: start(self, call, next(times, seconds))
    )
    tries = []

    def call() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise WouldWait(SessionError("the call blocks"))
        return "done"

    with anyio.fail_after(60):
        assert await calls(call) == "done"
    assert len(tries) == 2


async def test_a_call_that_waited_too_long_says_what_it_waited_for():
    calls: StoreCalls = StoreCalls(Slow())  # type: ignore[arg-type]
    count = []

    def busy() -> None:
        count.append(1)
        raise WouldWait(SessionError("another process is writing"), 1)

    with pytest.raises(SessionError, match="another process is writing"):
        await calls(busy)
    assert len(count) > 2


@pytest.mark.parametrize("held", ["file", "sqlite"], indirect=True)
async def test_a_call_that_takes_a_moment_needs_no_thread(held: Held, dispatcher: Dispatcher):
    """A thread would cost more than the call, for each of thousands of tasks."""
    calls, store = StoreCalls(dispatcher.store), dispatcher.store
    begun = Session(id="r1.a", prompt="hello")
    await calls(lambda: store.deferred().create(begun))  # which may prepare an index
    await calls(lambda: store.deferred().update("r1.a", retitled("once")))
    if isinstance(store, SqliteStore):
        store._is_slow = False
    here = get_ident()
    for call in (
        lambda: store.get("r1.a"),
        lambda: store.deferred().update("r1.a", retitled("twice")),
        lambda: store.deferred().append("r1.a", [], retitled("thrice")),
    ):
        assert await calls(lambda call=call: (call().id, get_ident())) == ("r1.a", here)  # type: ignore[misc]


async def test_the_first_write_needs_no_thread_if_the_index_is_current(home: Home):
    with closing(FileStore(home.path)) as before:
        before.create(Session(id="s"))
    store = keep(FileStore(home.path))
    store.deferred().create(Session(id="r1.a"))
    await StoreCalls(store)(lambda: write_here(store, get_ident()))
    assert store.get("r1.a").title == "here"


def write_here(store: Store, thread: int) -> None:
    store.deferred().update("r1.a", retitled("here" if get_ident() == thread else "in a thread"))


async def test_a_call_needs_no_thread_while_a_lock_is_held_for_a_moment(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    """Threads that wait for it would slow down the one that holds it, so that more calls wait."""
    assert sum(off_loop.HELD_PAUSES) > 0.01
    monkeypatch.setattr(off_loop, "HELD_PAUSES", off_loop.HELD_PAUSES * 200)  # it may be busy
    store = keep(FileStore(home.path))
    store.create(Session(id="r1.a"))
    done = []

    async def write() -> None:
        await StoreCalls(store)(lambda: write_here(store, here))
        done.append(get_ident())

    here = get_ident()
    async with anyio.create_task_group() as tasks:
        with hold_lock(home.path / "lock"):
            tasks.start_soon(write)
            await anyio.sleep(0.01)
            assert not done
    assert store.get("r1.a").title == "here"


async def test_writes_leave_the_event_loop_while_the_disk_is_slow(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    store = keep(SqliteStore(home.path / "sessions.db"))
    calls, threads = StoreCalls(store), []

    def write() -> None:
        store.update("s", retitled("again"))
        threads.append(get_ident())

    monkeypatch.setattr("clinvk.store.sqlite.store.SLOW", -1.0)
    store.create(Session(id="s"))
    await calls(write)
    monkeypatch.setattr("clinvk.store.sqlite.store.SLOW", 60.0)
    await calls(write)  # the first one that is fast again
    await calls(write)
    assert [thread == get_ident() for thread in threads] == [False, False, True]


def retitled(title: str) -> Callable[[Session], Session]:
    return lambda session: replace(session, title=title)
