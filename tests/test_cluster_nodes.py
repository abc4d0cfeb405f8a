"""The nodes of a cluster, `clinvk workers`, and why a task waits."""

import json
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import clinvk
from clinvk.cluster import nodes as records
from clinvk.cluster.address import connect
from clinvk.cluster.keys import AttemptId, Keys
from clinvk.cluster.ledger.ledger import Ledger, Owner
from clinvk.cluster.nodes import Cli, Need, Node, Nodes, NodeState, Running, why_waiting
from clinvk.cluster.waiting import reasons
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Plan, Rules, Task
from clinvk.model.result import Failure
from tests.clusters import SECONDS, Cluster, cluster
from tests.conftest import wait_for
from tests.stores import keep
from tests.tmux import Tmux

__all__ = ["cluster"]

KEYS = Keys.of()


@pytest.fixture
def nodes(redis_url: str) -> Nodes:
    return Nodes(keep(connect(redis_url)), KEYS)


def north(**more: Any) -> Node:
    return Node(**{"name": "north", "slots": {"claude": 2}, **more})


def test_a_node_is_read_as_it_was_written(nodes: Nodes):
    facts = north(labels=("gpu",), clis={"claude": Cli("2.1", "yes")}, version="1", host="h", pid=7)
    nodes.write(facts)
    nodes.write(Node(name="east", slots={"codex": 1}))
    east, found = nodes.read()
    assert (east.name, found.node, found.state, found.running) == ("east", facts, "live", ())
    nodes.remove("east")
    assert [state.name for state in nodes.read()] == ["north"]


def test_what_runs_is_what_the_ledger_knows_as_running(nodes: Nodes):
    nodes.write(north())
    ledger = Ledger(nodes.client, KEYS)
    first, second = AttemptId("r1.x", 0, 1), AttemptId("r1.x", 3, 2)
    for attempt in (first, second):
        ledger.submit(attempt, b"{}", 1, "1")
        ledger.claim(Owner(attempt, "token", "north", "claude"), 1)
    assert [state.running for state in nodes.read_facts()] == [()]
    (state,) = nodes.read()
    assert [(r.run, r.task, r.attempt) for r in state.running] == [("r1.x", 0, 1), ("r1.x", 3, 2)]
    assert state.used("claude") == 2
    nodes.client.hset(KEYS.attempt(first), "state", "lost")  # its worker was killed
    ledger.finish(Owner(second, "token", "north"), b"", None)
    (state,) = nodes.read()
    assert state.running == ()
    nodes.forget("north", first)
    assert not nodes.client.exists(KEYS.busy("north"))


def test_a_silent_node_is_gone_by_the_clock_of_the_server(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
):
    nodes.write(north())
    monkeypatch.setattr(records, "SILENT_AFTER", -1.0)
    (state,) = nodes.read()
    assert (state.state, state.takes_tasks) == ("gone", False)


def test_what_another_program_has_written_is_passed_over(nodes: Nodes):
    nodes.write(north())
    nodes.write(Node(name="odd", slots={}))
    nodes.client.set(KEYS.node("odd"), b"\xff")
    nodes.client.hset(KEYS.busy("north"), "x", b"?")
    nodes.client.hset(KEYS.busy("north"), "r.1.1", b"?")
    nodes.client.hset(KEYS.attempt(AttemptId("r", 1, 1)), "state", "running")
    assert [(state.name, state.running) for state in nodes.read()] == [("north", ())]


@pytest.mark.anyio
async def test_python_lists_the_workers(nodes: Nodes, redis_url: str):
    nodes.write(north())
    (found,) = await clinvk.alist_workers(redis_url)
    assert (found.name, found.state) == ("north", "live")
    with pytest.raises(clinvk.ConfigError, match="has no password"):
        await clinvk.alist_workers("redis://10.0.0.7")


def test_python_lists_the_workers_without_an_event_loop(nodes: Nodes, redis_url: str):
    nodes.write(north())
    assert [state.name for state in clinvk.list_workers(redis_url)] == ["north"]


# Why a task waits


def state(
    name: str = "north",
    slots: dict[str, int] | None = None,
    used: int = 0,
    silent: float = 0.0,
    **more: Any,
) -> NodeState:
    slots = slots or {"claude": 2}
    running = tuple(
        Running(run="r", task=n, attempt=1, backend=next(iter(slots)), seconds=1.0)
        for n in range(used)
    )
    return NodeState(node=Node(name=name, slots=slots, **more), silent=silent, running=running)


CLAUDE = Need(backend="claude")
LATER = datetime.now(UTC) + timedelta(hours=1)


@pytest.mark.parametrize(
    ("need", "there", "reason", "for_good"),
    [
        (CLAUDE, [], "no worker is connected", True),
        (CLAUDE, [state(silent=60.0)], "no worker is connected", True),
        (Need(backend="codex"), [state()], "no worker runs codex", True),
        (Need(backend="claude", labels=("gpu",)), [state(labels=("cpu",))],
         "no worker with claude has the label gpu", True),
        (Need(backend="claude", node="south"), [state(), state("south", used=2)],
         "all 2 slots for claude are taken", False),
        (Need(backend="claude", refused={"north": "$TOKEN is not set there"}), [state()],
         "no worker can run it: north: $TOKEN is not set there", True),
        (CLAUDE, [state(draining=True)], "all workers with claude are being shut down", True),
        (CLAUDE, [state(used=2)], "all 2 slots for claude are taken", False),
        (CLAUDE, [state(slots={"claude": 1}, used=1)], "the only slot for claude is taken", False),
        (CLAUDE, [state(used=2), state("gone", silent=99.0), state("south", used=2)],
         "all 4 slots for claude are taken", False),
    ],
)  # fmt: skip
def test_the_reason_is_named(need: Need, there: list[NodeState], reason: str, for_good: bool):
    waiting = why_waiting(need, there)
    assert waiting is not None
    assert (waiting.reason, waiting.for_good) == (reason, for_good)


def test_a_rate_limit_is_named_with_its_end():
    waiting = why_waiting(CLAUDE, [state()], {"claude": LATER})
    assert waiting is not None
    assert waiting.reason == f"claude is at its rate limit until {LATER.astimezone():%H:%M}"
    assert not waiting.for_good
    past = datetime.now(UTC) - timedelta(seconds=1)
    assert why_waiting(CLAUDE, [state()], {"claude": past, "codex": LATER}) is None


@pytest.mark.parametrize(
    ("need", "there"),
    [
        (CLAUDE, [state(used=1)]),
        (CLAUDE, [state(used=2), state("south")]),
        (Need(backend="claude", node="gone"), [state(), state("gone", silent=99.0)]),
        (Need(backend="claude", labels=("gpu",)), [state(labels=("gpu", "big"))]),
        (Need(backend="claude", node="north"), [state(), state("south", used=2)]),
        (Need(backend="claude", refused={"south": "no"}), [state(), state("south")]),
        (CLAUDE, [state(draining=True), state("south")]),
    ],
)
def test_a_task_that_can_begin_has_no_reason_to_wait(need: Need, there: list[NodeState]):
    assert why_waiting(need, there) is None


# The command


def test_each_waiting_task_of_a_run_has_its_reason():
    tasks = [
        Task(name="runs", prompt="?"), Task(name="sent", prompt="?"), Task(name="last", prompt="?", needs=(0, 1)),
        Task(name="limited", prompt="?"), Task(name="same", prompt="?"), Task(name="home", prompt="?"),
        Task(name="more", prompt="?"), Task(name="done", prompt="?"),
    ]  # fmt: skip
    plan = Plan(kind="parallel", tasks=tuple(tasks), rules=Rules(max_parallel=3))
    at_limit = Failure("limit", "too many", retry_at=LATER)
    facts: list[dict[str, Any]] = [
        {"state": "running", "node": "north"}, {"state": "queued", "is_sent": True}, {},
        {"backend": "codex", "error": at_limit}, {"backend": "codex"},
        {"state": "running", "session_id": "s1"}, {}, {"state": "done"},
    ]  # fmt: skip
    outcomes = [
        Outcome(index=i, name=tasks[i].name, **{"backend": "claude", **more}) for i, more in enumerate(facts)
    ]  # fmt: skip
    codex = state("east", slots={"codex": 1})
    found = reasons(plan, outcomes, [state(used=2), codex], {"s1": "south"})
    assert found.pop(4).startswith("codex is at its rate limit until ")
    assert found == {
        1: "all 2 slots for claude are taken", 2: "needs runs, sent",
        5: "all 2 slots for claude are taken", 6: "the run has 3 tasks at a time",
    }  # fmt: skip
    assert reasons(plan, outcomes, [state(), codex], {"s1": "north"}).keys() == {2, 4, 6}


def test_workers_are_listed_with_what_they_run(cluster: Cluster):
    words = ("workers", "--cluster", cluster.url)
    none = cluster.clinvk(*words)
    assert none.returncode == 1
    assert "no workers in the cluster 'default'" in none.stderr
    assert "clinvk worker --cluster URL" in none.stderr
    known = cluster.clinvk("workers", env={"CLINVK_CLUSTER_URL": cluster.url})
    assert known.stderr.rstrip().endswith("clinvk worker")
    cluster.worker("north", "--label", "gpu", slots="fake=2,other=1")
    worker = cluster.worker("south")

    def listed() -> dict[str, Any]:
        done = cluster.clinvk(*words, "--json")
        return {w["name"]: w for w in json.loads(done.stdout)["workers"]}

    # The versions of CLIs come later than the first heartbeat.
    wait_for(lambda: _has_versions(listed()), "the CLIs of both", SECONDS)
    found = listed()
    assert found["north"]["labels"] == ["gpu"]
    assert found["north"]["backends"]["fake"]["slots"] == 2
    assert {w["state"] for w in found.values()} == {"live"}
    run = cluster.start("parallel", cluster.file({"tasks": ["hold x"]}), "--cluster", cluster.url)
    cluster.wait_for("hold x")
    wait_for(lambda: any(w["running"] for w in listed().values()), "the running task", SECONDS)
    (busy,) = (w for w in listed().values() if w["running"])
    assert busy["backends"]["fake"]["used"] == 1
    (running,) = busy["running"]
    assert (running["task"], running["attempt"], running["backend"]) == (0, 1, "fake")
    table = cluster.clinvk(*words)
    assert table.returncode == 0
    assert "1/2" in table.stdout
    assert f"{running['run']} 1 (" in table.stdout
    cluster.let_go()
    run.communicate(timeout=SECONDS)
    wait_for(lambda: not any(w["running"] for w in listed().values()), "its end", SECONDS)
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0
    assert list(listed()) == ["north"]


def test_labels_are_whole_in_80_columns(cluster: Cluster, tmux: Tmux):
    labels = ["gpu", "zone=eu-central-1", "big-memory", "nvidia=h100"]
    cluster.worker("build-machine-07", *(word for label in labels for word in ("--label", label)))
    cluster.worker("south", slots="fake=1,other=1")
    tmux.start("workers", "--cluster", cluster.url, columns=80)
    tmux.shows("exit 0")
    head, *lines, _ = tmux.screen().splitlines()
    assert head.split()[:5] == ["NODE", "STATE", "BACKEND", "SLOTS", "LABELS"]
    at = head.index("LABELS")
    assert [line[at:].split("  ")[0].strip() for line in lines] == [*labels, "-", ""]
    assert max(map(len, lines)) <= 80
    piped = cluster.clinvk("workers", "--cluster", cluster.url).stdout
    assert ", ".join(labels) in piped


def _has_versions(found: dict[str, Any]) -> bool:
    return len(found) == 2 and all(
        facts["login"] != "unknown" or facts["version"]
        for worker in found.values()
        for facts in worker["backends"].values()
    )
