"""Notes of turns and runs that clinvk has not written: they lead to no signal, and block nothing.

Each case runs in a PID namespace of its own, beside processes that have nothing to do with it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from clinvk.api.sessions.deletion import delete_from_store
from clinvk.dispatch import recovery
from clinvk.errors import SessionError
from clinvk.model.session import Session
from clinvk.process import host
from clinvk.process import note as turn_note
from clinvk.process.leftovers import find_leftovers
from clinvk.process.marker import MARKER, is_marker, new_marker, starter_of
from clinvk.process.tree import ProcessTree
from clinvk.store import open_store
from tests.conftest import FAKES, CommandLine, Home, is_alive, wait_for
from tests.needs import lack
from tests.stores import KINDS, keep, store_url

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc"]
OLD = {"of": "-"}  # as clinvk 0.1 wrote them

# What is wrong with each, as the user is told.
INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "empty marker": ({"run": ""}, "'run'"),
    "empty marker of old": ({"run": "", "since": 0, **OLD}, "'run'"),
    "marker that ends in /": ({"run": "d" * 32 + "/"}, "'run'"),
    "marker that begins with /": ({"run": "/" + "d" * 32}, "'run'"),
    "only a slash": ({"run": "/"}, "'run'"),
    "short marker": ({"run": "d" * 31}, "'run'"),
    "capital letters": ({"run": "D" * 32}, "'run'"),
    "marker and a line end": ({"run": "d" * 32 + "\n"}, "'run'"),
    "other digits": ({"run": "\u0664" * 32}, "'run'"),
    "marker that is a list": ({"run": ["d" * 32]}, "'run'"),
    "marker that is null": ({"run": None}, "'run'"),
    "no marker": ({"run": "-"}, "'run'"),
    "since 0": ({"run": "d" * 32, "since": 0}, "'since'"),
    "since before boot": ({"run": "d" * 32, "since": 1000.5}, "before this machine was started"),
    "since in the future": ({"run": "d" * 32, "since": 9_999_999_999}, "in the future"),
    "since negative": ({"run": "d" * 32, "since": -1}, "'since'"),
    "since NaN": ({"run": "d" * 32, "since": float("nan")}, "'since'"),
    "since infinite": ({"run": "d" * 32, "since": float("inf")}, "'since'"),
    "since minus infinite": ({"run": "d" * 32, "since": float("-inf")}, "'since'"),
    "since true": ({"run": "d" * 32, "since": True}, "'since'"),
    "since text": ({"run": "d" * 32, "since": "0"}, "'since'"),
    "since missing": ({"run": "d" * 32, "since": "-"}, "'since'"),
    "since null": ({"run": "d" * 32, "since": None}, "'since'"),
    "since huge": ({"run": "d" * 32, "since": 10**400}, "'since'"),
    "pid 0": ({"run": "d" * 32, "clinvk": 0}, "'clinvk'"),
    "pid 1": ({"run": "d" * 32, "clinvk": 1}, "'clinvk'"),
    "pid -1": ({"run": "d" * 32, "clinvk": -1}, "'clinvk'"),
    "pid true": ({"run": "d" * 32, "clinvk": True}, "'clinvk'"),
    "pid text": ({"run": "d" * 32, "clinvk": "7"}, "'clinvk'"),
    "pid fraction": ({"run": "d" * 32, "clinvk": 7.5}, "'clinvk'"),
    "pid huge": ({"run": "d" * 32, "clinvk": 10**400}, "'clinvk'"),
    "pid too large": ({"run": "d" * 32, "clinvk": 2**31}, "'clinvk'"),
    "pid missing": ({"run": "d" * 32, "clinvk": "-"}, "'clinvk'"),
    "host a number": ({"run": "d" * 32, "host": 5}, "'host'"),
    "boot a list": ({"run": "d" * 32, "boot": []}, "'boot'"),
    "namespace an object": ({"run": "d" * 32, "namespace": {}}, "'namespace'"),
    "of another session": ({"run": "d" * 32, "of": "session q"}, "session q"),
    "of a number": ({"run": "d" * 32, "of": 3}, "'of'"),
}
# These are tried in every kind of place, with the whole command.
EVERYWHERE = ("empty marker of old", "marker that ends in /", "of another session")
TEXTS = ["{", "[]", '"x"', "0", "\0\0", "[" * 30_000, '{"run": "' + "d" * 70_000]


@cache
def can_unshare() -> bool:
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def apart(home: Home) -> Callable[..., dict[str, Any]]:
    """Runs a case in a PID namespace; what came of it."""
    if not can_unshare():
        lack("no PID namespace can be made here")

    def run(**job: Any) -> dict[str, Any]:
        done = subprocess.run(
            [*UNSHARE, sys.executable, str(FAKES / "notes.py")], input=json.dumps(job),
            capture_output=True, text=True, env=home.env, cwd=home.work, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done
        return dict(json.loads(done.stdout))

    return run


def ended_nothing(found: dict[str, Any]) -> None:
    assert found["unmarked"], found
    assert found["marked"], found


@pytest.mark.once
def test_an_invalid_note_ends_nothing_and_is_told(apart):
    notes = [changes for changes, _ in INVALID.values()]
    found = apart(of="sessions", store="file", notes=notes)
    ended_nothing(found)
    for name, (_, why), told in zip(INVALID, INVALID.values(), found["ran"], strict=True):
        for part in ("is invalid", why, told["at"], "nothing was stopped"):
            assert part in told["told"], name


@pytest.mark.once
def test_a_note_that_is_no_json_object_ends_nothing_and_is_told(apart):
    found = apart(of="sessions", store="file", notes=TEXTS)
    ended_nothing(found)
    assert all("is invalid (not a JSON object" in told["told"] for told in found["ran"])


# That each of them is invalid is tested above; here, that each store and each command asks.
@pytest.mark.parametrize(("kind", "name"), [*zip(KINDS, EVERYWHERE, strict=True)])
@pytest.mark.once
def test_an_invalid_note_ends_nothing_in_any_store(
    apart, kind: str, name: str, tmp_path: Path, request: pytest.FixtureRequest
):
    changes, why = INVALID[name]
    found = apart(of="session", store=store_url(kind, tmp_path, request), note=changes)
    ended_nothing(found)
    first, second = found["ran"]
    assert first["code"] == second["code"] == 0, found
    where = {"file": "locks/r", "sqlite": "sessions.db.locks/r", "redis": "clinvk:turn:r"}[kind]
    for part in ("is invalid", why, where):
        assert part in first["err"]
    assert "invalid" not in second["err"]


@pytest.mark.parametrize("of", ["session", "run"])
@pytest.mark.once
def test_a_note_that_is_no_json_object_blocks_nothing(apart, of: str):
    found = apart(of=of, store="file", how="resume", text="{")
    ended_nothing(found)
    assert [done["code"] for done in found["ran"]] == [0, 0], found
    assert "is invalid" in found["ran"][0]["err"]


@pytest.mark.parametrize(
    ("how", "name"), [*zip(["resume", "retry", "cancel"], EVERYWHERE, strict=True)]
)
@pytest.mark.once
def test_an_invalid_note_of_a_run_ends_nothing_and_blocks_nothing(apart, name: str, how: str):
    changes, why = INVALID[name]
    found = apart(of="run", how=how, note=changes)
    ended_nothing(found)
    first, then = found["ran"]
    assert first["code"] == then["code"] == 0, found
    for part in ("is invalid", why, "/lock"):
        assert part in first["err"]


@pytest.mark.once
def test_a_session_with_an_invalid_note_can_be_deleted(apart):
    found = apart(of="session", store="file", note={"run": ""}, delete=True)
    ended_nothing(found)
    assert (found["ran"][0]["code"], found["ran"][0]["out"]) == (0, "Session r deleted.\n")
    assert "is invalid" in found["ran"][0]["err"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.once
def test_what_a_valid_note_names_is_ended_and_nothing_else(
    apart, kind: str, old: bool, tmp_path: Path, request: pytest.FixtureRequest
):
    changes = {"run": "d" * 32, "since": {}, **(OLD if old else {})}
    del changes["since"]
    found = apart(of="session", store=store_url(kind, tmp_path, request), note=changes)
    assert (found["unmarked"], found["marked"]) == (True, False), found
    assert found["ran"][0]["code"] == 0
    assert "1 process that it left running was stopped" in found["ran"][0]["err"]


@pytest.mark.once
def test_what_a_valid_note_of_a_run_names_is_ended_and_nothing_else(apart):
    found = apart(of="run", how="cancel", note={"run": "d" * 32})
    assert (found["unmarked"], found["marked"]) == (True, False), found


@pytest.mark.parametrize("of", ["session", "run"])
@pytest.mark.once
def test_where_the_clinvk_that_a_note_names_is_alive_nothing_is_ended(apart, of: str):
    found = apart(of=of, store="file", how="resume", note={"run": "d" * 32, "clinvk": "PID"})
    ended_nothing(found)
    assert found["ran"][0]["code"] == 0
    assert "still alive" in found["ran"][0]["err"]


@pytest.mark.parametrize("note", [
    {"clinvk": "PID"}, {"clinvk": -1}, {"clinvk": "PID", **OLD}, {"of": "run r9", "clinvk": "PID"},
], ids=str)  # fmt: skip
@pytest.mark.once
def test_cancel_signals_no_process_that_does_not_hold_the_lock(apart, note: dict[str, Any]):
    found = apart(of="held", note=note)
    ended_nothing(found)
    assert found["ran"][0]["code"] == 4, found
    assert "rabc123/lock" in found["ran"][0]["err"]


@pytest.mark.once
def test_cancel_of_a_held_lock_that_says_nothing_readable_signals_nobody(apart):
    found = apart(of="held", text="{")
    ended_nothing(found)
    assert "invalid" in found["ran"][0]["err"]


# A turn that is running


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", [None, "session r"])
def test_a_running_turn_is_not_ended_by_the_note_of_another_session(
    clinvk: CommandLine, home: Home, kind: str, of: str | None, request: pytest.FixtureRequest
):
    """Who can read the store knows the marker of a turn that runs, and may write it elsewhere."""
    url = store_url(kind, home.path, request)
    where = () if kind == "file" else ("--storage-backend", url)
    pid = home.path.parent / "pid"
    home.backend("slow", f"cat >/dev/null; echo $$ >{pid}; exec sleep 300\n")
    running = clinvk.start("-b", "slow", "--session", "q", "one", *where)
    wait_for(lambda: pid.exists() and pid.read_text().strip())
    store = keep(open_store(url, home.path))
    theirs = wait_for(lambda: store.running_turn("q"))
    store.create(Session(id="r", backend="echo", cwd=str(home.work), counts={"user": 1}))
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    turn = store.acquire_turn("r")
    assert turn is not None
    turn.note({k: v for k, v in {**theirs, "clinvk": dead.pid, "of": of}.items() if v is not None})
    turn.abandon()
    done = clinvk("resume", "r", "x", *where)
    assert done.returncode == 0, done
    assert is_alive(int(pid.read_text()))
    assert "something else that is running" in done.stderr
    running.terminate()
    running.communicate(timeout=60)


def test_a_turn_that_holds_another_lock_is_known_by_its_note_too(clinvk: CommandLine, home: Home):
    """Markers of clinvk 0.1 do not say who made them."""
    store, marker = keep(open_store("file", home.path)), "f" * 32
    for id_ in ("q", "r"):
        store.create(Session(id=id_, backend="echo", cwd=str(home.work), counts={"user": 1}))
    q, r = store.acquire_turn("q"), store.acquire_turn("r")
    assert q is not None
    assert r is not None
    q.note(recovery.turn_facts(marker, "q"))
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    r.note({**recovery.turn_facts(marker, "q"), "clinvk": dead.pid, "of": "session r"})
    r.abandon()
    with subprocess.Popen(["sleep", "300"], env={MARKER: marker}, start_new_session=True) as theirs:
        done = clinvk("resume", "r", "x")
        assert is_alive(theirs.pid)
        theirs.kill()
    q.close()
    assert (done.returncode, "something else" in done.stderr) == (0, True), done


# The parts


@pytest.mark.anyio
@pytest.mark.parametrize("name", [None, "elsewhere"])
async def test_a_note_of_another_machine_names_it_if_it_has_a_name(home: Home, name: str | None):
    with open_store("file", home.path) as store:
        store.create(Session(id="s"))
        turn = store.acquire_turn("s")
        assert turn is not None
        turn.note({**recovery.turn_facts(new_marker({}), "s"), "host": name})
        turn.abandon()
        turn = store.acquire_turn("s")
        assert turn is not None
        place = name or "another machine"
        with pytest.raises(SessionError, match=f"was started on {place} and may be running"):
            await recovery.end_turn_leftovers(store, turn, "s")
        turn.close()


def test_nothing_is_told_of_a_note_that_another_clinvk_has_seen_to_meanwhile(home: Home):
    with open_store("file", home.path) as store:
        store.create(Session(id="s"))
        turn = store.acquire_turn("s")
        assert turn is not None
        turn.note(recovery.turn_facts(new_marker({}), "s"))
        turn.abandon()

        class Late(type(store)):  # type: ignore[misc]
            """A store in which another clinvk comes first."""

            def acquire_turn(self, session_id: str) -> Any:
                if (first := super().acquire_turn(session_id)) is not None:
                    first.close()
                return super().acquire_turn(session_id)

        told: list[str] = []
        with Late(home.path) as late:
            delete_from_store(late, home.path, "s", told.append)
            assert (told, late.find_ids("s")) == ([], [])


def test_a_family_without_a_valid_marker_and_group_has_no_members():
    with subprocess.Popen(["sleep", "300"], env={}, start_new_session=True) as bystander:
        for marker in ("", "/", "x", "a" * 32 + "/", "a" * 31):
            assert ProcessTree.left_behind(marker, 0).alive == []
            assert ProcessTree(0, marker, 0).alive == []
            for group in (0, 1, -1, os.getpgrp()):
                family = ProcessTree(group, marker, 0)
                family.refresh()
                assert family.alive == []
                assert find_leftovers(group, marker) == []
        bystander.kill()


def test_a_family_takes_no_process_for_a_since_that_is_no_number():
    marker = new_marker({})
    with subprocess.Popen(["sleep", "300"], env={MARKER: marker}) as marked:
        assert ProcessTree.left_behind(marker, float("nan")).alive == []
        assert [p.pid for p in ProcessTree.left_behind(marker, 0).alive] == [marked.pid]
        marked.kill()


@pytest.mark.parametrize("value", ["", "x", "/", "a" * 31, "A" * 32, "a" * 32 + "/", "a/b"])
def test_what_no_clinvk_has_put_into_the_environment_is_not_joined_into_a_marker(value: str):
    marker = new_marker({MARKER: value})
    assert is_marker(marker)
    assert "/" not in marker


def test_a_marker_says_who_made_it():
    outer = new_marker({})
    inner = new_marker({MARKER: outer})
    assert is_marker(inner)
    assert inner.split("/")[0] == outer
    assert starter_of(inner) == starter_of(outer) == os.getpid()
    assert starter_of("0" * 32) is starter_of("f" * 32) is starter_of("") is None


def test_a_note_is_read_as_it_was_written_whatever_else_is_in_it():
    marker = new_marker({})
    raw = {**turn_note.make(marker, "session s"), "more": {"of": ["it"]}}
    note = turn_note.parse(raw, "session s")
    assert (note.marker, note.of, note.process.pid) == (marker, "session s", os.getpid())
    assert not turn_note.is_gone(note.process)
    assert turn_note.parse({k: v for k, v in raw.items() if k != "of"}, "session s").of is None


def test_a_process_that_has_ended_and_waits_to_be_collected_is_gone():
    with subprocess.Popen(["true"]) as process:
        raw = {**host.this_process(), "clinvk": process.pid}
        wait_for(lambda: not is_alive(process.pid))
        assert turn_note.is_gone(turn_note.parse_process(raw))
