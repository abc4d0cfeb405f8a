"""Detached runs whose files come by git: driven by a worker that has only the remote, and applied in any
clone of the repository."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import clinvk
from clinvk.cluster.log.runs import open_runs
from tests.clusters import SECONDS, Worker
from tests.conftest import CommandLine, Home, say, wait_for
from tests.needs import need
from tests.stores import RedisServer, keep
from tests.test_cluster_git import GitCluster
from tests.test_worktrees import git, new_repository

need("git")


class Desks(GitCluster):
    """A worker that drives runs, one that runs tasks, and desks with homes of their own."""

    settings = "default_backend: shell\n"  # of the others

    def begin_work(self) -> None:
        self.node_for("north", "shell=2,judge=1")
        self.node_for("driver", "other=1", drive=2)

    def node_for(self, name: str, slots: str, *args: str, drive: int = 0) -> Worker:
        home = self._home(name)
        return self.worker(name, *args, env={"CLINVK_HOME": str(home)}, slots=slots, drive=drive)

    def elsewhere(self, name: str = "elsewhere") -> dict[str, str]:
        """The environment of another machine."""
        return {"CLINVK_HOME": str(self._home(name))}

    def _home(self, name: str) -> Path:
        home = self.folder / f"home-{name}"
        (home / "backends").mkdir(parents=True)
        (home / "config.yaml").write_text(self.settings)
        for manifest in (self.home.path / "backends").iterdir():
            (home / "backends" / manifest.name).write_text(manifest.read_text())
        return home

    def submit(self, repo: Path, kind: str, data: Any, *args: str) -> str:
        words = [kind, "-f", "-", "--detach", "--cluster", self.url, *args]
        done = self.clinvk(*words, cwd=repo, stdin=json.dumps(data), timeout=SECONDS)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def runs(self, cwd: Path, *args: str, **env: str) -> Any:
        return self.clinvk(
            "runs", *args, "--cluster", self.url, cwd=cwd, env=env, timeout=SECONDS * 2
        )

    def ended(self, run: str, cwd: Path, **env: str) -> Any:
        """The result of a run, once it has ended."""
        return json.loads(self.runs(cwd, "watch", run, "--json", **env).stdout)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repo", a="one\n", b="two\n")


@pytest.fixture
def desks(
    home: Home, clinvk: CommandLine, tmp_path: Path, own_server: RedisServer
) -> Iterator[Desks]:
    git(tmp_path, "init", "-q", "--bare", "remote.git")
    folder = tmp_path / "desk"
    made = Desks(home, clinvk, folder, own_server, tmp_path / "remote.git")
    home.backend(
        "judge",
        # The same candidate both times, since the second time they are in reverse order.
        f"test $1 = run || exit 0\ncat >> {folder}/judged\necho x >> {folder}/calls\n"
        f"best=$(wc -l < {folder}/calls)\n"
        'printf \'{"type":"end","text":"{\\\\"best\\\\": %s, \\\\"why\\\\": \\\\"x\\\\"}"}\\n\' $best\n',
    )
    yield made
    made.close()


def test_a_chain_goes_on_without_the_repository_that_it_was_started_in(
    desks: Desks, repo: Path, tmp_path: Path
):
    (repo / "a").write_text("one\nmine\n")
    steps = [
        {"name": "first", "prompt": "echo 1 >> a; echo x > x"},
        {"name": "second", "prompt": "cat a x; echo 2 >> a"},
        {"prompt": "cat a; echo '{{steps.second.diff}}' | grep ^+2"},
    ]
    run = desks.submit(repo, "chain", {"steps": steps}, "--dirty", "include", "--worktree")
    before = git(repo, "for-each-ref")
    shutil.move(repo, tmp_path / "moved")
    desks.begin_work()
    told = desks.ended(run, tmp_path, **desks.elsewhere())
    assert [r["state"] for r in told["results"]] == ["done"] * 3, told
    assert told["results"][2]["output"].split() == ["one", "mine", "1", "2", "+2"]
    assert git(tmp_path / "moved", "for-each-ref") == before


def test_a_chain_whose_driver_was_killed_is_continued_on_another_node(
    desks: Desks, repo: Path, tmp_path: Path
):
    quick, flag = "--lease=2s", tmp_path / "flag"
    desks.node_for("north", "shell=2")
    driving = desks.node_for("driver", "other=1", quick, drive=2)
    wait = f"touch {flag}.seen; while [ ! -e {flag} ]; do sleep 0.05; done"
    steps = ["echo 1 >> a", f"{wait}; echo 2 >> a", "echo 3 >> a; cat a"]
    run = desks.submit(repo, "chain", {"steps": [{"prompt": step} for step in steps]})
    wait_for(Path(f"{flag}.seen").exists, "the second step", SECONDS)
    driving.kill()
    desks.node_for("next", "other=1", quick, drive=2)
    found = keep(open_runs(desks.url, desks.home.path)).find(run)
    begins = lambda: [x for x in found.read_journal() if x["event"] == "begin"]  # noqa: E731
    wait_for(lambda: len(begins()) > 1, "another driver", SECONDS)
    flag.touch()
    told = desks.ended(run, repo)
    assert [r["attempts"] for r in told["results"]] == [1, 1, 1], told
    assert told["results"][2]["output"].split() == ["one", "1", "2", "3"]
    assert desks.runs(repo, "apply", run).returncode == 0
    assert (repo / "a").read_text().split() == ["one", "1", "2", "3"]


def test_candidates_of_a_detached_run_are_judged_by_what_they_changed(
    desks: Desks, repo: Path, tmp_path: Path
):
    desks.begin_work()
    task = {"name": "fix", "prompt": "echo 1 > a", "candidates": 2, "judge": "judge"}
    run = desks.submit(repo, "parallel", {"tasks": [task]})
    told = desks.ended(run, tmp_path)
    decision = told["results"][-1]["decision"]
    assert (decision["best"], decision["decided_by"]) == ("fix[1]", "judge"), told
    number = "basename $(pwd) | tr -dc 0-9 > n"  # of the candidate
    scored = {"name": "less", "prompt": number, "score": "cat n", "candidates": 2}
    run = desks.submit(repo, "parallel", {"tasks": [scored]})
    decision = desks.ended(run, tmp_path)["results"][-1]["decision"]
    assert (decision["best"], decision["decided_by"]) == ("less[2]", "score"), decision
    assert (desks.folder / "judged").read_text().count("\n+1\n") == 4


def test_each_round_of_a_detached_loop_starts_from_the_best_candidate(
    desks: Desks, repo: Path, tmp_path: Path
):
    desks.begin_work()
    number = "$(basename $(pwd) | tail -c 2)"  # of the candidate
    fix = {
        "name": "fix", "prompt": f"for i in $(seq {number}); do echo x >> n; done", "candidates": 2,
        "check": "test $(wc -l < n) -ge 5 || { cat n; exit 1; }", "score": "wc -l < n",
    }  # fmt: skip
    repeat = {"steps": ["fix"], "until": "check", "max": 4}
    steps = [fix, {"name": "look", "prompt": "cat n"}]
    run = desks.submit(repo, "chain", {"steps": steps, "repeat": repeat})
    told = {t["name"]: t for t in desks.ended(run, tmp_path)["results"]}
    chosen = [told[f"fix#{n}"]["decision"]["best"] for n in (1, 2, 3)]
    assert chosen == ["fix#1[2]", "fix#2[2]", "fix#3[2]"], told
    assert told["look"]["output"].split() == ["x"] * 6
    applied = desks.runs(repo, "apply", run)
    assert applied.returncode == 0, applied
    assert "fix#3: 1 file, +6 -0 in 3 rounds" in applied.stdout
    assert (repo / "n").read_text().split() == ["x"] * 6
    dropped = desks.runs(repo, "drop", run, "--yes")
    assert dropped.returncode == 0, dropped
    assert git(desks.remote, "for-each-ref", f"refs/clinvk/{run}/fix*") == ""


def test_the_results_of_a_detached_run_are_applied_in_any_clone(
    desks: Desks, repo: Path, tmp_path: Path
):
    desks.begin_work()
    script = {"tasks": ["echo 1 > a", "git rm -q b; echo new > c", "true"]}
    run = desks.submit(repo, "parallel", script)
    assert [r["state"] for r in desks.ended(run, repo)["results"]] == ["done"] * 3
    git(tmp_path, "clone", "-q", str(repo), "clone")
    clone, elsewhere = tmp_path / "clone", desks.elsewhere()
    shown = desks.runs(clone, "diff", "last", "--stat", **elsewhere)
    assert "3 files changed" in shown.stdout.replace("2 files changed", "3 files changed"), shown
    diffs = json.loads(desks.runs(clone, "diff", run, "--json", **elsewhere).stdout)["tasks"]
    assert [t["name"] for t in diffs] == ["1", "2", "3"]
    assert "+new" in diffs[1]["patch"]
    applied = desks.runs(clone, "apply", run, "1", **elsewhere)
    assert applied.returncode == 0, applied
    assert git(clone, "status", "--porcelain").splitlines() == ["M  a"]
    retried = desks.runs(tmp_path, "retry", run, "3", "--json", **elsewhere)
    assert json.loads(retried.stdout)["results"][2]["worktree"]["ref"].endswith("/3/2"), retried
    again = desks.runs(repo, "apply", run)
    assert again.returncode == 0, again
    assert "1: already applied" in again.stdout
    assert git(repo, "status", "--porcelain").splitlines() == ["D  b", "A  c"]
    listed = json.loads(desks.runs(tmp_path, "show", run, "--json", **elsewhere).stdout)["results"]
    assert [t["applied"]["root"] for t in listed[:2]] == [str(clone), str(repo)]
    not_here = desks.runs(tmp_path, "diff", run, **elsewhere)
    assert not_here.returncode == 4
    assert f"git clone file://{desks.remote}" in not_here.stderr


def test_the_commands_that_messages_name_find_the_run(desks: Desks, repo: Path):
    """They say `--cluster URL` if they have to."""
    run = desks.submit(repo, "parallel", {"tasks": ["true"]})
    configured = {"CLINVK_CLUSTER_URL": desks.url}
    words = [
        ["show", run, "nope"], ["show", run, "--events"], ["show", "nope"],
        ["diff", run, "nope"], ["diff", run, "1"], ["apply", run, "nope"],
        ["drop", run, "1", "--yes"], ["delete", run, "--yes"], ["list", "--state", "done"],
        ["cancel", run], ["cancel", run], ["retry", run, "nope"],
    ]  # fmt: skip
    for command in words:
        for flags, env in ((), configured), (("--cluster", desks.url), {}):
            done = desks.clinvk("runs", *command, *flags, cwd=repo, env=env, timeout=SECONDS)
            named = re.findall(r"clinvk runs [^;\n]*", done.stderr)
            if command != ["cancel", run] or "has ended" in done.stderr:
                assert named, (command, done)
            assert all(("--cluster URL" in name) == bool(flags) for name in named), (command, done)


def test_what_was_dropped_is_gone_from_the_remote(desks: Desks, repo: Path, tmp_path: Path):
    desks.begin_work()
    run = desks.submit(repo, "parallel", {"tasks": ["echo 1 > a", "echo 2 > b"]})
    desks.ended(run, repo)
    git(tmp_path, "clone", "-q", str(repo), "clone")
    clone, elsewhere = tmp_path / "clone", desks.elsewhere()
    dropped = desks.runs(clone, "drop", run, "1", "--yes", "--json", **elsewhere)
    assert dropped.returncode == 0, dropped
    kept = desks.runs(clone, "delete", run, "--yes", **elsewhere)
    assert kept.returncode == 4
    assert "neither applied nor dropped: 2" in kept.stderr
    commit = json.loads(dropped.stdout)["dropped"][0]["commit"]
    assert git(clone, "show", f"{commit}:a") == "1"
    refs = git(desks.remote, "for-each-ref", "--format=%(refname)", f"refs/clinvk/{run}")
    assert f"refs/clinvk/{run}/2/1" in refs
    assert f"refs/clinvk/{run}/1/1" not in refs
    told = desks.runs(repo, "apply", run)
    assert "dropped" in told.stdout, told
    assert git(repo, "status", "--porcelain").splitlines() == ["M  b"]
    assert desks.runs(clone, "delete", run, "--yes", **elsewhere).returncode == 0
    assert git(desks.remote, "for-each-ref") == ""


@pytest.mark.anyio
async def test_results_of_a_detached_run_are_shown_applied_and_dropped_from_python(
    desks: Desks, repo: Path
):
    await anyio.to_thread.run_sync(desks.begin_work)
    git(repo, "config", "user.name", "Me")
    git(repo, "config", "user.email", "me@example.com")
    about: dict[str, Any] = {"cluster": desks.url, "dispatcher": desks.dispatcher()}
    steps = ["echo 1 > a", "cat a; echo 2 > b", "echo 3 > c"]
    run = await clinvk.asubmit_chain(steps, workdir=repo, worktree=True, **about)
    seen = [c async for c in clinvk.afollow_run(run, **about)]
    assert [c.outcome.output for c in seen if c.kind == "ended" and c.outcome] == ["", "1", ""]
    about["directory"] = repo
    assert [(d.name, d.insertions) for d in await clinvk.arun_diff(**about)] == [
        ("1", 1), ("2", 1), ("3", 1),
    ]  # fmt: skip
    (dropped,) = await clinvk.adrop_run(run, "3", **about)
    assert dropped.name == "3"
    applied = await clinvk.aapply_run(run, how="commit", **about)
    assert [t.state for t in applied.tasks] == ["applied", "applied", "skipped"]
    assert not (repo / "c").exists()
    assert git(repo, "log", "--format=%s", "-3").splitlines()[-1] == "start"


def test_a_conflict_with_a_detached_run_changes_nothing_and_can_be_resolved(
    desks: Desks, repo: Path
):
    desks.begin_work()
    run = desks.submit(repo, "parallel", {"tasks": ["echo theirs > a"]})
    desks.ended(run, repo)
    (repo / "a").write_text("mine\n")
    git(repo, "commit", "-qam", "Mine")
    failed = desks.runs(repo, "apply", run)
    assert failed.returncode == 1
    assert "conflict" in failed.stderr
    desks.home.backend(
        "resolver", 'cat >/dev/null; echo both > a; echo \'{"type":"end","text":"x"}\'\n'
    )
    done = desks.runs(repo, "apply", run, "--resolve", "resolver")
    assert done.returncode == 0, done
    assert (repo / "a").read_text() == "both\n"


def test_a_run_that_was_not_detached_is_known_to_be_recorded_elsewhere(desks: Desks, repo: Path):
    desks.begin_work()
    script = json.dumps({"tasks": ["true"]})
    words = ["parallel", "-f", "-", "--json", "--cluster", desks.url]
    run = json.loads(desks.clinvk(*words, cwd=repo, stdin=script, timeout=SECONDS).stdout)["id"]
    assert desks.runs(repo, "diff", run).returncode == 0
    for command in ("diff", "show", "apply"):
        done = desks.runs(repo, command, run, **desks.elsewhere(command))
        assert done.returncode == 4
        assert "recorded only on the machine where it was started" in done.stderr


def test_submodules_come_back_to_the_clone_in_which_results_are_applied(
    desks: Desks, repo: Path, tmp_path: Path
):
    desks.begin_work()
    library = new_repository(tmp_path / "library", x="x\n")
    allow = ("-c", "protocol.file.allow=always")
    git(repo, *allow, "submodule", "add", "-q", str(library), "lib")
    git(repo, "commit", "-qm", "Add it")
    git(tmp_path, *allow, "clone", "-q", "--recurse-submodules", str(repo), "clone")
    run = desks.submit(repo, "parallel", {"tasks": ["echo 1 > lib/x"]})
    told = desks.ended(run, repo)["results"]
    assert [r["state"] for r in told] == ["done"], told[0]["error"]
    clone = tmp_path / "clone"
    applied = desks.runs(clone, "apply", run, **desks.elsewhere())
    assert applied.returncode == 0, applied
    git(clone, *allow, "submodule", "update", "-q", "lib")
    assert (clone / "lib" / "x").read_text() == "1\n"


def test_results_in_a_shared_repository_are_applied_on_any_machine_that_has_it(
    desks: Desks, repo: Path
):
    desks.settings = f"default_backend: shell\ncluster: {{shared: [{repo.parent}]}}\n"
    desks.home.config(desks.settings)
    desks.begin_work()
    (repo / "b").write_text("mine\n")
    script = {"tasks": ["cat b > a"]}
    run = desks.submit(repo, "parallel", script, "--worktree", "--dirty", "include")
    assert [r["state"] for r in desks.ended(run, repo)["results"]] == ["done"]
    git(repo, "commit", "-qam", "Mine")
    shown = desks.runs(repo, "show", "last", **desks.elsewhere())
    assert f"clinvk runs apply {run} --cluster URL" in shown.stderr, shown
    applied = desks.runs(repo, "apply", "last", **desks.elsewhere("third"))
    assert applied.returncode == 0, applied
    assert (repo / "a").read_text() == "mine\n"


def test_the_best_of_a_detached_comparison_is_applied(desks: Desks, repo: Path):
    for name, lines in (("large", "1 2 3"), ("small", "1")):
        end = say(type="end", text="done")
        desks.home.backend(name, f"cat >/dev/null\nfor i in {lines}; do echo $i >> a; done\n{end}")
    desks.node_for("north", "small=1,large=1", drive=2)
    words = ["compare", "x", "-b", "large,small", "--worktree", "--detach", "--cluster", desks.url]
    made = desks.clinvk(*words, cwd=repo, timeout=SECONDS)
    run = made.stdout.strip()
    assert desks.ended(run, repo)["ranking"]["best"] == "small", made
    applied = desks.runs(repo, "apply", run)
    assert "small is best" in applied.stderr, applied
    assert (repo / "a").read_text() == "one\n1\n"
