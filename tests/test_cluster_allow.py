"""What a worker lets the tasks of a cluster do: its `worker.allow`, and payloads that somebody has forged."""

import json
import os
import random
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from clinvk.backend.catalog import Catalog
from clinvk.backend.manifest import Manifest
from clinvk.cluster import app as apps
from clinvk.cluster.address import parse
from clinvk.cluster.files.exchange import check_result
from clinvk.cluster.keys import AttemptId, queue_of
from clinvk.cluster.log.runs import open_runs
from clinvk.cluster.payload import MAX_REQUEST, PROTOCOL
from clinvk.cluster.shared import SharedDirectories
from clinvk.cluster.worker.allowed import Allowed, NotAllowedError
from clinvk.config.schema import WorkerAllow
from clinvk.errors import ClinvkError
from clinvk.model.plan import Decision, Plan, Rules, Task, TaskWorktree, Worktree
from clinvk.model.request import Request
from clinvk.model.result import WorktreeResult
from clinvk.model.session_ref import NewSession
from clinvk.worktrees.results.prompt_text import diff_text
from tests.clusters import SECONDS, Cluster, cluster
from tests.conftest import Home, wait_for
from tests.desk import SCRIPT
from tests.needs import need
from tests.stores import keep
from tests.test_worktrees import git, new_repository

__all__ = ["cluster"]


@pytest.fixture
def manifest(home: Home) -> Manifest:
    return Catalog(home.path).load("claude")


def check(
    manifest: Manifest,
    allow: Mapping[str, Any],
    configured: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Request:
    allowed = Allowed(
        WorkerAllow(**allow), SharedDirectories(["/usr"], allow.get("directories", ()))
    )
    asked = Request(
        prompt="x", **{"session": NewSession("r1.x"), "cwd": Path("/usr/lib"), **fields}
    )
    return allowed.checked(asked, manifest, configured or {})


def by_git(remote: str, setup: str | None = None) -> TaskWorktree:
    return TaskWorktree(run="r1", attempt=1, wanted=Worktree(remote=remote, setup=setup))


@pytest.mark.parametrize(
    ("allow", "fields"),
    [
        ({"sandbox": "workspace"}, {"options": {"sandbox": "full"}}),
        ({}, {"env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}}),
        ({}, {"env": {"https_proxy": "http://127.0.0.1:9"}}),
        ({"sandbox": "read-only"}, {"options": {"sandbox": "default"}}),
        ({"approval": "default"}, {"options": {"approval": "auto"}}),
        ({"approval": "auto"}, {"options": {"approval": "whatever"}}),
        ({"approval": "auto"}, {"options": {"allowed_tools": ["Bash"]}}),
        ({"sandbox": "workspace"}, {"options": {"check": "make"}}),
        ({"sandbox": "workspace"}, {"args": ("--yolo",)}),
        ({"approval": "auto"}, {"worktree": by_git("file:///x", "make")}),
        ({"commands": False}, {"options": {"check": ["make"]}}),
        ({"git": ["ssh://git@server/srv/*"]}, {"worktree": by_git("ssh://git@elsewhere/srv/x.git")}),
        ({"git": ["file:///srv/*"]}, {"worktree": by_git("file:///srv/../etc")}),
        ({"directories": ["/usr/lib"]}, {"options": {"add_dir": ["/usr/share"]}}),
        ({}, {"options": {"add_dir": ["/etc"]}}),
        ({}, {"options": {"add_dir": ["../../etc"]}}),
        ({}, {"options": {"fast_context": ["~"]}}),
        ({}, {"options": {"knowledge": "/etc"}}),
        *(({}, {"env": {name: "/x"}}) for name in (
            "PATH", "Path", "LD_PRELOAD", "DYLD_INSERT_LIBRARIES", "HOME", "CLINVK_HOME", "BASH_ENV",
            "GIT_SSH_COMMAND", "PYTHONPATH", "NODE_OPTIONS", "CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME",
        )),
        ({"env": ["PYTHON*"]}, {"env": {"PATH": "/x"}}),
        ({}, {"task": "../../x"}), ({}, {"task": ""}),
        ({}, {"session": NewSession("../x")}), ({}, {"session": NewSession("a\nb")}),
        ({}, {"session": "x" * 1000}),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_refused(
    manifest: Manifest, allow: dict[str, Any], fields: dict[str, Any]
):
    with pytest.raises(ClinvkError):
        check(manifest, allow, **fields)


@pytest.mark.parametrize(
    ("allow", "fields"),
    [
        ({}, {"options": {"sandbox": "full", "approval": "none", "check": "make"}, "args": ("-x",)}),
        ({"sandbox": "workspace"}, {"options": {"sandbox": "read-only"}}),
        ({"sandbox": "workspace", "commands": True}, {"options": {"check": "make"}, "args": ("-x",)}),
        ({"approval": "none"}, {"options": {"allowed_tools": ["Bash"]}}),
        ({"git": ["ssh://git@server/srv/*"]}, {"worktree": by_git("ssh://git@server/srv/x.git")}),
        ({}, {"options": {"add_dir": ["/usr/share", "x11"]}, "cwd": Path("/usr/lib")}),
        ({}, {"options": {"add_dir": ["docs"]}, "worktree": by_git("file:///x")}),
        ({}, {"env": {"TOKEN": "${TOKEN}", "MY_PATH": "/x", "CLAUDE_CONFIG_DIR": "${WORK}", "PATH": "${PATH}"}}),
        ({"env": ["PYTHON*"]}, {"env": {"PYTHONPATH": "/x"}}),
        ({}, {"task": "r12ab", "session": NewSession("r12ab.übung 1")}),
    ],
)  # fmt: skip
def test_what_is_allowed_goes_on_as_it_is(
    manifest: Manifest, allow: dict[str, Any], fields: dict[str, Any], tmp_path: Path
):
    (tmp_path / "x11").mkdir()
    if "x11" in str(fields):
        fields = {**fields, "options": {"add_dir": ["/usr/share"]}}
    made = check(manifest, allow, **fields)
    assert made.options == fields.get("options", {})


def test_a_task_that_says_nothing_gets_no_more_than_is_allowed(manifest: Manifest):
    allow = {"sandbox": "read-only", "approval": "auto"}
    assert check(manifest, allow).options == {"sandbox": "read-only"}, "the CLI asks anyway"
    own = {"sandbox": "workspace"}
    assert check(manifest, allow, own).options == {}, "the worker has decided that itself"


def test_links_are_followed_before_a_directory_is_allowed(tmp_path: Path):
    worktree, outside, shared = (tmp_path / name for name in ("worktree", "outside", "shared"))
    for folder in (worktree / "src", outside / "inner", shared):
        folder.mkdir(parents=True)
    for name, target in {
        "absolute": outside, "relative": Path("../outside"), "first": Path("second"), "second": Path("relative"),
        "inside": Path("src"), "to-shared": shared, "src/up": Path("../absolute"), "~": outside, "loop": Path("loop"),
    }.items():  # fmt: skip
        (worktree / name).symlink_to(target)
    allowed = Allowed(WorkerAllow(), SharedDirectories([str(shared)]))
    asked = Request(prompt="x", cwd=worktree)
    for name in (
        "inside",
        "src",
        ".",
        "to-shared",
        "src/..",
        "new",
        str(worktree / "inside"),
        str(shared),
    ):
        allowed.check_in_place(asked.replace(options={"add_dir": [name]}), worktree)
    for name in (
        "absolute", "relative", "first", "second", "relative/inner", "src/up", "src/up/inner", "absolute/../..", "..", "~",
        "src/../first", str(worktree / "first"), str(outside),
    ):  # fmt: skip
        for options in ({"add_dir": ["src", name]}, {"knowledge": name}, {"fast_context": [name]}):
            with pytest.raises(NotAllowedError, match=next(iter(options))):
                allowed.check_in_place(asked.replace(options=options), worktree)
        with pytest.raises(NotAllowedError, match=r"workdir: "):
            allowed.check_in_place(asked.replace(cwd=worktree / name), worktree)
    with pytest.raises(
        NotAllowedError, match=r"^add_dir: first leads out of the worktree, to .*/outside$"
    ):
        allowed.check_in_place(asked.replace(options={"add_dir": ["first"]}), worktree)


def test_a_driver_runs_no_score_and_reads_no_remote_that_is_not_allowed():
    scored = Task(name="t", prompt="x", decides=Decision(candidates=(0, 1), score="rm -rf /"))
    remote = Task(name="t", prompt="x", worktree=Worktree(remote="file:///etc"))
    shared = SharedDirectories([])
    for allow, task in (
        (WorkerAllow(sandbox="workspace"), scored), (WorkerAllow(commands=False), scored),
        (WorkerAllow(git=["ssh://*"]), remote),
    ):  # fmt: skip
        with pytest.raises(ClinvkError, match=r"worker\.allow"):
            Allowed(allow, shared).check_plan(Plan(kind="parallel", tasks=(task,)))
        Allowed(WorkerAllow(), shared).check_plan(Plan(kind="parallel", tasks=(task,)))


def test_a_driver_reads_no_repository_that_is_not_allowed(tmp_path: Path):
    allowed = Allowed(WorkerAllow(), SharedDirectories(["/usr"]))
    for folder, problem in (
        (tmp_path, "cluster.shared"),
        (Path("/usr/lib"), None),
        (tmp_path / "none", None),
    ):
        task = Task(name="t", prompt="x", worktree=Worktree(repository=str(folder)))
        with pytest.raises(ClinvkError, match=problem) if problem else nullcontext():
            allowed.check_plan(Plan(kind="parallel", tasks=(task,)))


@pytest.mark.parametrize(
    "forged",
    [
        {"ref": "refs/heads/main"}, {"ref": "refs/clinvk/r1/b/1"}, {"ref": "refs/clinvk/r1/a/1:refs/heads/main"},
        {"ref": "--upload-pack=x"}, {"ref": "refs/clinvk/r1/a/../../../heads/1"}, {"commit": "--output=x"}, {"base": "HEAD"},
    ],
)  # fmt: skip
def test_a_forged_result_names_no_other_ref(forged: dict[str, str]):
    made = WorktreeResult(path="/x", ref="refs/clinvk/r1/a/1", commit="0" * 40, base="1" * 40)
    check_result("r1", Worktree(slug="a"), made)
    with pytest.raises(ClinvkError, match="the result of a is invalid"):
        check_result("r1", Worktree(slug="a"), replace(made, **forged))


def test_a_forged_commit_is_no_option_of_git(tmp_path: Path):
    need("git")
    repo = new_repository(tmp_path / "repo", a="one")
    made = WorktreeResult(path="/x", ref="", commit="HEAD", base=f"--output={tmp_path}/out")
    assert diff_text(str(repo), made, os.environ) == ""
    assert not (tmp_path / "out").exists()


# On a real worker


class Forger:
    """Somebody who can write to the server of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ledger = cluster.ledger()
        self.app = keep(apps.create_app(parse(cluster.url)))
        self.count = 0

    def send(self, data: bytes, run: str = "forged") -> AttemptId:
        self.count += 1
        attempt = AttemptId(run, self.count, 1)
        self.ledger.submit(attempt, data, PROTOCOL, "1")
        apps.send(self.app, attempt, queue_of("fake"))
        return attempt

    def task(self, **fields: Any) -> AttemptId:
        self.count += 1
        made = {
            "version": PROTOCOL, "new": f"forged.{self.count}", "backend": "fake",
            "cwd": str(self.cluster.home.work), "task": "forged", **fields,
        }  # fmt: skip
        return self.send(json.dumps({k: v for k, v in made.items() if v is not ...}).encode())

    def wait(self, *attempts: AttemptId) -> None:
        """Wait until the worker has decided about all of them."""
        for attempt in attempts:
            wait_for(lambda a=attempt: self.decided(a), f"the end of {attempt}", SECONDS)

    def decided(self, attempt: AttemptId) -> bool:
        news = self.ledger.news_between(attempt.run, "-", "+", attempt.member)
        return any(each.kind in ("ended", "refused") for each in news)


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a directory."""
    return {
        os.path.join(place, name): Path(place, name).read_bytes()
        for place, _, names in os.walk(folder)
        for name in names
    }


def test_a_forged_task_reaches_nothing_outside_of_what_is_allowed(cluster: Cluster):
    work, outside = cluster.home.work, cluster.folder.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text("hush")
    (work / "link").symlink_to(outside)
    worker = cluster.worker("w1", slots="fake=2")
    touch = {"check": f"touch {outside}/touched"}
    at = {"run": "r1", "attempt": 1}
    result = {"ok": True, "text": "", "backend": "fake", "exit_code": 0, "session_id": "../x"}
    evil: list[dict[str, Any]] = [
        {"task": "../../../outside/x", "checked": True, "options": touch}, {"task": "/" + str(outside)},
        {"new": "../../outside/x"}, {"new": "/etc/passwd"}, {"new": ..., "session": "../secret"},
        {"new": ..., "session": "of-someone-else"}, {"new": ..., "session": "last"},
        {"cwd": "/etc"}, {"cwd": f"{work}/.."}, {"cwd": f"{work}/link"}, {"cwd": "relative"}, {"cwd": 7},
        *({"env": {name: str(outside)}} for name in ("PATH", "LD_PRELOAD", "CLINVK_HOME", "HOME")),
        {"env": {"A=B": "x"}}, {"env": {"": "x"}}, {"env": {"X": 1}}, {"env": {"X": "${NOT_SET_HERE}"}},
        {"env": {"X": "\0"}}, {"env": []},
        *({"options": {name: str(outside)}} for name in ("add_dir", "knowledge", "fast_context")),
        {"options": {"add_dir": [f"{work}/link"]}}, {"options": []}, {"options": {"check": 7}},
        {"options": {"check": "true", "rounds": "many"}}, {"options": {"sandbox": ["full"]}},
        {"backend": "other"}, {"backend": "../fake"}, {"backend": ...}, {"to": "other"},
        {"worktree": {**at, "wanted": {"root": str(outside), "repository": str(outside)}}},
        {"worktree": {**at, "run": "../x", "wanted": {"remote": f"file://{outside}"}}},
        {"worktree": {**at, "wanted": {"remote": "ext::sh -c touch% x", "slug": "a", "directory": "a",
                                       "commit": "0" * 40}}},
        {"worktree": {**at, "wanted": {"remote": f"--upload-pack=touch {outside}/touched", "slug": "a",
                                       "directory": "a", "commit": "0" * 40}}},
        {"worktree": {**at, "wanted": {"root": str(work), "repository": str(work), "slug": "../../x",
                                       "directory": "../../x", "commit": "HEAD"}}},
        {"timeout": -1}, {"timeout": "x"}, {"timeout": 1e99}, {"args": "x"}, {"args": ["\0"]},
        {"title": 1}, {"tags": "x"}, {"progress": {"round": "x"}}, {"progress": {"result": {}}},
        {"progress": {"result": result}, "options": touch, "checked": True},
        {"version": 2}, {"version": None}, {"unknown": 1}, {"prompt": None}, {"prompt": ""},
        {"ephemeral": True, "cwd": "/etc"},
    ]  # fmt: skip
    before = tree(outside)
    forger = Forger(cluster)
    sent = [forger.task(**{"prompt": f"evil {number}", **fields}) for number, fields in enumerate(evil)]  # fmt: skip
    sent.append(forger.send(b'{"version":1,"prompt":"%s"}' % (b"x" * MAX_REQUEST)))
    sent.append(forger.send(b'{"version":1,"options":' + b"[" * 200_000))
    sent.append(forger.send(b'{"version":1,"prompt":"\xff\xfe","new":"x"}'))
    forger.wait(*sent)
    assert cluster.starts() == [], "none was started"
    assert tree(outside) == before
    assert not any(Path(place).name in ("x", "touched") for place in tree(cluster.folder.parent))
    good = forger.task(prompt="good")
    forger.wait(good)
    assert cluster.starts() == ["good"], worker.said
    assert cluster.folders() == [str(work)]


def test_no_link_in_a_repository_leads_a_task_out_of_its_worktree(cluster: Cluster, tmp_path: Path):
    """Links of the repository, and one that an earlier task has left in the same worktree."""
    need("git")
    outside = tmp_path / "outside"
    outside.mkdir()
    repo = new_repository(tmp_path / "repo")
    (repo / "src").mkdir()
    (repo / "src" / "a").write_text("one")
    (repo / "out").symlink_to(outside)
    (repo / "on").symlink_to("out")
    (repo / "in").symlink_to("src")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "links")
    git(tmp_path, "init", "-q", "--bare", "remote.git")
    remote, commit = f"file://{tmp_path}/remote.git", git(repo, "rev-parse", "HEAD")
    git(repo, "push", "-q", remote, f"HEAD:refs/clinvk/forged/base/{commit}")
    link = f"case $p in link*) rm src/a; rmdir src; ln -s {outside} src ;; esac\ncd FOLDER"
    cluster.home.backend(
        "fake", SCRIPT.replace("cd FOLDER", link).replace("FOLDER", str(cluster.folder))
    )
    worker = cluster.worker("w1", slots="fake=1")
    forger = Forger(cluster)

    def task(
        prompt: str, number: int, workdir: str = "", tip: str | None = None, **fields: Any
    ) -> AttemptId:
        wanted = {
            "remote": remote, "commit": commit, "slug": "a", "directory": "a", "root": "/x",
            "repository": "/x", "workdir": workdir,
        }  # fmt: skip
        attempt = forger.task(
            prompt=prompt,
            cwd="/x",
            worktree={"run": "forged", "attempt": number, "wanted": wanted, "tip": tip},
            **fields,
        )
        forger.wait(attempt)
        return attempt

    for number, name in enumerate(("out", "on", "src/../on", "..")):
        task("evil", number + 1, options={"add_dir": [name]})
    task("evil", 5, workdir="out")
    task("evil", 6, workdir="on/../on")
    assert cluster.starts() == []
    assert "out leads out of the worktree" in worker.said
    task("good", 7, options={"add_dir": ["../in", "../src"]}, workdir="src")
    task("link", 8, options={"add_dir": ["src"]})
    tip = git(tmp_path / "remote.git", "rev-parse", "refs/clinvk/forged/a/8")
    task("evil", 9, options={"add_dir": ["src"]}, tip=tip)
    task("evil", 10, workdir="in", tip=tip)
    assert cluster.starts() == ["good", "link"], worker.said
    again = {"add_dir": ["src"], "check": "false", "rounds": 2}
    ended = task("link again", 11, options=again, checked=True)
    assert cluster.starts() == ["good", "link", "link again"], "it has no further turn"
    assert b"add_dir: src leads out of the worktree" in (forger.ledger.result(ended) or b"")
    assert not list(outside.iterdir())


def test_random_changes_of_a_task_never_leave_the_shared_directories(cluster: Cluster):
    work = cluster.home.work
    cluster.worker("w1", slots="fake=2")
    forger = Forger(cluster)
    rng = random.Random(14)
    words = [
        "/etc",
        "..",
        "../..",
        str(work),
        "",
        "x",
        "\0",
        None,
        True,
        -1,
        1e308,
        [],
        {},
        ["/etc"],
        {"a": ".."},
    ]
    names = [
        "new", "session", "backend", "to", "options", "args", "cwd", "ephemeral", "timeout", "env", "title",
        "tags", "ignore_limit", "task", "lenient", "worktree", "checked", "progress", "stall_timeout",
    ]  # fmt: skip
    sent = [
        forger.task(
            prompt="fuzz",
            **{name: rng.choice(words) for name in rng.sample(names, rng.randint(1, 4))},
        )
        for _ in range(60)
    ]
    forger.wait(*sent)
    assert set(cluster.folders()) <= {str(work)}
    forger.wait(forger.task(prompt="good"))
    assert "good" in cluster.starts()


def test_a_forged_plan_writes_no_files_on_the_worker_that_drives_it(cluster: Cluster):
    outside = cluster.folder.parent / "outside"
    worker = cluster.worker("w1", drive=1)
    runs = keep(open_runs(cluster.url, cluster.home.path, detached=True))
    plan = Plan(
        kind="parallel", tasks=(Task(name="1", prompt="evil", key="1", backend="fake"),),
        rules=Rules(output_dir=str(outside)),
    )  # fmt: skip
    run = runs.create(plan)
    wait_for(lambda: f"run {run.id}: a detached run writes no files" in worker.said, "it", SECONDS)
    assert not outside.exists()
    assert cluster.starts() == []


def test_the_worker_decides_how_far_a_task_may_go(cluster: Cluster):
    cluster.configure("worker: {allow: {sandbox: read-only, env: [PYTHONPATH]}}\n")
    cluster.worker("w1")
    tasks = [
        {"prompt": "a", "sandbox": "full"}, {"prompt": "b"}, {"prompt": "c", "check": "true"},
        {"prompt": "d", "env": {"PYTHONPATH": "/x"}},
    ]  # fmt: skip
    done = cluster.go("parallel", cluster.file({"tasks": tasks}), "--json")
    found = json.loads(done.stdout)["results"]
    assert [task["state"] for task in found] == ["failed", "done", "failed", "done"], done
    assert (
        "worker.allow.sandbox is read-only, and the task asks for full"
        in found[0]["error"]["message"]
    )
    assert "worker.allow does not permit the check" in found[2]["error"]["message"]
    assert sorted(cluster.starts()) == ["b", "d"]
