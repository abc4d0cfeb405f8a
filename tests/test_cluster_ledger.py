"""Who runs which attempt of a cluster: whatever workers and submitters do, and in whatever order."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from clinvk.cluster.address import connect_to, parse
from clinvk.cluster.keys import AttemptId, Keys
from clinvk.cluster.ledger.ledger import Ledger, Owner
from clinvk.cluster.left import stop_attempts
from clinvk.cluster.payload import PROTOCOL
from clinvk.cluster.recorded import RecordedTasks
from clinvk.model.outcome import Outcome

ATTEMPT = AttemptId("r1", 0, 1)
SECOND = AttemptId("r1", 0, 2)


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    client = connect_to(parse(redis_url))
    yield Ledger(client, Keys.of("t"), lease=30, grace=30)
    client.close()


def brief(ledger: Ledger) -> Ledger:
    """The same, with leases that expire at once."""
    return Ledger(ledger.client, ledger.keys, lease=0.001, grace=0)


def owner(attempt: AttemptId = ATTEMPT, token: str = "a", node: str = "n1") -> Owner:
    return Owner(attempt, token, node)


def submit(ledger: Ledger, attempt: AttemptId = ATTEMPT) -> str:
    return ledger.submit(attempt, b"{}", PROTOCOL, "1.0")


def news(ledger: Ledger) -> list[tuple[str, str, bytes]]:
    found = ledger.read_news("r1", "0", wait=0.001)
    return [(n.member, n.kind, n.data) for n in found]


def test_an_attempt_is_taken_once(ledger: Ledger):
    assert submit(ledger) == "new"
    assert submit(ledger) == "queued"  # sent again
    first = ledger.claim(owner(), PROTOCOL)
    assert (first.status, first.payload) == ("run", b"{}")
    assert ledger.claim(owner(token="b"), PROTOCOL).status == "running"
    assert ledger.finish(owner(), b"done", "s1") == "ok"
    assert ledger.claim(owner(token="b"), PROTOCOL).status == "ended"
    assert ledger.result(ATTEMPT) == b"done"
    assert ledger.home_of("s1") == "n1"
    assert news(ledger) == [("0.1", "claimed", b"n1"), ("0.1", "ended", b"done")]


def test_a_lost_answer_is_no_harm(ledger: Ledger):
    """Whatever was done is done again, with the same words."""
    submit(ledger)
    for _ in range(2):
        assert ledger.claim(owner(), PROTOCOL).payload == b"{}"
    for _ in range(2):
        assert ledger.beat(owner(), 0, [("event", b"1"), ("event", b"2")]).status == "ok"
    ledger.beat(owner(), 1, [("event", b"2"), ("event", b"3")])
    for _ in range(2):
        assert ledger.finish(owner(), b"done", None) == "ok"
    assert [data for _, kind, data in news(ledger) if kind == "event"] == [b"1", b"2", b"3"]
    assert [kind for _, kind, _ in news(ledger)].count("ended") == 1


def test_the_end_comes_with_the_last_events(ledger: Ledger):
    submit(ledger)
    ledger.claim(owner(), PROTOCOL)
    ledger.beat(owner(), 0, [("event", b"1"), ("event", b"2")])
    for _ in range(2):  # the answers to all three were lost
        ledger.finish(owner(), b"done", None, 1, [("event", b"2"), ("event", b"3")])
    assert [data for _, _, data in news(ledger)] == [b"n1", b"1", b"2", b"3", b"done"]


def test_a_server_that_has_lost_events_takes_the_next_ones(ledger: Ledger):
    """As after a power cut, without the last second."""
    submit(ledger)
    ledger.claim(owner(), PROTOCOL)
    assert ledger.beat(owner(), 3, [("event", b"4")]).status == "ok"
    ledger.beat(owner(), 3, [("event", b"4"), ("event", b"5")])
    assert [(kind, data) for _, kind, data in news(ledger)[1:]] == [
        ("event", b"4"),
        ("event", b"5"),
    ]


def test_a_worker_whose_lease_was_given_up_changes_nothing(ledger: Ledger):
    submit(ledger)
    late = brief(ledger)
    late.claim(owner(), PROTOCOL)
    while not late.expire("r1"):
        time.sleep(0.002)
    assert ledger.state(ATTEMPT) == "lost"
    assert ledger.beat(owner(), 0, [("event", b"1")]).status == "fenced"
    assert ledger.finish(owner(), b"done", None) == "fenced"
    assert ledger.refuse(owner(), b"") == "fenced"
    assert ledger.claim(owner(token="b"), PROTOCOL).status == "lost"
    assert [kind for _, kind, _ in news(ledger)] == ["claimed", "lost"]


def test_the_next_attempt_waits_for_the_lease_of_the_one_before(ledger: Ledger):
    submit(ledger)
    ledger.claim(owner(), PROTOCOL)
    assert submit(ledger, SECOND) == "busy"
    ledger.finish(owner(), b"done", None)
    assert submit(ledger, SECOND) == "new"
    assert submit(ledger) == "stale"
    assert ledger.claim(owner(), PROTOCOL).status == "ended"
    assert ledger.claim(owner(SECOND), PROTOCOL).status == "run"


def test_an_attempt_that_nobody_took_is_replaced_by_the_next(ledger: Ledger):
    submit(ledger)
    assert submit(ledger, SECOND) == "new"
    assert ledger.state(ATTEMPT) == "withdrawn"
    assert ledger.claim(owner(), PROTOCOL).status == "withdrawn"


def test_the_next_attempt_gives_up_one_whose_lease_has_expired(ledger: Ledger):
    submit(ledger)
    late = brief(ledger)
    late.claim(owner(), PROTOCOL)
    while submit(late, SECOND) == "busy":
        time.sleep(0.002)
    assert ledger.state(ATTEMPT) == "lost"
    assert ledger.state(SECOND) == "queued"


def test_cancelling(ledger: Ledger):
    submit(ledger)
    assert ledger.cancel(ATTEMPT, "cancelled", now=False) == "withdrawn"
    assert ledger.claim(owner(), PROTOCOL).status == "withdrawn"
    assert submit(ledger) == "new"  # it was never started
    assert ledger.claim(owner(token="b"), PROTOCOL).status == "run"
    ledger.finish(owner(token="b"), b"done", None)
    submit(ledger, SECOND)
    ledger.claim(owner(SECOND), PROTOCOL)
    assert ledger.cancel(SECOND, "SIGTERM", now=False) == "running"
    found = ledger.beat(owner(SECOND), 0, [])
    assert (found.status, found.asked, found.reason) == ("ok", "cancel", "SIGTERM")
    ledger.cancel(SECOND, "again", now=True)
    ledger.cancel(SECOND, "later", now=False)
    assert ledger.beat(owner(SECOND), 0, []).asked == "now"


def test_many_attempts_are_cancelled_with_few_requests(ledger: Ledger):
    """Those of a run whose submitter was killed, each of which may wait 50 ms for a server far away."""
    attempts = [AttemptId("r1", i, 1) for i in range(1500)]
    for attempt in attempts:
        submit(ledger, attempt)
    for attempt in attempts[:2]:
        ledger.claim(owner(attempt, f"t{attempt.task}"), PROTOCOL)
    ledger.finish(owner(attempts[0], "t0"), b"done", None)
    outcomes = [Outcome(index=a.task, name=str(a.task), attempts=1) for a in attempts[2:]]
    before = requests(ledger)
    assert ledger.cancel_all(attempts[:3], "cancelled", now=True) == [
        "ended",
        "running",
        "withdrawn",
    ]
    assert (
        stop_attempts(ledger, "r1", outcomes)
        == "1498 tasks that waited for a worker were withdrawn"
    )
    assert ledger.states(attempts[:3]) == ["ended", "running", "withdrawn"]
    assert requests(ledger) - before < 300, "the server reads 16 KB at a time"
    assert ledger.beat(owner(attempts[1], "t1"), 0, []).asked == "now"


def requests(ledger: Ledger) -> int:
    """How often the server has read something from a connection."""
    return int(ledger.client.info("stats")["total_reads_processed"])


def test_a_server_that_has_lost_its_data_is_noticed(ledger: Ledger):
    submit(ledger)
    ledger.claim(owner(), PROTOCOL)
    assert ledger.knows("r1")
    ledger.client.flushall()
    assert ledger.beat(owner(), 0, []).status == "missing"
    assert ledger.finish(owner(), b"done", None) == "missing"
    assert ledger.claim(owner(token="b"), PROTOCOL).status == "missing"
    assert ledger.cancel(ATTEMPT, "", now=False) == "missing"
    assert not ledger.knows("r1")


def test_an_attempt_whose_process_was_killed_is_given_up_before_its_lease_ends(ledger: Ledger):
    submit(ledger)
    ledger.claim(owner(), PROTOCOL)
    assert ledger.give_up(owner(token="b")) == "fenced"
    assert ledger.give_up(owner()) == "ok"
    assert ledger.state(ATTEMPT) == "lost"
    assert ledger.finish(owner(), b"done", None) == "fenced"
    assert [kind for _, kind, _ in news(ledger)] == ["claimed", "killed"]
    assert not ledger.client.hgetall(ledger.keys.busy("n1"))
    assert submit(ledger, SECOND) == "new"


def test_an_attempt_that_was_refused_can_be_taken_by_another(ledger: Ledger):
    submit(ledger)
    ledger.claim(owner(), PROTOCOL)
    assert ledger.refuse(owner(), b"why") == "ok"
    assert ledger.finish(owner(), b"done", None) == "fenced"
    assert ledger.claim(owner(token="b", node="n2"), PROTOCOL).payload == b"{}"
    assert news(ledger)[1] == ("0.1", "refused", b"why")


def test_what_a_worker_reported_before_it_refused_hides_no_event_of_the_next_one(ledger: Ledger):
    submit(ledger)
    ledger.claim(owner(), PROTOCOL)
    ledger.beat(owner(), 0, [("notice", b"too little space")])
    ledger.refuse(owner(), b"why")
    ledger.claim(owner(token="b", node="n2"), PROTOCOL)
    ledger.beat(owner(token="b", node="n2"), 0, [("started", b"s1")])
    kinds = [kind for _, kind, _ in news(ledger)]
    assert kinds == ["claimed", "notice", "refused", "claimed", "started"]


def test_a_worker_of_another_version_takes_nothing(ledger: Ledger):
    submit(ledger)
    found = ledger.claim(owner(), PROTOCOL + 1)
    assert (found.status, found.detail) == ("version", "1.0")
    assert ledger.state(ATTEMPT) == "queued"


def test_live_nodes(ledger: Ledger):
    ledger.say_alive("n1", ["echo", "claude"], 60)
    ledger.say_alive("n2", ["echo"], -60)
    assert ledger.live_nodes("echo") == ["n1"]
    ledger.say_gone("n1", ["echo"])
    assert ledger.live_nodes("echo") == []
    assert ledger.live_nodes("claude") == ["n1"]


def test_everything_is_below_the_prefix_and_is_forgotten_one_day(ledger: Ledger):
    submit(ledger)
    ledger.claim(owner(), PROTOCOL)
    ledger.beat(owner(), 0, [("event", b"1")])
    ledger.finish(owner(), b"done", "s1")
    keys = ledger.client.keys()
    assert all(key.startswith(b"clinvk:t:") for key in keys)
    assert all(ledger.client.pttl(key) > 0 for key in keys)


class Machine(RuleBasedStateMachine):
    """Workers and a submitter, interleaved at will, with expiring leases and answers that are lost:
    every attempt is started at most once, and at most one is running at a time."""

    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        self.ledger.client.flushall()
        self.number = 0
        self.started: dict[int, str] = {}
        self.ended: dict[int, bytes] = {}
        self.serial = 0

    def attempt(self, number: int) -> AttemptId:
        return AttemptId("r1", 0, number)

    @rule()
    def submit(self) -> None:
        said = submit(self.ledger, self.attempt(self.number + 1))
        if said == "new":
            self.number += 1
            states = [self.ledger.state(self.attempt(n)) for n in range(1, self.number)]
            assert not {"queued", "running"} & {*states}
        else:
            assert said == "busy"
            assert self.ledger.state(self.attempt(self.number)) == "running"

    @precondition(lambda self: self.number)
    @rule(back=st.integers(0, 2), twice=st.booleans())
    def claim(self, back: int, twice: bool) -> None:
        number = max(1, self.number - back)
        self.serial += 1
        me = owner(self.attempt(number), f"w{self.serial}")
        for _ in range(1 + twice):
            said = self.ledger.claim(me, PROTOCOL).status
        if said == "run":
            assert number not in self.started, "it was started twice"
            assert number == self.number
            self.started[number] = me.token

    @precondition(lambda self: self.started)
    @rule(data=st.data(), twice=st.booleans())
    def finish(self, data: st.DataObject, twice: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.started)))
        result = f"{number} {self.serial}".encode()
        for _ in range(1 + twice):
            said = self.ledger.finish(
                owner(self.attempt(number), self.started[number]), result, None
            )
        if said == "ok":
            assert self.ledger.result(self.attempt(number)) == self.ended.setdefault(number, result)
        else:
            assert self.ledger.state(self.attempt(number)) == "lost"

    @precondition(lambda self: self.started)
    @rule(data=st.data(), stranger=st.booleans(), twice=st.booleans())
    def kill(self, data: st.DataObject, stranger: bool, twice: bool) -> None:
        """Its process, which the supervisor of its worker reports."""
        number = data.draw(st.sampled_from(sorted(self.started)))
        before = self.ledger.state(self.attempt(number))
        token = "stranger" if stranger else self.started[number]
        said = [self.ledger.give_up(owner(self.attempt(number), token)) for _ in range(1 + twice)]
        does = before == "running" and not stranger
        assert said == ["ok" if does else "fenced", "fenced"][: len(said)]
        assert self.ledger.state(self.attempt(number)) == ("lost" if does else before)

    @precondition(lambda self: self.started)
    @rule(data=st.data(), stranger=st.booleans())
    def beat(self, data: st.DataObject, stranger: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.started)))
        token = "stranger" if stranger else self.started[number]
        said = self.ledger.beat(owner(self.attempt(number), token), 0, []).status
        state = self.ledger.state(self.attempt(number))
        expected = {"running": "ok", "ended": "ended"}.get(str(state), "fenced")
        assert said == ("fenced" if stranger else expected)

    @rule()
    def expire(self) -> None:
        """As if the lease of whatever runs had expired, and the grace after it."""
        for number in self.started:
            if self.ledger.state(self.attempt(number)) == "running":
                self.ledger.client.zadd(
                    self.ledger.keys.leases("r1"), {self.attempt(number).member: 1}
                )
        self.ledger.expire("r1")
        for number in self.started:
            assert self.ledger.state(self.attempt(number)) != "running"

    @precondition(lambda self: self.number)
    @rule(now=st.booleans())
    def cancel(self, now: bool) -> None:
        said = self.ledger.cancel(self.attempt(self.number), "", now=now)
        assert said == self.ledger.state(self.attempt(self.number))
        assert said != "queued"


def test_no_order_of_calls_starts_an_attempt_twice(ledger: Ledger):
    class Here(Machine):
        pass

    Here.ledger = ledger
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


def test_news_about_tasks_that_are_recorded_are_deleted_and_no_others(ledger: Ledger):
    recorded, attempts = RecordedTasks(ledger, "r1"), [AttemptId("r1", i, 1) for i in range(3)]
    owners = [owner(attempt, f"t{attempt.task}") for attempt in attempts]
    for each in owners:
        submit(ledger, each.attempt)
        ledger.claim(each, PROTOCOL)
        ledger.beat(each, 0, [("event", b"1"), ("event", b"2")])
    ledger.finish(owners[0], b"done", None)
    ledger.finish(owners[1], b"done", None)
    last = "0"
    for one in ledger.read_news("r1", last, wait=0.001):
        recorded.see(one)
        last = one.id
    recorded.record(0)
    recorded.record(2)  # its news so far, and all that follow
    recorded.delete()
    assert [member for member, _, _ in news(ledger)] == ["1.1"] * 4
    assert ledger.result(attempts[0]) is None
    assert ledger.result(attempts[1]) == b"done", "nobody has recorded it"
    assert ledger.state(attempts[0]) == "ended"
    assert submit(ledger, attempts[0]) == "ended", "it is not started again"
    ledger.finish(owners[2], b"done", None)
    for one in ledger.read_news("r1", last, wait=0.001):
        recorded.see(one)
    recorded.delete()
    assert [member for member, _, _ in news(ledger)] == ["1.1"] * 4
