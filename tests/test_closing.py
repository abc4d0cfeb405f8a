"""What holds something open is closed: once or more often, by `with`, from any thread."""

import gc
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import clinvk as package
from clinvk import SessionManager
from clinvk.api.workflow import WorkflowManager
from clinvk.cmd.main import main
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import SessionError
from clinvk.model.plan import Plan, Task
from clinvk.model.session import Message, Session
from clinvk.runs.event_log import EventLog
from clinvk.runs.folder import RunStore
from clinvk.runs.journal import Journal
from clinvk.store import open_store
from clinvk.store.base import Query, Store
from clinvk.store.locks import TurnLocks
from tests.conftest import PROJECT, Home, wait_for
from tests.stores import KINDS, keep, store_url


def said(text: str) -> Message:
    return Message("user", text)


def same(session: Session) -> Session:
    return session


def open_files() -> set[str]:
    """What this process has open."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return {line for line in found if "/proc/" not in line}


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """Raises for what the block leaves open, or leaves to the garbage collector."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("there is no /proc here")
    gc.collect()
    before = open_files()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        yield
        assert open_files() - before == set()


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return store_url(request.param, tmp_path / "home", request)


@pytest.fixture
def reopen(url: str, tmp_path: Path) -> Callable[[], Store]:
    return lambda: open_store(url, tmp_path / "home")


def use(store: Store) -> None:
    """Everything that may open something."""
    if not store.find_ids("s"):
        store.create(Session(id="s"), [said("hello")])
    store.append("s", [said("more")], same)
    assert [hit.session.id for hit in store.search("hello")] == ["s"]
    assert store.count(Query()) == len(store.select(Query()))
    with store.acquire_turn("s"):
        assert store.running_turn("s") is not None


def test_a_store_that_is_closed_has_nothing_open(reopen: Callable[[], Store]):
    with nothing_left_open():
        store = reopen()
        use(store)
        store.close()
    with nothing_left_open(), reopen() as store:
        use(store)
    with nothing_left_open(), reopen():
        pass


def test_a_store_is_closed_more_than_once(reopen: Callable[[], Store]):
    store = reopen()
    use(store)
    store.close()
    store.close()
    with store:
        pass


ASKED: dict[str, Callable[[Store], object]] = {
    "get": lambda s: s.get("s"),
    "messages": lambda s: s.messages("s"),
    "size": lambda s: s.size("s"),
    "create": lambda s: s.create(Session(id="t")),
    "deferred": lambda s: s.deferred().create(Session(id="t")),
    "update": lambda s: s.update("s", same),
    "append": lambda s: s.append("s", [said("x")], same),
    "rewrite": lambda s: s.rewrite("s", [], same),
    "flush": lambda s: s.deferred().flush(["s"]),
    "select": lambda s: s.select(Query()),
    "count": lambda s: s.count(Query()),
    "matching": lambda s: s.find_ids("s"),
    "owners": lambda s: s.find_by_native_id(None, "x"),
    "search": lambda s: s.search("hello"),
    "reindex": lambda s: s.reindex(),
    "delete": lambda s: s.delete("s"),
    "clean": lambda s: s.clean("2026-01-01T00:00:00Z"),
    "turn": lambda s: s.acquire_turn("s"),
    "running": lambda s: s.running_turn("s"),
    "all_running": lambda s: s.running_ids(),
}


def test_a_closed_store_says_that_it_is_closed(reopen: Callable[[], Store]):
    with nothing_left_open():
        store = reopen()
        use(store)
        store.close()
        for name, ask in ASKED.items():
            with pytest.raises(SessionError) as told:
                ask(store)
            assert "the store is closed" in str(told.value), name
    with reopen() as store:
        assert [s.id for s in store.select(Query())] == ["s"]


def test_closing_a_store_breaks_no_other(reopen: Callable[[], Store]):
    with reopen() as one:
        use(one)
        with reopen() as other:
            use(other)
        use(one)


def test_a_turn_outlives_the_store_that_began_it(reopen: Callable[[], Store]):
    with nothing_left_open():
        store = reopen()
        use(store)
        turn = store.acquire_turn("s")
        store.close()
        with reopen() as other:
            assert other.acquire_turn("s") is None
        turn.close()
        turn.close()
        turn.abandon()
        with reopen() as other:
            other.acquire_turn("s").close()


def test_a_store_is_closed_from_another_thread(reopen: Callable[[], Store]):
    with nothing_left_open():
        store = reopen()
        done, end = threading.Event(), threading.Event()

        def stay() -> None:
            use(store)
            done.set()
            end.wait(60)
            with pytest.raises(SessionError, match="the store is closed"):
                store.select(Query())

        thread = threading.Thread(target=stay)
        thread.start()
        assert done.wait(60)
        store.select(Query())
        store.close()
        end.set()
        thread.join()


def test_what_another_thread_does_comes_to_its_end(reopen: Callable[[], Store]):
    """Every message that was acknowledged is there, and every thread that was too late was told."""
    with nothing_left_open():
        store = reopen()
        store.create(Session(id="s"))
        written: list[str] = []
        problems: list[str] = []

        def write(name: str) -> None:
            try:
                for n in range(10_000):
                    store.append("s", [said(f"{name}{n}")], same)
                    written.append(f"{name}{n}")
            except SessionError as error:
                problems.append(error.message)

        threads = [threading.Thread(target=write, args=[name]) for name in "abc"]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(written) > 10, "writing")
        store.close()
        for thread in threads:
            thread.join()
    assert problems == ["the store is closed"] * 3
    with reopen() as store:
        there = [m.content for m in store.messages("s")]
    assert set(written) <= set(there)
    assert len(there) <= len(written) + 3


def test_threads_that_have_ended_leave_few_connections(reopen: Callable[[], Store]):
    store = keep(reopen())
    use(store)
    before = len(open_files())
    for _ in range(30):
        thread = threading.Thread(target=lambda: store.select(Query()))
        thread.start()
        thread.join()
    assert len(open_files()) < before + 10


FORGOTTEN = """
import sys
from pathlib import Path
from clinvk import Message, Session
from clinvk.store import open_store
store = open_store(sys.argv[1], Path(sys.argv[2]))
store.create(Session(id="s"), [Message("user", "hello")])
turn = store.acquire_turn("s")
store.search("hello")
del store
print("end")
"""


def run_script(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *args], cwd=PROJECT,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_a_store_that_is_never_closed_is_no_error(url: str, tmp_path: Path):
    (tmp_path / "home").mkdir()
    done = run_script(FORGOTTEN, url, str(tmp_path / "home"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


FORKED = """
import os, sys
from pathlib import Path
from clinvk import Message, Session
from clinvk.store import open_store
from clinvk.store.base import Query

def same(session): return session

store = open_store(sys.argv[1], Path(sys.argv[2]))
store.create(Session(id="s"))

def fork(act):
    if os.fork() == 0:
        act()
        os._exit(0)
    pid, status = os.wait()
    assert status == 0, status

def use():
    store.append("s", [Message("user", "child")], same)
    assert [s.id for s in store.select(Query())] == ["s"]
    store.close()

def close_while_the_parent_writes(session):
    fork(store.close)
    return session

def leave_while_the_parent_writes(session):
    fork(lambda: None)
    return session

store.append("s", [Message("user", "1")], close_while_the_parent_writes)
store.append("s", [Message("user", "2")], leave_while_the_parent_writes)
fork(use)
store.append("s", [Message("user", "3")], same)
assert [m.content for m in store.messages("s")] == ["1", "2", "child", "3"]
assert [hit.session.id for hit in store.search("child")] == ["s"]
store.close()
"""


def test_a_fork_neither_uses_nor_closes_what_its_parent_has_open(url: str, tmp_path: Path):
    (tmp_path / "home").mkdir()
    done = run_script(FORKED, url, str(tmp_path / "home"))
    assert (done.returncode, done.stderr) == (0, "")


KILLED = """
import os, signal, sys
from pathlib import Path
from clinvk import Message, Session
from clinvk.store import open_store

store = open_store(sys.argv[1], Path(sys.argv[2]))

def die(session):
    os.kill(os.getpid(), signal.SIGKILL)

store.append("s", [Message("user", "never")], die)
"""


def test_a_process_that_was_killed_while_it_wrote_breaks_no_other(
    reopen: Callable[[], Store], url: str, tmp_path: Path
):
    with reopen() as store:
        use(store)
        for _ in range(3):
            assert run_script(KILLED, url, str(tmp_path / "home")).returncode == -9
            use(store)
        assert "never" not in [m.content for m in store.messages("s")]


# What uses stores


def test_a_manager_closes_the_store_that_it_opened(tmp_path: Path):
    with nothing_left_open(), SessionManager(home=tmp_path) as sessions:
        id_ = sessions.create_session()
        sessions.configure_autosave(interval=100)
        sessions.add_message(id_, said("waits"))
    with pytest.raises(SessionError, match="the store is closed"):
        sessions.get_session(id_)
    sessions.close()
    with SessionManager(home=tmp_path) as again:
        assert [m.content for m in again.get_messages(id_)] == ["waits"]


def test_a_manager_leaves_a_store_open_that_it_was_given(tmp_path: Path):
    with open_store("file", tmp_path) as store:
        with SessionManager(store, tmp_path) as sessions:
            id_ = sessions.create_session()
        assert store.get(id_).id == id_


def test_a_dispatcher_closes_only_a_store_that_it_opened(home: Home):
    loaded = loading.load(home.env)
    with nothing_left_open():
        with Dispatcher(loaded, env=home.env) as own:
            use(own.store)
        own.close()
        with pytest.raises(SessionError, match="closed"):
            own.store.get("s")
        with open_store("file", home.path) as store:
            with Dispatcher(loaded, store=store, env=home.env) as other:
                use(other.store)
            use(store)


def test_a_dispatcher_that_was_closed_unused_opens_nothing(home: Home):
    dispatcher = Dispatcher(loading.load(home.env), env=home.env)
    dispatcher.close()
    with pytest.raises(SessionError, match="closed"):
        _ = dispatcher.store


def test_a_workflow_manager_closes_only_a_dispatcher_that_it_made(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    for name, value in home.env.items():
        monkeypatch.setenv(name, value)
    with nothing_left_open():
        with WorkflowManager() as manager:
            use(manager.dispatcher.store)
        with Dispatcher() as dispatcher:
            with WorkflowManager(dispatcher):
                use(dispatcher.store)
            use(dispatcher.store)


def test_what_is_kept_of_a_run_is_closed_more_than_once(tmp_path: Path):
    with nothing_left_open():
        folder = RunStore(tmp_path).create(
            Plan(kind="parallel", tasks=(Task(name="a", prompt="x"),))
        )
        journal, log = Journal(folder, same), EventLog(folder.open_events(0), same)
        for opened in (journal, log):
            opened.close()
            opened.close()
        with Journal(folder, same), EventLog(folder.open_events(0), same), folder.lock() as turn:
            pass
        turn.close()


def test_closing_twice_closes_no_file_of_another(tmp_path: Path):
    """The number of a closed file is given to the next one that is opened."""
    turn = TurnLocks(tmp_path).acquire("a")
    turn.close()
    with open(tmp_path / "other", "w") as other:
        turn.close()
        turn.abandon()
        other.write("fine")


# What opens a dispatcher of its own


@pytest.fixture
def here(home: Home, monkeypatch: pytest.MonkeyPatch, url: str) -> Home:
    """This process, as if `home` were its user's."""
    home.backend("fake")
    home.config(f"default_backend: fake\nsession: {{storage: '{url}'}}\n")
    for name, value in home.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(home.work)
    (home.path.parent / "home").mkdir(exist_ok=True)
    return home


def test_functions_close_what_they_open(here: Home):
    package.run("warm up")  # what stays open for the whole process: threads of the event loop
    package.parallel(["x"])
    with nothing_left_open():
        assert package.run("hello").ok
        assert package.parallel(["a", "b"]).exit_code == 0
        assert package.chain(["a", "b"]).exit_code == 0
        assert package.compare("x", ["fake", "echo"]).result.exit_code == 0
        assert package.resume_run("last").exit_code == 0


def test_every_command_closes_what_it_opens(here: Home, capfd: pytest.CaptureFixture[str]):
    (here.work / "tasks.yaml").write_text(json.dumps({"tasks": [{"prompt": "x"}]}))
    (here.work / "steps.yaml").write_text(json.dumps({"steps": [{"prompt": "x"}]}))
    main(["--session", "a", "warm up"])
    main(["parallel", "tasks.yaml"])
    commands = """
        --session a hello
        ask --dry-run hello
        resume a more
        resume a --dry-run more
        sessions resume a more
        parallel tasks.yaml
        parallel tasks.yaml --dry-run
        chain steps.yaml --checkpoint c
        compare x -b fake -b echo
        runs list
        runs show last
        runs watch last
        runs report last
        runs resume last
        runs retry last
        runs clean
        checkpoints list
        checkpoints show c
        checkpoints delete c --yes
        sessions list
        sessions list --status running
        sessions show a --messages 2
        sessions search hello
        sessions options --session a
        sessions stats a
        sessions export a
        sessions start b
        sessions edit b --title x
        sessions archive b
        sessions branch a
        sessions merge a b
        sessions import --dry-run
        sessions reindex
        sessions migrate --to file://OTHER
        sessions clean
        sessions delete b --yes
        sessions show missing
        sessions delete missing --yes
        doctor
        backends list
        config show
        runs delete last --yes
    """
    for line in commands.replace("OTHER", str(here.work / "other")).split("\n"):
        if words := line.split():
            with nothing_left_open():
                assert main(words) in ((0, 1, 3, 4) if "missing" not in line else (4,)), line
                capfd.readouterr()
