"""Prompts leave the process as it was: its settings belong to the program that uses clinvk."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import Home

# Prints what twenty prompts, made in one of several ways, have changed of this process.
SCRIPT = """
import asyncio, contextlib, gc, io, json, os, resource, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import anyio
import clinvk
from clinvk.cmd.main import main
from clinvk.process import leftovers, marker
from clinvk.backend.output import event_parser
from clinvk.terminal import printer, prompt

COUNT = 20
way = sys.argv[1]

def files():
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return {fd: name for fd, name in found.items() if not name.startswith("/proc/")}

def state():
    return {
        "collects": gc.isenabled(),
        "thresholds": gc.get_threshold(),
        "frozen": gc.get_freeze_count(),
        "limits": {n: resource.getrlimit(getattr(resource, n))
                   for n in dir(resource) if n.startswith("RLIMIT_")},
        "signals": {str(s): str(signal.getsignal(s)) for s in signal.valid_signals()},
        "wakeup": signal.set_wakeup_fd(-1),
        "policy": str(type(asyncio.get_event_loop_policy())),
        "watcher": str(getattr(asyncio.get_event_loop_policy(), "_watcher", None)),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "streams": [(id(s), s and s.errors) for s in (sys.stdin, sys.stdout, sys.stderr)],
        "files": files(),
        "threads": sorted(t.name for t in threading.enumerate() if t.is_alive()),
        "programs": sorted(marker.leaders),
        "color": printer.color.get() if hasattr(printer.color, "get") else printer.color,
        "pasted": list(prompt._pasted),
        "recursion": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
        "hooks": [id(sys.excepthook), id(threading.excepthook), id(sys.unraisablehook)],
    }

def ask(i):
    assert clinvk.run("hello", backend="fake").text == "It is done."

def command(i):
    assert main(["-b", "fake", "hello"]) == 0

def refused(i):
    assert main(["-b", "nonesuch", "hello"]) != 0

def many(i):
    assert main(["parallel", "-b", "fake", "-q", "tasks.txt", "--format", "lines"]) == 0

async def at_once():
    async with anyio.create_task_group() as tasks:
        for _ in range(COUNT):
            tasks.start_soon(one)

async def one():
    assert (await clinvk.arun("hello", backend="fake")).ok

def sequentially(function):
    for i in range(COUNT):
        function(i)

def in_threads(function):
    with ThreadPoolExecutor(COUNT) as pool:
        list(pool.map(function, range(COUNT)))

open("tasks.txt", "w").write("one\\ntwo\\n")
before = state()
{
    "python": lambda: sequentially(ask),
    "python in threads": lambda: in_threads(ask),
    "asyncio": lambda: anyio.run(at_once),
    "trio": lambda: anyio.run(at_once, backend="trio"),
    "command": lambda: sequentially(command),
    "command in threads": lambda: in_threads(command),
    "refused": lambda: sequentially(refused),
    "many": lambda: sequentially(many),
}[way]()
sys.stdout.flush()
wait = time.monotonic() + 60  # idle threads end a moment after their event loop; trio's in seconds
while True:
    after = state()
    # asyncio makes its usual watcher of children when it first needs one; that is judged below.
    if {**after, "watcher": before["watcher"]} == before or time.monotonic() > wait:
        break
    time.sleep(0.05)
changed = {k: [before[k], after[k]] for k in before if before[k] != after[k]}
with open("changed.json", "w") as file:
    json.dump(changed, file, default=str)
"""

WAYS = ["python", "python in threads", "asyncio", "trio", "command", "command in threads",
        "refused", "many"]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_twenty_prompts_leave_no_global_state_behind(home: Home, way: str):
    home.backend("fake")
    (home.path / "config.yaml").write_text("output: {color: always}\n")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, way], env={**os.environ, **home.env}, cwd=home.work,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    changed = json.loads((home.work / "changed.json").read_text())
    usual = "ThreadedChildWatcher" if sys.version_info < (3, 12) else "ChildWatcher"
    watchers = changed.pop("watcher", ["None", usual])
    assert watchers[0] == "None", watchers
    assert usual in watchers[1], watchers
    assert changed == {}


def test_the_command_itself_sets_its_process_up(home: Home):
    """What the library leaves alone is done once where the process is ours."""
    script = """
import gc, resource, sys, os
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
real = os._exit
def end(code):
    print(gc.isenabled(), resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256, flush=True)
    real(code)
os._exit = end
from clinvk.__main__ import main
sys.argv[1:] = ["parallel", "-b", "fake", "-q", "-"]
main()
"""
    home.backend("fake")
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **home.env}, cwd=home.work,
        input="- one\n- two\n", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True True"
