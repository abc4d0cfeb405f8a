"""Sessions that are written first, and flushed together: nothing is lost, and no index is believed
that does not know of them."""

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.disk.lockfile import hold_lock
from clinvk.errors import SessionError, SessionNotFound
from clinvk.model.session import Message, MessageRole, Session
from clinvk.store import open_store
from clinvk.store.base import Query, Store, TurnLock
from clinvk.store.files import index_sync
from clinvk.store.files.index_sync import IndexSync
from clinvk.store.files.records import SessionFiles
from clinvk.store.files.store import FileStore
from tests.conftest import PROJECT
from tests.stores import KINDS, keep, store_url


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(params=KINDS)
def reopen(request: pytest.FixtureRequest, home: Path) -> Callable[[], Store]:
    """The same store, as another process would see it."""
    url = store_url(request.param, home, request)
    return lambda: keep(open_store(url, home))


def said(text: str, role: str = "user") -> Message:
    return Message(MessageRole(role), text)


def titled(title: str) -> Callable[[Session], Session]:
    return lambda s: Session.from_json(s.to_json() | {"title": title})


def ids(store: Store) -> list[str]:
    return sorted(s.id for s in store.select(Query()))


def promise(store: Store, id_: str) -> None:
    """Begin a session that others may not see yet."""
    session = Session(id=id_, backend="echo", tags=("t",))
    store.deferred().create(session, [said(f"asked {id_.replace('.', 'x')}")])


def turn_of(store: Store, id_: str) -> TurnLock:
    turn = store.acquire_turn(id_)
    assert turn is not None
    return turn


def begin(store: Store, id_: str) -> None:
    promise(store, id_)
    store.deferred().update(id_, lambda s: replace(s, native_ids={"echo": f"n-{id_}"}))


def end(store: Store, id_: str) -> None:
    store.deferred().append(id_, [said(f"answer {id_}", "assistant")], titled(f"about {id_}"))


# Of every store


def test_what_is_not_flushed_yet_is_there_for_everybody(reopen: Callable[[], Store]):
    store = reopen()
    begin(store, "r1.a")
    store.deferred().update("r1.a", titled("new"))
    end(store, "r1.a")
    for reader in (store, reopen()):
        assert reader.get("r1.a").title == "about r1.a"
        assert [m.content for m in reader.messages("r1.a")] == ["asked r1xa", "answer r1.a"]
        assert ids(reader) == ["r1.a"]
        assert reader.find_by_native_id("echo", "n-r1.a") == ["r1.a"]
        assert [h.session.id for h in reader.search("asked r1xa")] == ["r1.a"]


def test_flushing_changes_nothing_that_can_be_seen(reopen: Callable[[], Store]):
    store = reopen()
    for id_ in ("r1.a", "r1.b"):
        begin(store, id_)
        end(store, id_)
    before = store.get("r1.a")
    store.deferred().flush(["r1.a", "r1.b", "r1.nobody"])
    store.deferred().flush([])
    store.deferred().flush(["r1.a"])
    assert store.get("r1.a").to_json() == before.to_json()
    assert ids(reopen()) == ["r1.a", "r1.b"]
    assert len(reopen().search("answer")) == 2


def test_a_taken_id_is_not_begun_again(reopen: Callable[[], Store]):
    begin(reopen(), "r1.a")
    with pytest.raises(SessionError, match="already exists"):
        begin(reopen(), "r1.a")


def test_a_session_that_is_gone_is_not_written(reopen: Callable[[], Store]):
    store = reopen()
    begin(store, "r1.a")
    reopen().delete("r1.a")
    with pytest.raises(SessionNotFound):
        end(store, "r1.a")
    store.deferred().flush(["r1.a"])
    assert ids(store) == ids(reopen()) == []


def test_an_edit_of_somebody_else_is_kept(reopen: Callable[[], Store]):
    store = reopen()
    begin(store, "r1.a")
    reopen().update("r1.a", titled("mine"))
    store.deferred().append("r1.a", [said("more")], lambda s: s)
    store.deferred().flush(["r1.a"])
    assert reopen().get("r1.a").title == "mine"


def test_what_was_only_begun_is_there_for_who_began_it(reopen: Callable[[], Store]):
    store = reopen()
    promise(store, "r1.a")
    assert store.get("r1.a").tags == ("t",)
    assert [m.content for m in store.messages("r1.a")] == ["asked r1xa"]
    with pytest.raises(SessionError, match="already exists"):
        promise(store, "r1.a")


def test_what_was_only_begun_can_be_taken_back(reopen: Callable[[], Store], home: Path):
    store = reopen()
    promise(store, "r1.a")
    with closing(turn_of(store, "r1.a")):
        pass
    store.delete("r1.a")
    for reader in (store, reopen()):
        with pytest.raises(SessionNotFound):
            reader.get("r1.a")
    with pytest.raises(SessionNotFound):
        end(store, "r1.a")
    assert not (home / "locks" / "r1.a").exists()
    promise(store, "r1.a")


@pytest.mark.parametrize("deferred", [True, False])
def test_the_first_change_writes_all_that_was_said(reopen: Callable[[], Store], deferred: bool):
    store = reopen()
    for id_ in ("r1.a", "r1.b"):
        promise(store, id_)
    writes = store.deferred() if deferred else store
    writes.append("r1.a", [said("yes", "assistant")], titled("a"))
    writes.update("r1.b", titled("b"))
    store.deferred().flush(["r1.a", "r1.b"])
    for reader in (store, reopen()):
        assert [m.content for m in reader.messages("r1.a")] == ["asked r1xa", "yes"]
        assert [m.content for m in reader.messages("r1.b")] == ["asked r1xb"]
        assert [reader.get(id_).title for id_ in ("r1.a", "r1.b")] == ["a", "b"]
        assert ids(reader) == ["r1.a", "r1.b"]
        assert [h.session.id for h in reader.search("asked r1xb")] == ["r1.b"]


# Files


def test_clean_forgets_the_locks_of_sessions_that_were_never_written(home: Path):
    killed = subprocess.run(
        [sys.executable, "-c", PROMISE_AND_DIE, str(home)], cwd=PROJECT, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    store, lock = keep(FileStore(home)), home / "locks" / "r1.a"
    store.create(Session(id="kept", backend="echo"))
    turn_of(store, "kept").close()
    assert lock.exists()
    store.clean("2000-01-01T00:00:00Z")
    assert lock.exists()
    running = turn_of(store, "r2.running")
    os.utime(lock, (0, 0))
    store.clean("2000-01-01T00:00:00Z", dry_run=True)
    assert lock.exists()
    store.clean("2000-01-01T00:00:00Z")
    assert sorted(os.listdir(home / "locks")) == ["kept", "r2.running"]
    running.close()


PROMISE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from clinvk.session import Session
from clinvk.store.files.store import FileStore

store = FileStore(Path(sys.argv[1]))
store.deferred().create(Session(id="r1.a", backend="echo"))
store.acquire_turn("r1.a").note({"run": "x"})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_session_of_that_id_that_came_meanwhile_stays(home: Path):
    mine, theirs = keep(FileStore(home)), keep(FileStore(home))
    promise(mine, "r1.a")
    theirs.create(Session(id="r1.a", backend="echo"), [said("theirs")], exact=True)
    for change in (end, lambda store, id_: store.update(id_, titled("mine"))):
        with pytest.raises(SessionError, match="already exists"):
            change(mine, "r1.a")
    assert [m.content for m in theirs.messages("r1.a")] == ["theirs"]


@pytest.mark.parametrize("name", ["sessions", "transcripts"])
def test_a_folder_that_cannot_be_written_is_met_at_the_beginning(home: Path, name: str):
    home.mkdir()
    (home / name).write_text("a file")
    with pytest.raises(SessionError, match=name):
        promise(keep(FileStore(home)), "r1.a")


def test_what_a_full_disk_refused_is_written_once_there_is_room(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    store = keep(FileStore(home))
    promise(store, "r1.a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(SessionError, match="No space left"):
            store.deferred().update("r1.a", titled("a"))
    end(store, "r1.a")
    assert [m.content for m in keep(FileStore(home)).messages("r1.a")] == [
        "asked r1xa",
        "answer r1.a",
    ]


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# The index of files


@pytest.fixture
def store(home: Path) -> FileStore:
    return keep(FileStore(home))


def believed(home: Path) -> FileStore | None:
    """A reader, if it would believe the index as it is."""
    reader = keep(FileStore(home))
    return None if reader._index_sync.fresh_index_or_none() is None else reader


def check(home: Path) -> bool:
    """Whether the index would be believed; it is right then, to the last word."""
    reader = believed(home)
    if reader is None:
        return False
    index = reader._index_sync.fresh_index_or_none()
    assert index is not None
    seen = reader._files.stats()
    assert index.record_stats() == seen
    for id_ in seen:
        session = reader.get(id_)
        [native] = session.native_ids.values()
        assert index.find_by_native_id(native) == [("echo", id_)]
        assert index.title(id_) == session.title
        assert index.indexed_bytes(id_) == len(reader._files.read_transcript(id_))
        for message in reader.messages(id_):
            assert id_ in [i for i, _ in index.search(message.content.split(), None, 1_000)]
    return True


def test_the_index_is_told_when_a_session_is_flushed(home: Path, store: FileStore):
    begin(store, "r1.a")
    begin(store, "r1.b")
    assert not check(home)
    end(store, "r1.a")
    store.deferred().flush(["r1.a"])
    assert not check(home), "r1.b is not flushed"
    end(store, "r1.b")
    store.deferred().flush(["r1.b"])
    assert check(home)


def test_many_are_added_to_the_index_at_a_time_while_others_are_written(
    home: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
):
    added: list[int] = []
    monkeypatch.setattr(
        IndexSync, "_catch_up",
        lambda sync, index, ids, add=IndexSync._catch_up: (added.append(len(ids)), add(sync, index, ids))[1],
    )  # fmt: skip
    monkeypatch.setattr(index_sync, "BATCH_SIZE", 3)
    begin(store, "r1.slow")
    added.clear()
    for i in range(7):
        begin(store, f"r1.{i}")
        end(store, f"r1.{i}")
        store.deferred().flush([f"r1.{i}"])
    assert added == [3, 3]
    end(store, "r1.slow")
    store.deferred().flush(["r1.slow"])
    assert added == [3, 3, 2]
    assert check(home)


def test_what_could_not_be_added_to_the_index_is_added_with_the_next(
    home: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(index_sync, "FLUSH_TIMEOUT", 0)
    begin(store, "r1.a")
    end(store, "r1.a")
    with hold_lock(home / "lock"):
        store.deferred().flush(["r1.a"])
    assert not check(home)
    begin(store, "r1.b")
    end(store, "r1.b")
    store.deferred().flush(["r1.b"])
    assert check(home)


def test_the_index_is_not_compared_with_all_sessions_to_flush_some(
    home: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
):
    for i in range(20):
        store.create(Session(id=f"s{i}", native_ids={"echo": f"n{i}"}))
    monkeypatch.setattr(IndexSync, "_repair", lambda _: pytest.fail("it was compared"))
    for id_ in ("r1.a", "r1.b", "r2.a"):
        begin(store, id_)
        end(store, id_)
        store.deferred().flush([id_])
        store.update("s1", titled(f"beside {id_}"))
    begin(store, "r2.b")
    assert len(ids(store)) == 24
    end(store, "r2.b")
    store.deferred().flush(["r2.b"])
    assert check(home)


def test_two_who_leave_sessions_unflushed_do_not_believe_each_other(home: Path):
    one, two = keep(FileStore(home)), keep(FileStore(home))
    for i in range(4):
        begin(one, f"r1.{i}")
        begin(two, f"r2.{i}")
    for store, run in ((one, "r1"), (two, "r2")):
        for i in range(4):
            end(store, f"{run}.{i}")
        store.deferred().flush([f"{run}.{i}" for i in range(4)])
        check(home)
    assert len(ids(keep(FileStore(home)))) == 8
    assert check(home)


def test_what_is_written_in_the_same_tick_of_the_clock_is_noticed(
    home: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(SessionFiles, "modified_ns", lambda _: 7)
    store.create(Session(id="s", native_ids={"echo": "n"}))
    begin(store, "r1.a")
    assert not check(home)
    assert ids(keep(FileStore(home))) == ["r1.a", "s"]
    end(store, "r1.a")
    assert not check(home)
    store.deferred().flush(["r1.a"])
    assert check(home)


def test_a_record_that_somebody_took_away_by_hand_is_missed(home: Path, store: FileStore):
    begin(store, "r1.a")
    begin(store, "r1.b")
    (home / "sessions" / "r1.a.json").unlink()
    end(store, "r1.b")
    store.deferred().flush(["r1.b"])
    assert ids(keep(FileStore(home))) == ["r1.b"]
    assert check(home)


@pytest.mark.parametrize("how", ["gone", "no database", "another"])
def test_an_index_that_is_spoiled_meanwhile_is_made_anew(home: Path, store: FileStore, how: str):
    begin(store, "r1.a")
    end(store, "r1.a")
    path = home / "index.db"
    path.unlink()
    if how == "no database":
        path.write_bytes(b"x" * 8192)
    if how == "another":
        assert ids(keep(FileStore(home))) == ["r1.a"]
    store.deferred().flush(["r1.a"])
    begin(store, "r1.b")
    end(store, "r1.b")
    store.deferred().flush(["r1.b"])
    check(home)
    assert ids(keep(FileStore(home))) == ["r1.a", "r1.b"]
    assert check(home)


def elsewhere(script: str, home: Path) -> int:
    """Run this in a process of its own, which has no threads that a fork would lose; its exit
    code."""
    first = """
import os, signal, sys
from pathlib import Path
from clinvk.store.files.store import FileStore
from tests.test_store_deferred import begin, end
store = FileStore(Path(sys.argv[1]))
"""
    words = [sys.executable, "-c", first + script, str(home)]
    return subprocess.run(words, cwd=PROJECT, check=False).returncode


FORK = """
begin(store, "r1.a")
child = os.fork()
if child == 0:
    begin(store, "r1.b")
    os._exit(0)
os.waitpid(child, 0)
end(store, "r1.a")
store.deferred().flush(["r1.a"])
store.close()
"""


def test_a_fork_does_not_go_on_with_what_its_parent_knows(home: Path):
    assert elsewhere(FORK, home) == 0
    check(home)
    assert ids(keep(FileStore(home))) == ["r1.a", "r1.b"]


def test_whoever_writes_in_whatever_order_no_index_is_wrong(home: Path):
    """Three processes, as far as the store can see; each step is one of them doing something."""
    seed = random.randrange(10_000)
    chance = random.Random(seed)
    stores = [keep(FileStore(home)) for _ in range(3)]
    begun: list[list[str]] = [[], [], []]
    fresh = 0
    for step in range(300):
        me = chance.choice((0, 0, 0, 1, 1, 2))
        store, mine = stores[me], begun[me]
        alive = [i for i in mine if (home / "sessions" / f"{i}.json").exists()]
        what = chance.randrange(10)
        if what < 3 or not alive:
            mine.append(f"r{me}.{step}")
            begin(store, mine[-1])
        elif what < 6:
            end(store, chance.choice(alive))
        elif what < 8:
            store.deferred().flush(chance.sample(alive, min(len(alive), 3)) if what == 6 else alive)
        elif what == 8:
            other = chance.choice(stores)
            if chance.random() < 0.5:
                other.append(chance.choice(alive), [said(f"by hand {step}")], titled(f"t{step}"))
            else:
                other.delete(chance.choice(alive))
        else:
            assert ids(store) == sorted(store._files.ids()), seed
        fresh += check(home)
    assert fresh, seed
    assert ids(stores[2]) == sorted(stores[2]._files.ids()), seed


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from tests.test_store_deferred import begin, check, end
from clinvk.store.files.store import FileStore
home = Path(sys.argv[1])
random.seed(int(sys.argv[2]))
fresh = 0
for turn in range(40):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        own = FileStore(home)
        for i in range(10_000):
            id_ = f"r{turn}.{i}"
            begin(own, id_)
            end(own, id_)
            if i % 3 == 0:
                own.deferred().flush([id_, f"r{turn}.{i - 1}"])
                os.write(write, f"{id_} ".encode())
    os.close(write)
    flushed = os.read(read, 100)
    time.sleep(random.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while piece := os.read(read, 65_536):
        flushed += piece
    os.close(read)
    fresh += check(home)
    reader = FileStore(home)
    if turn % 4 == 0:
        known = {s.id for s in reader.select(Query())}
        assert known == set(reader._files.ids())
        assert check(home)
    for id_ in flushed.decode().split():
        assert reader.get(id_).title == f"about {id_}"
        assert len(reader.messages(id_)) == 2
print(fresh)
""".replace("import os,", "from clinvk.store.base import Query\nimport os,", 1)


def test_forty_kills_leave_no_index_that_is_wrongly_believed(home: Path):
    seed = random.randrange(10_000)
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(home), str(seed)],
        cwd=PROJECT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (seed, done.stderr)


DIE = """
store.deferred()._write = lambda _: os.kill(os.getpid(), signal.SIGKILL)
end(store, "r1.a")
"""


def test_what_a_killed_one_said_and_did_not_count_is_found(home: Path, store: FileStore):
    """Its transcript is longer than its record says, which has the time that the index knows."""
    begin(store, "r1.a")
    assert ids(keep(FileStore(home))) == ["r1.a"]
    assert elsewhere(DIE, home) == -signal.SIGKILL
    assert not check(home)
    assert [h.session.id for h in keep(FileStore(home)).search("answer")] == ["r1.a"]
