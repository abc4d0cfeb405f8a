"""What is kept of a run: what it says, whatever happened to the one who drove it."""

import json
import os
import signal
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.errors import ClinvkError, SessionError
from clinvk.model.events import Delta, Text
from clinvk.model.outcome import Outcome, outcome_from_summary, outcome_summary
from clinvk.model.plan import Plan, Task, with_keys
from clinvk.model.result import Failure, Result
from clinvk.model.usage import Usage
from clinvk.runs.control import abandon_run
from clinvk.runs.event_log import EventLog
from clinvk.runs.folder import RunFolder, RunStore
from clinvk.runs.journal import Journal
from clinvk.runs.log import RunNotFound
from clinvk.runs.replay import replay
from tests.conftest import END, START, CommandLine, Home, is_alive, pid_in

PLAN = with_keys(Plan(kind="parallel", tasks=tuple(Task(name=n, prompt=n) for n in "abcd")))
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FOREVER = "while :; do sleep 0.1; done\n"


def same(data: Any) -> Any:
    return data


def line(event: str, second: int = 0, **facts: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "at": (NOW + timedelta(seconds=second)).isoformat(),
        "event": event,
        **facts,
    }


def ended(task: int, state: str = "done", second: int = 0, **more: Any) -> dict[str, Any]:
    return line("ended", second, task=task, **outcome_summary(Outcome(index=task, name="", state=state, **more)))  # fmt: skip


def states(lines: list[dict[str, Any]], *, running: bool = False) -> list[str]:
    return [o.state for o in replay(PLAN, lines, "r1", running=running).results]


BEGIN = line("begin", rerun=[])


def started(task: int, attempt: int = 1, second: int = 0) -> dict[str, Any]:
    return line("started", second, task=task, attempt=attempt, backend="fake", session=f"r1.{task}")


# What the lines say


def test_a_run_without_lines_was_interrupted_before_it_began():
    result = replay(PLAN, [], "r1", running=False)
    assert (result.state, result.counts, result.started_at) == ("interrupted", {"queued": 4}, None)


def test_each_kind_of_line_is_heeded():
    failure = Failure("server", "no", "later", NOW, 529)
    lines = [
        BEGIN, started(0, second=1), started(1, second=1),
        ended(0, second=2, usage=Usage(input=3, output=4), cost=0.5, attempts=1, session_id="r1.0"),
        ended(1, "failed", second=3, error=failure, exit_code=1, attempts=1),
        line("aside", 4, state="skipped", error={"kind": "skipped", "message": "m", "hint": None, "retry_at": None}, tasks=[2, 3]),
        line("end", 5, state="failed", why="so"),
    ]  # fmt: skip
    result = replay(PLAN, lines, "r1", running=False)
    assert [o.state for o in result.results] == ["done", "failed", "skipped", "skipped"]
    assert (result.state, result.why, result.seconds, result.exit_code) == ("failed", "so", 5, 1)
    assert (result.started_at, result.ended_at) == (NOW, NOW + timedelta(seconds=5))
    assert (result.usage.total, result.cost) == (7, 0.5)
    assert result.results[1].error == failure
    assert result.results[2].error == Failure("skipped", "m")


def test_a_task_without_an_end_is_running_while_somebody_drives_it_and_else_unknown():
    lines = [BEGIN, started(0), ended(0), started(1)]
    assert states(lines, running=True) == ["done", "running", "queued", "queued"]
    assert states(lines) == ["done", "indeterminate", "queued", "queued"]
    assert replay(PLAN, lines, "r1", running=True).state == "running"
    assert replay(PLAN, lines, "r1", running=False).state == "interrupted"


def test_a_task_that_is_to_be_tried_again_is_queued():
    lines = [BEGIN, started(0), ended(0, "queued", attempts=1)]
    assert states(lines) == ["queued"] * 4
    assert replay(PLAN, lines, "r1", running=False).results[0].attempts == 1
    assert states([*lines, started(0, 2), ended(0, attempts=2)])[0] == "done"


def test_the_node_of_the_last_attempt_is_known():
    taken = line("node", task=0, node="w1")
    for lines, node in (
        ([started(0)], None),
        ([started(0), taken], "w1"),
        ([started(0), taken, ended(0)], None),  # as an older clinvk writes the end
        ([started(0), taken, ended(0, node="w1")], "w1"),
        ([started(0), taken, ended(0, "queued", node="w1"), started(0, 2)], None),
    ):
        found = replay(PLAN, lines, "r1", running=True).results[0]
        assert found.node == node, lines


def test_what_is_run_anew_begins_anew_and_counts_its_attempts_on():
    lines = [BEGIN, started(0), ended(0, "failed", attempts=1, error=Failure("backend", "x")),
             line("end", 1, state="failed", why=None), line("begin", 11, rerun=[0])]  # fmt: skip
    result = replay(PLAN, lines, "r1", running=True)
    assert (result.results[0].state, result.results[0].error) == ("queued", None)
    result = replay(
        PLAN, [*lines, started(0, 2, 12), line("end", 13, state="done")], "r1", running=False
    )
    assert result.results[0].attempts == 2
    assert result.seconds == 3  # the ten between did not count


def test_an_event_that_nobody_knows_hides_no_other():
    assert states([BEGIN, line("weather", sun=True), started(0), ended(0)])[0] == "done"


def test_a_plan_of_the_first_version_is_read():
    task = {"name": "a", "prompt": "p", "options": {"max_turns": 3}, "droppable": ["max_turns"]}
    plan = Plan.from_json({"version": 1, "kind": "parallel", "tasks": [task]})
    assert plan.tasks[0].droppable == {"max_turns": ""}
    assert Plan.from_json(plan.to_json()) == plan


def test_a_line_of_a_newer_version_is_refused():
    with pytest.raises(ClinvkError, match="newer clinvk"):
        states([BEGIN, {**started(0), "version": 2}])


def test_an_outcome_comes_back_as_it_was():
    outcome = Outcome(
        index=1, name="b", state="failed", backend="fake", model="m", session_id="s",
        error=Failure("limit", "x", "y", NOW, 429), seconds=1.5, exit_code=75,
        usage=Usage(input=1, output=2, cached=3), cost=0.25, attempts=3, started_at=NOW, ended_at=NOW,
    )  # fmt: skip
    text = json.dumps(outcome_summary(outcome))
    assert outcome_from_summary(Outcome(index=1, name="b"), json.loads(text)) == outcome


# In a folder


@pytest.fixture
def folder(home: Home) -> RunFolder:
    return RunStore(home.path).create(PLAN)


def write(folder: RunFolder, *lines: dict[str, Any], end: bytes = b"") -> None:
    data = b"".join(json.dumps(x).encode() + b"\n" for x in lines)
    (folder.path / "journal.jsonl").write_bytes(data + end)


def test_a_torn_last_line_is_left_out_and_spoils_no_other(folder: RunFolder):
    torn = json.dumps(ended(1)).encode()
    write(folder, BEGIN, started(0), ended(0), started(1), end=torn[:-9])
    assert [o.state for o in folder.result().results][:2] == ["done", "indeterminate"]

    async def more() -> None:
        journal = Journal(folder, same)
        await journal.record_ended(Outcome(index=1, name="b", state="done"))
        journal.close()

    anyio.run(more)
    assert [o.state for o in folder.result().results][:2] == ["done", "done"]


def driven(second: int, state: str, **facts: Any) -> dict[str, Any]:
    """The last line of a driving, with what a list shows."""
    sums = {"why": None, "counts": {state: 4}, "usage": None, "cost": None}
    return line("end", second, state=state, **sums, **facts)


WHOLE = {"kind": "parallel", "source": "t", "total": 4, "rerun": []}


@pytest.mark.parametrize("older", [False, True])
def test_a_list_tells_how_long_a_run_was_driven_without_the_pause_between(
    folder: RunFolder, older: bool
):
    one, two = ({}, {}) if older else ({"seconds": 2.0}, {"seconds": 5.0})
    write(folder, line("begin", **WHOLE), driven(2, "cancelled", **one),
          line("begin", 3600, **WHOLE), driven(3603, "done", **two))  # fmt: skip
    assert folder.summary()["total_duration_seconds"] == 5
    assert folder.result().seconds == 5


def test_who_gives_up_a_run_that_was_cut_off_did_not_drive_it_until_then(folder: RunFolder):
    write(folder, line("begin", **WHOLE), started(0, second=4))
    anyio.run(abandon_run, folder)
    assert folder.result().state == "cancelled"
    assert (folder.result().seconds, folder.summary()["total_duration_seconds"]) == (4, 4)


@given(cut=st.integers(0, 10_000))
def test_wherever_a_journal_is_cut_the_lines_before_count(cut: int):
    lines = [BEGIN, *(x for i in range(4) for x in (started(i), ended(i, attempts=1)))]
    data = b"".join(json.dumps(x).encode() + b"\n" for x in lines)[:cut]
    from clinvk.runs.folder import decode_lines

    whole = data.count(b"\n")
    got = decode_lines(data)
    assert got[:whole] == json.loads(json.dumps(lines))[:whole]
    found = states(got)
    done = sum(x["event"] == "ended" for x in lines[:whole])
    assert found[:done] == ["done"] * done


@pytest.mark.parametrize("bad", [
    {}, {"version": "x", "at": "y"}, {"version": 1, "at": "never", "event": "end"},
    line("started", task=99), line("ended", task=0), line("aside", state="done"), line("end"),
    ended(0) | {"usage": "many"}, ended(0) | {"error": {"kind": 1}},
])  # fmt: skip
def test_a_damaged_journal_is_told_with_its_file(folder: RunFolder, bad: dict[str, Any]):
    write(folder, BEGIN, bad)
    with pytest.raises(SessionError, match=r"is damaged: .*journal\.jsonl"):
        folder.result()


def test_a_run_is_found_by_the_beginning_of_its_id(home: Home):
    runs = RunStore(home.path)
    with pytest.raises(RunNotFound):
        runs.find("last")
    ids = [runs.create(PLAN).id for _ in range(3)]
    os.utime(runs.folder / ids[1] / "plan.json", (2e9, 2e9))
    assert runs.find("last").id == ids[1]
    assert runs.find(ids[2]).id == ids[2]
    assert runs.find(ids[2][:6]).id == ids[2]
    with pytest.raises(SessionError, match="several runs"):
        runs.find("r")
    for text in ("", "..", "../sessions", "/", "x"):
        with pytest.raises(RunNotFound):
            runs.find(text)


def test_two_cannot_drive_one_run(folder: RunFolder):
    turn = folder.lock()
    with pytest.raises(SessionError, match="is running"):
        folder.lock()
    with pytest.raises(SessionError, match="is running"):
        folder.delete()
    turn.close()
    folder.lock().close()
    folder.delete()
    assert not folder.path.exists()


def test_a_run_that_left_something_running_is_not_deleted(folder: RunFolder):
    turn = folder.lock()
    turn.note({"run": "marker"})
    turn.abandon()
    with pytest.raises(SessionError, match="may have left something running"):
        folder.delete()
    assert folder.path.exists()


# On disk together


class Syncs:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.error: OSError | None = None
        self.real = os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, fd: int) -> None:
        self.count += 1
        if self.error:
            raise self.error
        self.real(fd)


@pytest.mark.anyio
async def test_many_who_write_at_once_share_the_way_to_the_disk(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
):
    journal = Journal(folder, same)
    syncs = Syncs(monkeypatch)
    seen: list[int] = []

    async def begin(i: int) -> None:
        await journal.record_started(i % 4, 1, backend="fake", session=f"s{i}")
        seen.append((folder.path / "journal.jsonl").read_bytes().count(f'"s{i}"'.encode()))

    async with anyio.create_task_group() as tasks:
        for i in range(200):
            tasks.start_soon(begin, i)
    journal.close()
    assert seen == [1] * 200  # each was there when its writer went on
    assert syncs.count <= 20


@pytest.mark.anyio
async def test_of_a_batch_that_did_not_reach_the_disk_nothing_counts(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
):
    journal = Journal(folder, same)
    await journal.record_started(0, 1, backend="fake", session="s")
    before = (folder.path / "journal.jsonl").read_bytes()
    syncs = Syncs(monkeypatch)
    syncs.error = OSError(28, "No space left on device")
    told: list[str] = []

    async def begin(i: int) -> None:
        with pytest.raises(SessionError, match="No space left") as caught:
            await journal.record_started(i, 1, backend="fake", session="s")
        told.append(caught.value.hint or "")

    async with anyio.create_task_group() as tasks:
        for i in range(4):
            tasks.start_soon(begin, i)
    assert len(told) == 4
    assert "make room" in told[0]
    assert (folder.path / "journal.jsonl").read_bytes() == before
    syncs.error = None
    await journal.record_ended(Outcome(index=0, name="a", state="done"))
    journal.close()
    assert folder.result().results[0].state == "done"


@pytest.mark.anyio
async def test_who_is_cancelled_while_writing_tears_nothing(folder: RunFolder):
    journal = Journal(folder, same)
    async with anyio.create_task_group() as tasks:
        for i in range(50):
            tasks.start_soon(
                lambda i=i: journal.record_started(i % 4, i, backend="fake", session="s")
            )
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    await journal.record_ended(Outcome(index=0, name="a", state="done"))
    journal.close()
    for text in (folder.path / "journal.jsonl").read_bytes().splitlines():
        json.loads(text)
    assert folder.result().results[0].state == "done"


def test_thousands_that_were_set_aside_take_one_way_to_the_disk(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
):
    async def aside() -> int:
        journal = Journal(folder, same)
        syncs = Syncs(monkeypatch)
        journal.record_not_started(
            Outcome(index=i % 4, name="", state="skipped", error=Failure("skipped", str(i)))
            for i in range(2_000)
        )
        journal.close()
        return syncs.count

    assert anyio.run(aside) == 1


# The events of a task


@pytest.mark.anyio
async def test_an_answer_behind_a_torn_line_is_found(folder: RunFolder):
    path = folder.events_path(0)
    path.write_bytes(b'{"type": "text", "te')
    with EventLog(folder.open_events(0), same) as log:
        await log.end(Result(ok=True, text="the answer", backend="fake", exit_code=0))
    assert folder.answer(0)["content"] == "the answer"
    assert [e["type"] for e in folder.events(0)] == ["result"]


@pytest.mark.anyio
async def test_a_secret_that_is_said_in_two_pieces_is_not_kept(folder: RunFolder):
    def scrub(data: Any) -> Any:
        return json.loads(json.dumps(data).replace("hunter2", "[redacted]"))

    path = folder.events_path(0)
    with EventLog(folder.open_events(0), scrub) as log:
        for piece in ("it is hun", "ter", "2, so"):
            await log.add(Delta(text=piece))
        await log.end(Result(ok=True, text="it is hunter2, so", backend="fake", exit_code=0))
        await log.add(Delta(text="again hun"))
        await log.add(Text(text="again hunter2"))
        await log.end(Result(ok=True, text="", backend="fake", exit_code=0))
    assert b"hunter2" not in path.read_bytes()
    assert [e["type"] for e in folder.events(0)] == ["text", "result", "text", "result"]


# The command line


def test_a_clinvk_that_was_killed_leaves_a_run_that_tells_what_is_known(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    home.backend("fake", f'p=$(cat)\n{START}case "$p" in slow) echo $$ >{tmp_path}/pid; {FOREVER} ;; esac\n{END}')  # fmt: skip
    tasks = [{"prompt": p, "backend": "fake", "name": p} for p in ("quick", "slow", "later")]
    (home.work / "t.json").write_text(json.dumps({"tasks": tasks, "max_parallel": 1}))
    process = clinvk.start("parallel", "t.json", stdout=-3, stderr=-3)
    pid = pid_in(tmp_path / "pid")
    (folder,) = RunStore(home.path).newest_first()
    assert folder.result().state == "running"
    with pytest.raises(SessionError, match="is running"):
        folder.lock()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    result = folder.result()
    assert result.state == "interrupted"
    assert [o.state for o in result.results] == ["done", "indeterminate", "queued"]
    assert folder.with_output(result.results[0]).output == "It is done."
    assert result.results[1].session_id == f"{folder.id}.slow"
    assert is_alive(pid)
    done = clinvk("runs", "resume", folder.id, "--json")
    assert not is_alive(pid)
    after = folder.result()
    assert [o.state for o in after.results] == ["done", "indeterminate", "done"], done.stderr
    assert "that it left running" in done.stderr


def test_no_secret_is_in_any_file_of_ours_or_on_stdout(clinvk: CommandLine, home: Home):
    value = "s3cr3t-of-the-environment"
    key = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
    home.backend(
        "fake",
        "cat >/dev/null\n" + START
        + 'printf \'{"type":"delta","text":"TOK is %s"}\\n\' "${MINE:0:9}" "${MINE:9}"\n'
        + 'printf \'{"type":"tool","name":"Bash","input":{"command":"curl -H %s"}}\\n\' "$MINE"\n'
        + 'printf \'{"type":"text","text":"I saw %s and %s"}\\n\' "$MINE" ' + f"{key}\n"
        + 'echo "oh $MINE" >&2\n'
        + 'printf \'{"type":"end","error":"refused: %s"}\\n\' "$MINE"\n',
    )  # fmt: skip
    tasks = [{
        "prompt": f"use {value} and {key}", "backend": "fake", "env": {"MINE": "${TOK}"},
        "extra": ["--key", key], "meta": {"k": key}, "title": f"with {key}", "tags": ["t"],
    }]  # fmt: skip
    for more in ([], ["--json"], ["-o", "stream-json"], ["-q"]):
        done = clinvk("parallel", *more, stdin=json.dumps(tasks), env={"TOK": value})
        assert done.returncode == 1, done.stderr
        assert value not in done.stdout + done.stderr, more
        assert "${MINE" not in done.stdout
    for path in home.path.rglob("*"):
        if path.is_file() and "backends" not in path.parts:
            data = path.read_bytes()
            assert value.encode() not in data, path
            assert key.encode() not in data, path
    (folder, *_) = RunStore(home.path).newest_first()
    assert folder.plan().tasks[0].env == {"MINE": "${TOK}"}
    assert folder.plan().tasks[0].redacted
    done = clinvk("runs", "retry", folder.id, env={"TOK": value})
    assert done.returncode == 4
    assert "contained a secret" in done.stderr


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_what_is_kept_of_a_run_is_private(clinvk: CommandLine, home: Home, umask: int):
    before = os.umask(umask)
    try:
        done = clinvk("parallel", stdin="[{prompt: a, backend: echo}, {prompt: b, backend: echo}]")
    finally:
        os.umask(before)
    assert done.returncode == 0
    kept = list(home.path.rglob("*"))
    assert any(p.name == "0002.jsonl" for p in kept)
    for path in kept:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
