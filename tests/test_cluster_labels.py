"""Tasks that need workers with certain labels."""

import json
from typing import Any

import anyio
import pytest

import clinvk
from clinvk import __version__
from clinvk.cluster import app as apps
from clinvk.cluster import payload
from clinvk.cluster.address import parse
from clinvk.cluster.keys import AttemptId, queue_of, queues_of
from clinvk.errors import UsageError
from clinvk.model.request import Request
from clinvk.plans.labels import MAX_LABELS
from clinvk.runs.folder import RunStore
from tests.clusters import SECONDS, Cluster, cluster
from tests.conftest import wait_for
from tests.desk import Desk, desk, ends, kill

__all__ = ["cluster", "desk"]


def nodes(data: Any) -> list[str | None]:
    return [task.get("node") for task in data["results"]]


def test_a_node_takes_the_tasks_that_need_some_of_its_labels_and_no_other():
    mine = queues_of("fake", "w1", ("gpu", "big"))
    for labels in ((), ("big",), ("gpu",), ("big", "gpu"), ("gpu", "big")):
        assert queue_of("fake", labels=labels) in mine
    assert queue_of("fake", "w1") in mine
    assert len(mine) == 5
    for labels in (("eu",), ("big", "eu")):
        assert queue_of("fake", labels=labels) not in mine
    assert queue_of("fake", labels=("gpu",)) not in queues_of("fake", "w2", ())


def test_tasks_run_on_workers_that_have_all_of_their_labels(cluster: Cluster):
    cluster.worker("plain", slots="fake=4,other=4")
    cluster.worker("gpu", "--label", "gpu", slots="fake=1,other=1")
    cluster.worker("both", "--label", "gpu", "--label", "zone=eu", slots="fake=1,other=1")
    tasks = [
        {"prompt": "a", "labels": "gpu"}, {"prompt": "b", "labels": ["zone=eu", "gpu"]},
        {"prompt": "bad c", "labels": ["zone=eu"], "retries": 1}, "d", {"prompt": "e", "labels": []},
    ]  # fmt: skip
    path = cluster.file({"tasks": tasks, "defaults": {"labels": ["zone=eu"]}})
    data = json.loads(cluster.go("parallel", path, "--json").stdout)
    where = nodes(data)
    assert where[0] in ("gpu", "both")
    assert where[1:4] == ["both"] * 3
    assert where[4] in ("plain", "gpu", "both")
    # As flags, of the answers and of the judge; of a chain; from Python.
    data = json.loads(
        cluster.go("compare", "x", "-b", "fake,other", "--judge", "fake", "--label", "zone=eu", "--json").stdout
    )  # fmt: skip
    assert nodes(data) == ["both"] * 4
    steps = cluster.file({"steps": ["x", {"prompt": "y", "labels": "gpu"}]}, "s.yaml")
    data = json.loads(cluster.go("chain", steps, "--label", "zone=eu", "--json").stdout)
    assert nodes(data)[0] == "both"
    assert nodes(data)[1] in ("gpu", "both")


async def test_python_asks_for_labels(cluster: Cluster, anyio_backend: str):
    cluster.worker("plain", slots="fake=2,other=2")
    cluster.worker("big", "--label", "big", slots="fake=2,other=2")
    given: Any = {"cluster": cluster.url, "dispatcher": cluster.dispatcher(), "labels": ["big"]}
    work = cluster.home.work
    with anyio.fail_after(SECONDS * 2):
        tasks = await clinvk.aparallel(["a", "b", "c"], workdir=work, **given)
        both = await clinvk.acompare("e", ["fake", "other"], cwd=work, **given)
        chain = await clinvk.achain(["a", "b"], workdir=work, **given)
    for result in (tasks, both.result, chain):
        assert {task.node for task in result.results} == {"big"}


def test_a_task_waits_for_a_worker_with_its_label_and_says_so(cluster: Cluster):
    cluster.worker("plain")
    path = cluster.file({"tasks": [{"prompt": "a", "labels": ["gpu", "big"]}, "b"]})
    run = cluster.start("parallel", path, "-q", "--cluster", cluster.url)
    cluster.wait_for("b")

    def why() -> list[str | None]:
        shown = cluster.clinvk("runs", "show", "--json", timeout=SECONDS)
        return [task.get("why_waiting") for task in json.loads(shown.stdout)["results"]]

    reason = "no worker with fake has the labels gpu and big"
    wait_for(lambda: why() == [reason, None], "the reason", SECONDS)
    assert cluster.starts() == ["b"]
    # The process that submitted it is killed: another one goes on, with the same labels.
    kill(run)
    rest = cluster.start("runs", "resume", "last", "-q", "--cluster", cluster.url)
    wait_for(lambda: why() == [reason, None], "the reason", SECONDS)
    cluster.worker("able", "--label", "big", "--label", "gpu")
    code, out, err = ends(rest, SECONDS)
    assert code == 0, (out, err)
    assert cluster.starts() == ["b", "a"]
    shown = json.loads(cluster.clinvk("runs", "show", "--json", timeout=SECONDS).stdout)
    assert nodes(shown) == ["able", "plain"]


def test_a_detached_run_keeps_its_labels_and_a_repetition_too(cluster: Cluster):
    cluster.worker("plain", drive=1)
    cluster.worker("gpu", "--label", "gpu")
    path = cluster.file({"tasks": [{"prompt": "bad a", "labels": ["gpu"]}, "b"]})
    id_ = cluster.go("parallel", path, "--detach").stdout.strip()

    def shown() -> Any:
        return json.loads(cluster.go("runs", "show", id_, "--json").stdout)

    data = wait_for(lambda: (d := shown())["state"] == "failed" and d, "its end", SECONDS)
    assert nodes(data)[0] == "gpu"
    cluster.repair()
    again = json.loads(cluster.go("runs", "retry", id_, "--json").stdout)
    assert again["state"] == "done"
    assert nodes(again)[0] == "gpu"


def test_a_worker_refuses_what_it_has_no_label_for(cluster: Cluster):
    """Everyone who reaches the server can write to its queue."""
    worker = cluster.worker("plain")
    ledger, app = cluster.ledger(), apps.create_app(parse(cluster.url))
    attempt = AttemptId("forged", 0, 1)
    about: Any = {"backend": "fake", "cwd": cluster.home.work, "options": {}, "env": {}}
    request = Request(prompt="a", labels=("gpu",), new=True, **about)
    ledger.submit(attempt, payload.request_to_json(request), payload.PROTOCOL, __version__)
    apps.send(app, attempt, queue_of("fake", "plain"))
    said = "refused: it does not have the label gpu"
    wait_for(lambda: said in worker.said, "a refusal", SECONDS)
    assert cluster.starts() == []
    app.close()


def test_a_session_moves_to_a_worker_with_the_label_of_the_next_step(cluster: Cluster):
    cluster.worker("eu", "--label", "eu")
    cluster.worker("gpu", "--label", "gpu")
    steps = [{"prompt": "x", "labels": "eu"}, {"prompt": "y", "labels": "gpu"}, "z"]
    path = cluster.file({"steps": steps, "pass_session": True})
    done = cluster.go("chain", path, "--json")
    assert nodes(json.loads(done.stdout))[:2] == ["eu", "gpu"], done
    assert "not on eu: it does not have the label gpu" in done.stderr


# Without a cluster.


def test_labels_without_a_cluster_are_refused_before_anything_runs(desk: Desk):
    path = desk.file({"tasks": ["a", {"name": "train", "prompt": "b", "labels": ["gpu"]}]})
    done = desk.clinvk("parallel", path)
    assert done.returncode == 1
    assert "tasks[1] 'train': it needs a worker with the label gpu" in done.stderr
    assert "--cluster none" in done.stderr
    assert desk.starts() == []
    assert not (desk.home.path / "runs").exists()
    for args in (
        ["chain", desk.file({"steps": ["a"]}, "s.yaml")],
        ["compare", "x", "-b", "fake,other"],
    ):
        done = desk.clinvk(*args, "--label", "gpu")
        assert done.returncode == 1
        assert "it needs a worker with the label gpu" in done.stderr
    with pytest.raises(UsageError, match="this run is not on a cluster"):
        desk.run(["a"], labels=["gpu"])
    assert desk.starts() == []


def test_labels_are_ignored_on_this_machine_if_that_was_chosen(desk: Desk):
    path = desk.file({"tasks": [{"prompt": "bad a", "labels": ["gpu"]}]})
    done = desk.clinvk("parallel", path, "--cluster", "none")
    assert done.returncode == 1
    assert "labels are ignored, since the tasks run on this machine" in done.stderr
    plan = RunStore(desk.home.path).find("last").plan()
    assert plan.tasks[0].labels == ("gpu",)
    desk.repair()
    again = desk.clinvk("runs", "retry", "last", "-q")
    assert again.returncode == 0, again.stderr
    assert desk.starts() == ["bad a", "bad a"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["g pu"], "invalid label 'g pu'"),
        ("gpu,big", "invalid label 'gpu,big'"),
        ([""], "invalid label ''"),
        ([f"l{i}" for i in range(MAX_LABELS + 1)], f"{MAX_LABELS + 1} labels are too many"),
        ([7], "expected"),
    ],
)
def test_labels_that_cannot_be_are_refused(desk: Desk, labels: Any, said: str):
    done = desk.clinvk("parallel", desk.file({"tasks": [{"prompt": "a", "labels": labels}]}))
    assert done.returncode == 3
    assert "tasks[0].labels" in done.stderr
    assert said in done.stderr
    if isinstance(labels, list) and said != "expected":
        flags = [word for label in labels for word in ("--label", str(label))]
        done = desk.clinvk("worker", "--cluster", "redis://localhost:1/0", "-b", "fake", *flags)
        assert done.returncode == 1
        assert f"--label: {said}" in done.stderr


def test_a_dry_run_shows_labels(desk: Desk):
    path = desk.file({"tasks": [{"prompt": "a", "labels": ["gpu", "big", "gpu"]}]})
    data = desk.clinvk.json("parallel", path, "--dry-run", "--json")
    assert data["tasks"][0]["labels"] == ["gpu", "big"]
    assert "labels=gpu,big" in desk.clinvk("parallel", path, "--dry-run").stdout


def test_a_shell_completes_the_labels_of_workers(cluster: Cluster):
    cluster.worker("w1", "--label", "gpu", "--label", "big")
    env = {
        "_CLINVK_COMPLETE": "complete_bash", "COMP_WORDS": "clinvk parallel --label g", "COMP_CWORD": "3",
        "CLINVK_CLUSTER_URL": cluster.url,
    }  # fmt: skip
    wait_for(lambda: cluster.clinvk(env=env).stdout.split() == ["gpu"], "the label", SECONDS)
