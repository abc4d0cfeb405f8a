"""What is deleted when there is no room: on the disk, for a file, or in the memory of a server."""

import errno
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clinvk.api.sessions.deletion import delete_from_store
from clinvk.dispatch import recovery
from clinvk.errors import SessionError
from clinvk.model.session import Message, Session
from clinvk.model.usage import rfc3339
from clinvk.process.marker import new_marker
from clinvk.runs.checkpoints import Checkpoints
from clinvk.runs.folder import RunStore
from clinvk.store import open_store
from clinvk.store.base import Query, Store
from clinvk.store.redis.store import RedisStore
from tests.conftest import CommandLine, Home
from tests.desk import Desk
from tests.needs import need
from tests.small_disk import fill_bytes
from tests.stores import RedisServer, keep

OLD = datetime.now(UTC) - timedelta(days=90)
LATER = rfc3339(datetime.now(UTC) + timedelta(days=1))


def fill_inodes(disk: Path) -> None:
    (disk / "fillers").mkdir()
    for n in range(1000):
        try:
            (disk / "fillers" / str(n)).touch()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return
    raise AssertionError("there is no end of files")


def make_room(disk: Path) -> None:
    for path in [disk / "filler", *(disk / "fillers").glob("*")]:
        path.unlink(missing_ok=True)


FILLS = pytest.mark.parametrize("fill", [fill_bytes, fill_inodes])
Fill = Callable[[Path], None]


@pytest.fixture(params=["file", "sqlite"])
def reopen(request: pytest.FixtureRequest, disk: Path) -> Callable[[], Store]:
    url = "file" if request.param == "file" else f"sqlite:///{disk}/store/sessions.db"
    return lambda: keep(open_store(url, disk / "home"))


def filled(store: Store, *names: str) -> None:
    for name in names:
        session = Session(id=name, title=f"about {name}", updated_at=OLD, created_at=OLD)
        store.create(session, [Message("user", f"needle {name} " + "y" * 3000)])


def ids(store: Store) -> list[str]:
    return sorted(session.id for session in store.select(Query()))


def found(store: Store) -> list[str]:
    return sorted(hit.session.id for hit in store.search("needle"))


@FILLS
def test_sessions_are_deleted_from_a_full_disk(reopen: Callable[[], Store], disk: Path, fill: Fill):
    filled(reopen(), "a", "b", "c", "d")
    turn = reopen().acquire_turn("b")
    turn.close()  # which leaves a lock
    fill(disk)
    reopen().delete("a")
    reopen().delete("b")
    assert ids(reopen()) == found(reopen()) == ["c", "d"]
    make_room(disk)
    assert ids(reopen()) == found(reopen()) == ["c", "d"]
    filled(reopen(), "e")
    assert ids(reopen()) == found(reopen()) == ["c", "d", "e"]


@FILLS
def test_one_open_store_deletes_from_a_full_disk(
    reopen: Callable[[], Store], disk: Path, fill: Fill
):
    store = reopen()
    filled(store, *(f"s{n}" for n in range(20)))
    fill(disk)
    for n in range(19):
        store.delete(f"s{n}")
    assert ids(store) == found(store) == ["s19"]
    make_room(disk)
    assert ids(reopen()) == found(reopen()) == ["s19"]


@FILLS
def test_old_sessions_are_cleaned_from_a_full_disk(
    reopen: Callable[[], Store], disk: Path, fill: Fill
):
    store = reopen()
    filled(store, "a", "b", "running", "cut-off")
    store.create(Session(id="new"))
    turn, cut_off = store.acquire_turn("running"), store.acquire_turn("cut-off")
    turn.note({"run": "x"})
    cut_off.note({"run": "y"})
    cut_off.abandon()
    fill(disk)
    before = rfc3339(OLD + timedelta(days=1))
    assert sorted(reopen().clean(before, dry_run=True)) == ["a", "b"]
    assert sorted(reopen().clean(before)) == ["a", "b"]
    assert ids(reopen()) == ["cut-off", "new", "running"]
    turn.close()
    make_room(disk)
    assert ids(reopen()) == ["cut-off", "new", "running"]


@FILLS
def test_a_session_whose_turn_was_killed_is_deleted_from_a_full_disk(
    reopen: Callable[[], Store], disk: Path, fill: Fill
):
    filled(reopen(), "a", "b")
    turn = reopen().acquire_turn("a")
    turn.note(recovery.turn_facts(new_marker({}), "a"))
    turn.abandon()
    fill(disk)
    delete_from_store(reopen(), disk, "a")
    assert ids(reopen()) == ["b"]


@FILLS
def test_a_store_that_lacks_its_lock_is_emptied_on_a_full_disk(disk: Path, fill: Fill):
    store = keep(open_store("file", disk))
    filled(store, "a", "b")
    (disk / "lock").unlink()
    fill(disk)
    store.delete("a")
    assert ids(store) == ["b"]


@FILLS
def test_a_session_that_does_not_fit_leaves_nothing_and_the_hint_says_how_to_make_room(
    reopen: Callable[[], Store], disk: Path, fill: Fill
):
    store = reopen()
    filled(store, "a")
    fill(disk)
    with pytest.raises(SessionError) as told:
        filled(store, *(f"more-{n}" for n in range(50)))
    assert "make room" in str(told.value.hint)
    assert "clinvk sessions clean" in str(told.value.hint)
    kept = ids(store)
    assert [p.stem for p in disk.rglob("*.jsonl") if p.stem not in kept] == []


# The command line


@pytest.fixture
def there(home: Home, disk: Path) -> Home:
    """The user's home, on the small disk."""
    home.path = disk / "clinvk"
    home.env["CLINVK_HOME"] = str(home.path)
    return home


@FILLS
def test_every_kind_of_thing_is_deleted_from_a_full_disk(
    there: Home, clinvk: CommandLine, disk: Path, fill: Fill
):
    there.backend("fake")
    there.config("default_backend: fake\n")
    chain = there.work / "chain.yaml"
    chain.write_text("steps: [{prompt: one}]\n")
    assert clinvk("chain", str(chain), "--checkpoint", "name").returncode == 0
    for _ in range(3):
        assert clinvk("parallel", "-", "--format", "lines", stdin="say it\n").returncode == 0
    for name in "abc":
        assert clinvk("--session", name, "hello").returncode == 0
    run, other, *_ = sorted(RunStore(there.path).ids(), key=lambda i: i in _named(there))
    (there.path / "runs" / other / "lock").unlink()
    fill(disk)
    for command in (
        ("sessions", "delete", "a", "--yes"),
        ("checkpoints", "delete", "name", "--yes"),
        ("runs", "delete", run, other, "--yes"),
        ("sessions", "clean", "--older-than", "0d"),
        ("runs", "clean", "--older-than", "0d"),
    ):
        done = clinvk(*command)
        assert done.returncode == 0, (command, done)
        assert "room" not in done.stderr, (command, done)
    assert clinvk.json("sessions", "list", "--json")["sessions"] == []
    assert clinvk.json("runs", "list", "--json")["runs"] == []
    assert list((there.path / "runs").iterdir()) == []
    assert Checkpoints(there.path).names() == []


def _named(home: Home) -> dict[str, str]:
    return Checkpoints(home.path).names_by_run()[0]


@FILLS
@pytest.mark.parametrize("kind", ["parallel", "chain", "compare"])
def test_a_run_that_cannot_be_begun_leaves_nothing(
    there: Home, clinvk: CommandLine, disk: Path, kind: str, fill: Fill
):
    there.backend("fake")
    there.config("default_backend: fake\n")
    assert clinvk("before").returncode == 0
    fill(disk)
    file = there.work / "tasks.yaml"
    file.write_text(("steps" if kind == "chain" else "tasks") + ": [{prompt: one}]\n")
    checkpoint = ["--checkpoint", "name"] if kind == "chain" else []
    words = {"compare": ["hello", "-b", "fake", "-b", "echo"]}.get(kind, [str(file), *checkpoint])
    done = clinvk(kind, *words)
    assert done.returncode == 4, done
    assert "No space left" in done.stderr
    assert clinvk.json("runs", "list", "--json")["runs"] == []
    assert list((there.path / "runs").glob("*")) == []
    assert len(there.ids()) == 1
    make_room(disk)
    assert clinvk(kind, *words).returncode == 0


def test_a_run_is_kept_only_if_it_has_started_something(
    there: Home, clinvk: CommandLine, disk: Path, tmp_path: Path
):
    """However far it comes before the disk is full."""
    desk = Desk(there, clinvk, tmp_path / "desk")
    for files in range(6):
        fill_inodes(disk)
        for path in list((disk / "fillers").iterdir())[:files]:
            path.unlink()
        with suppress(SessionError):
            desk.run(["one"], kind="chain")
        for folder in RunStore(there.path).newest_first():
            assert any(o.attempts for o in folder.result().results), "nothing was started"
            folder.delete()
        for path in (disk / "fillers").iterdir():
            path.unlink()
        (disk / "fillers").rmdir()


# A server without memory


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[RedisServer]:
    need("redis-server")
    (tmp_path / "small").mkdir()
    server = RedisServer(
        tmp_path / "small", "--maxmemory", "5mb", "--maxmemory-policy", "noeviction"
    )
    server.start()
    yield server
    server.kill()


def use_up(store: RedisStore, server: RedisServer) -> None:
    with pytest.raises(SessionError, match="memory is full") as told:
        for n in range(100):
            store.create(Session(id=f"big{n}", updated_at=OLD), [Message("user", "x" * 100_000)])
    assert "clinvk sessions clean" in str(told.value.hint)
    server.say("CONFIG", "SET", "maxmemory", "1mb")  # far above it now


def test_sessions_are_deleted_from_a_server_without_memory(
    small_server: RedisServer, tmp_path: Path
):
    store = keep(RedisStore(small_server.url))
    filled(store, "a", "b", "c")
    turn = store.acquire_turn("b")
    turn.note(recovery.turn_facts(new_marker({}), "b"))
    turn.abandon()
    kept = store.acquire_turn("c")
    use_up(store, small_server)
    fresh = keep(RedisStore(small_server.url))
    delete_from_store(fresh, tmp_path, "a")
    delete_from_store(fresh, tmp_path, "b")
    with pytest.raises(SessionError, match="is running"):
        fresh.delete("c")
    assert not {"a", "b"} & set(ids(fresh))
    gone = fresh.clean(rfc3339(OLD + timedelta(days=1)))
    assert len(gone) > 5
    assert ids(fresh) == ["c"]
    kept.close()
    assert small_server.say("CONFIG", "SET", "maxmemory", "50mb").startswith(b"+OK")
    filled(fresh, "d")
    assert ids(fresh) == ["c", "d"]


def test_a_turn_on_a_server_without_memory_keeps_its_lease(small_server: RedisServer):
    store = keep(RedisStore(small_server.url, lease=0.3))
    filled(store, "a")
    turn = store.acquire_turn("a")
    use_up(store, small_server)
    turn.note({"run": "x"})
    other = keep(RedisStore(small_server.url))
    until = datetime.now(UTC) + timedelta(seconds=1)  # longer than three leases
    while datetime.now(UTC) < until:
        assert other.acquire_turn("a") is None
    assert other.running_turn("a") == {"run": "x"}
    turn.close()


def test_the_command_line_deletes_from_a_server_without_memory(
    small_server: RedisServer, home: Home, clinvk: CommandLine
):
    store = keep(RedisStore(small_server.url))
    filled(store, "a")
    use_up(store, small_server)
    home.config(f"session: {{storage: {small_server.url}}}\n")
    done = clinvk("sessions", "delete", "a", "--yes")
    assert done.returncode == 0, done
    done = clinvk("sessions", "clean", "--older-than", "30d")
    assert done.returncode == 0, done
    assert ids(store) == []
