"""Runs whose tasks run on the workers of a cluster: real workers, a real Redis server."""

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

import clinvk
from clinvk.cluster import app as apps
from clinvk.cluster.address import parse
from clinvk.cluster.keys import AttemptId, native_session, queue_of
from clinvk.cluster.payload import PROTOCOL
from clinvk.cmd.drive.cluster import MAX_PARALLEL
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from tests.clusters import SECONDS, Cluster, cluster
from tests.conftest import is_alive, wait_for
from tests.desk import SCRIPT, ends, kill
from tests.stores import keep
from tests.terminals import Terminal, ending
from tests.test_checks import worker as made_up
from tests.tmux import Tmux

__all__ = ["cluster"]

QUICK = "--lease=6s"


def states(done: subprocess.CompletedProcess[str]) -> list[str]:
    try:
        return [task["state"] for task in json.loads(done.stdout)["results"]]
    except ValueError:
        raise AssertionError(f"no JSON: {done}") from None


def comparable(data: Any) -> Any:
    """The JSON of a run without what is different each time."""
    if isinstance(data, dict):
        return {
            k: comparable(v)
            for k, v in data.items()
            if k not in ("id", "session_id", "native_id", "started_at", "ended_at", "node")
            and not k.endswith("seconds")
        }
    return [comparable(v) for v in data] if isinstance(data, list) else data


def test_a_run_on_a_cluster_is_as_one_on_this_machine(cluster: Cluster):
    cluster.worker("w1")
    tasks = cluster.file(
        {"tasks": ["a", {"prompt": "bad b", "retries": 1}, {"prompt": "c", "needs": "1"}]}
    )
    steps = cluster.file(
        {"steps": ["first", {"prompt": "then {{previous}}"}], "pass_session": True}, "s.yaml"
    )
    for args in (
        ["parallel", tasks, "--json"], ["chain", steps, "--json"],
        ["compare", "-b", "fake,other", "x", "--json"], ["parallel", tasks, "-q", "--ephemeral"],
    ):  # fmt: skip
        if "compare" in args:
            cluster.worker("w2", slots="other")
        here, there = cluster.clinvk(*args), cluster.go(*args)
        assert here.returncode == there.returncode, there
        if "--json" in args:
            assert comparable(json.loads(here.stdout)) == comparable(json.loads(there.stdout))
    assert cluster.modes().count("resume native-0") == 0
    assert [m.split()[0] for m in cluster.modes()].count("resume") == 2  # of both chains


def test_the_worker_of_each_task_is_recorded_and_shown(cluster: Cluster):
    cluster.worker("w1")
    path = cluster.file({"tasks": ["hold a", {"prompt": "b", "needs": "1"}, "bad c"]})
    run = cluster.start("parallel", path, "--cluster", cluster.url, "--junit", "r.xml")
    cluster.wait_for("hold a")

    def nodes() -> list[str | None]:
        shown = cluster.clinvk("runs", "show", "--json", timeout=SECONDS)
        return [task.get("node") for task in json.loads(shown.stdout)["results"]]

    wait_for(lambda: nodes() == ["w1", None, "w1"], "the node of a running task", SECONDS)
    cluster.let_go()
    _, out, err = ends(run, SECONDS)
    head, *table = out[out.index("TASK") :].splitlines()[:4]
    assert "NODE" in head, (out, err)
    assert [row.split().count("w1") for row in table] == [1, 1, 1]
    assert nodes() == ["w1", "w1", "w1"]
    assert '<property name="node" value="w1"' in (cluster.home.work / "r.xml").read_text()
    assert "Node" in cluster.clinvk("runs", "show", "last", "1").stdout
    changes = list(clinvk.follow_run("last", dispatcher=cluster.dispatcher()))
    taken = [c.outcome.node for c in changes if c.kind == "node" and c.outcome]
    assert taken == ["w1", "w1", "w1"]
    local = cluster.clinvk("parallel", path).stdout
    assert "TASK" in local
    assert "NODE" not in local


def test_a_task_has_not_started_before_a_worker_has_taken_it(cluster: Cluster):
    cluster.worker("w1", slots="fake=1")
    path = cluster.file({"tasks": ["hold a", "b"]})
    run = cluster.start("parallel", path, "-o", "stream-json", "--cluster", cluster.url)
    cluster.wait_for("hold a")

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = cluster.clinvk.json("runs", "show", "--json")
        return found

    def why() -> bool:  # it was sent
        return "why_waiting" in shown()["results"][1]

    wait_for(why, "the reason", SECONDS)
    first, second = shown()["results"]
    assert [first["state"], first["attempts"]] == ["running", 1]
    assert [second["state"], second["attempts"], second["started_at"]] == ["queued", 0, None]
    (listed,) = cluster.clinvk.json("runs", "list", "--json")["runs"]
    assert listed["counts"] == {"queued": 1, "running": 1}
    watch = cluster.start("runs", "watch", stderr=subprocess.PIPE)
    assert watch.stderr
    assert "1 of 2 tasks to run, 1 running" in watch.stderr.readline()
    assert "1: started on fake (w1)" in watch.stderr.readline()
    released = datetime.now(UTC)
    cluster.let_go()
    code, out, err = ends(run, SECONDS)
    assert code == 0, err
    told = [json.loads(line) for line in out.splitlines()]
    kinds = [(line["type"], line["name"]) for line in told if "name" in line]
    started = kinds.index(("task_started", "2"))
    assert kinds[started + 1] == ("task_node", "2")
    assert datetime.fromisoformat(shown()["results"][1]["started_at"]) >= released
    assert "2: started on fake (w1)" in ends(watch, SECONDS)[2]
    changes = list(clinvk.follow_run("last", dispatcher=cluster.dispatcher()))
    assert [line for line in kinds if line[0] not in ("task_event", "task_notice")] == [
        (f"task_{c.kind}", c.outcome.name) for c in changes if c.kind != "event" and c.outcome
    ]


def test_the_board_says_why_tasks_are_queued(cluster: Cluster, tmux: Tmux):
    cluster.worker("w1", slots="fake=1")
    path = cluster.file({"tasks": ["hold a", "b", "c"]})
    tmux.start("parallel", path, "--cluster", cluster.url)
    tmux.shows("… 2 queued: the only slot for fake is taken")
    head, *lines = tmux.screen().splitlines()[-3:]
    assert "1 running · 2 queued" in head
    assert "• 1" in lines[0]
    assert "w1" in lines[0]
    cluster.let_go()
    tmux.shows("exit 0")
    assert "3 done" in tmux.screen()


@pytest.mark.parametrize("how", ["parallel", "watch"])
def test_the_board_shows_a_task_as_queued_whose_worker_was_lost(
    cluster: Cluster, tmux: Tmux, how: str
):
    worker = cluster.worker("w1", QUICK, slots="fake=1")
    task = {"prompt": "hold a", "name": "lost", "idempotent": True}
    command = ["parallel", cluster.file({"tasks": [task]}), "--cluster", cluster.url]
    if how == "parallel":
        tmux.start(*command)
        cluster.wait_for("hold a")
    else:
        run = cluster.start(*command)
        cluster.wait_for("hold a")
        tmux.start("runs", "watch")
    tmux.shows("1 running")
    worker.kill()
    tmux.shows("… 1 queued: no worker is connected")
    assert "1 running" not in tmux.screen()
    cluster.worker("w2")
    cluster.let_go()
    tmux.shows("exit 0")
    if how == "watch":
        assert ends(run, SECONDS)[0] == 0


def test_a_message_of_a_worker_is_broken_between_words(cluster: Cluster, tmux: Tmux):
    tmux.start("worker", "--cluster", cluster.url, "--name", "w1", "--backends", "fake=1,echo=2")
    tmux.shows("ready for")
    tmux.keys("C-c")
    tmux.shows("exit 0")
    said = " ".join(tmux.screen().split())
    assert "ending once those that run have ended; to stop them, send the signal again" in said


def test_a_task_that_was_sent_is_not_started_on_another_machine_unasked(cluster: Cluster):
    cluster.worker("w1", slots="fake=1")
    path = cluster.file({"tasks": ["hold a", "b"]})
    run = cluster.start("parallel", path, "-q", "--cluster", cluster.url)
    cluster.wait_for("hold a")

    def sent() -> bool:
        return "why_waiting" in cluster.clinvk.json("runs", "show", "--json")["results"][1]

    wait_for(sent, "the second task in the queue", SECONDS)
    kill(run)
    here = cluster.clinvk("runs", "resume", "--cluster", "none", "--json")
    assert states(here) == ["indeterminate", "indeterminate"]
    assert cluster.starts() == ["hold a"]
    cluster.let_go()
    there = cluster.clinvk("runs", "resume", "--json", "--cluster", cluster.url, timeout=SECONDS)
    assert states(there) == ["done", "done"], there
    assert cluster.starts() == ["hold a", "b"]


def test_why_a_task_waits_is_shown(cluster: Cluster):
    cluster.worker("w1", slots="fake=1")
    tasks = ["hold a", "b", {"prompt": "c", "needs": "2"}, {"prompt": "d", "backend": "other"}]
    run = cluster.start("parallel", cluster.file({"tasks": tasks}), "-q", "--cluster", cluster.url)
    cluster.wait_for("hold a")

    def why() -> list[str | None]:
        shown = cluster.clinvk("runs", "show", "--json", timeout=SECONDS)
        return [task.get("why_waiting") for task in json.loads(shown.stdout)["results"]]

    expected = [None, "the only slot for fake is taken", "needs 2", "no worker runs other"]
    wait_for(lambda: why() == expected, "the reasons", SECONDS)
    shown = cluster.clinvk("runs", "show", timeout=SECONDS).stdout
    assert "waiting: the only slot for fake is taken" in shown
    assert "no worker runs other" in cluster.clinvk("runs", "show", "last", "4").stdout
    watch = cluster.start("runs", "watch", stderr=subprocess.PIPE)
    assert watch.stderr
    told = {line for line in (watch.stderr.readline() for _ in range(4)) if "queued: " in line}
    assert told == {
        "clinvk: 1 queued: the only slot for fake is taken\n", "clinvk: 1 queued: no worker runs other\n",
    }  # fmt: skip
    cluster.worker("w2", slots="other")
    cluster.let_go()
    assert ends(run, SECONDS)[0] == 0
    assert "queued: " not in ends(watch, SECONDS)[2]
    assert why() == [None] * 4


def test_a_task_on_a_killed_worker_is_indeterminate_and_runs_again_only_if_it_may(cluster: Cluster):
    worker = cluster.worker("w1", QUICK)
    tasks = ["hold a", {"prompt": "hold b", "idempotent": True}, {"prompt": "c", "needs": "1"}]
    run = cluster.start(
        "parallel", cluster.file({"tasks": tasks}), "--json", "--cluster", cluster.url
    )
    cluster.wait_for("hold a")
    cluster.wait_for("hold b")
    programs = [cluster.pid("hold")]
    family = worker.family()
    worker.kill()
    wait_for(lambda: not any(map(is_alive, programs)), "the end of its programs", SECONDS)
    wait_for(lambda: not any(p.is_running() for p in family), "the end of its processes", SECONDS)
    cluster.worker("w2")
    cluster.wait_for("hold b", 2)
    cluster.let_go()
    code, out, err = ends(run, SECONDS)
    assert states(subprocess.CompletedProcess([], code, out, err)) == [
        "indeterminate",
        "done",
        "skipped",
    ]
    assert code == 1
    assert "the worker w1 was lost" in out
    assert "skipped: depends on '1', which was interrupted" in out
    assert cluster.starts().count("hold a") == 1
    again = cluster.clinvk("runs", "resume", "--rerun-indeterminate", "--json", timeout=SECONDS)
    assert states(again) == ["done", "done", "done"]
    assert cluster.starts().count("hold a") == 2
    assert cluster.starts().count("hold b") == 2
    assert cluster.starts().count("c") == 1


def test_a_killed_process_of_a_worker_takes_its_program_along(cluster: Cluster):
    """The lease lasts much longer than this test: the supervisor of the worker says that nothing is left."""
    worker = cluster.worker("w1", "--lease=1h", slots="fake")
    again = {"prompt": "deaf c", "idempotent": True}  # it ends only if it is killed
    path = cluster.file({"tasks": ["hold a", "b", again], "max_parallel": 1})
    run = cluster.start("parallel", path, "--json", "--cluster", cluster.url)
    cluster.wait_for("hold a")
    program = cluster.pid("hold")
    slot = psutil.Process(program).parent()
    assert slot in worker.family()
    slot.kill()
    cluster.wait_for("deaf c")
    assert not is_alive(program)
    deaf = cluster.pid("deaf")
    psutil.Process(deaf).parent().kill()
    cluster.wait_for("deaf c", 2)
    assert not is_alive(deaf)
    cluster.let_go()
    code, out, err = ends(run, SECONDS)
    found = states(subprocess.CompletedProcess([], code, out, err))
    assert found == ["indeterminate", "done", "done"]
    assert "the Celery worker that ran it on w1 was killed" in out
    assert cluster.starts() == ["hold a", "b", "deaf c", "deaf c"]


def test_a_killed_submitter_is_resumed_and_nothing_runs_twice(cluster: Cluster):
    cluster.worker("w1")
    path = cluster.file({"tasks": ["a", "hold b", "hold c", "d"], "max_parallel": 3})
    run = cluster.start("parallel", path, "-q", "--cluster", cluster.url)
    cluster.wait_for("hold b")
    cluster.wait_for("hold c")
    kill(run)
    cluster.let_go()
    done = cluster.clinvk("runs", "resume", "--json", timeout=SECONDS)
    assert states(done) == ["done"] * 4, done
    assert done.returncode == 0
    assert sorted(cluster.starts()) == ["a", "d", "hold b", "hold c"]
    id_ = json.loads(done.stdout)["id"]
    assert cluster.states(id_) == ["done"] * 4
    for task in json.loads(done.stdout)["results"]:
        assert task["attempts"] == 1
        assert task["output"] in ("<a>", "<hold b>", "<hold c>", "<d>")
        kinds = [line["type"] for line in cluster.at(id_).events(task["index"])]
        assert kinds == ["started", "tool", "result"], "each event is there once"
    ledger = cluster.ledger()
    assert ledger.client.xlen(ledger.keys.news(id_)) == 0, "all of it is recorded here"
    assert [ledger.result(AttemptId(id_, task, 1)) for task in range(4)] == [None] * 4


@pytest.mark.parametrize("how", ["cli", "python", "none"])
def test_cancelling_the_run_of_a_killed_submitter_stops_its_tasks_on_the_workers(
    cluster: Cluster, how: str
):
    cluster.worker("w1", slots="fake=1")
    path = cluster.file({"tasks": ["hold a", "b"]})
    run = cluster.start("parallel", path, "-q", "--cluster", cluster.url)
    cluster.wait_for("hold a")
    program = cluster.pid("hold")
    kill(run)
    if how == "python":
        assert clinvk.cancel_run("last", dispatcher=cluster.dispatcher()).state == "cancelled"
    else:
        more = ["--cluster", "none"] if how == "none" else []
        done = cluster.clinvk("runs", "cancel", "last", *more, timeout=SECONDS)
        assert done.returncode == 0, done
        said = (
            "1 task that it left running on workers was stopped; 1 task that waited" in done.stderr
        )
        assert said is (how == "cli"), done
    if how != "none":
        wait_for(lambda: not is_alive(program), "the end of its program", SECONDS)
        cluster.let_go()
        assert cluster.starts() == ["hold a"]
    assert "has ended already" in cluster.clinvk("runs", "cancel", "last").stderr


def test_ctrl_c_stops_the_programs_on_the_workers(cluster: Cluster):
    cluster.worker("w1", slots="fake=1")
    path = cluster.file({"tasks": ["hold a", "hold b"]})
    run = cluster.start("parallel", path, "--json", "--cluster", cluster.url)
    cluster.wait_for("hold a")
    program = cluster.pid("hold")
    run.send_signal(signal.SIGINT)
    code, out, err = ends(run, SECONDS)
    assert code == 7, err
    assert states(subprocess.CompletedProcess([], code, out, err)) == ["cancelled", "cancelled"]
    assert not is_alive(program)
    assert cluster.starts() == ["hold a"]
    cluster.let_go()
    done = cluster.clinvk("runs", "resume", "--json", timeout=SECONDS)
    assert states(done) == ["indeterminate", "done"], "the first may have done part of its work"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_is_stopped_is_cancelled_though_a_worker_was_lost(
    cluster: Cluster, number: signal.Signals, when: str
):
    """As on one machine: see test_a_stopped_run_is_cancelled_though_a_task_was_interrupted_before."""
    worker = cluster.worker("w1", "--lease=2s", slots="fake=1")
    path = cluster.file({"tasks": ["hold a", "hold b"]})
    run = cluster.start("parallel", path, "--json", "--cluster", cluster.url)
    cluster.wait_for("hold a")
    worker.kill()
    if when == "after":
        show = lambda: cluster.clinvk.json("runs", "show", "--json")["indeterminate"]  # noqa: E731
        wait_for(show, "the end of the lease", SECONDS)
    run.send_signal(number)
    code, out, err = ends(run, SECONDS)
    assert (code, json.loads(out)["exit_code"]) == (7, 7), err
    first, second = states(subprocess.CompletedProcess([], code, out, err))
    assert first == "indeterminate" if when == "after" else first in ("indeterminate", "cancelled")
    assert second == "cancelled"
    assert cluster.clinvk("runs", "watch").returncode == 7


def test_a_terminal_is_asked_about_tasks_that_were_stopped_on_workers(
    cluster: Cluster, terminal: Terminal
):
    cluster.worker("w1", slots="fake=1")
    path = cluster.file({"tasks": ["hold a", "b"]})
    run = cluster.start("parallel", path, "--json", "--cluster", cluster.url)
    cluster.wait_for("hold a")
    run.send_signal(signal.SIGINT)
    assert ends(run, SECONDS)[0] == 7
    cluster.let_go()
    resumed = terminal("runs", "resume")
    resumed.expect("Run it again")
    resumed.send("y\r")
    shown, code = ending(resumed)
    assert code == 0, shown
    assert sorted(cluster.starts()) == ["b", "hold a", "hold a"]


def test_a_terminal_is_not_asked_about_tasks_that_workers_still_run(
    cluster: Cluster, terminal: Terminal
):
    cluster.worker("w1")
    path = cluster.file({"tasks": ["hold a"]})
    run = cluster.start("parallel", path, "-q", "--cluster", cluster.url)
    cluster.wait_for("hold a")
    kill(run)
    cluster.let_go()
    shown, code = ending(terminal("runs", "resume"))
    assert code == 0, shown
    assert "again" not in shown
    assert cluster.starts() == ["hold a"]


def test_what_to_do_next_works_as_it_is_said(cluster: Cluster):
    cluster.worker("w1", slots="fake=1")
    path = cluster.file({"tasks": ["hold a", "b"]})
    url = cluster.url.replace("127.0.0.1", ":pw@127.0.0.1")
    run = cluster.start("parallel", path, "--cluster", url)
    cluster.wait_for("hold a")
    kill(run)
    shown = cluster.clinvk("runs", "show")
    assert "may still run on the workers" in shown.stderr
    assert "--rerun-indeterminate" not in shown.stderr
    command = shown.stderr.rpartition("with: clinvk ")[2].split()
    assert command[-2:] == ["--cluster", "URL"]
    here = cluster.clinvk("runs", "show", env={"CLINVK_CLUSTER_URL": url})
    assert here.stderr.rpartition("with: clinvk ")[2].split() == command[:-2]
    resumed = cluster.start(*command[:-1], url, "--rerun-indeterminate", stderr=subprocess.PIPE)
    wait_for(
        lambda: cluster.clinvk.json("runs", "show", "--json")["state"] == "running", "it", SECONDS
    )
    resumed.send_signal(signal.SIGINT)
    code, _, err = ends(resumed, SECONDS)
    assert code == 7, err
    assert f"runs resume {command[2]} --cluster URL" in " ".join(err.split())


def test_a_worker_whose_terminal_is_closed_leaves_as_one_that_is_stopped(cluster: Cluster):
    worker = cluster.worker("w1")
    wait_for(lambda: cluster.ledger().live_nodes("fake"), "that it is known", SECONDS)
    worker.signal(signal.SIGHUP)
    assert worker.ends() == 0, worker.said
    assert not cluster.ledger().live_nodes("fake")


@pytest.mark.parametrize("how", ["finish", "timeout", "twice"])
def test_sigterm_drains_a_worker(cluster: Cluster, how: str):
    worker = cluster.worker(
        "w1", *(["--drain-timeout", "0.2s"] if how == "timeout" else []), slots="fake=1"
    )
    path = cluster.file({"tasks": ["hold a", "b"]})
    run = cluster.start("parallel", path, "--json", "--cluster", cluster.url)
    cluster.wait_for("hold a")
    worker.signal(signal.SIGTERM)
    wait_for(lambda: "taking no more tasks" in worker.said, "that it says so", SECONDS)
    if how == "finish":
        cluster.let_go()
    if how == "twice":
        worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, worker.said
    assert "Warm shutdown" not in worker.said
    assert cluster.starts() == ["hold a"], "it has taken nothing more"
    cluster.worker("w2")
    code, out, err = ends(run, SECONDS)
    first = "done" if how == "finish" else "indeterminate"
    assert states(subprocess.CompletedProcess([], code, out, err)) == [first, "done"]
    if how != "finish":
        assert "the worker w1 was shut down" in out


def test_a_worker_without_redis_stops_its_programs_before_its_lease_ends(cluster: Cluster):
    worker = cluster.worker("w1", QUICK)
    path = cluster.file({"tasks": ["hold a"]})
    run = cluster.start("parallel", path, "--json", "--cluster", cluster.url)
    cluster.wait_for("hold a")
    program = cluster.pid("hold")
    assert cluster.server.process
    cluster.server.process.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: not is_alive(program), "the end of its program", SECONDS)
    finally:
        cluster.server.process.send_signal(signal.SIGCONT)
    code, out, err = ends(run, SECONDS)
    assert states(subprocess.CompletedProcess([], code, out, err)) == ["indeterminate"]
    wait_for(lambda: "Redis did not answer" in worker.said, "that it says so", SECONDS)


def test_a_redis_that_restarts_loses_nothing(cluster: Cluster):
    cluster.worker("w1", "--lease=60s")
    path = cluster.file({"tasks": ["hold a", "b", "hold c", "d"]})
    run = cluster.start("parallel", path, "--json", "--cluster", cluster.url)
    cluster.wait_for("hold a")
    cluster.server.kill()
    cluster.server.start()
    cluster.let_go()
    code, out, err = ends(run, SECONDS)
    assert states(subprocess.CompletedProcess([], code, out, err)) == ["done"] * 4, err
    assert sorted(cluster.starts()) == ["b", "d", "hold a", "hold c"]


def test_a_worker_whose_connection_for_commands_is_lost_takes_tasks(cluster: Cluster):
    """The one on which Celery listens for `inspect` and the like."""
    cluster.worker("w1")
    path = cluster.file({"tasks": ["a"]})
    assert states(cluster.go("parallel", path, "--json")) == ["done"]
    assert cluster.server.say("CLIENT", "KILL", "TYPE", "pubsub") == b":1\r\n"
    assert states(cluster.go("parallel", path, "--json")) == ["done"]


def test_a_worker_ends_when_it_is_told_to_though_redis_is_gone(cluster: Cluster):
    worker = cluster.worker("w1")
    cluster.server.kill()
    wait_for(lambda: "it cannot be reached" in worker.said, "that it says so", SECONDS)
    worker.signal(signal.SIGTERM)
    wait_for(lambda: "taking no more tasks" in worker.said, "that it has heard of it", SECONDS)
    worker.signal(signal.SIGTERM)
    worker.ends()
    cluster.server.start()


def test_a_redis_that_has_lost_its_data_ends_what_runs(cluster: Cluster):
    worker = cluster.worker("w1")
    path = cluster.file({"tasks": ["hold a"]})
    run = cluster.start("parallel", path, "--json", "--cluster", cluster.url)
    cluster.wait_for("hold a")
    program = cluster.pid("hold")
    assert cluster.server.say("FLUSHALL").startswith(b"+OK")
    wait_for(lambda: not is_alive(program), "the end of its program", SECONDS)
    code, out, err = ends(run, SECONDS)
    assert states(subprocess.CompletedProcess([], code, out, err)) == ["indeterminate"]
    assert "Redis has lost its data" in out
    wait_for(lambda: "Redis has lost its data" in worker.said, "that it says so", SECONDS)


def test_secrets_never_enter_redis(cluster: Cluster):
    """Their values come from the environment of the worker, and are in nothing that it reports."""
    cluster.home.backend(
        "teller",
        "cat >/dev/null\nprintf '{\"type\":\"start\",\"id\":\"n\"}\\n{\"type\":\"text\",\"text\":\"%s\"}\\n"
        "{\"type\":\"end\",\"text\":\"it is %s\"}\\n' \"$MINE\" \"$MINE\"\n",
    )  # fmt: skip
    poor = cluster.worker("poor", slots="teller")
    path = cluster.file(
        {"tasks": [{"prompt": "x", "env": {"MINE": "${TOKEN}"}, "backend": "teller"}]}
    )
    # Without the variable no worker can run it; where it is submitted, it is not needed.
    done = cluster.go("parallel", path, "--json", TOKEN="not-this-value")
    assert states(done) == ["failed"]
    assert "poor: $TOKEN is not set there, which env.MINE needs" in done.stdout
    wait_for(lambda: "refused" in poor.said, "that the worker says so", SECONDS)
    cluster.worker("rich", slots="teller", env={"TOKEN": "hush-hush-hush"})
    monitor = cluster.ledger().client.monitor()
    with monitor:
        done = cluster.go("parallel", path, "--json")
        assert states(done) == ["done"]
        cluster.ledger().client.echo("the end")
        for command in monitor.listen():
            assert "hush-hush-hush" not in command["command"]
            if "the end" in command["command"]:
                break
    assert "it is [redacted" in done.stdout or "it is …" in done.stdout or "hush" not in done.stdout


def test_the_worker_decides_what_it_runs(cluster: Cluster):
    own = cluster.folder / "own"
    cluster.configure(
        f"worker: {{allow: {{backends: [fake], directories: [{cluster.home.work}/in]}}}}\n", own
    )
    (cluster.home.work / "in").mkdir()
    env = {"CLINVK_HOME": str(own)}
    refused = cluster.start_worker("w0", env=env, slots="other")
    assert refused.ends() == 1
    assert "worker.allow.backends does not have other" in refused.said
    cluster.worker("w1", env=env)
    path = cluster.file({"tasks": [{"prompt": "a"}, {"prompt": "b", "workdir": "in"}]})
    done = cluster.go("parallel", path, "--json")
    assert states(done) == ["failed", "done"]
    assert "is not in a directory of worker.allow.directories" in done.stdout


def test_a_directory_that_is_not_shared_is_refused_before_anything_runs(cluster: Cluster):
    (cluster.folder / "elsewhere").mkdir()
    path = cluster.file(
        {"tasks": ["a", {"prompt": "b", "workdir": str(cluster.folder / "elsewhere")}]}
    )
    done = cluster.go("parallel", path)
    assert done.returncode == 3
    assert "the workers of the cluster do not have" in done.stderr
    assert "cluster.shared" in done.stderr
    assert not (cluster.home.path / "runs").exists()


def test_a_forged_task_does_no_harm(cluster: Cluster):
    worker = cluster.worker("w1")
    ledger, app = cluster.ledger(), apps.create_app(parse(cluster.url))
    for number, data in enumerate(
        [b"no json", b"{}", b'{"version":1,"prompt":"x","evil":1}', b"[1]"], 1
    ):
        attempt = AttemptId("forged", number, 1)
        ledger.submit(attempt, data, PROTOCOL, "1")
        apps.send(app, attempt, queue_of("fake"))
        wait_for(lambda a=attempt: ledger.state(a) == "ended", "its end", SECONDS)
        assert b"invalid task in Redis" in (ledger.result(attempt) or b"")
    outside = AttemptId("forged", 9, 1)
    ledger.submit(
        outside,
        b'{"version":1,"prompt":"x","backend":"fake","cwd":"/etc/\\u001b[31m\\nx"}',
        PROTOCOL,
        "1",
    )
    apps.send(app, outside, queue_of("fake"))
    wait_for(lambda: "is not in a directory of cluster.shared" in worker.said, "a refusal", SECONDS)
    assert "\x1b" not in worker.said
    assert "\nx is not in" not in worker.said
    app.send_task(apps.TASK, ({"not": "an attempt"}, "x", []), queue=queue_of("fake"))
    path = cluster.file({"tasks": ["a"]})
    assert states(cluster.go("parallel", path, "--json")) == ["done"]
    assert cluster.starts() == ["a"]
    app.close()


def test_what_the_server_may_lose_is_said_once_to_those_who_submit(cluster: Cluster):
    cluster.ledger().client.config_set("appendonly", "no")
    worker = cluster.worker("w1")
    path = cluster.file({"tasks": ["a", "b"]})
    for more in (["-q"], ["--json"], ["--detach"]):
        done = cluster.go("parallel", path, *more)
        assert done.returncode == 0
        assert done.stderr.count("has no append-only file") == 1, done
    assert worker.said.count("has no append-only file") == 1


def test_a_worker_refuses_a_server_that_would_delete_tasks(cluster: Cluster):
    client = cluster.ledger().client
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    worker = cluster.start_worker("w1")
    assert worker.ends() == 3, worker.said
    assert "it would delete tasks and their results when its memory is full" in worker.said


async def test_nothing_is_sent_to_a_server_that_is_not_fit_for_it(
    cluster: Cluster, anyio_backend: str
):
    client = cluster.ledger().client
    path = cluster.file({"tasks": ["secret plans"]})
    # Redis accepts any password for a user who needs none; this host leads to loopback.
    elsewhere = cluster.url.replace("127.0.0.1", ":pw@0.0.0.0")
    for args in (
        ["parallel", path],
        ["parallel", path, "--detach"],
        ["compare", "-b", "fake", "x"],
    ):
        done = cluster.clinvk(*args, "--cluster", elsewhere)
        assert done.returncode == 3, done
        assert "accepts connections without a password" in done.stderr
        assert "--insecure" in done.stderr
    allowed = cluster.clinvk("parallel", path, "--detach", "--cluster", elsewhere, "--insecure")
    assert allowed.returncode == 0, allowed
    client.flushall()
    for call in (clinvk.aparallel, clinvk.asubmit_run):
        with pytest.raises(clinvk.ConfigError, match="without a password"):
            await call(["x"], cluster=elsewhere, dispatcher=cluster.dispatcher())
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    done = cluster.go("parallel", path)
    assert done.returncode == 3
    assert "it would delete tasks and their results" in done.stderr
    assert client.keys("*") == []


def test_an_empty_address_or_list_of_backends_is_refused(cluster: Cluster):
    """Of a shell variable that is not set."""
    path = cluster.file({"tasks": ["a"]})
    for args in (["parallel", path], ["chain", path], ["runs", "list"], ["workers"], ["worker"]):
        done = cluster.clinvk(*args, "--cluster", "")
        assert done.returncode == 1, done
        assert "--cluster is empty" in done.stderr
    for backends in ("", " , "):
        done = cluster.clinvk("worker", "--cluster", cluster.url, "--backends", backends)
        assert done.returncode == 1, done
        assert "--backends is empty" in done.stderr
    assert cluster.starts() == []


def test_a_chain_on_a_cluster_has_room_for_its_candidates(cluster: Cluster):
    step = {"prompt": "a", "candidates": 2, "judge": "fake"}
    args = ("chain", cluster.file({"steps": [step]}), "--dry-run", "--json")
    there = json.loads(cluster.go(*args).stdout)["rules"]["max_parallel"]
    here = cluster.clinvk.json(*args)["rules"]["max_parallel"]
    assert there == MAX_PARALLEL > here


def test_a_worker_of_another_version_says_so(cluster: Cluster):
    worker = cluster.worker("w1")
    ledger, app = cluster.ledger(), apps.create_app(parse(cluster.url))
    attempt = AttemptId("newer", 0, 1)
    ledger.submit(attempt, b"{}", PROTOCOL + 1, "99.0")
    apps.send(app, attempt, queue_of("fake"))
    wait_for(lambda: "the task is of clinvk 99.0" in worker.said, "a refusal", SECONDS)
    assert ledger.state(attempt) == "queued"
    (news,) = ledger.read_news("newer", "0", wait=1)
    assert json.loads(news.data)["node"] == "w1"
    app.close()


@pytest.mark.parametrize("how", [[], ["-q"], ["--json"]])
def test_a_backend_that_nobody_runs_is_reported(cluster: Cluster, how: list[str]):
    run = cluster.start(
        "parallel",
        cluster.file({"tasks": ["a", "b"]}),
        *how,
        "--cluster",
        cluster.url,
        stderr=subprocess.STDOUT,
    )
    assert run.stdout
    for line in run.stdout:
        if "no worker is connected" in line:
            break
    else:
        pytest.fail("it says nothing")
    cluster.worker("w1")
    code, rest, _ = ends(run, SECONDS)
    assert code == 0
    assert "no worker is connected" not in rest, "once is enough for all tasks"
    assert sorted(cluster.starts()) == ["a", "b"]


def test_two_workers_have_two_names(cluster: Cluster):
    first = cluster.worker("w1")
    wait_for(lambda: cluster.ledger().live_nodes("fake"), "that it is known", SECONDS)
    second = cluster.start_worker("w1")
    assert second.ends() == 1
    assert "there is a worker named 'w1' already" in second.said
    assert "wait some seconds if it was killed" in second.said
    assert first.process.poll() is None


def test_celery_sees_the_worker(cluster: Cluster):
    cluster.worker("w1")
    env = {**cluster.home.env, "CLINVK_CLUSTER_URL": cluster.url}
    done = wait_for(lambda: _inspect(cluster, env), "an answer of Celery", SECONDS)
    assert "fake@w1" in done


def _inspect(cluster: Cluster, env: dict[str, str]) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "clinvk.cluster.app", "inspect", "ping", "--json"],
        env=env, cwd=cluster.home.work, capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    return json.loads(done.stdout) if done.returncode == 0 else None


async def test_python_runs_tasks_on_a_cluster(cluster: Cluster, anyio_backend: str, monkeypatch):
    cluster.worker("w1", slots="fake=2,other=1")
    monkeypatch.chdir(cluster.home.work)
    seen: list[str] = []
    dispatcher = keep(Dispatcher(loading.load(cluster.home.env), env=cluster.home.env))
    with anyio.fail_after(SECONDS * 2):
        result = await clinvk.aparallel(
            ["a", "b"],
            cluster=cluster.url,
            dispatcher=dispatcher,
            observe=lambda change: seen.append(change.event.type if change.event else change.kind),
        )
        assert [task.output for task in result.results] == ["<a>", "<b>"]
        chain = await clinvk.achain(
            ["c", "{{previous}} d"], cluster=cluster.url, dispatcher=dispatcher
        )
        assert chain.results[1].output == "<<c> d>"
        both = await clinvk.acompare(
            "e", ["fake", "other"], cluster=cluster.url, dispatcher=dispatcher
        )
        assert both.answers == {"fake": "<e>", "other": "<e>"}
    assert seen.count("tool") == 2


def test_the_address_can_be_configured(cluster: Cluster):
    cluster.worker("w1")
    cluster.home.config(
        f"default_backend: fake\ncluster: {{url: '{cluster.url}', shared: [{cluster.home.work}]}}\n"
    )
    path = cluster.file({"tasks": ["a"]})
    done = cluster.clinvk.json("parallel", path, "--json", timeout=SECONDS)
    assert cluster.at(done["id"]).plan().cluster == cluster.url
    assert "a.1" not in cluster.home.ids()
    here = cluster.clinvk.json("parallel", path, "--json", "--cluster", "none")
    assert cluster.at(here["id"]).plan().cluster is None


def test_nothing_of_a_cluster_is_imported_without_one(cluster: Cluster):
    text = (
        "import sys\nfrom clinvk.cmd.main import main\nmain(['parallel', 'tasks.yaml', '-q'])\n"
        "print('modules:', *sys.modules)\n"
    )
    cluster.file({"tasks": ["a"]})
    done = subprocess.run(
        [sys.executable, "-c", text], env=cluster.home.env, cwd=cluster.home.work,
        capture_output=True, text=True, check=True, timeout=SECONDS,
    )  # fmt: skip
    found = done.stdout.rpartition("modules:")[2].split()
    assert "clinvk.engine.scheduling.scheduler" in found
    slow = ("celery", "kombu", "billiard", "redis", "clinvk.cluster")
    assert [name for name in found if name.startswith(slow)] == []
    assert cluster.starts() == ["a"]


@pytest.mark.parametrize("how", ["there", "gone", "killed"])
def test_a_session_is_continued_where_its_conversation_is(cluster: Cluster, how: str):
    first = cluster.worker("w1", slots="fake=1")
    steps = cluster.file({"steps": ["a", "bad b"], "pass_session": True}, "s.yaml")
    failed = json.loads(cluster.go("chain", steps, "--json").stdout)
    assert [step["state"] for step in failed["results"]] == ["done", "failed"]
    session = failed["results"][0]["session_id"]
    if how == "gone":
        first.signal(signal.SIGTERM)
        assert first.ends() == 0
    elif how == "killed":
        first.kill()
    cluster.worker("w2")
    cluster.repair()
    done = cluster.go("runs", "retry", failed["id"], "--json")
    again = json.loads(done.stdout)["results"][1]
    assert (again["state"], again["session_id"]) == ("done", session), done
    assert again["node"] == ("w1" if how == "there" else "w2")
    mode = [line for line in cluster.modes() if line.startswith(("run", "resume"))][-1]
    assert mode.startswith("resume" if how == "there" else "run")
    is_said = "its session is on w1, which is not connected" in done.stderr
    assert is_said is (how != "there"), done
    assert ("starting it over from the transcript" in done.stderr) is (how != "there"), done


@pytest.mark.parametrize("how", ["outside", "a week ago", "found here"])
def test_a_session_that_no_worker_is_known_to_have_is_started_over(cluster: Cluster, how: str):
    """It was begun without the cluster, or so long ago that the record of its worker has expired. A worker
    whose CLI has its file continues it."""
    cluster.configure(f"session: {{storage: '{cluster.url}'}}")
    if how == "found here":
        native = "01234567-89ab-cdef-0123-456789abcdef"
        script = SCRIPT.replace("FOLDER", str(cluster.folder)).replace("native-$$", native)
        cluster.home.backend("codex", script)
    backend = "codex" if how == "found here" else "fake"
    slots = f"{backend}=1"
    if how == "a week ago":
        first = cluster.worker("w1", slots=slots)
    steps = cluster.file(
        {"steps": ["a", "bad b"], "pass_session": True, "defaults": {"backend": backend}}
    )
    where = cluster.url if how == "a week ago" else "none"
    failed = json.loads(cluster.clinvk("chain", steps, "--json", "--cluster", where).stdout)
    assert [step["state"] for step in failed["results"]] == ["done", "failed"], failed
    session = failed["results"][0]["session_id"]
    ledger = cluster.ledger()
    if how == "a week ago":
        assert ledger.client.delete(ledger.keys.home(native_session(session, backend))) == 1
        first.signal(signal.SIGTERM)
        assert first.ends() == 0
    elif how == "found here":
        folder = Path(cluster.home.env["HOME"]) / ".codex" / "sessions" / "2026" / "11" / "28"
        folder.mkdir(parents=True)
        (folder / f"rollout-2026-11-28T10-00-00-{native}.jsonl").touch()
    cluster.worker("w2", slots=slots)
    cluster.repair()
    done = cluster.go("runs", "retry", failed["id"], "--json")
    again = json.loads(done.stdout)["results"][1]
    assert (again["state"], again["session_id"], again["node"]) == ("done", session, "w2"), done
    mode = [line for line in cluster.modes() if line.startswith(("run", "resume"))][-1]
    is_over = how != "found here"
    assert mode.startswith("run" if is_over else "resume")
    said = f"no worker is known to have its conversation with {backend}; starting it over from the transcript"
    assert (said in done.stderr) is is_over, done
    assert ledger.home_of(native_session(session, backend)) == "w2", "it is known from now on"


def test_a_task_has_no_further_turn_on_a_worker_once_the_budget_is_spent(cluster: Cluster):
    made = made_up("touch a", "touch b", "touch c", "touch d", usage=100)
    cluster.home.backend("fake", made)
    cluster.worker("w1")
    plan = {"tasks": ["x"], "check": "ls; exit 1", "rounds": 5}
    for budget, rounds, why in (
        ({"tokens": 150}, 1, "the budget is spent"), ({"tokens": 100}, 0, "the budget is spent"),
    ):  # fmt: skip
        path = cluster.file({**plan, "budget": budget})
        (task,) = json.loads(cluster.go("parallel", path, "--json").stdout)["results"]
        assert (task["check"]["rounds"], task["check"]["stopped"]) == (rounds, why), task
        assert task["usage"]["input"] == 100 * (rounds + 1)
