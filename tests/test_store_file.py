"""Sessions as files: what is private, what is damaged, what a disk refuses."""

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from clinvk.errors import SessionError
from clinvk.model.session import Message, Session
from clinvk.store import open_store
from clinvk.store.base import Damaged, Query
from tests.conftest import PROJECT, CommandLine, Home
from tests.needs import lack, need_root
from tests.stores import keep


@pytest.fixture
def store(home: Home):
    return keep(open_store("file", home.path))


def same(session: Session) -> Session:
    return session


def filled(store, *ids: str) -> None:
    for id_ in ids:
        store.create(Session(id=id_, backend="echo", prompt=f"about {id_}"))
        store.append(id_, [Message("user", f"about {id_}")], same)


def ids(store) -> list[str]:
    return sorted(s.id for s in store.select(Query()))


def whole(home: Home, id_: str) -> bool:
    """Whether the transcript has nothing but whole lines."""
    data = (home.path / "transcripts" / f"{id_}.jsonl").read_bytes()
    return data.endswith(b"\n") and all(json.loads(x) for x in data[:-1].split(b"\n"))


def modes(folder: Path) -> set[tuple[bool, int]]:
    return {(p.is_dir(), stat.S_IMODE(p.stat().st_mode)) for p in [folder, *folder.rglob("*")]}


# Private


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_files_are_0600_and_folders_0700_whatever_the_umask(
    clinvk: CommandLine, home: Home, umask: int
):
    before = os.umask(umask)
    try:
        assert clinvk("-b", "echo", "hello").returncode == 0
        assert clinvk("config", "set", "output.color", "never").returncode == 0
    finally:
        os.umask(before)
    assert modes(home.path) == {(True, 0o700), (False, 0o600)}


def test_reading_writes_nothing(clinvk: CommandLine, home: Home):
    for args in (["sessions", "list"], ["sessions", "show", "x"], ["config", "show"], ["doctor"],
                 ["backends", "list"], ["version"], ["resume", "--last", "x"]):  # fmt: skip
        clinvk(*args)
    assert not home.path.exists()


def test_a_record_is_json_that_a_person_can_read(home: Home, store):
    filled(store, "s")
    text = (home.path / "sessions" / "s.json").read_text()
    assert json.loads(text)["id"] == "s"
    assert text.count("\n") > 5


# Damage


DAMAGE = {
    "empty": b"",
    "half": b'{"id": "bad", "vers',
    "no object": b"[1]",
    "null": b"null",
    "no id": b"{}",
    "another id": b'{"id": "other", "version": 1}',
    "id is a number": b'{"id": 7}',
    "bytes": b"\xff\xfe\x00",
    "a wrong time": b'{"id": "bad", "created_at": "yesterday"}',
    "a time that is a number": b'{"id": "bad", "updated_at": 7}',
    "usage is text": b'{"id": "bad", "usage": "many"}',
    "tags are a number": b'{"id": "bad", "tags": 7}',
    "native ids are a list": b'{"id": "bad", "native_ids": ["x"]}',
    "counts are text": b'{"id": "bad", "counts": "two"}',
    "version is text": b'{"id": "bad", "version": "one"}',
    "a title that is an object": b'{"id": "bad", "title": {"x": 1}}',
    "options are a list": b'{"id": "bad", "options": [1]}',
    "nested too deeply": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_record_is_named_and_hides_no_other(
    clinvk: CommandLine, home: Home, store, kind: str
):
    filled(store, "good")
    (home.path / "sessions" / "bad.json").write_bytes(DAMAGE[kind])
    done = clinvk("sessions", "list")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "about good" in done.stdout
    assert "bad" in done.stdout
    assert "damaged" in done.stdout
    assert "sessions delete bad" in done.stderr


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_record_can_be_deleted(clinvk: CommandLine, home: Home, store, kind: str):
    filled(store, "good")
    (home.path / "sessions" / "bad.json").write_bytes(DAMAGE[kind])
    done = clinvk("sessions", "delete", "bad", "--yes")
    assert (done.returncode, done.stdout) == (0, "Session bad deleted.\n"), done.stderr
    assert ids(store) == ["good"]


@pytest.mark.parametrize("args", [["sessions", "show", "bad"], ["resume", "bad", "go on"]])
def test_a_damaged_session_is_a_session_error(
    clinvk: CommandLine, home: Home, store, args: list[str]
):
    filled(store, "good")
    (home.path / "sessions" / "bad.json").write_bytes(b"{")
    done = clinvk(*args)
    assert done.returncode == 4
    assert "damaged" in done.stderr


@pytest.mark.parametrize("args", [
    ["-b", "echo", "hi"], ["-c", "-b", "echo", "more"], ["resume", "--last", "more"],
    ["sessions", "clean"], ["sessions", "list", "--json"], ["sessions", "show", "good"],
])  # fmt: skip
def test_nothing_else_suffers_from_a_damaged_record(
    clinvk: CommandLine, home: Home, args: list[str]
):
    assert clinvk("-b", "echo", "hello").returncode == 0
    (id_,) = home.ids()
    for i, data in enumerate(DAMAGE.values()):
        (home.path / "sessions" / f"bad{i}.json").write_bytes(data)
    done = clinvk(*[id_ if a == "good" else a for a in args])
    assert done.returncode == 0, done.stderr


def test_a_folder_in_place_of_a_record_is_damage_that_can_be_deleted(
    clinvk: CommandLine, home: Home, store
):
    filled(store, "good")
    (home.path / "sessions" / "bad.json").mkdir()
    assert [type(s) for s in store.select(Query()) if s.id == "bad"] == [Damaged]
    assert clinvk("sessions", "delete", "bad", "-y").returncode == 0
    assert ids(store) == ["good"]


def test_a_link_that_leads_nowhere_can_be_deleted(clinvk: CommandLine, home: Home, store):
    filled(store, "good")
    (home.path / "sessions" / "bad.json").symlink_to("/nowhere")
    assert clinvk("sessions", "list").returncode == 0
    assert clinvk("sessions", "delete", "bad", "-y").returncode == 0
    assert ids(store) == ["good"]


def test_a_record_of_a_newer_clinvk_is_refused_and_not_touched(
    clinvk: CommandLine, home: Home, store
):
    filled(store, "new")
    path = home.path / "sessions" / "new.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99, "future": True}))
    before = path.read_bytes()
    for args in (["sessions", "show", "new"], ["resume", "new", "hello"]):
        done = clinvk(*args)
        assert done.returncode == 4
        assert "newer clinvk" in done.stderr
    with pytest.raises(SessionError, match="newer"):
        store.update("new", same)
    assert path.read_bytes() == before


def test_a_torn_last_line_of_a_transcript_is_dropped(home: Home, store):
    filled(store, "s")
    path = home.path / "transcripts" / "s.jsonl"
    with path.open("ab") as file:
        file.write(b'{"role": "user", "content": "half of it')
    assert [m.content for m in store.messages("s")] == ["about s"]
    store.append("s", [Message("user", "next")], same)
    assert [m.content for m in store.messages("s")] == ["about s", "next"]


@pytest.mark.parametrize("line", [b"\xff\xfe", b"null", b"[]", b"{}", b'{"role": "king"}',
                                  b'{"role": "user", "content": "x", "timestamp": "never"}'])  # fmt: skip
def test_a_line_that_is_no_message_hides_no_other(home: Home, store, line: bytes):
    filled(store, "s")
    with (home.path / "transcripts" / "s.jsonl").open("ab") as file:
        file.write(line + b"\n")
    store.append("s", [Message("user", "next")], same)
    assert [m.content for m in store.messages("s")] == ["about s", "next"]


def test_other_files_in_the_folder_are_no_sessions(home: Home, store):
    filled(store, "s")
    for name in ("notes.txt", ".DS_Store", ".s.json.123", "s.json~", "README"):
        (home.path / "sessions" / name).write_text("x")
    assert ids(store) == ["s"]


def test_a_file_whose_name_cannot_be_an_id_breaks_nothing(clinvk: CommandLine, home: Home, store):
    filled(store, "good")
    for name in ("a b.json", "é.json", ".json", "last.json", "x" * 200 + ".json"):
        (home.path / "sessions" / name).write_text("{}")
    for args in (["sessions", "list"], ["sessions", "clean"], ["sessions", "show", "good"]):
        done = clinvk(*args)
        assert done.returncode == 0, done.stderr


def test_a_left_over_temporary_file_is_no_session(home: Home, store):
    filled(store, "s")
    (home.path / "sessions" / ".t.json.99999").write_text("{")
    assert ids(store) == ["s"]
    assert len(list(store.select(Query()))) == 1


# The index


def titles(clinvk: CommandLine) -> list[str]:
    return [s.get("title") for s in clinvk.json("sessions", "list", "--json")["sessions"]]


def spoil(path: Path, how: str) -> None:
    if how == "gone":
        path.unlink()
    elif how == "garbage":
        path.write_bytes(b"no database at all" * 100)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "overwritten":
        data = bytearray(path.read_bytes())
        data[4096:12_000] = b"\xff" * (12_000 - 4096)
        path.write_bytes(data)
    elif how == "a folder":
        path.unlink()
        path.mkdir()


SPOILED = ["gone", "garbage", "empty", "cut", "overwritten", "a folder"]


@pytest.mark.parametrize("how", SPOILED)
def test_an_index_that_is_spoiled_changes_no_answer(
    clinvk: CommandLine, home: Home, store, how: str
):
    filled(store, *(f"s{i}" for i in range(30)))
    assert len(clinvk.json("sessions", "list", "--json")["sessions"]) == 30
    spoil(home.path / "index.db", how)
    for args in (["list", "--json"], ["list", "--json", "-b", "echo"]):
        done = clinvk("sessions", *args)
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["sessions"]) == 30
    assert clinvk.json("sessions", "show", "s7", "--json")["id"] == "s7"
    assert len(clinvk.json("sessions", "search", "about s7", "--json")["hits"]) == 1
    assert clinvk("-b", "echo", "hello").returncode == 0
    assert len(clinvk.json("sessions", "list", "--json")["sessions"]) == 31


def test_an_index_that_is_spoiled_while_a_store_is_open_changes_no_answer(home: Home, store):
    filled(store, "a", "b")
    spoil(home.path / "index.db", "garbage")
    filled(store, "c")
    assert ids(keep(open_store("file", home.path))) == ["a", "b", "c"]


def test_records_that_come_go_and_change_by_other_hands_are_noticed(
    clinvk: CommandLine, home: Home, store
):
    filled(store, "a", "b")
    assert len(titles(clinvk)) == 2
    folder = home.path / "sessions"
    record = json.loads((folder / "a.json").read_text())
    (folder / "c.json").write_text(json.dumps(record | {"id": "c", "title": "copied in"}))
    assert "copied in" in titles(clinvk)
    (folder / "c.json").unlink()
    assert len(titles(clinvk)) == 2
    (folder / "new").write_text(json.dumps(record | {"title": "replaced"}))
    (folder / "new").replace(folder / "a.json")
    assert "replaced" in titles(clinvk)


def test_an_edit_by_hand_counts_in_show_and_everywhere_after_reindex(
    clinvk: CommandLine, home: Home, store
):
    filled(store, "a")
    titles(clinvk)
    path = home.path / "sessions" / "a.json"
    record = json.loads(path.read_text())
    with path.open("r+") as file:  # in place: the folder does not change
        file.write(json.dumps(record | {"title": "by hand", "tags": ["mine"]}))
        file.truncate()
    assert clinvk.json("sessions", "show", "a", "--json")["title"] == "by hand"
    assert clinvk("sessions", "reindex").returncode == 0
    assert titles(clinvk) == ["by hand"]
    assert len(clinvk.json("sessions", "list", "--json", "--tag", "mine")["sessions"]) == 1


def test_many_at_once_make_one_good_index(clinvk: CommandLine, home: Home, store):
    filled(store, *(f"s{i}" for i in range(50)))
    spoil(home.path / "index.db", "gone")
    running = [clinvk.start("sessions", "list", "--json") for _ in range(8)]
    for process in running:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert len(json.loads(out)["sessions"]) == 50


@pytest.mark.parametrize("how", [None, *SPOILED])
def test_a_read_only_home_is_read_whatever_its_index(
    clinvk: CommandLine, home: Home, store, how: str | None
):
    filled(store, "a", "b")
    titles(clinvk)
    if how:
        spoil(home.path / "index.db", how)
    with read_only_at(home.path):
        for args in (["list", "--json"], ["search", "about", "--json"], ["show", "a", "--json"]):
            done = clinvk("sessions", *args)
            assert done.returncode == 0, done.stderr
            data = json.loads(done.stdout)
            assert len(data.get("sessions") or data.get("hits") or [1, 2]) == 2


# Disks


def mount(*args: str) -> None:
    done = subprocess.run(["mount", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        lack(f"nothing can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(home: Home) -> Iterator[Path]:
    need_root()
    home.path.mkdir()
    mount("-t", "tmpfs", "-o", "size=600k,mode=700", "tmpfs", str(home.path))
    yield home.path
    subprocess.run(["umount", "-l", str(home.path)], check=True)


@contextmanager
def read_only_at(path: Path) -> Iterator[None]:
    """The folder, where nobody can write; not root either."""
    need_root()
    mount("--bind", str(path), str(path))
    mount("-o", "remount,ro,bind", str(path))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def read_only(home: Home) -> Iterator[Path]:
    """The home, with a session in it, where nobody can write."""
    filled(keep(open_store("file", home.path)), "s")
    with read_only_at(home.path):
        yield home.path


def test_a_full_disk_is_told_and_damages_nothing(small_disk: Path, home: Home, store):
    filled(store, "s")
    with pytest.raises(SessionError, match="No space left") as caught:
        for i in range(100):
            store.append("s", [Message("user", f"{i} " + "x" * 20_000)], same)
    assert "make room" in caught.value.hint
    kept = store.messages("s")
    assert [m.content.split()[0] for m in kept] == ["about", *map(str, range(len(kept) - 1))]
    assert whole(home, "s")
    assert store.get("s").id == "s"
    with pytest.raises(SessionError, match="No space left"):
        store.update("s", lambda s: Session.from_json(s.to_json() | {"title": "x" * 400_000}))
    assert store.get("s").title is None
    assert [p.name for p in (small_disk / "sessions").iterdir()] == ["s.json"]


def test_on_a_full_disk_nothing_is_started(small_disk: Path, clinvk: CommandLine, home: Home):
    program = home.backend("fake", 'echo ran >"$(dirname "$0")/ran"')
    with (small_disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    done = clinvk("-b", "fake", "hello")
    assert done.returncode == 4
    assert "No space left" in done.stderr
    assert "make room" in done.stderr
    assert not (program.parent / "ran").exists()


def test_a_disk_that_fills_during_a_turn_still_shows_the_answer(
    small_disk: Path, clinvk: CommandLine, home: Home
):
    line = '{"type": "end", "id": "n", "text": "the answer"}'
    home.backend(
        "fake", f"cat >/dev/null\ncat /dev/zero >{small_disk}/ballast 2>/dev/null\necho '{line}'\n"
    )
    done = clinvk("-b", "fake", "hello")
    assert "the answer" in done.stdout
    assert done.returncode == 4
    assert "could not be saved" in done.stderr
    (small_disk / "ballast").unlink()
    assert clinvk("sessions", "list").returncode == 0
    assert len(home.ids()) == 1


def test_a_limit_on_the_size_of_files_tears_no_transcript(home: Home, store):
    """As a quota does it: part of a write succeeds."""
    filled(store, "s")
    script = f"""
import resource, signal
from pathlib import Path
from clinvk.errors import SessionError
from clinvk.session import Message
from clinvk.store import open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
store = open_store("file", Path({str(home.path)!r}))
for i in range(20):
    try:
        store.append("s", [Message("user", f"{{i}} " + "x" * 7_000)], lambda s: s)
    except SessionError as error:
        print(i, error)
        break
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True,
                          text=True, check=True)  # fmt: skip
    count = int(done.stdout.split()[0])
    assert "File too large" in done.stdout
    assert whole(home, "s")
    assert len(store.messages("s")) == 1 + count
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize("args", [["list"], ["show", "s"], ["list", "--json"], ["clean"],
                                  ["show", "s", "--messages", "3"]])  # fmt: skip
def test_a_read_only_home_can_be_read(read_only: Path, clinvk: CommandLine, args: list[str]):
    done = clinvk("sessions", *args)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("args", [["-b", "echo", "hello"], ["resume", "s", "hello"],
                                  ["sessions", "delete", "s", "-y"]])  # fmt: skip
def test_a_read_only_home_refuses_what_would_write(
    read_only: Path, clinvk: CommandLine, args: list[str]
):
    done = clinvk(*args)
    assert done.returncode == 4
    assert "Read-only file system" in done.stderr
    assert "CLINVK_HOME" in done.stderr


def test_an_ephemeral_run_needs_no_home_to_write_to(read_only: Path, clinvk: CommandLine):
    done = clinvk("-b", "echo", "--ephemeral", "hello")
    assert done.returncode == 0, done.stderr
    assert "hello" in done.stdout


@pytest.mark.skipif(os.getuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_permission_is_told(clinvk: CommandLine, home: Home):
    home.path.mkdir(mode=0o500)
    done = clinvk("-b", "echo", "hello")
    assert done.returncode == 4
    assert "CLINVK_HOME" in done.stderr


def test_a_file_in_place_of_the_home_is_told(clinvk: CommandLine, home: Home):
    home.path.write_text("a file")
    done = clinvk("-b", "echo", "hello")
    assert done.returncode in (3, 4), done.stderr
    assert str(home.path) in done.stderr
    assert "Traceback" not in done.stderr


# What a killed clinvk, a second thread or a broken disk left


@pytest.mark.parametrize("said", [[], [Message("user", "new")]])
def test_a_new_session_has_nothing_of_a_transcript_that_was_left(store, home: Home, said: list):
    filled(store, "a")
    (home.path / "sessions" / "a.json").unlink()
    store.create(Session(id="a"), said, exact=True)
    assert [m.content for m in store.messages("a")] == [m.content for m in said]


def test_a_record_is_deleted_after_its_transcript(store, home: Home):
    filled(store, "a")
    (home.path / "transcripts" / "a.jsonl").unlink()
    (home.path / "transcripts" / "a.jsonl").mkdir()
    (home.path / "transcripts" / "a.jsonl" / "x").touch()
    with pytest.raises(SessionError, match="cannot delete"):
        store.delete("a")
    assert store.get("a").id == "a"


def test_a_store_may_be_used_from_several_threads(store):
    filled(store, "a")
    ids(store)
    with ThreadPoolExecutor(2) as pool:
        assert pool.submit(ids, store).result() == ["a"]
        pool.submit(filled, store, "b").result()
    filled(store, "c")
    assert ids(store) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%41b", "a b"])
def test_the_index_is_in_the_store_whatever_the_folder_is_called(tmp_path: Path, name: str):
    store = keep(open_store("file", tmp_path / name))
    filled(store, "a")
    assert ids(store) == ["a"]
    assert (tmp_path / name / "index.db").stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_store_whose_records_are_gone_is_empty(store, home: Home):
    filled(store, "a", "b")
    shutil.rmtree(home.path / "sessions")
    again = keep(open_store("file", home.path))
    assert ids(again) == []
    filled(again, "c")
    assert ids(again) == ["c"]


def test_a_damaged_page_of_the_index_changes_no_answer(store, home: Home):
    filled(store, *(f"s{i}" for i in range(300)))
    path = home.path / "index.db"
    whole_ = path.read_bytes()
    asked: list = [
        lambda s: len(s.select(Query())),
        lambda s: s.count(Query(backend="echo")),
        lambda s: s.find_ids("s29"),
        lambda s: [h.session.id for h in s.search("about s7")],
        lambda s: s.find_by_native_id("echo", "none"),
        lambda s: s.create(Session(id="s7x"), exact=True) and s.delete("s7x"),
    ]
    expected = [ask(store) for ask in asked]
    for ask, answer in zip(asked, expected, strict=True):
        path.write_bytes(whole_)
        os.utime(home.path / "sessions")  # it is looked through, and its time is set, before
        keep(open_store("file", home.path)).select(Query())
        data = bytearray(path.read_bytes())
        data[8192:] = b"\xff" * (len(data) - 8192)  # what says that it is fresh is on page 2
        path.write_bytes(data)
        assert ask(keep(open_store("file", home.path))) == answer


def test_a_lock_that_vanishes_hides_no_other(store, monkeypatch: pytest.MonkeyPatch):
    filled(store, "a", "b")
    turn = store.acquire_turn("a")
    turn.note({"run": "x"})
    real = os.scandir
    folder = store.home / "locks"

    @contextmanager
    def with_a_ghost(path):
        (folder / "ghost").touch()
        with real(path) as entries:
            found = list(entries)
        (folder / "ghost").unlink()
        yield iter(found)

    monkeypatch.setattr(os, "scandir", with_a_ghost)
    assert store.running_ids() == ["a"]
    monkeypatch.undo()
    turn.close()
