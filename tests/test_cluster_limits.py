"""Rate limits of a cluster: what one worker has met, all workers and runs know."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clinvk.backend.catalog import Catalog
from clinvk.cluster.address import connect
from clinvk.cluster.keys import Keys
from clinvk.cluster.limits.of_nodes import limit_of_all, names_account
from clinvk.cluster.limits.shared import SharedLimits
from clinvk.cluster.log.runs import open_runs
from clinvk.dispatch.account import Account
from clinvk.dispatch.remembered_limits import RememberedLimit, list_limits
from tests.clusters import SECONDS, Cluster
from tests.conftest import CommandLine, Home, say, wait_for
from tests.desk import SCRIPT, ends
from tests.stores import RedisServer, keep

HOUR = timedelta(hours=1)
WORK, HOME = (
    Account("claude", "0123456789abcdef", "/home/x/.claude"),
    Account("claude", "f" * 16, None),
)
# A CLI whose account is the key that it gets. That of the key "poor" is at its limit.
LIMITED = SCRIPT.replace("cd FOLDER\n", 'cd FOLDER\necho "$FAKE_KEY $p" >>accounts\n').replace(
    "if [ ! -e repaired ]",
    'if [ "$FAKE_KEY" = poor ] && [ ! -e repaired ]; then\n'
    + say(type="end", error="usage limit: try again in 2h", status=429)
    + "exit 1; fi\nif [ ! -e repaired ]",
)


@pytest.fixture
def cluster(
    home: Home, clinvk: CommandLine, tmp_path: Path, own_server: RedisServer
) -> Iterator[Cluster]:
    folder = tmp_path / "desk"
    with closing(Cluster(home, clinvk, folder, own_server)) as made:
        for name in ("fake", "other"):
            home.backend(name, LIMITED.replace("FOLDER", str(folder)), login={"env": ["FAKE_KEY"]})
        yield made


def worker(cluster: Cluster, name: str, key: str, **more: Any) -> None:
    """A worker with an account of its own, and a home of its own, as on another machine."""
    home = cluster.folder / f"home-{name}"
    cluster.configure(home=home)
    cluster.worker(name, env={"FAKE_KEY": key, "CLINVK_HOME": str(home)}, **more)


def accounts(cluster: Cluster) -> list[str]:
    """Which account ran which prompt."""
    path = cluster.folder / "accounts"
    return sorted(path.read_text().splitlines()) if path.exists() else []


def limits(cluster: Cluster) -> list[dict[str, Any]]:
    return list(json.loads(cluster.go("limits", "--json").stdout)["limits"])


def results(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    try:
        return list(json.loads(done.stdout)["results"])
    except ValueError:
        raise AssertionError(f"no JSON: {done}") from None


# What is in Redis


@pytest.fixture
def shared(redis_url: str) -> SharedLimits:
    return SharedLimits(keep(connect(redis_url)), Keys.of())


def limit(until: timedelta = HOUR, **more: Any) -> RememberedLimit:
    now = datetime.now(UTC)
    return RememberedLimit(until=now + until, reported_at=now, **more)


def test_a_limit_is_read_as_it_was_recorded(shared: SharedLimits):
    made = limit(message="too many\nfor sk-ant-api03-" + "x" * 80, window="five_hour")
    shared.record(WORK, made, "w1")
    shared.record(WORK, limit(2 * HOUR, model="opus", requested_model="best"), "w1")
    snapshot = shared.read()
    found = snapshot.find("claude", WORK.id, None)
    assert found is not None
    assert abs(found.until - made.until) < timedelta(minutes=1)
    assert (found.window, found.message) == (
        "five_hour", "too many for [redacted: anthropic key]",
    )  # fmt: skip
    later = snapshot.find("claude", WORK.id, "best")
    assert later is not None
    assert later.until > found.until
    assert snapshot.find("claude", HOME.id, None) is None
    assert [(e["backend"], e["node"], e["model"]) for e in list_limits(shared)] == [
        ("claude", "w1", None), ("claude", "w1", "opus"),
    ]  # fmt: skip


def test_a_limit_ends_by_the_clock_of_the_server(shared: SharedLimits):
    shared.record(WORK, limit(timedelta(milliseconds=1500)), "w1")
    assert len(shared.read().entries) == 1
    wait_for(lambda: not shared.read().entries, "the end of the limit", SECONDS)
    assert shared.client.hlen(shared.key) == 0


def test_an_end_that_is_not_plausible_does_not_count_for_longer_than_a_week(shared: SharedLimits):
    shared.record(WORK, limit(timedelta(days=400)), "w1")
    (entry,) = shared.read().entries
    assert entry.limit.until - datetime.now(UTC) <= timedelta(days=7)
    shared.record(WORK, limit(timedelta(milliseconds=1), window="past"), "w1")
    assert len(shared.read().entries) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [(b"x", b"y"), (b"[]", b"9 9 {}"), (b'["a","b",null,null]', b"99999999999999999 1 {}"),
     (b'["a","b"]', None), (b"[1,2,3,4]", None), (b'["cleared"]', None), (b'["cleared","x"]', b"1")],
)  # fmt: skip
def test_what_another_program_has_written_is_passed_over(
    shared: SharedLimits, field: bytes, value: bytes | None
):
    shared.record(WORK, limit(), "w1")
    seconds, _ = shared.client.time()
    shared.client.hset(shared.key, field, value or b"%d 1 ?" % (seconds * 1000 + 60_000))
    assert len(shared.read().entries) == 1


@pytest.mark.parametrize("field", [b'["fake","x",null,null]', b'["cleared","fake"]'])
def test_a_time_that_no_calendar_has_is_passed_over(shared: SharedLimits, field: bytes):
    shared.record(WORK, limit(), "w1")
    seconds, _ = shared.client.time()
    value = b"%d %d {}" % (seconds * 1000 + 60_000, 10**25)
    shared.client.hset(shared.key, field, value)
    found = shared.read()
    assert len(found.entries) == 1
    assert found.cleared_at("fake") is None


def test_limits_are_cleared_by_backend(shared: SharedLimits):
    for account in (WORK, HOME, Account("codex", "0", None)):
        shared.record(account, limit(), "w1")
    assert shared.clear("claude") == 2
    snapshot = shared.read()
    assert [entry.backend for entry in snapshot.entries] == ["codex"]
    assert snapshot.cleared_at("claude") is not None
    assert snapshot.cleared_at("codex") is None
    assert shared.clear() == 1
    assert shared.read().cleared_at("codex") is not None


def test_a_limit_that_was_met_again_meanwhile_is_not_forgotten(shared: SharedLimits):
    shared.record(WORK, limit(), "w1")
    before = shared.read().entries
    shared.record(WORK, limit(2 * HOUR), "w2")
    shared.forget(before)
    assert len(shared.read().entries) == 1
    shared.forget(shared.read().entries)
    assert not shared.read().entries


def test_a_backend_is_at_a_limit_if_all_its_accounts_are(shared: SharedLimits):
    shared.record(WORK, limit(), "w1")
    shared.record(HOME, limit(2 * HOUR), "w2")
    snapshot = shared.read()
    error = limit_of_all("claude", [WORK.id, HOME.id], snapshot, None)
    assert error is not None
    assert abs(error.retry_at - datetime.now(UTC) - HOUR) < timedelta(minutes=1), "the first to end"
    for known in ([], [WORK.id, "other"], [WORK.id, None]):
        assert limit_of_all("claude", known, snapshot, None) is None


def test_a_variable_that_chooses_the_account_is_known(home: Home):
    manifest = Catalog(home.path).load("claude")
    assert names_account(manifest, ["ANTHROPIC_API_KEY"])
    assert names_account(manifest, ["X", "CLAUDE_CONFIG_DIR"])
    assert not names_account(manifest, ["X", "CLAUDE"])


# On workers


def meet_limit(cluster: Cluster) -> None:
    """Have a task meet the limit of the account "poor"."""
    done = cluster.go("parallel", cluster.file({"tasks": ["a"]}), "-q", "--on-limit", "fail")
    assert done.returncode == 75, done
    assert accounts(cluster) == ["poor a"]


def test_a_task_that_met_a_limit_is_run_by_a_worker_with_another_account(cluster: Cluster):
    worker(cluster, "poor", "poor", slots="fake=1")
    path = cluster.file({"tasks": ["hold a", "b", "c"]})
    run = cluster.start("parallel", path, "--json", "--cluster", cluster.url)
    cluster.wait_for("hold a")
    worker(cluster, "rich", "rich", slots="fake=1")
    cluster.let_go()
    code, out, err = ends(run, SECONDS)
    done = subprocess.CompletedProcess([], code, out, err)
    assert [r["state"] for r in results(done)] == ["done"] * 3, done
    assert {r["node"] for r in results(done)} == {"rich"}
    assert "fake is at a rate limit on poor; trying another account" in err
    tried = [line for line in accounts(cluster) if line.startswith("poor")]
    assert tried == ["poor hold a"], "its account is not tried again"


def test_a_limit_that_all_workers_are_at_is_known_to_every_run(cluster: Cluster):
    worker(cluster, "w1", "poor")
    meet_limit(cluster)
    worker(cluster, "w2", "poor")
    found = limits(cluster)
    assert [(e["backend"], e["node"]) for e in found] == [("fake", "w1")]
    known = lambda: [s["backends"]["fake"]["limit_until"] for s in workers(cluster)]  # noqa: E731
    wait_for(lambda: None not in known(), "the accounts of the workers", SECONDS)
    path = cluster.file({"tasks": ["b", {"prompt": "c", "needs": "1"}]})
    done = cluster.go("parallel", path, "--json")
    assert done.returncode == 75
    assert [r["state"] for r in results(done)] == ["waiting", "waiting"], done
    assert results(done)[0]["error"]["retry_at"]
    assert "fake is at a rate limit until" in done.stderr
    assert accounts(cluster) == ["poor a"], "nothing was started"
    assert "limit until" in cluster.go("workers").stdout
    ignored = cluster.go(
        "parallel", cluster.file({"tasks": ["d"]}), "-q", "--ignore-limit", "--on-limit", "fail"
    )
    assert ignored.returncode == 75
    assert "poor d" in accounts(cluster)


def test_another_backend_takes_over_as_on_this_machine(cluster: Cluster):
    worker(cluster, "w1", "poor")
    worker(cluster, "w2", "rich", slots="other=1")
    meet_limit(cluster)
    done = cluster.go("parallel", cluster.file({"tasks": ["b"]}), "--json", "--fallback", "other")
    assert [(r["state"], r["backend"]) for r in results(done)] == [("done", "other")], done
    assert accounts(cluster) == ["poor a", "rich b"]


def test_a_worker_leaves_what_its_account_cannot_run_to_the_others(cluster: Cluster):
    worker(cluster, "poor", "poor", slots="fake=2")
    meet_limit(cluster)
    worker(cluster, "rich", "rich", slots="fake=1")
    done = cluster.go("parallel", cluster.file({"tasks": ["b", "c", "d"]}), "--json")
    assert [(r["state"], r["node"]) for r in results(done)] == [("done", "rich")] * 3, done
    assert accounts(cluster) == ["poor a", "rich b", "rich c", "rich d"]
    assert done.stderr.count("not on poor: fake is at a rate limit") <= 1, "it is said once"


def test_why_a_task_waits_for_a_limit_is_shown(cluster: Cluster):
    worker(cluster, "w1", "poor")
    meet_limit(cluster)
    path = cluster.file({"tasks": ["b"]})
    run = cluster.start("parallel", path, "-q", "--on-limit", "wait", "--cluster", cluster.url)

    def why() -> str:
        shown = cluster.clinvk("runs", "show", "--json", timeout=SECONDS)
        return str(results(shown)[0].get("why_waiting"))

    wait_for(lambda: "fake is at its rate limit until" in why(), "the reason", SECONDS)
    run.kill()
    assert accounts(cluster) == ["poor a"]


@pytest.mark.parametrize("how", ["worker", "cleared"])
def test_a_run_that_waits_for_a_limit_goes_on_once_there_is_an_account(cluster: Cluster, how: str):
    worker(cluster, "w1", "poor")
    path = cluster.file({"tasks": ["a", {"prompt": "b", "needs": "1"}]})
    run = cluster.start("parallel", path, "--json", "--cluster", cluster.url)
    wait_for(lambda: len(limits(cluster)) == 1, "the limit", SECONDS)
    cluster.repair()
    if how == "worker":
        worker(cluster, "w2", "rich")
    else:
        cluster.go("limits", "clear")
    code, out, err = ends(run, SECONDS * 2)
    assert code == 0, (out, err)
    assert {r["node"] for r in json.loads(out)["results"]} == {"w2" if how == "worker" else "w1"}


def test_limits_that_are_cleared_are_cleared_on_the_workers_too(cluster: Cluster):
    worker(cluster, "w1", "poor")
    meet_limit(cluster)
    cluster.repair()
    cleared = cluster.go("limits", "clear", "fake")
    assert cleared.stdout == "1 rate limit forgotten.\n"
    assert limits(cluster) == []
    done = cluster.go("parallel", cluster.file({"tasks": ["b"]}), "--json")
    assert [r["state"] for r in results(done)] == ["done"], done
    assert accounts(cluster) == ["poor a", "poor b"]


def test_a_limit_is_forgotten_when_a_task_succeeds(cluster: Cluster):
    worker(cluster, "w1", "poor")
    meet_limit(cluster)
    cluster.repair()
    done = cluster.go("parallel", cluster.file({"tasks": ["b"]}), "-q", "--ignore-limit")
    assert done.returncode == 0, done
    assert limits(cluster) == []


def test_the_limits_of_a_configured_cluster_are_listed_with_those_of_this_machine(cluster: Cluster):
    worker(cluster, "w1", "poor")
    meet_limit(cluster)
    key = {"FAKE_KEY": "poor"}
    assert cluster.clinvk("-b", "fake", "here", env=key).returncode == 75
    url = {"CLINVK_CLUSTER_URL": cluster.url}
    listed = json.loads(cluster.clinvk("limits", "list", "--json", env=url).stdout)["limits"]
    assert sorted(str(e.get("node")) for e in listed) == ["None", "w1"]
    assert "NODE" in cluster.clinvk("limits", env=url).stdout
    assert "NODE" not in cluster.clinvk("limits", "--cluster", "none", env=url).stdout
    assert cluster.clinvk("limits", "clear", env=url).stdout == "2 rate limits forgotten.\n"
    cluster.server.kill()
    gone = cluster.clinvk("limits", env=url)
    assert gone.returncode == 0
    assert "the limits of the cluster are left out" in gone.stderr
    assert cluster.go("limits").returncode == 4


def test_a_detached_run_waits_for_a_limit_that_its_first_driver_has_met(cluster: Cluster):
    worker(cluster, "w1", "poor", drive=1)
    path = cluster.file({"tasks": ["a"]})
    run = cluster.go("parallel", path, "--detach", "-q").stdout.strip()
    wait_for(lambda: len(limits(cluster)) == 1, "the limit", SECONDS)
    cluster.workers[0].kill()
    worker(cluster, "w2", "poor", drive=1)

    def shown() -> dict[str, Any]:
        return dict(json.loads(cluster.go("runs", "show", run, "--json").stdout))

    begun = lambda: [x for x in found.read_journal() if x["event"] == "begin"]  # noqa: E731
    found = keep(open_runs(cluster.url, cluster.home.path)).find(run)
    wait_for(lambda: len(begun()) > 1, "another driver", SECONDS)
    wait_for(lambda: shown()["results"][0]["state"] == "queued", "that it waits", SECONDS)
    assert shown()["state"] == "running"
    assert accounts(cluster) == ["poor a"]


# Logins


def test_a_worker_with_a_wrong_login_shows_it(cluster: Cluster):
    script = LIMITED.replace("FOLDER", str(cluster.folder)).replace(
        "usage limit: try again in 2h", "no"
    )
    script = script.replace('"status": 429', '"status": 401')
    cluster.home.backend("fake", script, login={"env": ["FAKE_KEY"]})
    worker(cluster, "wrong", "poor", slots="fake=1")
    worker(cluster, "none", "", slots="other=1")

    def logins() -> dict[str, str]:
        return {s["name"]: b["login"] for s in workers(cluster) for b in s["backends"].values()}

    wait_for(lambda: logins() == {"wrong": "yes", "none": "no"}, "the logins", SECONDS)
    path = cluster.file({"tasks": ["a"]})
    (failed,) = results(cluster.go("parallel", path, "--json"))
    assert (failed["state"], failed["error"]["kind"]) == ("failed", "auth"), failed
    assert logins() == {"wrong": "rejected", "none": "no"}
    assert "rejected" in cluster.go("workers").stdout
    assert limits(cluster) == []
    cluster.repair()
    assert cluster.go("parallel", path, "-q").returncode == 0
    assert logins()["wrong"] == "yes"


# Slots


def test_the_slots_of_a_backend_hold_on_all_workers(cluster: Cluster):
    for name in ("w1", "w2"):
        worker(cluster, name, "rich", slots="fake=1")
    path = cluster.file({"tasks": ["hold a", "hold b", "hold c", "hold d"]})
    run = cluster.start("parallel", path, "-q", "-j", "4", "--cluster", cluster.url)
    wait_for(lambda: len(cluster.starts()) == 2, "two tasks", SECONDS)
    full = lambda: [r.get("why_waiting") for r in results(cluster.clinvk("runs", "show", "--json"))]  # noqa: E731
    wait_for(lambda: full().count("all 2 slots for fake are taken") == 2, "the reasons", SECONDS)
    assert len(cluster.starts()) == 2
    run.kill()


def test_the_limit_of_a_run_for_a_backend_holds_on_all_workers(cluster: Cluster):
    for name in ("w1", "w2"):
        worker(cluster, name, "rich")
    tasks = {"tasks": ["hold a", "b"], "max_parallel_per_backend": {"fake": 1}}
    run = cluster.start("parallel", cluster.file(tasks), "-q", "--cluster", cluster.url)
    cluster.wait_for("hold a")
    shown = results(cluster.clinvk("runs", "show", "--json"))
    assert [r["state"] for r in shown] == ["running", "queued"]
    assert cluster.starts() == ["hold a"]
    cluster.let_go()
    assert ends(run, SECONDS)[0] == 0


def workers(cluster: Cluster) -> list[dict[str, Any]]:
    return list(json.loads(cluster.go("workers", "--json").stdout)["workers"])
