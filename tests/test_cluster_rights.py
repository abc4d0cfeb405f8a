"""A user of Redis with exactly the rights that the documentation lists can do all that a cluster needs."""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from tests.clusters import SECONDS, Cluster
from tests.conftest import READ, START, CommandLine, Home, say
from tests.needs import need
from tests.stores import RedisServer

LIMITED = (
    READ + START + say(type="end", error="usage limit: try again in 2h", status=429) + "exit 1\n"
)
PAGE = Path(__file__).parent.parent / "docs" / "cluster.md"
RULES = re.compile(r"^user clinvk on >SECRET (.+)$", re.MULTILINE)


def documented_rules() -> list[str]:
    (rules,) = RULES.findall(PAGE.read_text("utf-8").replace("\\\n", " "))
    return str(rules).split()


@pytest.fixture
def cluster(home: Home, clinvk: CommandLine, tmp_path: Path) -> Iterator[Cluster]:
    need("redis-server")
    (tmp_path / "redis").mkdir()
    user = ["--user", "clinvk", "on", ">SECRET", *documented_rules()]
    server = RedisServer(tmp_path / "redis", "--requirepass", "of-the-owner", *user)
    server.start()
    server.url = server.url.replace("//", "//clinvk:SECRET@")
    with closing(Cluster(home, clinvk, tmp_path / "desk", server)) as made:
        yield made
    server.kill()


def denied(cluster: Cluster) -> str:
    """What Redis has refused to the user, as its owner sees it."""
    owner = redis.Redis(port=cluster.server.port, password="of-the-owner")
    with owner:
        entries = owner.acl_log()
        return ", ".join(f"{e['reason']} {e['object']}" for e in entries)


def test_the_documented_rights_are_enough(cluster: Cluster):
    worker = cluster.worker("w1")
    steps = cluster.file({"steps": ["a", "then {{previous}}"], "pass_session": True}, "s.yaml")
    done = cluster.go("chain", steps, "--json")
    assert done.returncode == 0, (done.stderr, denied(cluster))
    assert "not checked" not in done.stderr
    session = json.loads(done.stdout)["results"][0]["session_id"]
    run = cluster.start("parallel", cluster.file({"tasks": ["hold x"]}), "--cluster", cluster.url)
    cluster.wait_for("hold x")
    workers = cluster.clinvk("workers", "--cluster", cluster.url)
    assert workers.returncode == 0, (workers, denied(cluster))
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=SECONDS)
    listed = cluster.clinvk("sessions", "list", "--storage-backend", cluster.url, "--json")
    assert session in listed.stdout, (listed, denied(cluster))
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, worker.said
    assert denied(cluster) == ""


def test_they_are_enough_for_detached_runs(cluster: Cluster):
    cluster.worker("w1", drive=1)
    path = cluster.file({"tasks": ["a", "bad b"]})
    done = cluster.go("parallel", path, "--detach", "-q")
    assert done.returncode == 0, (done.stderr, denied(cluster))
    run = done.stdout.strip()
    for words in (["watch", run, "-q"], ["list"], ["show", run], ["retry", run, "-q"]):
        done = cluster.go("runs", *words)
        assert done.returncode in (0, 1), (done.stderr, denied(cluster))
    assert cluster.go("runs", "delete", run, "--yes").returncode == 0, denied(cluster)
    assert denied(cluster) == ""


def test_they_are_enough_for_every_command_about_a_cluster(cluster: Cluster):
    cluster.worker("w1", drive=1)
    cluster.home.backend("limited", LIMITED)
    cluster.worker("w2", slots="limited=1")
    path = cluster.file({"tasks": [{"prompt": "x", "backend": "limited"}]}, "limited.yaml")
    assert cluster.go("parallel", path, "-q", "--on-limit", "fail").returncode == 75, denied(
        cluster
    )
    held = cluster.file({"tasks": ["hold a"]}, "held.yaml")
    cancelled = cluster.go("parallel", held, "--detach", "-q").stdout.strip()
    cluster.wait_for("hold a")
    done = cluster.go("parallel", cluster.file({"tasks": ["b", "bad c"]}), "--json")
    session = json.loads(done.stdout)["results"][0]["session_id"]
    store = ("--storage-backend", cluster.url)
    for codes, words in (
        ((0,), ("workers",)), ((0,), ("workers", "--json")),
        ((0,), ("limits", "list")), ((0,), ("limits", "clear", "limited")),
        ((0,), ("runs", "cancel", cancelled)),
        ((0,), ("runs", "show", cancelled, "--answers")),
        ((0,), ("runs", "report", cancelled, "--format", "junit")),
        ((0, 7), ("runs", "resume", cancelled, "--rerun-indeterminate", "-q")),
        ((0,), ("runs", "list", "--json")), ((0, 1), ("runs", "watch", cancelled, "-q")),
        ((0,), ("runs", "clean", "--older-than", "1h", "--json")),
        ((0,), ("runs", "delete", cancelled, "--yes")),
        ((75,), ("compare", "-b", "fake,limited", "x", "-q", "--ignore-limit", "--on-limit", "fail")),
    ):  # fmt: skip
        if "resume" in words:
            cluster.let_go()
        done = cluster.go(*words)
        assert done.returncode in codes, (words, done, denied(cluster))
    for words in (
        ("sessions", "show", session), ("sessions", "search", "b"), ("sessions", "export", session),
        ("sessions", "edit", session, "--title", "t"), ("sessions", "delete", session, "--yes"),
    ):  # fmt: skip
        done = cluster.clinvk(*words, *store)
        assert done.returncode == 0, (words, done, denied(cluster))
    assert denied(cluster) == ""
