"""Long texts are examined in threads, if there are any, and no longer than somebody waits."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from clinvk.process.threads import LONG, for_long, in_thread
from clinvk.text.redact import NOT_EXAMINED, GaveUp, is_given_up, redact
from tests.conftest import CommandLine, Home, signal_to_the_end, wait_for

WITHOUT_THREADS = """
import sys
from anyio._backends import _asyncio

def start(_):
    raise RuntimeError("can't start new thread")

_asyncio.WorkerThread.start = start
from clinvk.cmd.main import main
sys.exit(main(sys.argv[1:]))
"""

SAYS_MUCH = """#!{python} -SE
import json, sys, time
sys.stdin.read()
print(json.dumps({{"type": "start", "id": "n"}}))
print(json.dumps({{"type": "text", "text": "secret=" * 700_000}}), flush=True)
open({path!r}, "w").close()
time.sleep(60)
"""


def test_a_long_task_is_done_if_no_thread_can_be_started(home: Home):
    (home.work / "tasks.json").write_text(json.dumps([{"prompt": "a long text " * LONG}]))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THREADS, "parallel", "tasks.json", "-b", "echo", "--json"],
        env=home.env, cwd=home.work, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [r["state"] for r in json.loads(done.stdout)["results"]] == ["done"]


@pytest.mark.anyio
async def test_what_the_work_itself_raises_is_raised_once():
    calls = []

    def work() -> None:
        calls.append(1)
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError):
        await in_thread(work)
    assert calls == [1]


@pytest.mark.anyio
async def test_a_search_for_secrets_ends_as_soon_as_nobody_waits_for_it(anyio_backend: str):
    text = f"{anyio_backend} " + "secret=" * LONG  # what was searched is remembered
    with pytest.raises(GaveUp):
        await for_long(text, redact, lambda: True)
    assert await for_long(text, redact) == text
    assert not is_given_up.get()()


@pytest.mark.parametrize("many", [False, True], ids=["prompt", "run"])
def test_a_second_signal_ends_the_search_of_a_long_answer(
    clinvk: CommandLine, home: Home, many: bool
):
    ready = home.path.parent / "ready"
    home.backend("fake", SAYS_MUCH.format(python=sys.executable, path=str(ready)))
    (home.work / "tasks.json").write_text(json.dumps([{"prompt": "a"}]))
    args = ("parallel", "tasks.json") if many else ("hi",)
    process = clinvk.start(*args, "-b", "fake")
    wait_for(ready.exists, seconds=60)
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.3)
    signal_to_the_end(process, signal.SIGTERM)
    assert process.returncode != 0
    [transcript] = (home.path / "transcripts").iterdir()
    last = json.loads(transcript.read_text().splitlines()[-1])
    assert (last["role"], last["content"]) == ("assistant", NOT_EXAMINED)
    if many:
        [events] = home.path.glob("runs/*/tasks/0001.jsonl")
        assert NOT_EXAMINED in events.read_text()
        assert events.stat().st_size < LONG
