"""Sessions whose directory is not valid UTF-8."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from clinvk.model.session import Session
from clinvk.store import open_store
from clinvk.store.base import Query, Store
from tests.conftest import READ, START, CommandLine, Home, say
from tests.stores import KINDS, keep, store_url

SAYS_WHERE = READ + 'pwd >>"$0.where"\n' + START + say(type="end", text="It is done.")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xff\xfe"))
    try:
        path.mkdir()
    except OSError:  # macOS
        pytest.skip("this file system takes UTF-8 alone")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_in_a_directory_that_is_not_utf8_is_resumed_there(
    clinvk: CommandLine, home: Home, odd: Path, kind: str, request: pytest.FixtureRequest
):
    url = store_url(kind, home.path.parent, request)
    home.config(f"default_backend: fake\nsession: {{storage: '{url}'}}\n")
    program = home.backend("fake", SAYS_WHERE)
    assert clinvk("one", cwd=odd).returncode == 0
    (session,) = clinvk.json("sessions", "list", "--json")["sessions"]
    for args in (("resume", session["id"], "two"), ("resume", "--last", "--here", "three")):
        done = clinvk(*args, cwd=odd)
        assert done.returncode == 0, done
    assert clinvk("-c", "four", cwd=odd).returncode == 0
    assert clinvk("resume", session["id"], "five").returncode == 0  # from elsewhere
    assert program.with_name("fake.where").read_bytes() == (os.fsencode(odd) + b"\n") * 5
    for args in (["list"], ["show", session["id"]], ["export", session["id"], "--format", "json"],
                 ["search", "one"], ["reindex"]):  # fmt: skip
        done = clinvk("sessions", *args)
        assert done.returncode == 0, done
    other = Path(f"{home.path.parent}/caf\ufffd \ufffd\ufffd")
    other.mkdir()
    assert clinvk("-c", "six", cwd=other).returncode != 0  # it only looks the same


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_stays_json_and_gives_the_directory_back(
    home: Home, kind: str, request: pytest.FixtureRequest
):
    store: Store = keep(open_store(store_url(kind, home.path.parent, request), home.path))
    for id_, name in (("a", b"/x/\xff"), ("b", b"/x/\xfe"), ("c", "/x/\ufffd".encode())):
        store.create(Session(id=id_, cwd=os.fsdecode(name), counts={"user": 1}))
        assert store.get(id_).cwd == os.fsdecode(name)
        found = store.select(Query(cwd=os.fsdecode(name)))
        assert [s.id for s in found] == [id_]
        record = msgspec.json.decode(msgspec.json.encode(store.get(id_).to_json()))
        assert record["cwd"] == "/x/\ufffd"
        assert Session.from_json(record) == store.get(id_)
    store.reindex()
    assert [s.id for s in store.select(Query(cwd=os.fsdecode(b"/x/\xfe")))] == ["b"]


def test_a_record_on_disk_is_json_for_every_reader(clinvk: CommandLine, home: Home, odd: Path):
    assert clinvk("-b", "echo", "one", cwd=odd).returncode == 0
    (path,) = (home.path / "sessions").glob("*.json")
    record = json.loads(path.read_bytes().decode("utf-8"))
    assert bytes.fromhex(record["cwd_bytes"]) == os.fsencode(odd)
    if jq := shutil.which("jq"):
        subprocess.run([jq, ".", path], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("value", ["zz", "ff", 3, None, [], "2f78"])
def test_bytes_that_do_not_belong_to_the_directory_are_passed_over(value: object):
    session = Session.from_json({"id": "a", "cwd": "/moved", "cwd_bytes": value})
    assert session.cwd == "/moved"
    assert session.extra == {}
