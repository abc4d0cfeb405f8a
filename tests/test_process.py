"""A program is started, read and ended; real processes, no models."""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import anyio
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.errors import ClinvkError, NotInstalledError
from clinvk.process import child as process
from clinvk.process.child import Child, start
from clinvk.process.command import Command
from clinvk.process.leftovers import find_leftovers
from clinvk.process.marker import MARKER, PATIENCE, new_marker
from clinvk.process.pipes import LineSplitter
from tests.conftest import BASH, FAKES, TREE, is_alive, living, pid_in

SOON = 60  # seconds; what has to be done in three, on a machine that is busy with other tests

ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


def command(*argv: str, cwd: Path | None = None, stdin: bytes = b"") -> Command:
    return Command(argv=argv, env=dict(ENV), cwd=cwd or Path("/"), stdin=stdin, env_changes={})


def shell(script: str, **more) -> Command:
    return command(BASH, "-c", script, **more)


def py(script: str, **more) -> Command:
    return command(sys.executable, "-SEc", script, **more)


BRIEFLY = 0.5  # seconds between terminating and killing, where their number does not matter


def starting(given: Command, stop_timeout: float = BRIEFLY):
    return start(given, new_marker({}), stop_signal=signal.SIGTERM, stop_timeout=stop_timeout)


async def everything(child: Child) -> list[bytes]:
    said = []
    while (lines := await child.lines()) is not None:
        said += lines
    return said


async def output_of(given: Command) -> tuple[list[bytes], int, str]:
    async with starting(given) as child:
        said = await everything(child)
        return said, await child.wait(), child.stderr


# Lines


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(p, len(data)) for p in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(ends)] or [b""]


texts = st.text(alphabet="ab\n\r\u2028\u2029\x0b\x0c\x1c\x85é😀{}", max_size=200)


@given(texts, st.lists(st.integers(0, 600)))
def test_any_cutting_of_the_bytes_gives_the_same_lines(text: str, places: list[int]):
    data = text.encode()
    lines = LineSplitter()
    found = [line for piece in cut(data, places) for line in lines.feed(piece)] + lines.finish()
    expected = data.split(b"\n")
    assert found == (expected[:-1] if expected[-1] == b"" else expected)


def test_a_line_separator_inside_of_json_splits_no_line():
    lines = LineSplitter()
    assert lines.feed('{"a": "x\u2028y\u2029z\r"}\n'.encode()) == [
        '{"a": "x\u2028y\u2029z\r"}'.encode()
    ]
    assert lines.finish() == []


# Input and output


@pytest.mark.anyio
async def test_the_prompt_comes_through_stdin_which_is_then_closed():
    said, code, _ = await output_of(shell("cat; echo; echo closed", stdin=b"the prompt"))
    assert (said, code) == ([b"the prompt", b"closed"], 0)


@pytest.mark.anyio
async def test_without_a_prompt_stdin_is_empty_and_not_ours():
    with anyio.fail_after(SOON):
        said, code, _ = await output_of(shell("cat; readlink /proc/self/fd/0; echo end"))
    assert (said, code) == ([b"/dev/null", b"end"], 0)


@pytest.mark.anyio
async def test_a_program_that_never_reads_a_long_prompt_can_end():
    with anyio.fail_after(SOON):
        said, code, _ = await output_of(shell("echo done; exit 9", stdin=b"x" * 10_000_000))
    assert (said, code) == ([b"done"], 9)


@pytest.mark.anyio
async def test_a_program_that_never_reads_a_long_prompt_can_be_stopped():
    with anyio.fail_after(SOON):
        async with starting(shell("echo here; sleep 300", stdin=b"x" * 10_000_000)) as child:
            assert await child.lines() == [b"here"]
            await child.stop(signal.SIGTERM)
    assert not is_alive(child.pid)


@pytest.mark.anyio
async def test_a_long_prompt_arrives_whole_while_the_program_is_talking():
    script = "tee /dev/stderr | md5sum; echo end"
    data = os.urandom(500_000).hex().encode()
    said, code, _ = await output_of(shell(script, stdin=data))
    assert said[0].split()[0].decode() == hashlib.md5(data).hexdigest()
    assert code == 0


@pytest.mark.anyio
async def test_a_megabyte_of_noise_on_stderr_blocks_nothing_and_its_end_is_kept():
    script = "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; echo done"
    with anyio.fail_after(SOON):
        said, code, noise = await output_of(shell(script))
    assert (said, code) == ([b"done"], 0)
    assert noise.endswith("xthe end\n")
    assert len(noise) <= 64 * 1024


@pytest.mark.anyio
async def test_a_line_of_50_megabytes_is_read_whole():
    with anyio.fail_after(SOON):
        said, code, _ = await output_of(py("print('x' * 50_000_000); print('end')"))
    assert [len(line) for line in said] == [50_000_000, 3]
    assert code == 0


@pytest.mark.anyio
async def test_a_last_line_without_its_end_is_read():
    said, _, _ = await output_of(shell("printf 'one\\ntwo'"))
    assert said == [b"one", b"two"]


@pytest.mark.anyio
@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", -9), ("true", 0)])
async def test_the_exit_code_is_the_programs_own(script: str, code: int):
    assert (await output_of(shell(script)))[1] == code


@pytest.mark.anyio
async def test_the_program_runs_in_its_folder_with_its_environment_and_marker(tmp_path: Path):
    given = shell(f"pwd; env | grep -c .; echo ${MARKER}", cwd=tmp_path)
    async with start(given, "outer/inner", stop_signal=signal.SIGTERM) as child:
        said = await everything(child)
    assert said[0].decode() == os.path.realpath(tmp_path)
    assert said[2] == b"outer/inner"
    assert int(said[1]) < 8  # nothing of ours came through


@pytest.mark.anyio
async def test_the_program_leads_a_group_and_has_no_terminal():
    said, _, _ = await output_of(shell("ps -o pid=,pgid=,sid= -p $$; tty"))
    pid, group, session = said[0].split()
    assert pid == group == session
    assert said[1] == b"not a tty"


@pytest.fixture
def without_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, where the end of a program has to be looked for. The `os` of asyncio is left
    alone: from Python 3.12 on, that decides once whether it has pidfds."""
    monkeypatch.setattr(process, "_open_pidfd", lambda _pid: None)


@pytest.mark.anyio
@pytest.mark.usefixtures("without_pidfd")
async def test_an_end_that_nobody_tells_is_found(ended: Callable[[str], Path]):
    left = ended("left")
    with anyio.fail_after(SOON):
        closed = await output_of(shell("echo all; exec >&- 2>&-; sleep 0.3; exit 5"))
        held = await output_of(shell(f"sleep 300 & echo $! >{left}; echo all; exit 5"))
    assert closed[:2] == held[:2] == ([b"all"], 5)


@pytest.mark.anyio
@pytest.mark.usefixtures("without_pidfd")
async def test_stop_ends_the_tree_where_nobody_tells_of_its_end(tree: Path):
    async with starting(command(str(FAKES / "stubborn.sh"), str(tree))) as child:
        await child.lines()
        await child.stop(signal.SIGTERM)
        assert living(tree) == []


# What does not start


@pytest.mark.anyio
async def test_a_missing_program_is_not_installed():
    with pytest.raises(NotInstalledError, match="/no/such/program"):
        async with starting(command("/no/such/program")):
            pass


@pytest.mark.anyio
async def test_a_program_that_may_not_be_run_is_told(tmp_path: Path):
    (tmp_path / "text").write_text("no program")
    with pytest.raises(NotInstalledError, match="Permission denied"):
        async with starting(command(str(tmp_path / "text"))):
            pass


@pytest.mark.anyio
@pytest.mark.parametrize("first", ["#!/no/such/sh", "#! /no/such/sh -e x", "#!/no/such/sh\r"])
async def test_an_interpreter_that_is_missing_is_named(tmp_path: Path, first: str):
    (tmp_path / "script").write_text(f"{first}\necho hi\n")
    (tmp_path / "script").chmod(0o755)
    with pytest.raises(NotInstalledError, match="cannot be started: '/no/such/sh") as caught:
        async with starting(command(str(tmp_path / "script"))):
            pass
    assert ("\\r" in str(caught.value)) == first.endswith("\r")
    assert caught.value.hint
    assert "first line" in caught.value.hint


@pytest.mark.anyio
async def test_a_missing_folder_is_told_as_such(tmp_path: Path):
    with pytest.raises(ClinvkError, match=r"gone: no such directory") as caught:
        async with starting(shell("true", cwd=tmp_path / "gone")):
            pass
    assert not isinstance(caught.value, NotInstalledError)


@pytest.mark.anyio
async def test_an_argument_that_is_too_long_for_the_system_is_told():
    with pytest.raises(ClinvkError, match="cannot be started"):
        async with starting(command("/bin/true", "x" * 200_000)):
            pass


# The end


@pytest.mark.anyio
async def test_stop_ends_the_whole_tree(tree: Path):
    async with starting(command(str(FAKES / "stubborn.sh"), str(tree)), PATIENCE) as child:
        await child.lines()
        assert living(tree) == list(TREE)
        began = time.monotonic()
        await child.stop(signal.SIGTERM)
        assert time.monotonic() - began < SOON
        assert living(tree) == []


@pytest.mark.anyio
async def test_stop_at_once_does_not_ask_first(tree: Path):
    async with starting(command(str(FAKES / "stubborn.sh"), str(tree)), 120) as child:
        await child.lines()
        began = time.monotonic()
        await child.stop(signal.SIGTERM, now=True)
        assert living(tree) == []
        assert time.monotonic() - began < 100  # less than the time for one that is asked


@pytest.mark.anyio
async def test_what_a_program_says_when_it_is_asked_to_end_is_kept():
    script = "trap 'echo last words; exit 0' INT; echo here; while :; do sleep 0.05; done"
    async with starting(shell(script), 120) as child:
        assert await child.lines() == [b"here"]
        assert await child.stop(signal.SIGINT) == [b"last words"]
        assert await child.wait() == 0


@pytest.mark.anyio
async def test_stop_ends_a_program_that_talks_without_pause():
    with anyio.fail_after(SOON):
        async with starting(shell("trap '' TERM; yes")) as child:
            await child.lines()
            await child.stop(signal.SIGTERM)
    assert not is_alive(child.pid)


@pytest.mark.anyio
async def test_what_is_started_while_the_tree_ends_is_ended_too(ended: Callable[[str], Path]):
    late = ended("late")
    script = (
        f"trap 'setsid bash -c \"echo \\$\\$ >{late}; trap true TERM; sleep 300\" & sleep 300' TERM; "
        "echo here; while :; do sleep 0.05; done"
    )
    async with starting(shell(script), PATIENCE) as child:
        await child.lines()
        await child.stop(signal.SIGTERM)
    assert not is_alive(pid_in(late))


@pytest.mark.anyio
async def test_cancellation_from_outside_leaves_nothing(tree: Path):
    began = time.monotonic()
    with anyio.CancelScope() as scope:
        async with starting(command(str(FAKES / "stubborn.sh"), str(tree))) as child:
            await child.lines()
            scope.cancel()
            await child.lines()
    assert scope.cancelled_caught
    assert living(tree) == []
    assert time.monotonic() - began < SOON


@pytest.mark.anyio
async def test_a_deadline_from_outside_leaves_nothing(tree: Path):
    with anyio.CancelScope() as scope:
        async with starting(command(str(FAKES / "stubborn.sh"), str(tree))) as child:
            await child.lines()
            scope.deadline = anyio.current_time() + 0.1
            await everything(child)
    assert scope.cancelled_caught
    assert living(tree) == []


@pytest.mark.anyio
async def test_an_exception_in_the_block_leaves_nothing_and_comes_out_as_it_was(tree: Path):
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with starting(command(str(FAKES / "stubborn.sh"), str(tree))) as child:
            await child.lines()
            raise error
    assert caught.value is error
    assert living(tree) == []


@pytest.mark.anyio
async def test_a_keyboard_interrupt_in_the_block_comes_out_as_it_was():
    with pytest.raises(KeyboardInterrupt):
        async with starting(shell("echo here; sleep 300")) as child:
            await child.lines()
            raise KeyboardInterrupt
    assert not is_alive(child.pid)


@pytest.mark.anyio
async def test_leaving_the_block_early_ends_the_program():
    async with starting(shell("echo here; sleep 300")) as child:
        await child.lines()
    assert not is_alive(child.pid)


@pytest.mark.anyio
@pytest.mark.parametrize("streams", ["</dev/null 2>/dev/null", ">/dev/null", ""])
async def test_a_process_that_holds_a_pipe_open_after_the_end_does_not_hang(
    ended: Callable[[str], Path], streams: str
):
    left = ended("left")
    with anyio.fail_after(SOON):
        said, code, _ = await output_of(
            shell(f"sleep 300 {streams} & echo $! >{left}; echo all; echo of it; exit 5")
        )
    assert (said, code) == ([b"all", b"of it"], 5)


@pytest.mark.anyio
async def test_a_process_that_goes_on_talking_after_the_end_does_not_hang(
    ended: Callable[[str], Path],
):
    left = ended("left")
    with anyio.fail_after(SOON):
        async with starting(
            shell(f"(while :; do echo noise; sleep 0.1; done) 2>&1 & echo $! >{left}; echo mine")
        ) as child:
            said = await everything(child)
            assert await child.wait() == 0
    assert b"mine" in said


@pytest.mark.anyio
async def test_who_survives_a_normal_end_is_reported_and_not_ended(ended: Callable[[str], Path]):
    in_group, outside = ended("in-group"), ended("outside")
    script = (
        f"sleep 300 >/dev/null 2>&1 & echo $! >{in_group}; "
        f"setsid bash -c 'echo $$ >{outside}; exec sleep 300' >/dev/null 2>&1 & "
        f"while [ ! -s {outside} ]; do sleep 0.02; done; echo done"
    )
    async with starting(shell(script)) as child:
        await everything(child)
        assert await child.wait() == 0
        pids = {pid_in(in_group), pid_in(outside)}
        assert set(find_leftovers(child.pid, child.marker)) == pids
    assert all(is_alive(pid) for pid in pids)


@pytest.mark.anyio
async def test_a_survivor_outside_of_the_group_is_found_by_its_marker(
    ended: Callable[[str], Path],
):
    outside = ended("outside")
    script = (
        f"setsid bash -c 'echo $$ >{outside}; exec sleep 300' >/dev/null 2>&1 & "
        f"while [ ! -s {outside} ]; do sleep 0.02; done"
    )
    async with starting(shell(script)) as child:
        await everything(child)
        await child.wait()
        assert find_leftovers(child.pid, child.marker) == [pid_in(outside)]


@pytest.mark.anyio
async def test_a_run_that_leaves_nobody_has_no_survivors():
    async with starting(shell("true")) as child:
        await everything(child)
        await child.wait()
        assert find_leftovers(child.pid, child.marker) == []


@pytest.mark.anyio
async def test_processes_that_have_nothing_to_do_with_the_run_are_never_touched(
    tree: Path, bystander: psutil.Process
):
    async with (
        starting(shell("echo other; sleep 300")) as other,
        starting(command(str(FAKES / "stubborn.sh"), str(tree))) as child,
    ):
        await other.lines()
        await child.lines()
        await child.stop(signal.SIGTERM)
        assert living(tree) == []
        assert is_alive(other.pid)
        assert bystander.is_running()
        assert bystander.status() != psutil.STATUS_ZOMBIE


def test_a_marker_is_new_and_knows_the_runs_around_it():
    outer = new_marker({})
    inner = new_marker({MARKER: outer})
    assert inner.startswith(f"{outer}/")
    assert new_marker({}) != outer


@pytest.mark.anyio
async def test_a_run_inside_of_a_run_ends_with_it(ended: Callable[[str], Path]):
    """A clinvk that a CLI starts has a marker of its own, behind the one of the run around it."""
    nested = ended("nested")
    script = (
        f"export {MARKER}=${MARKER}/inner; "
        f"setsid bash -c 'echo $$ >{nested}; exec sleep 300' & "
        f"while [ ! -s {nested} ]; do sleep 0.02; done; echo here; exec sleep 300"
    )
    async with starting(shell(script)) as child:
        await child.lines()
        await child.stop(signal.SIGTERM)
    assert not is_alive(pid_in(nested))
