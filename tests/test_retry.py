"""Retrying tasks of a run from Python; and the one place that decides which tasks run again."""

from pathlib import Path

import pytest

import clinvk as package
from clinvk import Change, RunResult, aretry_run, retry_run
from clinvk.engine import rerun
from clinvk.errors import SessionError, UsageError
from clinvk.runs.log import RunNotFound
from tests.desk import Desk, desk, ends
from tests.everywhere import everywhere

__all__ = ["desk"]

pytestmark = pytest.mark.anyio


def states(result: RunResult) -> list[str]:
    return [outcome.state for outcome in result.results]


def by_another(desk: Desk) -> str:
    """A run that another process has driven: one task succeeded, one failed, one was skipped."""
    tasks = [{"name": "a", "prompt": "a"}, {"name": "b", "prompt": "bad b"}, {"name": "c", "prompt": "c", "needs": "b"}]  # fmt: skip
    path = desk.file({"tasks": tasks, "max_parallel": 1})
    assert ends(desk.start("parallel", path, "-q"))[0] == 1
    return desk.clinvk.json("runs", "list", "--json")["runs"][0]["id"]


@everywhere
async def test_what_failed_is_retried_with_what_needs_it(desk: Desk):
    run_id = by_another(desk)
    desk.repair()
    seen: list[Change] = []
    result = await aretry_run(
        dispatcher=desk.dispatcher(), cluster=desk.home.cluster, observe=seen.append
    )
    assert (result.id, states(result)) == (run_id, ["done"] * 3)
    assert [o.attempts for o in result.results] == [1, 2, 1]
    assert result.results[1].output == "<bad b>"
    assert {c.outcome.name for c in seen if c.outcome} == {"b", "c"}


@everywhere
async def test_tasks_that_are_named_are_retried_however_they_ended(desk: Desk):
    run_id = by_another(desk)
    desk.repair()
    for names in (["a"], "a", ("1",)):
        result = await aretry_run(
            run_id, names, dispatcher=desk.dispatcher(), cluster=desk.home.cluster
        )
        assert states(result)[:2] == ["done", "failed"]
    assert [o.attempts for o in result.results] == [4, 1, 0]
    result = await aretry_run(
        run_id, ["a"], failed=True, dispatcher=desk.dispatcher(), cluster=desk.home.cluster
    )
    assert (states(result), result.results[0].attempts) == (["done"] * 3, 5)


async def test_a_task_or_a_run_that_does_not_exist_is_not_retried(desk: Desk):
    by_another(desk)
    with pytest.raises(UsageError, match="no task 'nope'"):
        await aretry_run("last", ["nope"], dispatcher=desk.dispatcher())
    with pytest.raises(RunNotFound):
        await aretry_run("rnone", dispatcher=desk.dispatcher())
    desk.begin("hold a", until="hold a")
    with pytest.raises(SessionError, match="is running"):
        await aretry_run(dispatcher=desk.dispatcher())


def test_without_an_event_loop_it_is_the_same(desk: Desk):
    run_id = by_another(desk)
    desk.repair()
    assert states(retry_run(run_id, dispatcher=desk.dispatcher())) == ["done"] * 3


async def test_in_an_event_loop_the_blocking_one_names_the_other(desk: Desk):
    with pytest.raises(UsageError) as told:
        package.retry_run("last", dispatcher=desk.dispatcher())
    assert "await clinvk.aretry_run(...)" in str(told.value.hint)


def test_which_tasks_run_again_is_decided_in_one_place():
    root = Path(package.__file__).parent
    parts = ("unfinished(", "failed_or_named(", "with_dependents(")
    users = {p.stem for p in root.rglob("*.py") if any(f" {x}" in p.read_text() for x in parts)}
    assert users == {Path(rerun.__file__).stem}
