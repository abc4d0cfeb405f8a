"""What happens to other processes when a session or a run with a given note is used again.

Run as the first process of a PID namespace, so that a mistake ends nothing outside of it. Reads
what to do from stdin and prints what came of it, both as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio

from clinvk.dispatch import recovery
from clinvk.model.session import Message, MessageRole, Session
from clinvk.process import host
from clinvk.store import open_store
from clinvk.store.base import Store
from tests import forked

ENV = {k: v for k, v in os.environ.items() if k != "CLINVK_RUN"}


def clinvk(*args: str) -> dict[str, Any]:
    """What a fork of this process, which has loaded clinvk, says as the command with `args`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            files = [os.open(os.devnull, os.O_RDONLY), out.fileno(), err.fileno()]
            forked.become({"argv": args, "env": ENV, "cwd": os.getcwd()}, files)
        _, status = os.waitpid(pid, 0)
        out.seek(0)
        err.seek(0)
        code = os.waitstatus_to_exitcode(status)
        return {"code": code, "out": out.read().decode(), "err": err.read().decode()}


def bystander(**env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "300"], env=env, start_new_session=True)


def dead_pid() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        return process.pid


def note_of(job: dict[str, Any], of: str) -> dict[str, Any]:
    """A note as clinvk would have left it, with the changes that are asked for."""
    facts = {"run": "c" * 32, "of": of, **host.this_process(), "clinvk": dead_pid()}
    facts["since"] = job["began"]
    changes = {k: v for k, v in job["note"].items() if v != "-"}
    kept = {k: v for k, v in facts.items() if job["note"].get(k) != "-"}
    return kept | changes


def session(job: dict[str, Any], name: str = "r") -> Store:
    store = open_store(job["store"], Path(ENV["CLINVK_HOME"]))
    about = Session(id=name, backend="echo", cwd=os.getcwd(), counts={"user": 1}, prompt="p")
    store.create(about, [Message(MessageRole.USER, "p")])
    return store


def of_a_session(job: dict[str, Any]) -> list[dict[str, Any]]:
    store = session(job)
    turn = store.acquire_turn("r")
    assert turn is not None
    turn.note(note_of(job, "session r"))
    turn.abandon()
    if "text" in job:  # no note at all
        (Path(ENV["CLINVK_HOME"]) / "locks" / "r").write_text(job["text"])
    where = ["--storage-backend", job["store"]] if job["store"] != "file" else []
    if job.get("delete"):
        return [clinvk("sessions", "delete", "r", "--yes", *where)]
    return [clinvk("resume", "r", "x", *where), clinvk("resume", "r", "y", *where)]


def of_sessions(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Many notes, one after the other; what each turn is told that comes next."""
    store, told = session(job), []
    for change in job["notes"]:
        turn = store.acquire_turn("r")
        assert turn is not None
        if isinstance(change, str):
            (Path(ENV["CLINVK_HOME"]) / "locks" / "r").write_text(change)
        else:
            turn.note(note_of({**job, "note": change}, "session r"))
        turn.abandon()
        turn = store.acquire_turn("r")
        assert turn is not None
        told.append(
            {"told": anyio.run(recovery.end_turn_leftovers, store, turn, "r"), "at": turn.location}
        )
        turn.close()
    return told


def of_a_run(job: dict[str, Any]) -> list[dict[str, Any]]:
    home = Path(ENV["CLINVK_HOME"])
    (home.parent / "tasks.yaml").write_text(json.dumps({"tasks": [{"prompt": "a"}]}))
    made = clinvk("parallel", str(home.parent / "tasks.yaml"), "-q", "-b", "echo")
    assert made["code"] == 0, made
    (folder,) = (home / "runs").iterdir()
    (folder / "lock").write_text(job.get("text", json.dumps(note_of(job, f"run {folder.name}"))))
    first = {"resume": ["resume"], "retry": ["retry"], "cancel": ["cancel"]}[job["how"]]
    return [clinvk("runs", *first, folder.name), clinvk("runs", "delete", folder.name, "--yes")]


def of_a_held_run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The lock is held, and what is in it is not what its holder has written."""
    import fcntl

    home = Path(ENV["CLINVK_HOME"])
    folder = home / "runs" / "rabc123"
    (folder / "tasks").mkdir(parents=True)
    plan = {"version": 2, "kind": "parallel", "tasks": [{"name": "a", "prompt": "a", "key": "a"}]}
    (folder / "plan.json").write_text(json.dumps(plan))
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    text = job.get("text", json.dumps(note_of(job, "run rabc123")))
    os.write(lock, text.encode())
    return [clinvk("runs", "cancel", "rabc123")]


WHAT = {
    "session": of_a_session,
    "sessions": of_sessions,
    "run": of_a_run,
    "held": of_a_held_run,
}


def main() -> None:
    job = json.load(sys.stdin)
    forked.load()
    unmarked = bystander()
    job["began"] = time.time()  # the unmarked one may be the clinvk that the marked one is of
    marked = bystander(CLINVK_RUN=job.get("marker", "d" * 32))
    job["note"] = {
        k: {"PID": unmarked.pid}.get(v, v) if isinstance(v, str) else v
        for k, v in job.get("note", {}).items()
    }
    time.sleep(0.05)
    ran = WHAT[job["of"]](job)
    alive = [unmarked.poll() is None, marked.poll() is None]
    for process in (unmarked, marked):
        process.kill()
        process.wait()
    print(json.dumps({"unmarked": alive[0], "marked": alive[1], "ran": ran}))


main()
