"""What happens to the stores that are a database or a server, and how sessions move between them."""

import json
import os
import resource
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from clinvk.config.extras import install_hint
from clinvk.errors import ConfigError, SessionError, SessionNotFound
from clinvk.model.session import Message, Session
from clinvk.process import host
from clinvk.store import open_store
from clinvk.store.base import Damaged, Query, Store
from clinvk.store.redis.store import RedisStore
from clinvk.store.sqlite.store import SqliteStore
from clinvk.text.addresses import mask_password
from tests.conftest import PROJECT, CommandLine, at_some_pace, wait_for
from tests.needs import need, need_root
from tests.stores import KINDS, RedisServer, keep, store_url


def titled(title: str) -> Callable[[Session], Session]:
    return lambda session: Session.from_json(session.to_json() | {"title": title})


def same(session: Session) -> Session:
    return session


def said(text: str) -> Message:
    return Message("user", text)


def content(store: Store) -> dict[str, Any]:
    """Everything that a store holds, as it would be exported."""
    return {
        s.id: (s.to_json(), [m.to_json() for m in store.messages(s.id)])
        for s in store.select(Query())
        if isinstance(s, Session)
    }


# SQLite


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store" / "sessions.db"


@pytest.fixture
def sqlite(file: Path) -> SqliteStore:
    return keep(SqliteStore(file))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////abs/x.db", "/abs/x.db"),
        ("sqlite:///x.db", "{cwd}/x.db"),
        ("sqlite:///a/x.db", "{cwd}/a/x.db"),
        ("sqlite:///~/x.db", "{home}/x.db"),
    ],
)
def test_a_sqlite_address_is_read_as_sqlalchemy_does(url: str, path: str, tmp_path: Path):
    store = keep(open_store(url, tmp_path))
    assert isinstance(store, SqliteStore)
    assert str(store.path) == path.format(cwd=os.getcwd(), home=Path.home())


def test_a_sqlite_address_has_no_host(tmp_path: Path):
    with pytest.raises(ConfigError, match="names a host"):
        keep(open_store("sqlite://x.db", tmp_path))


def test_a_sqlite_store_is_private_and_one_file(sqlite: SqliteStore, file: Path):
    old = os.umask(0)
    try:
        sqlite.create(Session(id="s"), [said("x")])
        sqlite.acquire_turn("s").close()
    finally:
        os.umask(old)
    for path in (file.parent, *file.parent.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert sorted(p.name for p in file.parent.iterdir()) == ["sessions.db", "sessions.db.locks"]


def test_reading_an_empty_sqlite_store_makes_nothing(sqlite: SqliteStore, file: Path):
    assert sqlite.select(Query()) == []
    assert sqlite.search("x") == []
    assert not file.parent.exists()


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path):
    store = keep(SqliteStore(tmp_path / "not" / "mounted" / "x.db"))
    for act in (lambda: store.select(Query()), lambda: store.create(Session(id="s"))):
        with pytest.raises(SessionError, match=r"no such directory: .*/not"):
            act()


def test_a_file_that_is_no_database_is_left_as_it_is(sqlite: SqliteStore, file: Path):
    file.parent.mkdir()
    file.write_text("dear diary\n" * 100)
    for act in (lambda: sqlite.select(Query()), lambda: sqlite.create(Session(id="s"))):
        with pytest.raises(SessionError, match="not a SQLite database"):
            act()
    assert file.read_text() == "dear diary\n" * 100


def test_the_database_of_another_program_is_left_as_it_is(sqlite: SqliteStore, file: Path):
    file.parent.mkdir()
    db = sqlite3.connect(file)
    db.execute("CREATE TABLE sessions (mine TEXT)")
    db.close()
    with pytest.raises(SessionError, match="another program"):
        sqlite.create(Session(id="s"))


def test_a_newer_sqlite_store_is_refused(sqlite: SqliteStore, file: Path):
    sqlite.create(Session(id="s"))
    db = sqlite3.connect(file)
    db.execute("PRAGMA user_version=7")
    db.close()
    with pytest.raises(SessionError, match="newer clinvk"):
        keep(SqliteStore(file)).get("s")


def test_a_damaged_database_is_said_to_be_damaged(sqlite: SqliteStore, file: Path):
    for n in range(50):
        sqlite.create(Session(id=f"s{n}"), [said("x" * 3000)])
    with open(file, "r+b") as handle:
        handle.seek(4096)
        handle.write(b"\xff" * 200_000)
    with pytest.raises(SessionError, match="damaged"):
        keep(SqliteStore(file)).messages("s1")


def test_a_damaged_record_hides_no_other_and_can_be_deleted(sqlite: SqliteStore, file: Path):
    sqlite.create(Session(id="bad"))
    sqlite.create(Session(id="good"))
    db = sqlite3.connect(file)
    db.execute("UPDATE records SET record='{' WHERE id='bad'")
    db.commit()
    db.close()
    with pytest.raises(SessionError, match="bad is damaged"):
        sqlite.get("bad")
    assert sqlite.reindex() == 2
    good, bad = sqlite.select(Query())
    assert (good.id, type(bad), bad.id) == ("good", Damaged, "bad")
    sqlite.delete("bad")
    assert [s.id for s in sqlite.select(Query())] == ["good"]


def test_an_index_of_another_version_is_made_anew(sqlite: SqliteStore, file: Path):
    sqlite.create(Session(id="s", title="a needle"), [said("in hay")])
    db = sqlite3.connect(file)
    db.execute("UPDATE meta SET value='0' WHERE key='version'")
    db.execute("DELETE FROM sessions")
    db.commit()
    db.close()
    found = keep(SqliteStore(file)).search("needle")
    assert [hit.session.id for hit in found] == ["s"]


def test_an_old_index_in_a_file_that_cannot_be_written_is_not_searched(
    sqlite: SqliteStore, file: Path, monkeypatch: pytest.MonkeyPatch
):
    sqlite.create(Session(id="s"), [said("这个解析器有问题")])
    db = sqlite3.connect(file)
    db.execute("UPDATE meta SET value='1' WHERE key='version'")
    db.execute("DELETE FROM pieces")
    db.commit()
    db.close()
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_: False)
        found = keep(SqliteStore(file)).search("解析器")
        assert [hit.session.id for hit in found] == ["s"]
    assert [hit.session.id for hit in keep(SqliteStore(file)).search("析器")] == ["s"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from clinvk.errors import SessionError
from clinvk.session import Message, Session
from clinvk.store.sqlite.store import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
size = Path(sys.argv[1]).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, size + 8192))
try:
    for i in range(1000):
        store.append("s", [Message("user", f"{i} " + "x" * 1000)], lambda s: s)
        print(i, flush=True)
except SessionError as error:
    print(error, "|", error.hint)
assert store.get("s").id == "s"
"""


def test_what_a_full_disk_refuses_is_said_and_what_was_there_stays(sqlite: SqliteStore, file: Path):
    sqlite.create(Session(id="s"), [said("before")])
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(file)], cwd=PROJECT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    *kept, sentence = done.stdout.splitlines()
    assert "cannot write" in sentence
    assert "earlier sessions are not affected" in sentence
    texts = [m.content.split()[0] for m in sqlite.messages("s")]
    assert texts == ["before", *kept]
    sqlite.append("s", [said("after")], same)
    assert sqlite.messages("s")[-1].content == "after"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_sqlite_store_that_can_only_be_read_is_read(sqlite: SqliteStore, file: Path):
    sqlite.create(Session(id="s", title="here"), [said("words")])
    script = """
import os, sys
import urllib.parse  # pathlib's, from Python 3.13 on only when it is used: it may be root's alone
from pathlib import Path
from clinvk.errors import SessionError
from clinvk.session import Session
from clinvk.store.base import Query
from clinvk.store.sqlite.store import SqliteStore
os.setuid(65534)
store = SqliteStore(Path(sys.argv[1]))
print([s.id for s in store.select(Query())], len(store.search("words")), store.running_turn("s"))
try: store.create(Session(id="t"))
except SessionError as error: print(error)
"""
    need_root()
    file.chmod(0o644)
    for folder in (file.parent, *file.parent.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", script, str(file)], cwd=PROJECT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.stdout.splitlines()[0] == "['s'] 1 None", done
    assert "it is read-only" in done.stdout


def test_a_store_is_used_by_several_threads(tmp_path: Path, request: pytest.FixtureRequest):
    store = keep(open_store(store_url("sqlite", tmp_path, request), tmp_path))
    store.create(Session(id="s"))
    threads = [
        threading.Thread(target=lambda: [store.append("s", [said("x")], same) for _ in range(20)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.messages("s")) == 80


# Redis


@pytest.fixture
def redis(redis_url: str) -> RedisStore:
    return keep(RedisStore(redis_url))


def test_nothing_that_is_kept_on_a_server_runs_out(redis: RedisStore, redis_server: RedisServer):
    redis.create(Session(id="s", native_ids={"claude": "n"}), [said("x")])
    turn = redis.acquire_turn("s")
    turn.note({"run": "x"})
    with redis._server.translate_errors() as client:
        keys = {key.decode() for key in client.keys("*")}
        assert {k for k in keys if client.ttl(k) != -1} == {"clinvk:lease:s"}
    assert all(key.startswith("clinvk:") for key in keys)
    turn.close()
    redis.delete("s")
    with redis._server.translate_errors() as client:
        assert client.keys("*") == []


def test_a_killed_server_that_is_started_again_has_everything(own_server: RedisServer):
    store = keep(RedisStore(own_server.url))
    store.create(Session(id="s"))
    for i in range(20):
        if i == 10:
            own_server.kill()
            own_server.start()
        store.append("s", [said(str(i))], same)
    assert [m.content for m in store.messages("s")] == [str(i) for i in range(20)]


WRITER = """
import sys
from pathlib import Path
from clinvk.errors import SessionError
from clinvk.session import Message
from clinvk.store import open_store
store = open_store(sys.argv[1], Path("/nowhere"))
for i in range(3000):
    try: store.append("s", [Message("user", str(i))], lambda s: s)
    except SessionError: continue
    print(i, flush=True)
"""


def test_a_server_that_is_killed_while_somebody_writes_keeps_what_it_acknowledged(
    own_server: RedisServer,
):
    keep(RedisStore(own_server.url)).create(Session(id="s"))
    with subprocess.Popen([sys.executable, "-c", WRITER, own_server.url], cwd=PROJECT,
                          stdout=subprocess.PIPE, text=True) as writer:  # fmt: skip
        for _ in range(3):
            time.sleep(0.3)
            own_server.kill()
            own_server.start()
        out, _ = writer.communicate(timeout=60)
    acknowledged = [int(line) for line in out.split()]
    found = [int(m.content) for m in keep(RedisStore(own_server.url)).messages("s")]
    assert len(found) == len(set(found)), "written twice"
    assert set(acknowledged) <= set(found)
    assert found == sorted(found)


def test_a_server_that_is_gone_is_said_to_be_gone(own_server: RedisServer):
    url = own_server.url.replace("://", "://me:secret@")
    own_server.kill()
    began = time.monotonic()
    with pytest.raises(SessionError, match=r"redis at 127.0.0.1:\d+: it cannot be reached") as told:
        keep(RedisStore(url)).select(Query())
    assert time.monotonic() - began < 30
    assert "secret" not in str(told.value) + str(told.value.hint)
    assert "start it" in str(told.value.hint)


def test_who_is_patient_waits_for_a_server_that_is_started_again(own_server: RedisServer):
    store = keep(RedisStore(own_server.url, patient=True))
    store.create(Session(id="s"))
    own_server.kill()
    with socket.create_server(("127.0.0.1", own_server.port)) as down:  # what hangs up is not there

        def hang_up() -> None:
            for _ in range(4):  # more often than anybody else would ask
                down.accept()[0].close()
            down.close()
            own_server.start()

        starting = threading.Thread(target=hang_up)
        starting.start()
        store.append("s", [said("after it")], same)
        starting.join()
    assert [m.content for m in store.messages("s")] == ["after it"]


@pytest.mark.parametrize("user", ["", ":wrong@", "me:wrong@"])
def test_a_wrong_password_is_said_to_be_wrong(user: str, tmp_path: Path):
    need("redis-server")
    server = RedisServer(tmp_path, "--requirepass", "right")
    server.start()
    try:
        with pytest.raises(SessionError, match="rejects the user or the password") as told:
            keep(RedisStore(server.url.replace("://", f"://{user}"))).create(Session(id="s"))
        assert "wrong" not in f"{told.value}".replace("WRONGPASS", "")
        store = keep(RedisStore(server.url.replace("://", "://:right@")))
        assert store.create(Session(id="s")).id == "s"
    finally:
        server.kill()


def test_a_server_without_memory_refuses_and_keeps_what_it_has(tmp_path: Path):
    need("redis-server")
    server = RedisServer(tmp_path, "--maxmemory", "4mb")
    server.start()
    try:
        store = keep(RedisStore(server.url))
        store.create(Session(id="s"))
        with pytest.raises(SessionError, match="memory is full"):
            for _ in range(100):
                store.append("s", [said("x" * 100_000)], same)
        assert store.get("s").id == "s"
    finally:
        server.kill()


def test_a_turn_lasts_longer_than_its_lease(redis_url: str):
    def check(lease: float) -> None:
        store, other = (keep(RedisStore(redis_url, lease=lease)) for _ in range(2))
        turn = store.acquire_turn(id_)
        time.sleep(3 * lease)
        assert other.acquire_turn(id_) is None
        assert other.running_ids() == [id_]
        turn.close()
        other.acquire_turn(id_).close()

    id_ = keep(RedisStore(redis_url)).create(Session(id="s")).id
    at_some_pace(check, 0.3, 3, 20)


def asleep(store: RedisStore, id_: str) -> Any:
    """A turn whose machine went to sleep: nobody renews it."""
    turn = store.acquire_turn(id_)
    store._renewals.remove(turn)
    return turn


def test_a_turn_that_was_taken_by_another_cannot_write(redis_url: str):
    store, other = keep(RedisStore(redis_url, lease=1)), keep(RedisStore(redis_url))
    store.create(Session(id="s"))
    turn = asleep(store, "s")
    turn.note({"run": "x"})
    time.sleep(1.3)
    second = other.acquire_turn("s")
    assert second.leftover == {"run": "x"}
    for act in (
        lambda: store.append("s", [said("late")], same),
        lambda: store.update("s", titled("late")),
        lambda: store.rewrite("s", [], same),
    ):
        with pytest.raises(SessionError, match="another clinvk has taken over this turn"):
            act()
    turn.note({"run": "late"})
    turn.close()
    assert other.running_turn("s") == {"run": "x"}
    other.append("s", [said("mine")], same)
    second.close()
    with pytest.raises(SessionError):
        store._turns["s"] = turn
        store.update("s", titled("late"))
    assert [m.content for m in other.messages("s")] == ["mine"]
    assert other.get("s").title is None


def test_a_session_begins_with_its_first_turn(redis_url: str):
    store, other = keep(RedisStore(redis_url)), keep(RedisStore(redis_url))
    made, turn = store.begin(Session(id="s"), [said("hello")], lambda i: {"of": i}, exact=True)
    assert made.id == "s"
    assert other.running_turn("s") == {"of": "s"}
    assert other.running_ids() == ["s"]
    assert other.acquire_turn("s") is None
    with pytest.raises(SessionError, match="already exists"):
        other.begin(Session(id="s"), [], lambda i: {"of": i}, exact=True)
    elsewhere, second = other.begin(Session(id="S"), [], lambda i: {"of": i}, exact=False)
    assert elsewhere.id not in ("s", "S")
    assert store.running_turn(elsewhere.id) == {"of": elsewhere.id}
    store.update("s", titled("known"))  # what was written is known without reading it
    after = turn.complete([said("goodbye")], titled("done"))
    assert after.title == "done"
    assert other.get("s").title == "done"
    assert [m.content for m in other.messages("s")] == ["hello", "goodbye"]
    assert other.running_ids() == [elsewhere.id]
    turn.close()  # which changes nothing any more
    third = other.acquire_turn("s")
    assert third.leftover is None
    third.close()
    second.close()


def test_a_session_does_not_begin_while_a_deleted_one_of_its_name_still_runs(redis_url: str):
    store = keep(RedisStore(redis_url))
    with store._server.translate_errors() as client:
        client.set("clinvk:lease:s", "somebody")
        with pytest.raises(SessionError, match="running"):
            store.begin(Session(id="s"), [], lambda _: {}, exact=True)
        client.delete("clinvk:lease:s")
    store.begin(Session(id="s"), [], lambda _: {}, exact=True)[1].close()


@pytest.mark.parametrize("where", ["of another process", "of the same process"])
def test_a_turn_that_another_has_taken_over_is_not_completed(redis_url: str, where: str):
    store = keep(RedisStore(redis_url, lease=1))
    other = keep(RedisStore(redis_url)) if where == "of another process" else store
    _, turn = store.begin(Session(id="s"), [], lambda _: {"run": "x"}, exact=True)
    store._renewals.remove(turn)
    wait_for(lambda: other.running_turn("s") is None)
    second = other.acquire_turn("s")
    assert second.leftover == {"run": "x"}
    with pytest.raises(SessionError, match="another clinvk has taken over this turn"):
        turn.complete([said("late")], same)
    turn.close()
    assert other.running_turn("s") is not None
    assert other.messages("s") == []
    second.complete([said("in time")], same)
    assert [m.content for m in other.messages("s")] == ["in time"]


def test_one_thread_renews_all_turns_and_ends_with_the_store(redis_url: str):
    before = set(threading.enumerate())
    other = keep(RedisStore(redis_url))

    def threads() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "leases" and t not in before]

    def check(lease: float) -> None:
        store = keep(RedisStore(redis_url, lease=lease))
        made = (store.begin(Session(id="s"), [], lambda _: {}, exact=False) for _ in range(3))
        turns = [turn for _, turn in made]
        try:
            time.sleep(1.5 * lease)
            assert sorted(other.running_ids()) == sorted(turn.id for turn in turns)
            assert len(threads()) == 1
            for turn in turns[:2]:
                turn.close()
            store.close()
            time.sleep(1.5 * lease)
            assert other.running_ids() == [turns[2].id]
        finally:
            for turn in turns:
                turn.close()
            store.close()
        wait_for(lambda: not threads(), "the end of the thread")
        assert other.running_ids() == []

    at_some_pace(check, 0.5, 2, 10)


def test_a_turn_that_slept_goes_on_where_nobody_took_it(redis_url: str):
    store = keep(RedisStore(redis_url, lease=0.1))
    store.create(Session(id="s"))
    turn = asleep(store, "s")
    time.sleep(0.3)
    assert store.running_turn("s") is None
    store.append("s", [said("after the nap")], same)
    turn.close()


def test_a_dead_turn_of_another_machine_is_had_until_its_time_is_over(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    store, other = keep(RedisStore(redis_url, lease=2)), keep(RedisStore(redis_url))
    store.create(Session(id="s"))
    with monkeypatch.context() as patch:
        patch.setattr(host, "this_process", lambda: {"clinvk": 1, "host": "elsewhere"})
        asleep(store, "s").note({"run": "x", "host": "elsewhere"})
    assert other.acquire_turn("s") is None
    time.sleep(2.3)
    turn = other.acquire_turn("s")
    assert turn.leftover == {"run": "x", "host": "elsewhere"}
    assert "clinvk:turn:s" in turn.location
    turn.close()


def test_a_damaged_record_on_a_server_hides_no_other_and_can_be_deleted(redis: RedisStore):
    redis.create(Session(id="bad", native_ids={"claude": "n"}))
    redis.create(Session(id="good"))
    with redis._server.translate_errors() as client:
        client.hset("clinvk:session:bad", "record", "{")
    with pytest.raises(SessionError, match="bad is damaged"):
        redis.get("bad")
    good, bad = redis.select(Query())
    assert (good.id, type(bad), bad.id) == ("good", Damaged, "bad")
    redis.delete("bad")
    assert redis.find_by_native_id(None, "n") == []
    with pytest.raises(SessionNotFound):
        redis.get("bad")


def test_what_leads_to_sessions_on_a_server_is_made_anew(redis: RedisStore):
    redis.create(Session(id="Some", native_ids={"claude": "n"}))
    with redis._server.translate_errors() as client:
        client.delete("clinvk:used", "clinvk:ids", "clinvk:native:n")
    assert redis.select(Query()) == []
    assert redis.reindex() == 1
    assert [s.id for s in redis.select(Query())] == ["Some"]
    assert (redis.find_ids("so"), redis.find_by_native_id("claude", "n")) == (["Some"], ["Some"])


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "redis.backoff", raising=False)
    with pytest.raises(ConfigError) as told:
        keep(RedisStore("redis://localhost"))
    assert told.value.hint == install_hint("redis")


# Passwords


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:p@host/0", "redis://:…@host/0"),
        ("rediss://me:p@ss@host:1", "rediss://me:…@host:1"),
        ("redis://host?password=p&db=1", "redis://host?password=…&db=1"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("file", "file"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str):
    assert mask_password(url) == shown


def test_the_configuration_is_shown_without_the_password(clinvk: CommandLine):
    clinvk("config", "set", "session.storage", "redis://:secret@127.0.0.1:1/0")
    for args in (("show",), ("get", "session.storage"), ("get", "session"), ("show", "--json")):
        done = clinvk("config", *args)
        assert "…@127.0.0.1" in done.stdout.replace("\\u2026", "…"), args
        assert "secret" not in done.stdout
    done = clinvk("sessions", "list")
    assert done.returncode == 4
    assert "secret" not in done.stderr


# From one into another


@pytest.fixture
def urls(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    return {kind: store_url(kind, tmp_path / "home", request) for kind in KINDS}


RICH = Session.from_json(
    Session(
        id="Rich.one", backend="claude", model="opus", title="é 😀 \u2028", prompt="explain",
        native_ids={"claude": "x-1", "codex": "y"}, turns=2, cost=0.5, tags=("a", "b c"),
        metadata={"ticket": 7, "deep": {"er": [1, None]}}, options={"model": "opus"},
        parents=("before",), error={"kind": "limit", "message": "later"},
        created_at=datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC),
        updated_at=datetime(2026, 3, 2, 12, 0, 0, 7_000, tzinfo=UTC),
    ).to_json() | {"colour": "blue", "nested": {"x": [1]}}
)  # fmt: skip


# Not from redis to redis: there is one server.
@pytest.mark.parametrize(
    ("there", "back"), [pair for pair in product(KINDS, KINDS) if pair != ("redis", "redis")]
)
def test_sessions_that_move_there_and_back_are_the_same(
    there: str, back: str, tmp_path: Path, clinvk: CommandLine, request: pytest.FixtureRequest
):
    origin = f"file://{tmp_path}/origin"
    first = store_url(there, tmp_path / "first", request)
    second = store_url(back, tmp_path / "second", request)
    if there == "file":
        first = f"file://{tmp_path}/first"
    if back == "file":
        second = f"file://{tmp_path}/second"
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    store = keep(open_store(origin, tmp_path))
    texts = ["", "\u2028", "x" * 300_000, '"}\n{"', "😀\x1b[0m"]
    store.create(RICH, [Message("system", t, RICH.created_at, {"a": [t]}, 3) for t in texts])
    for n in range(30):
        store.create(Session(id=f"s{n}", title=str(n)), [said(str(n))] * (n % 4))
    for source, target in ((origin, first), (first, second), (second, f"{origin}-again")):
        done = clinvk("sessions", "migrate", "--from", source, "--to", target, "--json")
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["copied"]) == 31
        # What others could write on the way is not trusted to grant permissions any more.
        assert said_by(keep(open_store(target, tmp_path))) == said_by(store)


def said_by(store: Store) -> dict[str, Any]:
    """The content of a store, but for whether its sessions' options are trusted."""
    return {
        id_: ({k: v for k, v in record.items() if k != "options_trusted"}, messages)
        for id_, (record, messages) in content(store).items()
    }


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_what_differs_is_not_replaced_unless_it_is_forced(
    kind: str, urls: dict[str, str], clinvk: CommandLine, tmp_path: Path
):
    home = clinvk.home.path
    source = keep(open_store("file", home))
    for name in ("same", "changed", "new"):
        source.create(Session(id=name), [said(name)])
    target = keep(open_store(urls[kind], home))
    (tmp_path / "home").mkdir(exist_ok=True)
    target.create(source.get("same"), source.messages("same"))
    target.create(source.get("changed"), [said("something else")])
    before = content(target)
    migrate = ("sessions", "migrate", "--to", urls[kind])
    for more in ((), ("--dry-run",)):
        done = clinvk(*migrate, *more)
        assert done.returncode == 4
        assert "1 session(s) are in the other store and differ: changed" in done.stderr
        assert content(target) == before
    done = clinvk(*migrate, "--force", "--dry-run", "--json")
    assert json.loads(done.stdout)["replaced"] == ["changed"]
    assert content(target) == before
    done = clinvk(*migrate, "--force")
    assert "Copied 1 session(s)" in done.stdout
    assert "Replaced 1 that differed in the other store." in done.stdout
    assert "1 were already there." in done.stdout
    assert content(target) == content(source)


def test_what_runs_or_is_damaged_is_left_and_told(urls: dict[str, str], clinvk: CommandLine):
    home = clinvk.home.path
    source = keep(open_store("file", home))
    for name in ("fine", "busy", "bad"):
        source.create(Session(id=name))
    (home / "sessions" / "bad.json").write_text("{")
    turn = source.acquire_turn("busy")
    turn.note({"run": "x"})
    done = clinvk("sessions", "migrate", "--to", urls["sqlite"])
    turn.close()
    assert done.returncode == 4
    assert "session busy is running" in done.stderr
    assert "bad is damaged" in done.stderr
    assert list(content(keep(open_store(urls["sqlite"], home)))) == ["fine"]


def test_a_store_is_not_copied_into_itself(clinvk: CommandLine):
    done = clinvk("sessions", "migrate", "--to", "file")
    assert done.returncode == 1
    assert "the same" in done.stderr


# On the command line


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_command_can_name_another_store(kind: str, redis_url: str, clinvk: CommandLine):
    other = ("--storage-backend", {"sqlite": "sqlite", "redis": redis_url}[kind])
    assert clinvk("-b", "echo", "in files").returncode == 0
    assert clinvk("-b", "echo", *other, "elsewhere").returncode == 0
    there = json.loads(clinvk("sessions", "list", *other, "--json").stdout)["sessions"]
    assert [s["prompt"] for s in there] == ["elsewhere"]
    here = json.loads(clinvk("sessions", "list", "--json").stdout)["sessions"]
    assert [s["prompt"] for s in here] == ["in files"]
    done = clinvk("resume", "--last", "more", *other)
    assert "This began with: elsewhere" in done.stdout
    id_ = there[0]["id"]
    assert "Turns" in clinvk("sessions", "show", id_, *other).stdout
    assert id_ in clinvk("sessions", "search", "elsewhere", *other).stdout
    assert "1 session(s)" in clinvk("sessions", "reindex", *other).stdout
    assert clinvk("sessions", "delete", id_, "--yes", *other).returncode == 0


def test_a_path_names_the_file_or_the_folder(clinvk: CommandLine, tmp_path: Path):
    for kind in ("file", "sqlite"):
        place = ("--storage-backend", kind, "--storage-path", str(tmp_path / kind))
        assert clinvk("-b", "echo", *place, "hello").returncode == 0
        assert "hello" in clinvk("sessions", "list", *place).stdout
    assert (tmp_path / "file" / "sessions").is_dir()
    assert (tmp_path / "sqlite").is_file()
    done = clinvk("sessions", "list", "--storage-backend", "redis://x", "--storage-path", "y")
    assert done.returncode == 1
    assert "has none" in done.stderr


def test_an_unknown_store_on_the_command_line_is_an_error(clinvk: CommandLine):
    done = clinvk("sessions", "list", "--storage-backend", "mysql")
    assert done.returncode == 3
    assert "unknown store 'mysql'" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_with_a_hundred_updates_each_lose_none(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
):
    url = store_url(kind, tmp_path / "home", request)
    store = keep(open_store(url, tmp_path / "home"))
    store.create(Session(id="s"))
    script = (
        "import sys; from pathlib import Path; from clinvk.store import open_store\n"
        "from clinvk.session import Session\n"
        "store = open_store(sys.argv[1], Path(sys.argv[2]))\n"
        "for _ in range(100): store.update('s', lambda s: Session.from_json("
        "s.to_json() | {'turns': s.turns + 1}))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, url, str(tmp_path / "home")], cwd=PROJECT)
        for _ in range(2)
    ]
    assert [w.wait(60) for w in writers] == [0, 0]
    assert store.get("s").turns == 200
