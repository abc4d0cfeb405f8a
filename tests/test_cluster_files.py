"""Files of tasks on other machines: pushed to a git remote, fetched by a worker, and back."""

import os
import re
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from clinvk.cluster.address import parse
from clinvk.cluster.files import checks, on_worker, room
from clinvk.cluster.files import remote as remotes
from clinvk.cluster.files.cache import Cache
from clinvk.cluster.files.exchange import Exchange
from clinvk.cluster.files.forget import Forgetter, forget_unrecorded
from clinvk.cluster.files.in_use import unless_in_use
from clinvk.cluster.files.on_worker import WorkerFiles
from clinvk.cluster.files.remote import Remote, check_url
from clinvk.cluster.files.sources import RejectedError, Settings, place_tasks
from clinvk.cluster.log.runs import open_runs
from clinvk.cluster.server import identify
from clinvk.cluster.shared import SharedDirectories
from clinvk.disk import empty
from clinvk.errors import ClinvkError, ConfigError
from clinvk.model.plan import Plan, Task, TaskWorktree, Worktree, with_keys
from clinvk.model.request import Request
from clinvk.model.result import Result, WorktreeResult
from clinvk.worktrees import names
from clinvk.worktrees.attempt import AttemptInWorktree, with_worktree
from clinvk.worktrees.git import Git
from clinvk.worktrees.prepare import prepare_plan
from tests.needs import need
from tests.small_disk import disk, fill_bytes
from tests.ssh import SshServer, ssh_server
from tests.stores import free_port, keep
from tests.test_worktrees import git, new_repository

__all__ = ["disk", "ssh_server"]

need("git")

pytestmark = pytest.mark.anyio
Change = Callable[[Path], None]
RUN = "r20260101-000000-abcd"


class Cluster:
    """A user's machine and workers, each with a home of its own, and the remote between them."""

    def __init__(self, folder: Path, url: str, **env: str) -> None:
        self.folder = folder
        self.repo = folder / "repo"
        self.url = url
        self.env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", **env}
        self.exchange = Exchange(folder / "user", self.env)
        self.notices: list[str] = []

    @property
    def remote(self) -> Remote:
        return Remote(self.url, Git.at(self.repo, self.env))

    def plan(self, repo: Path, *tasks: Task, kind: str = "parallel", **more: str) -> Plan:
        settings = Settings(git=more.get("git", self.url))
        plan = Plan(kind=kind, tasks=tasks, cwd=str(repo))  # type: ignore[arg-type]
        placed = place_tasks(with_keys(plan), settings, self.env, self.notices.append)
        return prepare_plan(placed, self.env, self.notices.append)

    def worker(self, name: str = "worker") -> WorkerFiles:
        shared = SharedDirectories([])
        return WorkerFiles(self.folder / name, self.env, shared=shared, node=name)

    @asynccontextmanager
    async def running(
        self, files: WorkerFiles, task: TaskWorktree
    ) -> AsyncIterator[tuple[Request, AttemptInWorktree]]:
        """As a worker runs an attempt: the request there, and its worktree."""
        sent = self.exchange.publish(task)
        request = Request(prompt="x", worktree=sent, cwd=Path(task.wanted.root))
        async with files.attempt(request, self.notices.append) as here:
            assert here.worktree is not None
            inside = AttemptInWorktree(
                files.home, here.worktree.run, here.worktree.wanted, here.worktree.attempt,
                env=files.env, notify=self.notices.append, start=here.worktree.start, tip=here.worktree.tip,
                copied=(".settings",),
            )  # fmt: skip
            await inside.begin()
            yield here, inside

    async def run(
        self, wanted: Worktree | None, change: Change, attempt: int = 1, name: str = "worker"
    ) -> WorktreeResult:
        """The result of an attempt that changes the files in its directory, as the user gets it."""
        assert wanted is not None
        files, task = self.worker(name), TaskWorktree(run=RUN, attempt=attempt, wanted=wanted)
        async with self.running(files, task) as (here, inside):
            change(inside.cwd)
            done = await with_worktree(Result(ok=True, text="", backend="x", exit_code=0), inside)
            done = await files.deliver(here, done, self.notices.append)
        assert done.ok, done.error
        assert done.worktree is not None
        return self.exchange.collect(task, done.worktree)


def write(name: str, text: str) -> Change:
    return lambda folder: void((folder / name).write_text(text))


def void(_: object) -> None:
    return None


def same(folder: Path) -> None:
    """A task that changes nothing."""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repo", a="one\n", b="two\n")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "--bare", "remote.git")
    return tmp_path / "remote.git"


@pytest.fixture
def cluster(tmp_path: Path, bare: Path) -> Cluster:
    return Cluster(tmp_path, f"file://{bare}")


@pytest.fixture(params=["file", "ssh"])
def either(tmp_path: Path, bare: Path, request: pytest.FixtureRequest) -> Cluster:
    """Over a path, and over ssh."""
    if request.param == "file":
        return Cluster(tmp_path, f"file://{bare}")
    server: SshServer = request.getfixturevalue("ssh_server")
    return Cluster(tmp_path, server.url(bare), GIT_SSH_COMMAND=server.command())


# The way there and back


async def test_a_task_gets_the_base_and_its_result_comes_back_as_a_ref(either: Cluster, repo: Path):
    (wanted,) = (task.worktree for task in either.plan(repo, Task(name="fix", prompt="x")).tasks)

    def change(folder: Path) -> None:
        assert (folder / "a").read_text() == "one\n"
        (folder / "a").write_text("ONE\n")
        (folder / "b").unlink()
        (folder / "picture").write_bytes(bytes(range(256)))
        (folder / "run.sh").write_text("true\n")
        (folder / "run.sh").chmod(0o755)

    result = await either.run(wanted, change)
    assert result.ref == f"refs/clinvk/{RUN}/fix/1"
    assert git(repo, "rev-parse", result.ref) == result.commit
    assert (result.files, result.base) == (4, git(repo, "rev-parse", "HEAD"))
    changed = git(repo, "diff-tree", "-r", "--name-status", result.base, result.commit)
    assert changed.split() == ["M", "a", "D", "b", "A", "picture", "A", "run.sh"]
    assert git(repo, "ls-tree", result.commit, "run.sh").startswith("100755")
    assert set(either.remote.refs_of_run(RUN)) == {
        result.ref, f"refs/clinvk/{RUN}/base/{result.base}"
    }  # fmt: skip
    assert git(repo, "status", "--porcelain") == ""
    assert (repo / "a").read_text() == "one\n"


async def test_uncommitted_changes_travel_if_they_are_to_be_included(cluster: Cluster, repo: Path):
    (repo / "a").write_text("changed\n")
    (repo / "new").write_text("new\n")
    plan = cluster.plan(
        repo,
        Task(name="without", prompt="x"),
        Task(name="with", prompt="x", worktree=Worktree(dirty="include")),
    )

    def look(text: str, names: set[str]) -> Change:
        def check(folder: Path) -> None:
            assert (folder / "a").read_text() == text
            assert {p.name for p in folder.iterdir()} - {".git"} == names

        return check

    await cluster.run(plan.tasks[0].worktree, look("one\n", {"a", "b"}))
    await cluster.run(plan.tasks[1].worktree, look("changed\n", {"a", "b", "new"}))
    assert any("2 uncommitted changes" in notice for notice in cluster.notices)


async def test_the_directory_of_a_task_keeps_its_place(cluster: Cluster, repo: Path):
    (repo / "sub").mkdir()
    (repo / "sub" / "c").write_text("three\n")
    git(repo, "add", ".")
    git(repo, "commit", "-q", "-m", "sub")
    plan = cluster.plan(repo, Task(name="t", prompt="x", cwd=str(repo / "sub")))
    result = await cluster.run(plan.tasks[0].worktree, write("c", "THREE\n"))
    assert git(repo, "show", f"{result.commit}:sub/c") == "THREE"


async def test_another_attempt_begins_with_the_last_result_wherever_it_ran(
    cluster: Cluster, repo: Path
):
    wanted = cluster.plan(repo, Task(name="t", prompt="x")).tasks[0].worktree
    first = await cluster.run(wanted, write("new", "1\n"), 1, "north")
    second = await cluster.run(wanted, write("more", "2\n"), 2, "south")
    assert git(repo, "show", f"{second.commit}:new") == "1"
    assert (second.ref, second.base) == (f"refs/clinvk/{RUN}/t/2", first.base)

    def third(folder: Path) -> None:  # the worktree that the first attempt has left is not used
        assert (folder / "more").read_text() == "2\n"

    assert (await cluster.run(wanted, third, 3, "north")).files == 2
    again = await cluster.run(wanted, write("last", "4\n"), 4, "north")
    assert again.files == 3


async def test_an_attempt_that_was_killed_leaves_its_work_to_the_next_one_there(
    cluster: Cluster, repo: Path
):
    wanted = cluster.plan(repo, Task(name="t", prompt="x")).tasks[0].worktree
    assert wanted is not None
    files, task = cluster.worker(), TaskWorktree(run=RUN, attempt=1, wanted=wanted)
    async with cluster.running(files, task) as (_, inside):
        (inside.cwd / "half").write_text("half\n")
    result = await cluster.run(wanted, same, 2)
    assert git(repo, "show", f"{result.commit}:half") == "half"


async def test_each_step_of_a_chain_begins_with_the_one_before_on_any_node(
    cluster: Cluster, repo: Path
):
    steps = [Task(name=f"s{n}", prompt="x", worktree=Worktree()) for n in (1, 2, 3)]
    one, two, three = (t.worktree for t in cluster.plan(repo, *steps, kind="chain").tasks)
    first = await cluster.run(one, write("one", "1\n"), name="north")
    lost = await cluster.run(two, write("wrong", "x\n"), 1, "south")
    second = await cluster.run(two, write("two", "2\n"), 2, "north")
    third = await cluster.run(three, write("three", "3\n"), name="south")
    assert (first.files, lost.files, second.files, third.files) == (1, 1, 1, 1)
    assert second.base == first.commit == lost.base
    assert third.base == second.commit
    listed = git(repo, "ls-tree", "--name-only", third.commit).split()
    assert listed == ["a", "b", "one", "three", "two"]


async def test_tasks_of_one_repository_share_a_copy_and_fetch_the_base_once(
    cluster: Cluster, repo: Path, bare: Path
):
    plan = cluster.plan(repo, *(Task(name=f"t{n}", prompt="x") for n in range(3)))
    for task in plan.tasks:
        await cluster.run(task.worktree, write("x", task.name))
    (copy,) = (cluster.folder / "worker" / "cluster" / "git").glob("*.git")
    files = cluster.worker()
    sent = cluster.exchange.publish(TaskWorktree(run=RUN, attempt=9, wanted=plan.tasks[0].worktree))  # type: ignore[arg-type]
    bare.rename(bare.with_name("away"))  # what is there needs no network
    async with files.attempt(Request(prompt="x", worktree=sent), cluster.notices.append) as here:
        assert here.worktree is not None
        assert here.worktree.wanted.repository == str(copy)


async def test_the_refs_of_a_run_can_be_deleted_from_the_remote(either: Cluster, repo: Path):
    plan = either.plan(repo, Task(name="t", prompt="x"), Task(name="u", prompt="x"))
    wanted = [task.worktree for task in plan.tasks if task.worktree]
    for each in wanted:
        await either.run(each, write("x", "y"))
    forgetter = Forgetter(either.exchange.home, either.env, either.notices.append)
    note = either.exchange.home / "cluster" / "pushed" / RUN
    assert len(either.remote.refs_of_run(RUN)) == 3
    forgetter.forget_tasks(RUN, wanted[:1])
    assert len(either.remote.refs_of_run(RUN)) == 2
    assert note.exists()
    assert forgetter.forget(RUN, [wanted[0], replace(wanted[1], repository="/gone")])
    assert either.remote.refs_of_run(RUN) == {}
    assert not note.exists()
    assert forgetter.forget(RUN, wanted)
    assert either.notices == []


async def test_the_refs_of_runs_that_are_recorded_nowhere_are_deleted_later(
    cluster: Cluster, repo: Path, bare: Path
):
    exchange = cluster.exchange = Exchange(cluster.folder / "user", cluster.env, cluster="here")
    wanted = cluster.plan(repo, Task(name="t", prompt="x")).tasks[0].worktree
    assert wanted is not None
    await cluster.run(wanted, write("x", "y"))

    def again(cluster_: str = "here", known: str = "", *, dry_run: bool = False) -> list[str]:
        return Forgetter(exchange.home, cluster.env, cluster.notices.append).forget_unrecorded(
            cluster_, lambda run: run == known, dry_run=dry_run
        )

    assert again() == [], "it may be being submitted"
    bare.rename(bare.with_name("away"))
    forgetter = Forgetter(exchange.home, cluster.env, cluster.notices.append)
    assert not forgetter.forget(RUN, [wanted])
    assert not forgetter.forget(RUN, [wanted])
    assert len(cluster.notices) == 1, "a remote that cannot be reached is asked once"
    assert f"the results of run {RUN} are still in file://" in cluster.notices[0]
    bare.with_name("away").rename(bare)

    assert again("elsewhere") == again(known=RUN) == []
    assert again(dry_run=True) == [RUN]
    assert len(cluster.remote.refs_of_run(RUN)) == 2
    assert again() == [RUN]
    assert cluster.remote.refs_of_run(RUN) == {}
    assert again() == []


# Submodules


@pytest.fixture
def with_submodule(repo: Path, tmp_path: Path) -> Path:
    """The repository with a submodule in a submodule, which the workers cannot reach."""
    inner = new_repository(tmp_path / "inner", deep="deep\n")
    library = new_repository(tmp_path / "library", code="code\n")
    git(library, "submodule", "add", "-q", str(inner), "inner")
    git(library, "commit", "-q", "-m", "inner")
    git(repo, "submodule", "add", "-q", str(library), "lib")
    git(repo, "submodule", "update", "-q", "--init", "--recursive")
    git(repo, "commit", "-q", "-m", "lib")
    for folder in (inner, library):
        shutil.rmtree(folder)
    return repo


async def test_submodules_travel_with_their_repository_and_their_changes_come_back(
    either: Cluster, with_submodule: Path
):
    repo = with_submodule
    wanted = either.plan(repo, Task(name="t", prompt="x")).tasks[0].worktree

    def change(folder: Path) -> None:
        assert (folder / "lib" / "inner" / "deep").read_text() == "deep\n"
        (folder / "lib" / "code").write_text("CODE\n")

    result = await either.run(wanted, change)
    assert result.files == 1
    commit = git(repo, "rev-parse", f"{result.commit}:lib")
    assert git(repo / "lib", "show", f"{commit}:code") == "CODE"
    # Another node gets it from the remote.
    checked = await either.run(
        wanted, lambda f: void(git(f / "lib", "cat-file", "-e", commit)), 2, "other"
    )
    assert checked.commit == result.commit


async def test_a_submodule_that_is_not_checked_out_is_reported(
    cluster: Cluster, with_submodule: Path
):
    git(with_submodule, "submodule", "deinit", "-q", "-f", "lib")
    shutil.rmtree(with_submodule / ".git" / "modules")
    wanted = cluster.plan(with_submodule, Task(name="t", prompt="x")).tasks[0].worktree
    await cluster.run(wanted, write("new", "x"))
    (notice,) = (n for n in cluster.notices if "submodule" in n)
    assert "lib is missing in the worktree" in notice
    assert "git submodule update --init lib" in notice


# What can go wrong


async def test_two_results_of_one_attempt_are_not_mixed_up(cluster: Cluster, repo: Path):
    wanted = cluster.plan(repo, Task(name="t", prompt="x")).tasks[0].worktree
    assert wanted is not None
    task = TaskWorktree(run=RUN, attempt=1, wanted=wanted)
    first = await cluster.run(wanted, write("new", "1\n"), 1, "north")
    assert cluster.remote.push(first.commit, first.ref) is None  # type: ignore[func-returns-value]
    files = cluster.worker("south")
    other = Exchange(cluster.folder / "nobody", cluster.env)
    sent = replace(other.publish(task), tip=None)
    request = Request(prompt="x", worktree=sent)
    async with files.attempt(request, cluster.notices.append) as here:
        assert here.worktree is not None
        inside = AttemptInWorktree(
            files.home, RUN, here.worktree.wanted, 1, env=files.env, notify=cluster.notices.append
        )
        await inside.begin()
        (inside.cwd / "new").write_text("2\n")
        done = await with_worktree(Result(ok=True, text="", backend="x", exit_code=0), inside)
        done = await files.deliver(here, done, cluster.notices.append)
    assert not done.ok
    assert done.error is not None
    assert "has another commit" in done.error.message
    assert "on south, they are the commit" in done.error.message
    assert cluster.remote.refs(first.ref) == {first.ref: first.commit}


def test_pushing_the_same_ref_at_once_creates_it_once(cluster: Cluster, repo: Path):
    base = git(repo, "rev-parse", "HEAD")
    commits = [
        git(repo, "commit-tree", f"{base}^{{tree}}", "-p", base, "-m", str(n)) for n in range(4)
    ]
    remote, ref = Remote(cluster.url, Git.at(repo, cluster.env)), f"refs/clinvk/{RUN}/t/1"
    refused: list[ClinvkError] = []

    def push(commit: str) -> None:
        try:
            remote.push(commit, ref)
        except ClinvkError as error:
            refused.append(error)

    threads = [threading.Thread(target=push, args=(commit,)) for commit in commits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3, refused
    assert all("has another commit" in error.message for error in refused), refused
    assert remote.refs(ref)[ref] in commits


async def test_another_cluster_at_the_same_address_says_nothing_about_a_run(
    cluster: Cluster, repo: Path, redis_url: str
):
    address = parse(redis_url)
    runs = keep(open_runs(redis_url, cluster.folder / "user"))
    identity = identify(runs.server.client, address)
    assert identity == identify(runs.server.client, address)
    exchange = cluster.exchange = Exchange(cluster.folder / "user", cluster.env, cluster=identity)
    wanted = cluster.plan(repo, Task(name="t", prompt="x")).tasks[0].worktree
    await cluster.run(wanted, write("x", "y"))
    os.utime(exchange.home / "cluster" / "pushed" / RUN, (0, 0))

    def clean() -> list[str]:
        forgetter = Forgetter(exchange.home, cluster.env, cluster.notices.append)
        return forget_unrecorded(forgetter, redis_url, runs, insecure=False, dry_run=False)

    key = runs.server.keys.identity
    known = runs.server.client.get(key)
    runs.server.client.flushall()  # or it is another server, at the end of the same tunnel
    assert clean() == []
    assert len(cluster.remote.refs_of_run(RUN)) == 2
    runs.server.client.set(key, known)
    assert clean() == [RUN]
    assert cluster.remote.refs_of_run(RUN) == {}


async def test_refs_of_the_user_that_end_like_those_of_a_run_are_not_deleted(
    cluster: Cluster, repo: Path
):
    mirrored = f"refs/remotes/origin/refs/clinvk/{RUN}/1/1"
    for ref in (f"refs/clinvk/{RUN}/1/1", f"refs/clinvk-nested/{RUN}/1/x", mirrored):
        git(repo, "push", "-q", cluster.url, f"HEAD:{ref}")
    forgetter = Forgetter(cluster.folder / "user", cluster.env, cluster.notices.append)
    assert forgetter.forget(RUN, [Worktree(remote=cluster.url, repository=str(repo))])
    assert list(cluster.remote.refs("refs/*")) == [mirrored]


async def test_a_worker_without_access_says_so(
    tmp_path: Path, bare: Path, repo: Path, ssh_server: SshServer
):
    cluster = Cluster(tmp_path, ssh_server.url(bare), GIT_SSH_COMMAND=ssh_server.command())
    wanted = cluster.plan(repo, Task(name="t", prompt="x")).tasks[0].worktree
    assert wanted is not None
    sent = cluster.exchange.publish(TaskWorktree(run=RUN, attempt=1, wanted=wanted))
    env = {**cluster.env, "GIT_SSH_COMMAND": ssh_server.command("stranger")}
    files = WorkerFiles(tmp_path / "worker", env, shared=SharedDirectories([]))
    with pytest.raises(ClinvkError, match="this machine cannot read ssh://") as error:
        async with files.attempt(Request(prompt="x", worktree=sent), cluster.notices.append):
            pass
    assert "Permission denied" in error.value.message
    assert "to try it: git ls-remote ssh://" in str(error.value.hint)


async def test_a_remote_that_cannot_be_written_keeps_the_result_on_the_node(
    cluster: Cluster, repo: Path, bare: Path
):
    wanted = cluster.plan(repo, Task(name="t", prompt="x")).tasks[0].worktree
    assert wanted is not None
    hook = bare / "hooks" / "pre-receive"
    files, task = cluster.worker(), TaskWorktree(run=RUN, attempt=1, wanted=wanted)
    async with cluster.running(files, task) as (here, inside):
        hook.write_text("#!/bin/sh\necho no more for today >&2\nexit 1\n")
        hook.chmod(0o755)
        (inside.cwd / "a").write_text("kept\n")
        done = await with_worktree(Result(ok=True, text="", backend="x", exit_code=0), inside)
        commit = done.worktree and done.worktree.commit
        done = await files.deliver(here, done, cluster.notices.append)
    assert not done.ok
    assert done.error is not None
    assert str(commit)[:12] in done.error.message
    (copy,) = (files.home / "cluster" / "git").glob("*.git")
    assert git(copy, "show", f"{commit}:a") == "kept"
    hook.unlink()
    result = await cluster.run(wanted, same, 2)
    assert git(repo, "show", f"{result.commit}:a") == "kept"


async def test_a_base_that_was_deleted_from_the_remote_is_named(cluster: Cluster, repo: Path):
    wanted = cluster.plan(repo, Task(name="t", prompt="x")).tasks[0].worktree
    assert wanted is not None
    sent = cluster.exchange.publish(TaskWorktree(run=RUN, attempt=1, wanted=wanted))
    cluster.remote.delete(list(cluster.remote.refs_of_run(RUN)))
    with pytest.raises(ClinvkError, match="it was deleted, or never pushed"):
        async with cluster.worker().attempt(
            Request(prompt="x", worktree=sent), cluster.notices.append
        ):
            pass


async def test_a_worker_with_a_full_disk_makes_room_and_says_so_if_there_is_none(
    cluster: Cluster, repo: Path, disk: Path
):
    (repo / "big").write_bytes(os.urandom(600_000))
    git(repo, "add", ".")
    git(repo, "commit", "-q", "-m", "big")
    plan = cluster.plan(repo, *(Task(name=f"t{n}", prompt="x") for n in range(5)))
    cluster.folder = disk
    for task in plan.tasks:  # more than fit at once
        await cluster.run(task.worktree, write("new", task.name))
    assert any("has too little space" in notice for notice in cluster.notices)
    fill_bytes(disk)
    task = TaskWorktree(run=RUN, attempt=2, wanted=plan.tasks[0].worktree)  # type: ignore[arg-type]
    with pytest.raises(ClinvkError, match=r"(?i)no space left|needs .* left"):
        async with cluster.running(cluster.worker("full"), task):
            pass


async def test_what_ended_is_deleted_if_it_takes_too_much_and_what_runs_is_not(
    cluster: Cluster, repo: Path
):
    plan = cluster.plan(repo, *(Task(name=f"t{n}", prompt="x") for n in range(3)))
    wanted = [task.worktree for task in plan.tasks]
    for each in wanted[:2]:
        await cluster.run(each, write("new", "x"))
    files = cluster.worker()
    assert room.make_room(files.home, on_worker.DEFAULT_LIMIT, files.env) == []
    assert wanted[2] is not None
    task = TaskWorktree(run=RUN, attempt=1, wanted=wanted[2])
    async with cluster.running(files, task) as (_, inside):
        deleted = room.make_room(files.home, 0, files.env)
        assert [path.name for path in deleted] == ["t0", "t1"]
        assert (inside.cwd / "a").exists()
    (copy,) = names.caches_of(files.home).glob("*.git")
    assert room.make_room(files.home, 0, files.env) == [inside.place.path, copy]
    assert (await cluster.run(wanted[0], same, 2)).files == 1  # from the remote, again


@pytest.mark.parametrize(
    "change",
    [
        {"directory": "../../x"}, {"slug": "a/../../b"}, {"commit": "--upload-pack=x"},
        {"workdir": "../x"}, {"workdir": "/etc"}, {"remote": "ext::sh -c x"},
        {"remote": "--upload-pack=x"}, {"remote": "ssh://-oProxyCommand=x/y"},
    ],
)  # fmt: skip
async def test_a_forged_request_is_refused(cluster: Cluster, repo: Path, change: dict[str, str]):
    wanted = cluster.plan(repo, Task(name="t", prompt="x")).tasks[0].worktree
    assert wanted is not None
    forged = TaskWorktree(run=RUN, attempt=1, wanted=replace(wanted, **change))
    with pytest.raises(ClinvkError):
        async with cluster.worker().attempt(
            Request(prompt="x", worktree=forged), cluster.notices.append
        ):
            pass
    assert not list(cluster.worker().home.rglob("*.git"))


# Where files come from


def test_a_task_whose_files_come_from_nowhere_is_rejected_before_anything_runs(
    cluster: Cluster, repo: Path, tmp_path: Path
):
    plain, shared = tmp_path / "plain", tmp_path / "shared"
    plain.mkdir()
    shared.mkdir()

    def place(folder: Path, **settings: object) -> Task:
        plan = Plan(kind="parallel", tasks=(Task(name="t", prompt="x"),), cwd=str(folder))
        found = Settings(**settings)  # type: ignore[arg-type]
        return place_tasks(plan, found, cluster.env, cluster.notices.append).tasks[0]

    with pytest.raises(RejectedError, match="it is not in a git repository") as error:
        place(plain, git=cluster.url)
    assert "task 't'" in error.value.message
    with pytest.raises(RejectedError, match=r"cluster\.git is not set") as error:
        place(repo)
    assert "cluster.shared" in str(error.value.hint)
    with pytest.raises(RejectedError, match="nor below a directory of"):
        place(plain, shared=(str(shared),))
    with pytest.raises(RejectedError, match="has no git remote 'origin'"):
        place(repo, git="origin")
    assert place(shared, shared=(str(shared),)).worktree is None
    git(repo, "remote", "add", "origin", "../remote.git")
    assert place(repo, git="origin").worktree == Worktree(remote=str(tmp_path / "remote.git"))
    git(repo, "remote", "set-url", "origin", "https://me:hunter2@git.example/x.git")
    with pytest.raises(RejectedError, match="contains a password") as error:
        place(repo, git="origin")
    assert "hunter2" not in str(error.value)


def test_a_worktree_in_a_shared_directory_needs_its_whole_repository_there(
    cluster: Cluster, repo: Path, tmp_path: Path
):
    (repo / "sub").mkdir()
    task = Task(name="t", prompt="x", cwd=str(repo / "sub"), worktree=Worktree())
    plan = Plan(kind="parallel", tasks=(task,))
    for shared in (str(repo), str(tmp_path)):
        settings = Settings(shared=(shared,))
        assert place_tasks(plan, settings, cluster.env, cluster.notices.append) == plan
    with pytest.raises(RejectedError, match="of its repository is not"):
        place_tasks(plan, Settings(shared=(str(repo / "sub"),)), cluster.env, print)


def test_a_hint_says_that_ignored_files_stay_behind(cluster: Cluster, repo: Path):
    cluster.plan(repo, Task(name="t", prompt="x", worktree=Worktree(copy=(".env",))))
    assert any("copy: .env is not copied to workers" in notice for notice in cluster.notices)


@pytest.mark.parametrize(
    "url",
    ["/srv/x.git", "file:///srv/x.git", "ssh://git@host:22/x.git", "git@host:x/y.git",
     "https://host/x.git"],
)  # fmt: skip
def test_the_url_of_a_remote_is_accepted(url: str):
    assert check_url(url) == url


@pytest.mark.parametrize(
    "url",
    ["ext::sh -c x", "fd::7", "-x", "--upload-pack=x", "x/y.git", "ftp://host/x", "",
     "https://token@host/x.git", "ssh://me:hunter2@host/x.git"],
)  # fmt: skip
def test_the_url_of_a_remote_is_refused(url: str):
    with pytest.raises(ConfigError) as error:
        check_url(url)
    assert "hunter2" not in str(error.value)


def test_a_worker_only_works_in_directories_that_it_shares(tmp_path: Path):
    shared = tmp_path / "shared"
    shared.mkdir()
    files = WorkerFiles(tmp_path / "home", os.environ, shared=SharedDirectories([str(shared)]))
    request = Request(prompt="x", cwd=shared)
    assert files.problem(request) is None
    for folder in (tmp_path, shared / ".." / "other", Path("/")):
        said = files.problem(request.replace(cwd=folder))
        assert said == f"{folder} is not in a directory of cluster.shared"
    assert "does not exist" in str(files.problem(request.replace(cwd=shared / "gone")))
    inside = Worktree(slug="t", directory="t", commit="0" * 40, root=str(shared), repository="/etc")
    task = TaskWorktree(run=RUN, attempt=1, wanted=inside)
    assert "/etc is not in" in str(files.problem(request.replace(worktree=task)))


def test_what_killed_workers_have_left_is_deleted_after_some_time(tmp_path: Path):
    old, new = checks.new_folder(tmp_path, "r1"), checks.new_folder(tmp_path, None)
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "round-0.log").write_text("x")
    left = empty.new_path(tmp_path)
    left.mkdir(parents=True)
    room.remove_debris(tmp_path)
    assert old.exists()
    assert left.exists()
    for folder in (old, left):
        os.utime(folder, (0, 0))
    room.remove_debris(tmp_path)
    assert [old.parent.exists(), new.exists(), left.exists()] == [False, True, False]


@pytest.mark.parametrize(
    ("key", "known", "why", "hint"),
    [
        ("user", "known_nobody", "the host key of the server is not known",
         "ssh-keyscan -p PORT 127.0.0.1 >> ~/.ssh/known_hosts"),
        ("user", "known_others", "the host key of the server has changed",
         "ssh-keygen -R '[127.0.0.1]:PORT'"),
        ("stranger", "known_hosts", "Permission denied (publickey)",
         "the server accepts no ssh key of this user"),
        ("user", "", "Connection refused", "check that the server runs"),
    ],
)  # fmt: skip
async def test_a_remote_that_ssh_does_not_reach_is_explained(
    tmp_path: Path, bare: Path, repo: Path, ssh_server: SshServer, monkeypatch: pytest.MonkeyPatch,
    key: str, known: str, why: str, hint: str,
):  # fmt: skip
    monkeypatch.setattr(remotes, "WAITS", ())  # nothing is to pass
    url = ssh_server.url(bare)
    friend = Cluster(tmp_path, url, GIT_SSH_COMMAND=ssh_server.command())
    wanted = friend.plan(repo, Task(name="t", prompt="x")).tasks[0].worktree
    assert wanted is not None
    task = TaskWorktree(run=RUN, attempt=1, wanted=wanted)
    sent = friend.exchange.publish(task)
    if not known:  # nothing listens there
        other = url.replace(f":{ssh_server.port}/", f":{free_port()}/")
        task, sent = (
            replace(each, wanted=replace(each.wanted, remote=other)) for each in (task, sent)
        )
    command = ssh_server.command(key, known or "known_hosts")
    stranger = Cluster(tmp_path, url, GIT_SSH_COMMAND=command)
    hint = hint.replace("PORT", str(ssh_server.port))
    with pytest.raises(ClinvkError, match=re.escape(why)) as pushed:
        stranger.exchange.publish(task)
    assert pushed.value.message.startswith("this machine cannot write to ssh://")
    assert hint in str(pushed.value.hint)
    with pytest.raises(ClinvkError, match=re.escape(why)) as fetched:
        async with stranger.worker().attempt(
            Request(prompt="x", worktree=sent), stranger.notices.append
        ):
            pass
    assert fetched.value.message.startswith("this machine cannot read ssh://")
    assert hint in str(fetched.value.hint)


async def test_a_task_waits_for_the_deletion_of_a_copy_while_its_lease_is_renewed(
    cluster: Cluster, repo: Path
):
    [task] = cluster.plan(repo, Task(name="1", prompt="x")).tasks
    assert task.worktree is not None
    files = cluster.worker()
    name = Cache(files.home, cluster.url, cluster.env).path.name
    is_held, let_go = threading.Event(), threading.Event()
    came_in_time: list[bool] = []

    def delete() -> None:
        with unless_in_use(files.home, name) as unused:
            assert unused
            is_held.set()
            came_in_time.append(let_go.wait(30))  # without the event loop, nobody sets it

    thread = threading.Thread(target=delete)
    thread.start()
    is_held.wait(60)

    async def renew() -> None:
        await anyio.sleep(0.2)
        let_go.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(renew)
        wanted = TaskWorktree(run=RUN, attempt=1, wanted=task.worktree)
        async with cluster.running(files, wanted) as (_, inside):
            assert (inside.cwd / "a").read_text() == "one\n"
    thread.join()
    assert came_in_time == [True]
