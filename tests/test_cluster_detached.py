"""Detached runs on real workers: submitted from a shell, driven by a worker, seen from anywhere."""

import json
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

import clinvk
from clinvk.cluster.log.runs import RedisRuns, open_runs
from clinvk.cmd.runs import common
from tests.clusters import SECONDS, Cluster, cluster
from tests.conftest import wait_for
from tests.stores import keep

__all__ = ["cluster"]

QUICK = "--lease=2s"


def runs_of(cluster: Cluster) -> RedisRuns:
    return keep(open_runs(cluster.url, cluster.home.path))


def detach(cluster: Cluster, *tasks: Any, **rules: Any) -> str:
    path = cluster.file({"tasks": list(tasks), **rules})
    return submit(cluster, "parallel", path)


def submit(cluster: Cluster, *args: str) -> str:
    """The id of a run that was detached."""
    done = cluster.go(*args, "--detach")
    assert done.returncode == 0, done
    assert "watch it with: clinvk runs watch" in done.stderr
    return done.stdout.strip()


LOOP = {
    "steps": [
        {"name": "fix", "prompt": "fix it", "check": "echo x >> n; test $(wc -l < n) -ge 2"},
        {"name": "last", "prompt": "{{steps.fix.output}} end"},
    ],
    "repeat": {"steps": ["fix"], "until": "check", "max": 3},
    "defaults": {"backend": "fake"},
}
VOLATILE = ("id", "run", "node", "session_id", "native_id", "seconds")  # and all times


def lasting(data: Any) -> Any:
    """The data without what differs from run to run."""
    if isinstance(data, list):
        return [lasting(one) for one in data]
    if not isinstance(data, dict):
        return data
    return {
        k: lasting(v)
        for k, v in data.items()
        if k not in VOLATILE and not k.endswith(("_at", "_seconds"))
    }


def at_another_desk(cluster: Cluster, tmp_path: Path) -> dict[str, str]:
    """The environment of another machine."""
    other = tmp_path / "other"
    cluster.configure(home=other)
    return {"CLINVK_HOME": str(other)}


def test_a_detached_run_is_driven_by_a_worker_and_seen_from_another_machine(
    cluster: Cluster, tmp_path: Path
):
    elsewhere = at_another_desk(cluster, tmp_path)
    run = detach(cluster, "a", "bad b", {"prompt": "{{tasks.1.output}} c", "needs": "1"})
    listed = json.loads(cluster.go("runs", "list", "--json", **elsewhere).stdout)["runs"]
    assert [(r["id"], r["state"], r["total_tasks"]) for r in listed] == [(run, "queued", 3)]
    quiet = cluster.go("parallel", cluster.file({"tasks": ["d"]}, "d.yaml"), "--detach", "--json")
    other = json.loads(quiet.stdout)
    assert (other["state"], other["total_tasks"]) == ("queued", 1)
    assert cluster.go("runs", "cancel", other["id"], **elsewhere).returncode == 0
    assert cluster.go("runs", "delete", other["id"], "--yes", **elsewhere).returncode == 0
    cluster.worker("w1", drive=2)
    watched = cluster.go("runs", "watch", run, "--json", **elsewhere)
    assert watched.returncode == 1
    tasks = json.loads(watched.stdout)["results"]
    assert [t["state"] for t in tasks] == ["done", "failed", "done"]
    assert [t["output"] for t in tasks] == ["<a>", "", "<<a> c>"]
    shown = cluster.go("runs", "show", "last", "--answers", **elsewhere)
    assert "<<a> c>" in shown.stdout
    assert "state: failed" in shown.stdout
    report = cluster.go("runs", "report", run, "--format", "junit", **elsewhere)
    assert report.stdout.count("<testcase") == 3
    again = cluster.go("runs", "retry", run, "--json", **elsewhere)
    assert [t["attempts"] for t in json.loads(again.stdout)["results"]] == [1, 2, 1]
    cleaned = cluster.go("runs", "clean", "--older-than", "1h", "--json", **elsewhere)
    assert json.loads(cleaned.stdout)["deleted"] == []
    assert cluster.go("runs", "delete", run, "--yes", **elsewhere).returncode == 0
    assert json.loads(cluster.go("runs", "list", "--json", **elsewhere).stdout)["runs"] == []
    assert not (cluster.home.path / "runs").exists()


def test_a_detached_run_says_whether_a_worker_is_there_to_drive_it(cluster: Cluster):
    path = cluster.file({"tasks": ["a"]})
    alone = cluster.go("parallel", path, "--detach")
    assert "no worker is connected, and the run begins once one is" in alone.stderr
    assert f"runs watch {alone.stdout.strip()}" in alone.stderr
    cluster.worker("w1", drive=1)
    assert cluster.go("runs", "watch", alone.stdout.strip()).returncode == 0
    wait_for(lambda: cluster.go("workers").returncode == 0, "that it is listed", SECONDS)
    assert "a worker drives the run" in cluster.go("parallel", path, "--detach").stderr


def test_a_detached_chain_with_a_loop_is_shown_as_a_local_one(cluster: Cluster, tmp_path: Path):
    elsewhere = at_another_desk(cluster, tmp_path)
    cluster.worker("w1", drive=2)
    path = cluster.file(LOOP, "steps.yaml")
    local = cluster.clinvk("chain", path, "--json")
    assert local.returncode == 0, local
    (cluster.home.work / "n").unlink()
    run = submit(cluster, "chain", path)
    watched = cluster.go("runs", "watch", run, "--json", **elsewhere)
    assert watched.returncode == 0, watched
    for args in (["show"], ["watch"], ["show", "last", "fix#2"], ["list"]):
        here, there = (
            json.loads(cluster.clinvk("runs", *args, "--json", *more).stdout)
            for more in ([], ["--cluster", cluster.url])
        )
        assert lasting(there) == lasting(here)
    texts = [
        cluster.clinvk("runs", "report", "--format", "junit", *more).stdout
        for more in ([], ["--cluster", cluster.url])
    ]
    assert [text.count("<testcase") for text in texts] == [4, 4]
    assert cluster.starts()[-3:] == cluster.starts()[:3]


def test_a_detached_comparison_has_the_verdict_of_its_judge(cluster: Cluster, tmp_path: Path):
    elsewhere = at_another_desk(cluster, tmp_path)
    judge = tmp_path / "other" / "backends" / "judge.yaml"
    cluster.home.backend(
        "judge",
        # The same answer both times, since the second time they are in reverse order.
        f"test $1 = run || exit 0\ncat > /dev/null\necho x >> {tmp_path}/calls\n"
        f"best=$(wc -l < {tmp_path}/calls)\n"
        'printf \'{"type":"end","text":"{\\\\"best\\\\": %s, \\\\"why\\\\": \\\\"x\\\\"}"}\\n\' $best\n',
    )
    judge.write_text((cluster.home.path / "backends" / "judge.yaml").read_text())
    cluster.worker("w1", drive=2, slots="fake=1,other=1,judge=1")
    made = cluster.go("compare", "a", "-b", "fake,other", "--judge", "judge", "--detach")
    assert made.returncode == 0, made
    run = made.stdout.strip()
    watched = cluster.go("runs", "watch", run, "--json", **elsewhere)
    assert watched.returncode == 0, watched
    best = json.loads(watched.stdout)["verdict"]["best"]  # of the order that was judged first
    assert best in ("fake", "other")
    shown = cluster.go("runs", "show", run, "--answers", **elsewhere)
    assert best in shown.stdout
    assert "best" in shown.stdout
    assert cluster.go("runs", "report", run, "--format", "html", **elsewhere).returncode == 0


def test_a_run_whose_worker_was_killed_is_continued_by_another_one(cluster: Cluster):
    driving = cluster.worker("driving", QUICK, slots="other", drive=2)
    cluster.worker("running", QUICK)
    run = detach(cluster, "a", "hold b", "c", max_parallel=1)
    cluster.wait_for("hold b")
    driving.kill()
    cluster.worker("next", QUICK, slots="other", drive=2)
    found = runs_of(cluster).find(run)
    begins = lambda: [x for x in found.read_journal() if x["event"] == "begin"]  # noqa: E731
    wait_for(lambda: len(begins()) > 1, "another driver", SECONDS)
    cluster.let_go()
    watched = cluster.go("runs", "watch", run, "--json")
    assert [t["state"] for t in json.loads(watched.stdout)["results"]] == ["done"] * 3
    assert cluster.starts() == ["a", "hold b", "c"]
    assert [t["attempts"] for t in json.loads(watched.stdout)["results"]] == [1, 1, 1]


def test_a_worker_that_is_stopped_leaves_its_runs_to_another_one(cluster: Cluster):
    driving = cluster.worker("driving", QUICK, slots="other", drive=2)
    cluster.worker("running", QUICK)
    run = detach(cluster, "hold a", "b", max_parallel=1)
    cluster.wait_for("hold a")
    driving.signal(signal.SIGTERM)
    assert driving.ends() == 0
    cluster.worker("next", QUICK, slots="other", drive=2)
    cluster.let_go()
    watched = cluster.go("runs", "watch", run, "--json")
    assert [t["state"] for t in json.loads(watched.stdout)["results"]] == ["done"] * 2
    assert cluster.starts() == ["hold a", "b"]


def test_a_detached_run_is_cancelled_from_another_machine(cluster: Cluster, tmp_path: Path):
    elsewhere = at_another_desk(cluster, tmp_path)
    cluster.worker("w1", QUICK, drive=2)
    run = detach(cluster, "a", "hold b", "c", max_parallel=1)
    cluster.wait_for("hold b")
    done = cluster.go("runs", "cancel", run, **elsewhere)
    assert done.returncode == 0, done
    assert "is cancelled" in done.stdout
    shown = json.loads(cluster.go("runs", "show", run, "--json", **elsewhere).stdout)
    assert [t["state"] for t in shown["results"]] == ["done", "cancelled", "cancelled"]
    missing = cluster.go("runs", "show", "nope", **elsewhere)
    assert "see them all: clinvk runs list --cluster URL" in missing.stderr
    missing = cluster.go("runs", "show", run, "nope", **elsewhere)
    assert f"see its tasks: clinvk runs show {run} --cluster URL" in missing.stderr


def test_what_cannot_be_detached_is_refused(cluster: Cluster):
    path = cluster.file({"tasks": ["a"]})
    here = cluster.clinvk("parallel", path, "--detach")
    assert here.returncode == 1
    assert "the address of the cluster is missing" in here.stderr
    none = cluster.clinvk("parallel", path, "--detach", "--cluster", "none")
    assert none.returncode == 1
    assert "this needs a cluster" in none.stderr
    for flags in (["--ephemeral"], ["--output-dir", "out"], ["--junit", "x.xml"], ["--report", "x.md"]):  # fmt: skip
        done = cluster.go("parallel", path, "--detach", *flags)
        assert done.returncode == 1
        assert "leave out" in done.stderr
        assert ("--cluster URL" in done.stderr) == ("clinvk runs" in done.stderr)
    for flags in (["--checkpoint", "c"], ["--resume", "c"]):
        done = cluster.go("chain", path, "--detach", *flags)
        assert f"{flags[0]} is not possible with --detach" in done.stderr
        assert "clinvk runs resume ID --cluster URL" in done.stderr
    for flags in (
        ["--html", "x.html"],
        ["--worktree", "--apply"],
        ["--worktree", "--score", "true"],
    ):
        done = cluster.go("compare", "a", "-b", "fake,other", "--detach", *flags)
        assert "is not possible with --detach" in done.stderr
    assert runs_of(cluster).ids() == []


def test_a_cluster_in_the_configuration_adds_its_runs_to_those_of_this_machine(cluster: Cluster):
    cluster.configure("parallel: {max_workers: 2}\n")
    here = cluster.made("a")
    there = detach(cluster, "b")
    url = {"CLINVK_CLUSTER_URL": cluster.url}

    def listed(*args: str, **env: str) -> list[str]:
        return [
            r["id"] for r in cluster.clinvk.json("runs", "list", "--json", *args, env=env)["runs"]
        ]

    assert listed(**url) == [there, here]
    assert listed("--cluster", "none", **url) == [here]
    assert listed("--cluster", cluster.url) == [there]
    assert cluster.go("runs", "show", here).returncode == 0
    cluster.server.kill()
    done = cluster.clinvk("runs", "list", "--json", env=url)
    assert [r["id"] for r in json.loads(done.stdout)["runs"]] == [here]
    assert "only runs of this machine" in done.stderr
    for command in ("show", "watch", "cancel", "resume", "report", "diff"):
        done = cluster.clinvk("runs", command, there, env=url)
        assert done.returncode == 4, done
        assert f"no run '{there}' on this machine, and the cluster cannot be asked: " in done.stderr
        assert "connect" in done.stderr
    assert cluster.clinvk("runs", "show", here, env=url).stderr == ""
    assert "only runs of this machine" in cluster.clinvk("runs", "show", env=url).stderr
    assert cluster.clinvk("runs", "list", "--cluster", cluster.url).returncode == 4


def test_a_shell_completes_the_ids_of_detached_runs(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    run = detach(cluster, "a")
    monkeypatch.setenv("CLINVK_HOME", str(cluster.home.path))
    monkeypatch.setattr(common, "COMPLETION_TIMEOUT", float(SECONDS))

    def offered(beginning: str, url: str | None) -> list[str]:
        context: Any = SimpleNamespace(params={"cluster": url})
        return common.complete_runs(context, beginning)

    assert offered("r", cluster.url) == [run]
    assert offered("", None) == ["last"]
    monkeypatch.setenv("CLINVK_CLUSTER_URL", cluster.url)
    assert offered("", None) == ["last", run]
    assert offered("", "none") == ["last"]
    assert offered("", "nonsense") == ["last"]
    monkeypatch.setattr(common, "COMPLETION_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and says nothing
        assert offered("", f"redis://127.0.0.1:{silent.getsockname()[1]}") == ["last"]


def test_a_run_that_no_worker_can_drive_says_why(cluster: Cluster, tmp_path: Path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text(f"cluster: {{shared: [{cluster.home.work}]}}\n")
    cluster.worker("w1", env={"CLINVK_HOME": str(bare)}, slots="echo=1", drive=2)
    run = detach(cluster, "a")  # of a backend that this worker does not know
    told = lambda: json.loads(cluster.go("runs", "show", run, "--json").stdout)["why"]  # noqa: E731
    why = wait_for(told, "the reason", SECONDS)
    assert "w1 cannot drive it: " in why
    assert "fake" in why
    cluster.worker("w2", drive=2)
    shown = cluster.go("runs", "resume", run, "--json")
    assert json.loads(shown.stdout)["why"] is None


def test_last_is_never_a_run_of_somebody_else(cluster: Cluster, tmp_path: Path):
    elsewhere = at_another_desk(cluster, tmp_path)
    mine = detach(cluster, "a")
    theirs = cluster.go("parallel", str(cluster.home.work / "tasks.yaml"), "--detach", **elsewhere)
    assert theirs.returncode == 0, theirs
    env = {"CLINVK_CLUSTER_URL": cluster.url}

    def last(*args: str, **more: str) -> str:
        shown = cluster.clinvk("runs", "show", "--json", *args, env={**env, **more})
        return str(json.loads(shown.stdout)["id"])

    assert last() == mine
    assert last("--cluster", cluster.url) == theirs.stdout.strip()
    assert last(**elsewhere) == theirs.stdout.strip()
    third = {"CLINVK_HOME": str(tmp_path / "third")}
    done = cluster.clinvk("runs", "resume", env={**env, **third})
    assert done.returncode == 4
    assert "there are no runs of this machine yet" in done.stderr
    assert cluster.starts() == []


def test_a_run_is_resumed_at_the_address_where_it_was_found(cluster: Cluster):
    cluster.worker("w1")
    path = cluster.file({"tasks": ["a"]})
    written = cluster.url.replace("127.0.0.1", ":pw@127.0.0.1")
    run = cluster.clinvk("parallel", path, "--detach", "--cluster", written).stdout.strip()
    env = {"CLINVK_CLUSTER_URL": written.replace("127.0.0.1", "localhost")}
    done = cluster.clinvk("runs", "resume", run, "--json", env=env, timeout=SECONDS)
    assert [t["state"] for t in json.loads(done.stdout)["results"]] == ["done"], done
    again = cluster.clinvk("runs", "retry", run, "1", "--json", env=env, timeout=SECONDS)
    assert [t["attempts"] for t in json.loads(again.stdout)["results"]] == [2], again


@pytest.mark.anyio
async def test_a_run_is_submitted_and_followed_from_python(cluster: Cluster):
    await anyio.to_thread.run_sync(lambda: cluster.worker("w1", drive=2))
    dispatcher = cluster.dispatcher()
    run = await clinvk.asubmit_run(
        ["a", "b"], cluster=cluster.url, dispatcher=dispatcher, workdir=cluster.home.work
    )
    changes = [c async for c in clinvk.afollow_run(run, cluster=cluster.url, dispatcher=dispatcher)]
    assert sorted(c.outcome.output for c in changes if c.kind == "ended" and c.outcome) == ["<a>", "<b>"]  # fmt: skip
    result = await clinvk.aresume(run, cluster=cluster.url, dispatcher=dispatcher)
    assert result.state == "done"


@pytest.mark.anyio
async def test_a_chain_and_a_comparison_are_submitted_from_python(cluster: Cluster):
    await anyio.to_thread.run_sync(lambda: cluster.worker("w1", drive=2, slots="fake=1,other=1"))
    about: dict[str, Any] = {"cluster": cluster.url, "dispatcher": cluster.dispatcher()}
    chain = await clinvk.asubmit_chain(["a", "{{previous}} b"], workdir=cluster.home.work, **about)
    both = await clinvk.asubmit_compare("c", ["fake", "other"], cwd=cluster.home.work, **about)
    ended = {}
    for run in (chain, both):
        changes = [c async for c in clinvk.afollow_run(run, **about)]
        ended[run] = sorted(c.outcome.output for c in changes if c.kind == "ended" and c.outcome)
    assert ended == {chain: ["<<a> b>", "<a>"], both: ["<c>", "<c>"]}
    with pytest.raises(clinvk.UsageError, match="score is not possible"):
        await clinvk.asubmit_compare("c", ["fake", "other"], score="true", **about)
