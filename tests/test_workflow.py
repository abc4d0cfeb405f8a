"""Chains by name from Python: `WorkflowManager`, and the checkpoints at which they go on."""

import subprocess
import sys
from typing import Any

import pytest

import clinvk as package
from clinvk import AgentFlowManager, RunResult, WorkflowManager
from clinvk.errors import ConfigError, SessionError
from clinvk.model.progress import Change
from clinvk.runs.checkpoints import CheckpointNotFound, Checkpoints
from clinvk.runs.folder import RunStore
from tests.conftest import is_alive
from tests.desk import Desk, desk, kill
from tests.stores import keep

__all__ = ["desk"]

pytestmark = pytest.mark.anyio


@pytest.fixture
def flows(desk: Desk) -> WorkflowManager:
    return keep(WorkflowManager(desk.dispatcher()))


def states(result: RunResult) -> list[str]:
    return [outcome.state for outcome in result.results]


def test_both_names_are_one_class():
    assert AgentFlowManager is WorkflowManager
    assert package.AgentFlowManager is package.WorkflowManager


# Which chain is meant


async def test_a_chain_that_was_registered_is_run_by_its_name(desk: Desk, flows: WorkflowManager):
    flows.register("greet", [{"name": "one", "prompt": "a"}, "b {{previous}}"])
    seen: list[Change] = []
    result = await flows.aexecute("greet", observe=seen.append, workdir=desk.home.work)
    assert (result.kind, result.state, result.results[1].output) == ("chain", "done", "<b <a>>")
    assert [c.kind for c in seen if c.kind != "event"] == ["started", "ended"] * 2
    assert flows.list_checkpoints() == []


async def test_a_chain_may_be_a_whole_mapping_with_rules_above_it(flows: WorkflowManager):
    flows.register("lasting", {"steps": ["bad a", "b"], "stop_on_failure": False})
    assert states(await flows.aexecute("lasting")) == ["failed", "done"]
    assert states(await flows.aexecute("lasting", stop_on_failure=True)) == ["failed", "skipped"]


@pytest.mark.parametrize("suffix", ["yaml", "yml", "json"])
async def test_a_chain_in_the_home_is_run_by_its_name(
    desk: Desk, flows: WorkflowManager, suffix: str
):
    (folder := desk.home.path / "workflows").mkdir()
    (folder / f"mine.{suffix}").write_text('{"steps": ["a"]}')
    (folder / "notes.txt").write_text("no chain")
    assert flows.workflows() == ["mine"]
    result = await flows.aexecute("mine")
    assert (result.ok, result.source) == (True, str(folder / f"mine.{suffix}"))
    flows.register("mine", ["b"])
    flows.register("other", ["c"])
    await flows.aexecute("mine")
    assert desk.starts() == ["a", "b"]
    assert flows.workflows() == ["mine", "other"]


async def test_a_chain_is_run_by_its_path(desk: Desk, flows: WorkflowManager):
    (path := desk.home.work / "chain.yaml").write_text("steps: [a]\n")
    assert (await flows.aexecute(path)).ok
    assert (await flows.aexecute(str(path))).ok
    with pytest.raises(ConfigError, match=r"gone\.yaml: No such file"):
        await flows.aexecute(desk.home.work / "gone.yaml")


@pytest.mark.parametrize("name", ["none", "", "../config", "/nowhere/x"])
async def test_a_name_that_nobody_knows_is_told_with_those_there_are(
    desk: Desk, flows: WorkflowManager, name: str
):
    flows.register("mine", ["a"])
    with pytest.raises(ConfigError, match="unknown workflow") as caught:
        await flows.aexecute(name, checkpoint="x")
    assert "known: mine" in (caught.value.hint or "")
    assert flows.list_checkpoints() == []


# Where it goes on


async def test_a_chain_goes_on_at_its_checkpoint(desk: Desk, flows: WorkflowManager):
    flows.register("work", ["a", "bad b", "c {{previous}}"])
    first = await flows.aexecute("work", checkpoint="mine")
    assert states(first) == ["done", "failed", "skipped"]
    (about,) = flows.list_checkpoints()
    assert (about["name"], about["run"], about["state"]) == ("mine", first.id, "failed")
    assert (about["steps"], about["completed"]) == (3, 1)
    desk.repair()
    again = await flows.aexecute("work", resume="mine")
    assert (again.id, states(again)) == (first.id, ["done"] * 3)
    assert [o.output for o in again.results] == ["<a>", "<bad b>", "<c <bad b>>"]
    assert desk.starts() == ["a", "bad b", "bad b", "c <bad b>"]
    kept = flows.checkpoint("mine")
    assert [(o.output, o.attempts) for o in kept.results] == [
        (o.output, o.attempts) for o in again.results
    ]


async def test_a_chain_that_was_changed_keeps_what_stands_as_it_stood(
    desk: Desk, flows: WorkflowManager
):
    flows.register("work", ["a", "b", "bad c"])
    first = await flows.aexecute("work", checkpoint="mine")
    flows.register("work", ["a", "b changed", "c {{steps.1.output}}"])
    again = await flows.aexecute("work", resume="mine")
    assert again.id != first.id
    assert states(again) == ["done"] * 3
    assert desk.starts() == ["a", "b", "bad c", "b changed", "c <a>"]
    assert flows.list_checkpoints()[0]["run"] == again.id
    assert flows.checkpoint("mine").results[0].output == "<a>"
    # What was taken over stays so, whatever is done with the run that it came from.
    assert first.id
    desk.at(first.id).delete()
    assert [o.output for o in flows.checkpoint("mine").results] == ["<a>", "<b changed>", "<c <a>>"]


async def test_nothing_is_lost_where_a_changed_chain_fails_at_once(
    desk: Desk, flows: WorkflowManager
):
    flows.register("work", ["a", "bad b"])
    await flows.aexecute("work", checkpoint="mine")
    flows.register("work", ["a", {"prompt": "b", "backend": "none"}])
    with pytest.raises(package.ClinvkError):
        await flows.aexecute("work", resume="mine")
    flows.register("work", ["a", "bad b changed"])
    assert states(await flows.aexecute("work", resume="mine")) == ["done", "failed"]
    flows.register("work", ["a", "b"])
    assert states(await flows.aexecute("work", resume="mine")) == ["done", "done"]
    assert desk.starts().count("a") == 1


PROGRAM = """
import clinvk
flows = clinvk.AgentFlowManager()
flows.register("work", ["a", "hold b", "c"])
flows.execute("work", checkpoint="mine")
"""


def killable(desk: Desk) -> subprocess.Popen[str]:
    """A program that has begun the second step."""
    driver = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=desk.home.work, env=desk.home.env,
                              start_new_session=True, text=True)  # fmt: skip
    desk.drivers.append(driver)
    desk.wait_for("hold b")
    return driver


async def test_a_chain_whose_program_was_killed_goes_on(desk: Desk, flows: WorkflowManager):
    driver = killable(desk)
    flows.register("work", ["a", "hold b", "c"])
    with pytest.raises(SessionError, match="is running"):
        await flows.aexecute("work", resume="mine")
    kill(driver)
    pid = desk.pid("hold")
    assert flows.list_checkpoints()[0]["state"] == "interrupted"
    result = await flows.aexecute("work", resume="mine")
    assert states(result) == ["done", "indeterminate", "skipped"]
    assert not is_alive(pid)
    desk.let_go()
    result = await flows.aexecute("work", resume="mine", rerun_indeterminate=True)
    assert states(result) == ["done"] * 3
    assert desk.starts() == ["a", "hold b", "hold b", "c"]


async def test_a_checkpoint_that_is_not_done_is_not_overwritten(flows: WorkflowManager):
    flows.register("work", ["bad a"])
    await flows.aexecute("work", checkpoint="mine")
    with pytest.raises(SessionError, match="already exists: 0 of 1 steps done"):
        await flows.aexecute("work", checkpoint="mine")
    assert flows.delete_checkpoint("mine") is True
    assert not (await flows.aexecute("work", checkpoint="mine")).ok


async def test_an_ephemeral_chain_has_no_checkpoint(desk: Desk, flows: WorkflowManager):
    flows.register("work", ["bad a"])
    await flows.aexecute("work", checkpoint="mine")
    for names in ({"checkpoint": "other"}, {"resume": "mine"}):
        with pytest.raises(ConfigError, match="is not saved"):
            await flows.aexecute("work", ephemeral=True, backend="echo", **names)  # type: ignore[arg-type]
    assert len(RunStore(desk.home.path).ids()) == 1


async def test_a_checkpoint_that_nobody_has_is_not_found(flows: WorkflowManager):
    flows.register("work", ["a"])
    for call in (lambda: flows.checkpoint("none"), lambda: flows.plan("none")):
        with pytest.raises(CheckpointNotFound, match="no checkpoint 'none'"):
            call()
    with pytest.raises(CheckpointNotFound):
        await flows.aexecute("work", resume="none")
    assert flows.delete_checkpoint("none") is False
    for name in ("../x", "a b"):
        with pytest.raises(SessionError, match="cannot name"):
            await flows.aexecute("work", checkpoint=name)


def test_the_run_of_a_deleted_checkpoint_stays(desk: Desk, flows: WorkflowManager):
    flows.register("work", ["a"])
    result = flows.execute("work", checkpoint="mine")
    assert result.id
    assert flows.delete_checkpoint("mine") is True
    assert flows.delete_checkpoint("mine") is False
    assert flows.list_checkpoints() == []
    assert desk.states(result.id) == ["done"]


def test_the_same_without_an_event_loop(desk: Desk, flows: WorkflowManager):
    flows.register("work", ["a", "bad b"])
    assert states(flows.execute("work", checkpoint="mine")) == ["done", "failed"]
    desk.repair()
    assert flows.execute("work", resume="mine").ok
    assert desk.starts() == ["a", "bad b", "bad b"]


def test_a_checkpoint_is_named_before_its_first_step_is_begun(desk: Desk, flows: WorkflowManager):
    named: list[Any] = []

    def observe(change: Change) -> None:
        if change.kind == "started":
            named.append(Checkpoints(desk.home.path).find_run_id("mine"))

    flows.register("work", ["a"])
    result = flows.execute("work", checkpoint="mine", observe=observe)
    assert named == [result.id]
