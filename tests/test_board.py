"""The live picture of a run: what is on the terminal while it goes on, and that nothing is after."""

import io
import itertools
import json
import os
import re
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.model.events import Delta, Event, Notice, Started, Text, Thinking, Tool, ToolResult
from clinvk.model.outcome import Outcome
from clinvk.model.progress import Change
from clinvk.model.result import Failure
from clinvk.model.usage import Usage
from clinvk.terminal.board.board import Board
from clinvk.terminal.board.rows import MAX_PIECES
from clinvk.terminal.board.state import MAX_ENDED_SHOWN
from clinvk.terminal.printer import Printer
from clinvk.text.width import clip_start, display_width
from tests.conftest import PROJECT, Home, wait_for
from tests.needs import need
from tests.screens import Screen

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Stage:
    """A board on a made-up terminal, with a made-up clock."""

    def __init__(self, columns: int = 80, rows: int = 24, *, color: bool = False) -> None:
        self.size = os.terminal_size((columns, rows))
        self.now = 1000.0
        self.stream = Writes()
        self.board = Board(
            Printer(self.stream, color=color),
            size=lambda: self.size,
            clock=lambda: self.now,
            wall_clock=lambda: NOON + timedelta(seconds=self.now - 1000),
        )

    def start(self, *names: str, total: int | None = None, **more: Any) -> None:
        self.board.begin_following(len(names) if total is None else total, "r123456")
        for i, name in enumerate(names):
            self.change("started", i, name, state="running", **more)

    def change(self, kind: Any, i: int, name: str = "", until: Any = None, **more: Any) -> None:
        more = {"backend": "claude", "attempts": 1, **more}
        outcome = Outcome(index=i, name=name or f"task {i}", **more)
        self.board.observe(Change(kind=kind, outcome=outcome, until=until))

    def say(self, i: int, *events: Event) -> None:
        for event in events:
            outcome = Outcome(index=i, name=f"task {i}", state="running")
            self.board.observe(Change(kind="event", outcome=outcome, event=event))

    @property
    def frame(self) -> list[str]:
        return self.board.frame.lines(self.size.columns, self.size.lines)

    @property
    def screen(self) -> Screen:
        screen = Screen(self.size.columns, self.size.lines)
        screen.feed(self.stream.getvalue())
        return screen


class Writes(io.StringIO):
    count = 0

    def write(self, text: str) -> int:
        self.count += 1
        return super().write(text)

    def fileno(self) -> int:
        raise OSError


def test_the_worker_of_a_task_is_named_once_one_has_taken_it():
    stage = Stage()
    stage.start("a", "b")
    before = stage.frame
    stage.change("node", 0, "a", state="running", node="w1")
    assert [("w1" in line, "w1" in old) for line, old in zip(stage.frame, before, strict=True)] == [
        (False, False), (True, False), (False, False),
    ]  # fmt: skip
    stage.change("started", 0, "a", state="running", attempts=2)
    assert not any("w1" in line for line in stage.frame)
    stage.change("node", 1, "b", state="running", node="n" * 90)
    assert "nnn…" in stage.frame[2]


def test_why_tasks_wait_is_said_until_a_worker_has_taken_them():
    stage = Stage()
    stage.start("a", total=4)
    full = "all 2 slots for claude are taken"
    stage.board.show_why_waiting({1: full, 2: full, 3: "no worker runs codex"})
    assert "1 running · 3 queued" in stage.frame[0]
    assert [line.strip() for line in stage.frame[2:]] == [
        f"… 2 queued: {full}", "… 1 queued: no worker runs codex",
    ]  # fmt: skip
    stage.change("started", 1, "b", state="running", node="w1")
    stage.change("node", 1, "b", state="running", node="w1")
    assert "2 running · 2 queued" in stage.frame[0]
    assert f"… 1 queued: {full}" in stage.frame[3]
    stage.change("node", 1, "b", state="queued", is_sent=True)
    assert "1 running · 3 queued" in stage.frame[0]
    stage.board.show_why_waiting({0: "too late", 1: full})
    assert "too late" not in "".join(stage.frame)
    stage.board.show_why_waiting({})
    assert len(stage.frame) == 2


names = st.text(
    st.sampled_from("ab ·漢字🚀é\u0301\u200d\ufe0f👩🇩🇪\x1b[31m\n\t\u202e\ud800"), max_size=60
)


@given(
    tasks=st.lists(names, max_size=60),
    columns=st.integers(1, 200),
    rows=st.integers(1, 60),
    waiting=st.integers(0, 30),
    ended=st.integers(0, 12),
    said=names,
)
def test_it_is_never_taller_or_wider_than_the_terminal(
    tasks: list[str], columns: int, rows: int, waiting: int, ended: int, said: str
):
    stage = Stage(columns, rows)
    stage.start(*tasks, total=1000)
    for i in range(len(tasks)):
        stage.say(i, Started(), Tool(name=said), Delta(text=said * 3))
    for i in range(waiting):
        until = NOON + timedelta(minutes=i)
        stage.change("limit", 100 + i, said, until, backend=f"b{i % 5}", state="failed")
    for i in range(ended):
        state, error = ("failed", Failure("server", said * 5)) if i % 2 else ("done", None)
        stage.change("ended", 200 + i, said, state=state, error=error, usage=Usage(10**i, 1))
    for _ in range(2):
        frame = stage.frame
        assert len(frame) <= max(0, rows - 1)
        for line in frame:
            assert line.isprintable()
            assert display_width(line) <= max(0, columns - 1)
        stage.now += 45


def test_that_no_worker_is_there_is_said_once_for_all_tasks():
    stage = Stage()
    stage.start("a", "b")
    for i in range(2):
        told = "no worker is connected; waiting for one"
        stage.board.observe(Change(kind="notice", outcome=Outcome(index=i, name="x"), message=told))
    assert stage.board.state.notices == [told]


def test_of_a_hundred_tasks_those_are_shown_that_fit():
    stage = Stage()
    stage.start(*(f"task {i}" for i in range(100)), total=300)
    for i in range(200, 208):
        stage.change("ended", i, state="done", seconds=3)
    frame = stage.frame
    assert len(frame) == 23
    shown = sum(line.startswith("•") for line in frame)
    assert f"  … and {100 - shown} more running" in frame
    assert shown >= 15
    assert "8/300 done · 100 running" in frame[0]
    assert "192 queued" in frame[0]
    assert sum(line.startswith("✓") for line in frame) == 4


def test_a_task_stays_in_its_place_while_others_end():
    stage = Stage()
    stage.start("one", "two", "three", total=9)
    stage.change("ended", 0, "one", state="done")
    stage.change("started", 5, "six", state="running")
    assert [line.split()[1] for line in stage.frame[1:4]] == ["six", "two", "three"]
    stage.change("ended", 1, "two", state="done")
    assert [line.split()[1] for line in stage.frame[1:3]] == ["six", "three"]


def test_it_tells_what_a_task_does():
    stage = Stage()
    stage.start("one")
    seen = []
    for event in (None, Started(), Thinking(text="hm"), Tool(name="Bash"), ToolResult(),
                  Delta(text="It is")):  # fmt: skip
        stage.say(0, *([event] if event else []))
        seen.append(re.sub(r" +\d+ s.*", "", stage.frame[1].split("claude")[1]).strip())
    assert seen == ["starting", "thinking", "thinking", "tool Bash", "thinking", "answering"]
    stage.now += 40
    assert "silent 40 s" in stage.frame[1]
    stage.say(0, Tool(name="Bash"))
    stage.now += 40
    assert "tool Bash" in stage.frame[1]  # which may take its time


def test_the_last_line_that_a_task_said_comes_with_it():
    stage = Stage()
    stage.start("one")
    stage.say(0, Delta(text="First.\nThe sec"), Delta(text="ond\x1b[3"), Delta(text="1m line"))
    assert stage.frame[1].endswith("  The second line")
    stage.say(0, Text(text="First.\nThe second line"))  # the whole of it, once more
    assert stage.frame[1].endswith("  The second line")
    stage.say(0, Text(text="A block that came at once\n\n"))
    assert stage.frame[1].endswith("  A block that came at once")
    stage.say(0, Delta(text="and "), Delta(text="on"))
    assert stage.frame[1].endswith("  and on")


def test_of_a_long_line_the_end_is_seen():
    stage = Stage()
    stage.start("one")
    said = []
    for i in range(40):
        stage.say(0, Delta(text=f" word{i}"))
        said.append(stage.frame[1])
        assert said[-1].endswith(f"word{i}")
    assert sum(len(b) < len(a) for a, b in itertools.pairwise(said)) > 3


@given(st.text(st.sampled_from("ab  漢🚀"), max_size=200), st.integers(1, 30))
def test_the_end_of_a_line_fits(text: str, room: int):
    line = clip_start(text, room)
    assert display_width(line) <= room
    assert text.endswith(line)


def test_what_waits_says_until_when():
    stage = Stage(120)
    stage.start("one", "two", "three")
    stage.change("limit", 0, "one", NOON + timedelta(minutes=12), state="failed")
    stage.change("retry", 1, "two", NOON + timedelta(seconds=5), state="queued",
                 error=Failure("server", "overloaded"))  # fmt: skip
    head, running, limit, retry, pause = stage.frame
    assert "1 running" in head
    assert "2 queued" in head
    assert running.split()[1] == "three"
    assert re.match(r"… one .* waiting for rate limit until ", limit)
    assert re.match(r"… two .* retry at .*  overloaded$", retry)
    assert re.match(r"  claude: rate limit until .* \(12m 00s\)$", pause)
    stage.now += 6
    assert "waiting for a free slot" in stage.frame[3]
    stage.change("started", 1, "two", state="running", attempts=2)
    stage.now += 720
    assert [line[0] for line in stage.frame[1:]] == ["•", "•", "…"]


def test_what_is_done_about_a_limit_is_told_once_above_the_board():
    stage = Stage(120)
    stage.start("one", "two")
    for i in range(2):
        outcome = Outcome(index=i, name=str(i), backend="claude", attempts=1, state="failed")
        until = NOON + timedelta(minutes=12)
        stage.board.observe(
            Change(kind="limit", outcome=outcome, until=until, instead="nobody waits")
        )
    stage.board.close()
    assert stage.stream.getvalue().count("claude: rate limit reached; nobody waits") == 1


def test_failures_are_seen_longer_than_successes():
    stage = Stage()
    stage.start(total=50)
    stage.change("ended", 0, "bad", state="failed", error=Failure("auth", "401 not logged in"))
    for i in range(1, 30):
        stage.change("ended", i, state="done", seconds=2)
    assert "1 failed" in stage.frame[0]
    assert len(stage.frame) == 1 + MAX_ENDED_SHOWN
    assert re.match(r"✗ bad .*401 not logged in$", stage.frame[1])
    stage.change("ended", 40, state="cancelled", attempts=0)  # never started: counted alone
    assert len(stage.frame) == 1 + MAX_ENDED_SHOWN
    assert "1 cancelled" in stage.frame[0]


def test_what_the_tasks_took_is_added_up_once():
    stage = Stage(160)
    stage.start("one")
    usage = Usage(1000, 200)
    stage.change("retry", 0, "one", NOON, state="queued", usage=usage, cost=0.5)
    stage.change("started", 0, "one", state="running", usage=usage, cost=0.5)
    stage.change("ended", 0, "one", state="done", usage=usage + usage, cost=1.0)
    assert stage.frame[0].endswith("2.4k tokens · $1.00")
    assert "1/1 done" in stage.frame[0]


def test_to_observe_writes_nothing_and_keeps_little():
    stage = Stage()
    stage.start("one", "two")
    writes = stage.stream.count
    for _ in range(5000):
        stage.say(0, Delta(text="word "))
    assert stage.stream.count == writes
    assert len(stage.board.state.rows.by_index[0].pieces) == MAX_PIECES


def test_a_frame_is_one_write_and_there_is_none_without_a_change():
    stage = Stage(color=True)
    stage.start("one")
    stage.board.tick()
    assert stage.stream.count == 1
    stage.board.tick()
    stage.now += 0.5
    stage.board.tick()
    assert stage.stream.count == 1
    stage.now += 0.6  # another second
    stage.board.tick()
    stage.say(0, Delta(text="It is"))
    stage.board.tick()
    assert stage.stream.count == 3
    for frame in stage.stream.getvalue().split("\x1b[?2026h")[1:]:
        assert frame.endswith("\x1b[?2026l")


def test_the_board_is_drawn_in_its_place():
    stage = Stage(rows=10)
    stage.start(*(f"task {i}" for i in range(20)))
    for i in range(20):
        stage.now += 1
        stage.say(i, Delta(text=f"said {i}"))
        stage.board.tick()
        assert stage.screen.lines[:-1] == stage.frame
        stage.change("ended", i, f"task {i}", state="done")
    stage.board.tick()
    assert stage.screen.lines[:-1] == stage.frame
    assert stage.screen.gone == []


def test_a_notice_stays_above_the_board():
    stage = Stage(columns=50, rows=8)
    stage.board.show_notice("before it begins")
    stage.start("one", "two")
    stage.board.tick()
    stage.board.show_notice("a notice that takes more than a line of this terminal")
    stage.say(0, Notice(message="from a task"))
    stage.board.tick()
    stage.board.observe(Change(kind="notice", outcome=Outcome(index=0, name="one"), message="b"))
    stage.board.close()
    stage.board.show_notice("afterwards")
    assert stage.screen.text == (
        "clinvk: before it begins\n"
        "clinvk: a notice that takes more than a line of\n  this terminal\n"
        "clinvk: task 0: from a task\nclinvk: one: b\nclinvk: afterwards"
    )


def test_nothing_is_left_of_it_when_it_is_closed():
    stage = Stage()
    stage.start("one")
    stage.board.tick()
    assert not stage.screen.cursor
    stage.board.close()
    stage.board.close()
    stage.say(0, Delta(text="too late"))
    stage.now += 5
    stage.board.tick()
    assert stage.screen.text == ""
    assert stage.screen.cursor
    assert stage.screen.wraps


def test_a_terminal_that_gets_other_measures_is_drawn_anew():
    stage = Stage(80, 24)
    stage.start(*(f"task {i} " + "x" * 40 for i in range(30)))
    stage.board.tick()
    # Lines that are too long for the new terminal have become two each: all of them are erased.
    up = sum(-(-len(line) // 40) for line in stage.frame)
    stage.size = os.terminal_size((40, 10))
    before = len(stage.stream.getvalue())
    stage.board.tick()
    drawn = stage.stream.getvalue()[before:]
    assert up > 30
    assert drawn.startswith("\x1b[?2026h\r\x1b[9A" + "\x1b[K\n" * 9)  # as high as it is
    assert drawn.count("\n") == 9 + len(stage.frame) == 18


def test_without_colours_there_are_none():
    plain, painted = Stage(), Stage(color=True)
    for stage in (plain, painted):
        stage.start("one")
    assert not any("\x1b" in line for line in plain.frame)
    assert [re.sub(r"\x1b\[\d+m", "", line) for line in painted.frame] == plain.frame
    assert any("\x1b[" in line for line in painted.frame)


def test_a_run_of_another_process_is_shown_from_where_it_stands():
    stage = Stage()
    outcomes = [
        Outcome(index=0, name="one", state="done", attempts=1),
        Outcome(index=1, name="two", state="running", backend="codex", attempts=1,
                started_at=NOON - timedelta(seconds=90)),
        Outcome(index=2, name="three"),
    ]  # fmt: skip
    began = NOON - timedelta(minutes=3)
    stage.board.begin_following(3, "r1", outcomes, started_at=began, has_deltas=False)
    assert "1/3 done · 1 running · 1 queued · 3m 00s" in stage.frame[0]
    assert re.match(r"• two  +codex +running +1m 30s", stage.frame[1])
    stage.now += 100
    assert "silent" not in stage.frame[1]
    stage.say(1, Started(), Tool(name="Bash"))
    assert "tool Bash" in stage.frame[1]
    stage.say(1, ToolResult())
    assert "running" in stage.frame[1]
    assert "thinking" not in stage.frame[1]  # it may well be answering


def test_a_run_that_is_carried_on_counts_what_was_done_before():
    stage = Stage()
    done = Outcome(index=0, name="one", state="done", attempts=1)
    run: Any = SimpleNamespace(
        plan=SimpleNamespace(tasks=[None] * 2),
        folder=SimpleNamespace(id="r1"),
        outcomes=[],
        context=SimpleNamespace(cluster=None),
    )
    stage.board.begin(run)
    stage.board.tick()
    assert stage.stream.getvalue() == ""  # it is not known yet
    run.outcomes = [done, Outcome(index=1, name="two", state="running")]
    stage.change("started", 1, "two", state="running")
    assert "1/2 done · 1 running" in stage.frame[0]


def test_what_is_typed_is_not_shown_meanwhile():
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as stream:
        board = Board(Printer(stream, color=False))
        board.begin_following(1)
        for _ in range(2):
            board.tick()
            assert not termios.tcgetattr(stream)[3] & termios.ECHO
            board.region.clear()
            assert termios.tcgetattr(stream)[3] & termios.ECHO
            board._changed = True
        termios.tcflow(stream, termios.TCOOFF)  # Ctrl-S
        assert not board.region.can_draw()
        termios.tcflow(stream, termios.TCOON)
        assert board.region.can_draw()
        board.close()
    os.close(master)


# For real.

WORDS = "one two three four five six seven eight nine ten"
OF_A_BOARD = re.compile("━|─{3}|• | running|queued")
Start = Callable[..., pexpect.spawn]


@pytest.fixture
def tasks(home: Home) -> str:
    path = home.work / "tasks.yaml"
    titles = [
        "the first",
        "漢字の仕事",
        "🚀 launch",
        "a task with a name that is rather long",
        "5",
        "6",
    ]
    task = {"backend": "echo", "prompt": WORDS, "options": {"delay": 0.15}}
    bad = {"name": "bad", "backend": "echo", "prompt": "x", "options": {"fail": 401}}
    path.write_text(
        json.dumps({"tasks": [*({**task, "name": t} for t in titles), bad]}, ensure_ascii=False)
    )
    return str(path)


@pytest.fixture
def start(home: Home, tasks: str) -> Iterator[Start]:
    children: list[pexpect.spawn] = []

    def run(rows: int, columns: int) -> pexpect.spawn:
        argv = ["-m", "clinvk", "parallel", tasks, "-j", "4"]
        child = pexpect.spawn(
            sys.executable, argv, cwd=str(home.work), env={**home.env, "TERM": "xterm"},
            encoding="utf-8", dimensions=(rows, columns), timeout=60,
        )  # fmt: skip
        child.logfile_read = io.StringIO()
        children.append(child)
        return child

    yield run
    for child in children:
        child.close(force=True)


def end(child: pexpect.spawn, rows: int, columns: int) -> tuple[Screen, int]:
    child.expect(pexpect.EOF)
    child.close()
    screen = Screen(columns, rows)
    screen.feed(child.logfile_read.getvalue())
    return screen, child.exitstatus


@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (10, 40)])
def test_a_run_is_seen_and_leaves_a_clean_screen(start: Start, rows: int, columns: int):
    child = start(rows, columns)
    child.expect("the first.*answering")
    screen, code = end(child, rows, columns)
    assert code == 1
    assert "7 tasks: 6 done, 1 failed" in screen.text.replace("\n", "")
    assert not OF_A_BOARD.search(screen.text)
    assert screen.cursor
    assert screen.wraps


@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (10, 40)])
def test_ctrl_c_leaves_a_clean_screen(start: Start, rows: int, columns: int):
    child = start(rows, columns)
    child.expect("the first.*answering")
    child.sendintr()
    screen, code = end(child, rows, columns)
    assert code == 7
    assert "cancelled: stopping…" in screen.text.replace("\n", "")
    assert not OF_A_BOARD.search(screen.text)
    assert screen.cursor


def test_a_resize_does_no_harm(home: Home, tasks: str, tmp_path: Any):
    need("tmux")
    socket = str(tmp_path / "tmux")
    env = {**home.env, "TERM": "xterm-256color", "PYTHONPATH": str(PROJECT)}

    def tmux(*args: str) -> str:
        return subprocess.run(
            ["tmux", "-S", socket, "-f", "/dev/null", *args],
            env=env, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    def screen() -> str:
        return tmux("capture-pane", "-p")

    def fits(shown: str, columns: int) -> bool:
        """There is one board, its head has the width that it has on such a terminal, and nothing
        of an earlier one is left."""
        bars = re.findall("[━─]{4,}", shown)
        once = [shown.count(f"{mark} the first") for mark in "•✓"]
        return [len(bar) for bar in bars] == [(columns - 1) // 6] and sum(once) <= 1

    run = f"{sys.executable} -m clinvk parallel {tasks} -j 4; echo code $?; exec sleep 60"
    tmux("new-session", "-d", "-x", "80", "-y", "24", f"cd {home.work}; {run}")
    try:
        for columns, rows in ((80, 24), (100, 24), (50, 24), (40, 10), (90, 10), (50, 7), (100, 7)):
            tmux("resize-window", "-x", str(columns), "-y", str(rows))
            wait_for(lambda width=columns: fits(screen(), width))
        wait_for(lambda: "code 1" in screen())
        assert not OF_A_BOARD.search(screen())
        assert tmux("display-message", "-p", "#{cursor_flag}").strip() == "1"
    finally:
        tmux("kill-server")
