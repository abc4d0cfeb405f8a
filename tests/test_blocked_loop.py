"""Nothing that waits for git, for a lock or for Redis runs on an event loop, which others may share."""

from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

import clinvk
from clinvk.api.tasks import plan_of
from clinvk.cluster.address import parse
from clinvk.cluster.context import Cluster as Place
from clinvk.cluster.context import cluster_context, with_cluster_store
from clinvk.cluster.drive import drive, submit
from clinvk.cluster.log.runs import open_runs
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ClinvkError
from clinvk.process.threads import in_thread
from clinvk.worktrees.prepare import prepare_plan
from tests.conftest import CommandLine, Home
from tests.forked import Server
from tests.loop_watch import watching_loop
from tests.needs import need
from tests.stores import RedisServer, keep
from tests.test_cluster_git import GitCluster
from tests.test_worktrees import git, new_repository

need("git")

pytestmark = pytest.mark.anyio
READ_DIFF = "cat >/dev/null <<'END'\n{{steps.1.diff}}\nEND\n"
SHELL = 'p=$(cat)\nsh -c "$p"\necho \'{"type":"end","text":"done"}\'\n'


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repo", a="one\n")


@pytest.fixture
def dispatcher(home: Home) -> Dispatcher:
    home.backend("shell", SHELL)
    return keep(Dispatcher(loading.load(home.env), env=home.env))


def test_what_blocks_the_event_loop_is_noticed(
    repo: Path, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    async def block() -> None:
        plan = plan_of(["x"], "parallel", dispatcher, {"workdir": str(repo), "worktree": True})
        prepare_plan(plan, dispatcher.env, lambda _: None)

    with watching_loop(monkeypatch) as found:
        anyio.run(block)
    assert found
    assert all(line.startswith("git: worktrees/git.py") for line in found)


async def test_a_prompt_in_a_worktree_leaves_the_loop_to_others(
    repo: Path, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    with watching_loop(monkeypatch) as found:
        made = await clinvk.arun(
            "echo two > a", backend="shell", cwd=repo, worktree=True, dispatcher=dispatcher
        )
        again = await clinvk.arun(
            "echo three > a",
            session=made.session_id,
            to="shell",
            worktree=True,
            dispatcher=dispatcher,
        )
        with pytest.raises(ClinvkError, match="schema"):  # its run is deleted again
            await clinvk.arun(
                "x", backend="shell", cwd=repo, worktree=True, schema="{", dispatcher=dispatcher
            )
    assert made.worktree is not None
    assert made.worktree.files == 1
    assert again.ok
    assert found == []


async def test_a_chain_in_worktrees_leaves_the_loop_to_others(
    repo: Path, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    steps = ["echo two > a", READ_DIFF]
    manager = clinvk.WorkflowManager(dispatcher)
    manager.register("w", [{"prompt": step, "worktree": True} for step in steps])
    with watching_loop(monkeypatch) as found:
        done = await manager.aexecute("w", checkpoint="c", backend="shell", workdir=str(repo))
        again = await manager.aexecute("w", resume="c", backend="shell", workdir=str(repo))
    assert [outcome.state for outcome in done.results] == ["done", "done"]
    assert again.id == done.id
    prompt = dispatcher.store.messages(str(done.results[1].session_id))[0].content
    assert "+two" in prompt
    assert found == []


async def test_the_driver_of_a_detached_chain_leaves_the_loop_to_others(
    home: Home, loaded_clinvk: Server, repo: Path, tmp_path: Path, own_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    git(tmp_path, "init", "-q", "--bare", "remote.git")
    made = keep(
        GitCluster(
            home,
            CommandLine(home, loaded_clinvk),
            tmp_path / "desk",
            own_server,
            tmp_path / "remote.git",
        )
    )
    made.node("w1")
    address = parse(made.url)
    dispatcher = keep(with_cluster_store(made.dispatcher(), address))
    place = keep(Place(dispatcher, address))
    runs = keep(open_runs(made.url, home.path, detached=True))
    context = replace(cluster_context(dispatcher, place), runs=runs)
    steps = ["echo two > a; echo ok", f"{READ_DIFF}echo {{{{previous}}}}"]
    plan = plan_of(
        [{"prompt": step, "worktree": True} for step in steps], "chain", dispatcher,
        {"workdir": str(repo), "backend": "shell"},
    )  # fmt: skip
    run = await in_thread(lambda: submit(context, plan, runs))
    with watching_loop(monkeypatch) as found:
        done = await drive(context, run)
    assert done is not None
    assert [outcome.state for outcome in done.results] == ["done", "done"], done.results[0].error
    prompt = dispatcher.store.messages(str(done.results[1].session_id))[0].content
    assert "+two" in prompt
    assert found == []
