"""Cancelling a run from Python: one of another process, and one that was cut off."""

import subprocess
import sys
import textwrap

import anyio
import pytest

import clinvk as package
from clinvk import acancel_run, cancel_run
from clinvk.errors import SessionError, UsageError
from clinvk.runs.log import RunNotFound
from tests.conftest import is_alive
from tests.desk import Desk, desk, ends

__all__ = ["desk"]

pytestmark = pytest.mark.anyio


async def test_a_run_of_another_process_is_cancelled(desk: Desk):
    driver, run_id = desk.begin("a", "hold b", "c", until="hold b")
    result = await acancel_run(run_id, dispatcher=desk.dispatcher())
    assert (result.id, result.state) == (run_id, "cancelled")
    assert [o.state for o in result.results] == ["done", "cancelled", "cancelled"]
    assert result.results[0].output == "<a>"
    assert not is_alive(desk.pid("hold"))
    assert ends(driver)[0] == 7


async def test_other_tasks_continue_while_a_run_is_being_cancelled(desk: Desk):
    _, run_id = desk.begin("deaf a", until="deaf a")  # it takes seconds to end
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.sleep(0.02)
            ticks += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        assert (await acancel_run(run_id, dispatcher=desk.dispatcher())).state == "cancelled"
        tasks.cancel_scope.cancel()
    assert ticks > 1


async def test_what_a_run_that_was_cut_off_left_running_is_ended(desk: Desk):
    run_id = desk.cut_off("a", "hold b", "c", until="hold b")
    assert is_alive(pid := desk.pid("hold"))
    told: list[str] = []
    result = await acancel_run("last", notify=told.append, dispatcher=desk.dispatcher())
    assert (result.id, result.state) == (run_id, "cancelled")
    assert not is_alive(pid)
    assert len(told) == 1
    assert "was interrupted" in told[0]


async def test_a_run_that_does_not_exist_is_not_cancelled(desk: Desk):
    with pytest.raises(RunNotFound, match="no run 'r1'"):
        await acancel_run("r1", dispatcher=desk.dispatcher())


def test_without_an_event_loop_it_is_the_same(desk: Desk):
    done = desk.made("a")
    with pytest.raises(UsageError, match=f"run {done} has ended already: done"):
        cancel_run(done, dispatcher=desk.dispatcher())
    driver, run_id = desk.begin("deaf a", until="deaf a")
    assert cancel_run(run_id[:5], now=True, dispatcher=desk.dispatcher()).state == "cancelled"
    assert ends(driver)[0] == 7


async def test_in_an_event_loop_the_blocking_one_names_the_other(desk: Desk):
    with pytest.raises(UsageError) as told:
        package.cancel_run("last", dispatcher=desk.dispatcher())
    assert "await clinvk.acancel_run(...)" in str(told.value.hint)


def test_a_program_that_drives_a_run_does_not_end_itself(desk: Desk):
    """In a process of its own: if it did, the signal would end the tests."""
    script = """
        import anyio, clinvk

        async def main():
            with clinvk.Dispatcher() as where:
                plan = clinvk.plan_of(["hold a"], "parallel", where, {"workdir": "."})
                run = clinvk.PlanRun(where, plan)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(run.run)
                    while not (run.folder and run.folder.find_driver()):
                        await anyio.sleep(0.02)
                    try:
                        await clinvk.acancel_run("last", dispatcher=where)
                    except clinvk.SessionError as error:
                        print(error.message)
                    run.stop()
            print(run.outcomes[0].state)

        anyio.run(main)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=desk.home.env, cwd=desk.home.work, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    first, last = done.stdout.splitlines()
    assert "is driven by this process" in first
    assert last == "cancelled"


async def test_a_run_whose_driver_cannot_be_told_is_not_signalled(desk: Desk):
    driver, run_id = desk.begin("hold a", until="hold a")
    lock = desk.at(run_id).lock_path
    note = lock.read_text()
    lock.write_text(note.replace(f'"run {run_id}"', '"run r000000"'))
    with pytest.raises(SessionError, match=r"its note in .* is invalid"):
        await acancel_run(run_id, dispatcher=desk.dispatcher())
    assert driver.poll() is None
    assert is_alive(desk.pid("hold"))
