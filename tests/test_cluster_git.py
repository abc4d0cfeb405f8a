"""Runs on a cluster whose files come by git: real workers with homes of their own, and real git."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from clinvk.runs.folder import RunStore
from tests.clusters import SECONDS, Cluster
from tests.conftest import START, CommandLine, Home, is_alive, wait_for, write_program
from tests.desk import ends, kill
from tests.needs import need
from tests.ssh import SshServer, ssh_server
from tests.stores import RedisServer
from tests.test_worktrees import git, new_repository, tasks

__all__ = ["ssh_server"]

need("git")


class GitCluster(Cluster):
    """A cluster without shared directories, and a remote between its machines."""

    def __init__(
        self, home: Home, clinvk: CommandLine, folder: Path, server: RedisServer, remote: Path
    ) -> None:
        self.remote = remote
        self.env: dict[str, str] = {}
        super().__init__(home, clinvk, folder, server)
        home.backend(
            "shell",
            f'p=$(cat)\n{START}said=$(sh -c "$p" 2>&1)\n'
            'printf \'{"type":"end","text":"%s"}\\n\' "$(printf %s "$said" | tr \'\\n\' \' \')"\n',
        )
        self.configure_git(f"file://{remote}")

    def configure_git(self, url: str, more: str = "") -> None:
        self.home.config(f"default_backend: shell\ncluster: {{git: '{url}'}}\n{more}")

    def node(self, name: str, config: str = "", **env: str) -> Path:
        """Start a worker on a machine of its own; returns its home."""
        home = self.folder / f"home-{name}"
        (home / "backends").mkdir(parents=True)
        (home / "config.yaml").write_text(f"default_backend: shell\n{config}")
        for manifest in (self.home.path / "backends").iterdir():
            (home / "backends" / manifest.name).write_text(manifest.read_text())
        self.worker(name, env={**self.env, "CLINVK_HOME": str(home), **env}, slots="shell=2")
        return home

    def run_in(self, repo: Path, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        words = [*args, "--cluster", self.url]
        return self.clinvk(*words, cwd=repo, stdin=stdin, env=self.env, timeout=120)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repo", a="one\n", b="two\n")


@pytest.fixture
def cluster(
    home: Home, clinvk: CommandLine, tmp_path: Path, own_server: RedisServer
) -> Iterator[GitCluster]:
    git(tmp_path, "init", "-q", "--bare", "remote.git")
    desk, remote = tmp_path / "desk", tmp_path / "remote.git"
    with closing(GitCluster(home, clinvk, desk, own_server, remote)) as made:
        yield made


@pytest.mark.parametrize("way", ["file", "ssh"])
def test_results_of_workers_are_shown_and_applied_as_those_of_this_machine(
    cluster: GitCluster, repo: Path, way: str, request: pytest.FixtureRequest
):
    if way == "ssh":
        server: SshServer = request.getfixturevalue("ssh_server")
        cluster.env = {"GIT_SSH_COMMAND": server.command()}
        cluster.configure_git(server.url(cluster.remote))
    homes = [cluster.node("north"), cluster.node("south")]
    script = tasks("echo 1 > a", "git rm -q b; echo new > c", "pwd", worktree=None)
    done = cluster.run_in(repo, "parallel", "--json", stdin=script)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert [r["state"] for r in run["results"]] == ["done"] * 3
    assert any(run["results"][2]["output"].startswith(str(home)) for home in homes)
    diff = cluster.clinvk("runs", "diff", run["id"], "--stat", cwd=repo)
    assert "a " in diff.stdout, diff
    assert git(repo, "status", "--porcelain") == ""
    applied = cluster.clinvk("runs", "apply", run["id"], cwd=repo)
    assert applied.returncode == 0, applied.stderr
    assert git(repo, "status", "--porcelain").splitlines() == ["M  a", "D  b", "A  c"]
    shown = cluster.clinvk("runs", "show", run["id"])
    assert shown.returncode == 0


@pytest.mark.parametrize("kind", ["parallel", "chain", "compare"])
def test_flags_about_worktrees_need_no_other_one(cluster: GitCluster, repo: Path, kind: str):
    cluster.node("north")
    (repo / "a").write_text("mine\n")
    words, flags = [kind, "-f", "-"], ["--json", "--dirty", "include", "--setup", "echo set > up"]
    if kind == "compare":
        words = [kind, "cat a up", "--backends", "shell:a,shell:b", "--score", "wc -l < a"]
    script = json.dumps({"steps" if kind == "chain" else "tasks": [{"prompt": "cat a up"}]})
    done = cluster.run_in(repo, *words, *flags, stdin=script if "-f" in words else "")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["output"].split() == ["mine", "set"]
    here = cluster.clinvk(*words, *flags, "--cluster", "none", cwd=repo, stdin=script)
    assert (here.returncode, "add --worktree" in here.stderr) == (1, True)


def test_a_chain_goes_from_node_to_node(cluster: GitCluster, repo: Path):
    cluster.node("north")
    cluster.node("south")
    steps = [
        {"prompt": "echo 1 >> a; echo x > x"}, {"prompt": "cat x; echo 2 >> a"}, {"prompt": "cat a"},
    ]  # fmt: skip
    script = json.dumps({"steps": steps, "defaults": {"backend": "shell", "worktree": True}})
    done = cluster.run_in(repo, "chain", "-f", "-", "--json", stdin=script)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert run["results"][2]["output"].split() == ["one", "1", "2"]
    applied = cluster.clinvk("runs", "apply", run["id"], cwd=repo)
    assert applied.returncode == 0, applied.stderr
    assert (repo / "a").read_text() == "one\n1\n2\n"


def test_a_worker_without_access_passes_the_task_on(
    cluster: GitCluster, repo: Path, ssh_server: SshServer
):
    cluster.env = {"GIT_SSH_COMMAND": ssh_server.command()}
    cluster.configure_git(ssh_server.url(cluster.remote))
    cluster.node("stranger", GIT_SSH_COMMAND=ssh_server.command("stranger"))
    script = tasks("echo 1 > a", worktree=None)
    alone = cluster.run_in(repo, "parallel", "--json", stdin=script)
    assert alone.returncode != 0
    (failed,) = json.loads(alone.stdout)["results"]
    assert "stranger: this machine cannot read ssh://" in failed["error"]["message"]
    assert "Permission denied" in failed["error"]["message"]
    cluster.node("friend")
    again = cluster.run_in(repo, "runs", "resume", json.loads(alone.stdout)["id"], "--json")
    assert again.returncode == 0, again.stderr
    assert [r["state"] for r in json.loads(again.stdout)["results"]] == ["done"]


def test_a_worker_keeps_no_more_of_ended_tasks_than_it_may(cluster: GitCluster, repo: Path):
    home = cluster.node("north")
    script = tasks("echo 1 > a", worktree=None)
    first = json.loads(cluster.run_in(repo, "parallel", "--json", stdin=script).stdout)
    assert (home / "worktrees" / first["id"] / "t1").is_dir()
    (worker,) = cluster.workers
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, worker.said
    (home / "config.yaml").write_text("cluster: {cache_gb: 0}\n")
    cluster.worker("again", env={"CLINVK_HOME": str(home)}, slots="shell=1")
    second = json.loads(cluster.run_in(repo, "parallel", "--json", stdin=script).stdout)
    assert second["results"][0]["state"] == "done"
    assert not (home / "worktrees" / first["id"]).exists()
    assert git(repo, "show", f"{first['results'][0]['worktree']['commit']}:a") == "1"


def test_a_task_whose_files_cannot_travel_is_refused_before_anything_runs(
    cluster: GitCluster, repo: Path, tmp_path: Path
):
    plain = tmp_path / "plain"
    plain.mkdir()
    done = cluster.run_in(plain, "parallel", stdin=tasks("true", worktree=None))
    assert done.returncode == 3
    assert f"the workers of the cluster do not have {plain}" in done.stderr
    assert "it is not in a git repository" in done.stderr
    cluster.configure_git("origin")
    done = cluster.run_in(repo, "parallel", stdin=tasks("true", worktree=None))
    assert done.returncode == 3
    assert "has no git remote 'origin'" in done.stderr
    assert cluster.clinvk.json("runs", "list", "--json")["runs"] == []


def test_a_judge_on_a_worker_is_asked_twice(cluster: GitCluster, repo: Path, tmp_path: Path):
    calls = tmp_path / "calls"
    cluster.home.backend(
        "judge",
        f"test $1 = run || exit 0\ncat > /dev/null\necho judge >> {calls}\nbest=$(wc -l < {calls})\n"
        # The same candidate both times, since the second time they are in reverse order.
        'printf \'{"type":"end","text":"{\\\\"best\\\\": %s, \\\\"why\\\\": \\\\"x\\\\"}"}\\n\' $best\n',
    )
    home = cluster.node("north")
    cluster.worker("bench", env={"CLINVK_HOME": str(home)}, slots="judge=1")
    task = {"name": "fix", "prompt": "echo 1 > a", "candidates": 2, "judge": "judge"}
    script = json.dumps({"tasks": [task]})
    done = cluster.run_in(repo, "parallel", "-f", "-", "--json", stdin=script)
    assert done.returncode == 0, done.stderr
    decision = json.loads(done.stdout)["results"][-1]["decision"]
    assert calls.read_text() == "judge\njudge\n"
    assert (decision["best"], decision["decided_by"]) == ("fix[1]", "judge"), decision


def test_a_chain_on_a_cluster_is_resumed_from_its_unchanged_file(
    cluster: GitCluster, repo: Path, tmp_path: Path
):
    home = cluster.node("north")
    flag, file = tmp_path / "flag", tmp_path / "steps.json"
    steps = [{"prompt": "echo 1 >> a"}, {"prompt": "pwd", "check": f"test -e {flag}"}]
    file.write_text(json.dumps({"steps": steps}))
    done = cluster.run_in(repo, "chain", str(file), "--json", "--checkpoint", "c")
    assert done.returncode == 65, done
    flag.touch()
    again = cluster.clinvk("chain", str(file), "--json", "--resume", "c", cwd=repo)
    assert again.returncode == 0, again
    assert json.loads(again.stdout)["id"] == json.loads(done.stdout)["id"]
    assert [r["attempts"] for r in json.loads(again.stdout)["results"]] == [1, 2]
    assert json.loads(again.stdout)["results"][1]["output"].startswith(str(home))
    checks = home / "cluster" / "checks"
    wait_for(lambda: list(checks.iterdir()) == [], "the end of what the checks printed", SECONDS)


@pytest.mark.parametrize("command", ["parallel", "compare"])
def test_candidates_on_workers_are_scored_with_their_files_where_the_run_is(
    cluster: GitCluster, repo: Path, tmp_path: Path, command: str
):
    cluster.node("north")
    (repo / ".gitignore").write_text("weight\n")
    git(repo, "add", ".gitignore")
    git(repo, "commit", "-q", "-m", "ignore")
    (repo / "weight").write_text("1\n")
    for name, count in (("short", 2), ("long", 5)):
        cluster.home.backend(
            name, f'cat > /dev/null\nseq {count} > made\necho \'{{"type":"end"}}\'\n'
        )
        text = (cluster.home.path / "backends" / f"{name}.yaml").read_text()
        (cluster.folder / "home-north" / "backends" / f"{name}.yaml").write_text(text)
    cluster.worker(
        "bench", env={"CLINVK_HOME": str(cluster.folder / "home-north")}, slots="short=1,long=1"
    )
    where = tmp_path / "where"
    score = f"pwd >> {where}; cat setup; echo $(($(grep -c . made) * $(cat weight)))"
    worktree = {"copy": ["weight"], "setup": "echo 7 > setup"}
    if command == "parallel":
        task = {
            "name": "fix", "prompt": "x", "candidates": ["short", "long"], "score": score,
            "worktree": worktree,
        }  # fmt: skip
        words, stdin = ["parallel", "-f", "-"], json.dumps({"tasks": [task]})
    else:
        words, stdin = ["compare", "-b", "short,long", "--worktree", "--score", score, "x"], ""
        words[5] = score.replace("$(cat weight)", "1")
        words += ["--setup", "echo 7 > setup"]
    done = cluster.run_in(repo, *words, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    decision = found["ranking"] if command == "compare" else found["results"][-1]["decision"]
    assert decision["decided_by"] == "score", decision
    assert [c["score"] for c in decision["candidates"]] == [5, 2], decision
    used = [Path(line) for line in where.read_text().split()]
    assert len(set(used)) == 2
    assert all(path.is_relative_to(cluster.home.path / "worktrees") for path in used)
    assert not any(path.parent.exists() for path in used)
    assert "score" not in git(repo, "worktree", "list")
    assert "score" not in git(repo, "for-each-ref")


def test_a_run_that_goes_on_here_and_is_killed_again_is_not_taken_for_one_of_the_workers(
    cluster: GitCluster, repo: Path, tmp_path: Path
):
    cluster.node("north")
    log, go = tmp_path / "log", tmp_path / "go"

    def held(name: str) -> str:
        return f"echo {name} >> {log}; until test -e {go}-{name}; do sleep 0.05; done; "

    steps = [
        {"prompt": "echo 1 >> a"}, {"prompt": held("second") + "echo 2 >> a"},
        {"prompt": held("third") + "cat a"},
    ]  # fmt: skip
    file = tmp_path / "steps.json"
    file.write_text(json.dumps({"steps": steps}))

    def begin(*args: str, until: str) -> None:
        """Begin to drive the run, and kill that once the program has said so."""
        driver = cluster.start(*args, "-q", cwd=repo, stdin=subprocess.DEVNULL)
        wait_for(lambda: log.exists() and log.read_text() == until, until, SECONDS)
        kill(driver)

    def resume(*args: str) -> dict[str, Any]:
        done = cluster.clinvk("runs", "resume", "--json", *args, cwd=repo, timeout=SECONDS)
        assert done.stdout, done
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def states(run: dict[str, Any]) -> list[str]:
        return [result["state"] for result in run["results"]]

    here = ["--cluster", "none", "--rerun-indeterminate"]
    begin("chain", str(file), "--cluster", cluster.url, until="second\n")
    cluster.workers[0].kill()
    begin("runs", "resume", *here, until="second\n" * 2)
    cluster.node("south")
    # No worker was ever asked to run the second attempt, and yet it was started.
    assert states(resume()) == ["done", "indeterminate", "skipped"]
    Path(f"{go}-second").touch()
    begin("runs", "resume", *here, until="second\n" * 3 + "third\n")
    Path(f"{go}-third").touch()
    assert states(resume()) == ["done", "done", "indeterminate"]
    assert log.read_text() == "second\n" * 3 + "third\n"
    last = resume("--rerun-indeterminate")
    assert states(last) == ["done", "done", "done"]
    assert last["results"][2]["output"].split() == ["one", "1", "2"]
    assert last["results"][2]["node"] == "south"


def test_a_task_in_an_empty_directory_needs_neither_git_nor_a_shared_directory(
    cluster: GitCluster, tmp_path: Path
):
    cluster.home.config("default_backend: shell\n")
    home = cluster.node("north")
    plain = tmp_path / "plain"
    plain.mkdir()
    step = {"prompt": "pwd; ls -a | wc -l; touch made"}
    plan = {"tasks": [step, step], "defaults": {"workdir": "none"}}
    done = cluster.run_in(plain, "parallel", "-f", "-", "--json", stdin=json.dumps(plan))
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [r["output"].split()[1] for r in results] == ["2", "2"]
    places = {Path(r["output"].split()[0]) for r in results}
    assert {place.parent for place in places} == {home / "empty"}
    assert len(places) == 2
    assert not any(place.exists() for place in places)
    detached = cluster.run_in(
        plain, "parallel", "-f", "-", "--detach", "-w", "none", stdin='{"tasks": ["x"]}'
    )
    assert detached.returncode == 0, detached.stderr
    refused = cluster.run_in(plain, "parallel", "-f", "-", stdin=json.dumps({"tasks": [step]}))
    assert refused.returncode == 3
    assert "workdir: none" in refused.stderr


def test_deleting_a_run_deletes_what_it_has_in_the_remote(cluster: GitCluster, repo: Path):
    def refs() -> list[str]:
        return git(cluster.remote, "for-each-ref", "--format=%(refname)").split()

    cluster.node("north")
    ids = []
    for _ in range(3):
        done = cluster.run_in(
            repo, "parallel", "--json", stdin=tasks("echo 1 > a", "echo 2 > b", worktree=None)
        )
        ids.append(json.loads(done.stdout)["id"])
    assert len(refs()) == 9
    dropped = cluster.clinvk("runs", "drop", ids[0], "t1", "--yes", cwd=repo)
    assert dropped.returncode == 0, dropped.stderr
    assert f"refs/clinvk/{ids[0]}/t1/1" not in refs()
    assert len(refs()) == 8
    kept = cluster.clinvk("runs", "delete", ids[0], "--yes", cwd=repo)
    assert "neither applied nor dropped: t2" in " ".join(kept.stderr.split())
    assert len(refs()) == 8, "a run that is kept has its results"
    cluster.clinvk("runs", "drop", ids[0], "--yes", cwd=repo)
    deleted = cluster.clinvk("runs", "delete", ids[0], "--yes", cwd=repo)
    assert deleted.returncode == 0, deleted.stderr
    assert not any(ids[0] in ref for ref in refs())
    cluster.clinvk("runs", "drop", ids[1], "--yes", cwd=repo)
    away = cluster.remote.rename(cluster.remote.with_name("away"))
    deleted = cluster.clinvk("runs", "delete", ids[1], "--yes", cwd=repo)
    assert deleted.returncode == 0, deleted.stderr
    assert f"the results of run {ids[1]} are still in file://" in " ".join(deleted.stderr.split())
    away.rename(cluster.remote)
    cleaned = cluster.clinvk.json("runs", "clean", "--cluster", cluster.url, "--json", cwd=repo)
    assert cleaned["unrecorded"] == [ids[1]]
    assert {ref.split("/")[2] for ref in refs()} == {ids[2]}


# What git runs as ssh: without the file it reaches the remote, and with it the remote says nothing.
SSH = """#!/bin/sh
if [ -e {silent} ]; then echo $$ >>{pids}; exec sleep 600; fi
while [ $# -gt 1 ]; do shift; done
exec sh -c "$1"
"""


class Silence:
    """A git remote that accepts connections and says nothing, as long as there is a file."""

    def __init__(self, folder: Path, name: str) -> None:
        self.file, self.pids, script = (
            folder / f"{name}.{end}" for end in ("silent", "pids", "ssh")
        )
        write_program(script, SSH.format(silent=self.file, pids=self.pids))
        self.env = {"GIT_SSH_COMMAND": str(script), "GIT_SSH_VARIANT": "ssh"}

    def begin(self) -> None:
        self.file.touch()

    def end(self) -> None:
        self.file.unlink()

    def is_met(self) -> bool:
        return self.pids.exists() and self.pids.read_text() != ""

    def alive(self) -> list[int]:
        return [pid for pid in map(int, self.pids.read_text().split()) if is_alive(pid)]


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_does_not_wait_for_a_silent_remote_and_nothing_is_lost(
    cluster: GitCluster, repo: Path, tmp_path: Path, signals: int
):
    silence = Silence(tmp_path, "here")
    cluster.configure_git(f"ssh://git@silent.invalid{cluster.remote}")
    cluster.env = Silence(tmp_path, "there").env  # which never is
    cluster.node("w1")
    cluster.env = silence.env
    begun = [tmp_path / name for name in ("one", "two", "go")]
    script = [
        f"echo one > c; touch {begun[0]}; while [ ! -e {begun[2]} ]; do sleep 0.05; done",
        f"[ -e d ] && cat d && exit; echo two > d; touch {begun[1]}; exec sleep 600",
    ]
    (repo / "tasks.json").write_text(json.dumps({"tasks": script}))
    run = cluster.start(
        "parallel", "tasks.json", "--cluster", cluster.url, cwd=repo, env=silence.env
    )
    wait_for(lambda: begun[0].exists() and begun[1].exists(), "the start of both", SECONDS)
    known = RunStore(cluster.home.path).find("last")
    wait_for(lambda: all(list(known.events(i)) for i in (0, 1)), "that the run knows it", SECONDS)
    silence.begin()
    begun[2].touch()
    wait_for(silence.is_met, "the fetch of the first result", SECONDS)
    run.send_signal(signal.SIGINT)
    if signals == 2:
        wait_for(lambda: silence.alive() or run.poll() is not None, "more of it", SECONDS)
        run.send_signal(signal.SIGINT)
    code, out, err = ends(run, SECONDS)
    assert code == 7, (out, err)
    id_ = known.id
    assert (
        f"were not fetched, since the run was cancelled; they are safe in ssh://git@silent.invalid{cluster.remote}, and fetched by: clinvk runs diff {id_}"
        in err
    )
    wait_for(lambda: not silence.alive(), "the end of all git processes", SECONDS)
    silence.end()
    states = [
        task["state"] for task in cluster.clinvk.json("runs", "show", id_, "--json")["results"]
    ]
    assert states == ["done", "cancelled"]
    shown = cluster.clinvk("runs", "diff", id_, cwd=repo, env=silence.env)
    assert "+one" in shown.stdout, shown
    if "were not delivered" not in err:  # a worker that is busy has only two seconds for that
        assert "+two" in shown.stdout, shown
    done = cluster.run_in(repo, "runs", "resume", id_, "--rerun-indeterminate", "--json")
    found = json.loads(done.stdout)["results"]
    assert [task["state"] for task in found] == ["done", "done"], done
    assert found[1]["output"] == "two", "it continues with what it had"


def test_a_run_is_resumed_with_the_results_that_were_not_fetched(
    cluster: GitCluster, repo: Path, tmp_path: Path
):
    silence = Silence(tmp_path, "here")
    cluster.configure_git(f"ssh://git@silent.invalid{cluster.remote}")
    cluster.env = Silence(tmp_path, "there").env
    cluster.node("w1")
    cluster.env = silence.env
    go = tmp_path / "go"
    steps = [
        f"echo one > c; touch {go}.1; while [ ! -e {go} ]; do sleep 0.05; done",
        "cat c; echo two >> c",
        "cat c",
    ]
    (repo / "chain.json").write_text(json.dumps({"steps": steps}))
    run = cluster.start("chain", "chain.json", "--cluster", cluster.url, cwd=repo, env=silence.env)
    wait_for(Path(f"{go}.1").exists, "its start", SECONDS)
    silence.begin()
    go.touch()
    wait_for(silence.is_met, "the fetch of the first result", SECONDS)
    run.send_signal(signal.SIGINT)
    assert ends(run, SECONDS)[0] == 7
    refused = cluster.start("runs", "resume", cwd=repo, env=silence.env)
    wait_for(silence.alive, "another try", SECONDS)
    refused.send_signal(signal.SIGINT)
    ends(refused, SECONDS)
    wait_for(lambda: not silence.alive(), "its end", SECONDS)
    silence.end()
    done = cluster.run_in(repo, "runs", "resume", "--json")
    found = json.loads(done.stdout)["results"]
    assert [step["state"] for step in found] == ["done"] * 3, done
    assert [step["output"] for step in found[1:]] == ["one", "one two"]


def test_a_cancelled_task_does_not_wait_for_a_remote_that_is_silent_for_its_worker(
    cluster: GitCluster, repo: Path, tmp_path: Path
):
    silence = Silence(tmp_path, "there")
    cluster.configure_git(f"ssh://git@silent.invalid{cluster.remote}")
    cluster.env = silence.env
    home = cluster.node("w1")
    cluster.env = Silence(tmp_path, "here").env
    begun = tmp_path / "begun"
    (repo / "tasks.json").write_text(
        json.dumps({"tasks": [f"echo two > d; touch {begun}; exec sleep 600"]})
    )
    run = cluster.start(
        "parallel", "tasks.json", "--cluster", cluster.url, cwd=repo, env=cluster.env
    )
    wait_for(begun.exists, "its start", SECONDS)
    silence.begin()
    run.send_signal(signal.SIGINT)
    code, out, err = ends(run, SECONDS)
    assert code == 7, (out, err)
    wait_for(lambda: not silence.alive(), "the end of all git processes", SECONDS)
    said = re.search(
        r"were not delivered: the git remote did not answer.* the commit (\w+) in (\S+)",
        " ".join(err.split()),
    )
    assert said, err
    assert Path(said[2]).is_relative_to(home)
    assert git(Path(said[2]), "show", f"{said[1]}:d") == "two"
