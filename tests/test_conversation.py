"""Branches, merges and figures: laws about made-up conversations."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.errors import SessionError, UsageError
from clinvk.model.session import Message, MessageRole, Session
from clinvk.model.usage import Usage
from clinvk.sessions.transform import STRATEGIES, branch, common_prefix_length, merge, stats

START = datetime(2026, 3, 1, tzinfo=UTC)

messages = st.builds(
    Message,
    st.sampled_from(MessageRole),
    st.sampled_from(["a", "b", "c d", "C  d", ""]),
    st.integers(0, 9).map(lambda s: START + timedelta(seconds=s)),
)
conversations = st.lists(messages, max_size=8)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Session, Session]:
    """Two sessions that may have begun as one."""
    shared = draw(conversations)
    a, b = draw(conversations), draw(conversations)
    return Session(id="a", messages=shared + a), Session(id="b", messages=shared + b)


def said(*lines: str, id: str = "s", every: float = 1, start: float = 0) -> Session:  # noqa: A002
    """A session of `u: …`, `a: …` and `s: …` lines, that many seconds apart."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    parts = [line.split(": ", 1) for line in lines]
    made = [
        Message(MessageRole(roles[who]), text, START + timedelta(seconds=start + i * every))
        for i, (who, text) in enumerate(parts)
    ]
    return Session(id=id, messages=made)


def words(session: Session) -> list[str]:
    return [m.content for m in session.messages]


def times(session: Session) -> Counter[tuple[str, str]]:
    return Counter((m.role, m.content) for m in session.messages)


def _without_common(a: Session, b: Session) -> list[Message]:
    return [*a.messages, *b.messages[common_prefix_length(a.messages, b.messages) :]]


# Branches.


@given(conversations.filter(bool), st.data())
def test_a_branch_at_n_has_the_first_n_plus_one_messages(said_: list[Message], data: st.DataObject):
    source = Session(id="s", messages=said_)
    at = data.draw(st.integers(0, len(said_) - 1))
    new = branch(source, at)
    assert new.messages == said_[: at + 1]
    assert sum(new.counts.values()) == at + 1
    assert branch(source, at - len(said_)).messages == new.messages


@given(conversations)
def test_a_branch_without_a_place_has_all_messages(said_: list[Message]):
    assert branch(Session(id="s", messages=said_)).messages == said_


@pytest.mark.parametrize("at", [2, -3, 99])
def test_a_branch_where_no_message_is_names_those_that_are(at: int):
    with pytest.raises(SessionError) as raised:
        branch(said("u: x", "a: y"), at)
    assert (raised.value.exit_code, raised.value.hint) == (4, "it has 2: 0 to 1")


def test_a_branch_of_an_empty_session_is_empty_but_has_no_message_0():
    assert branch(Session(id="s")).messages == []
    with pytest.raises(SessionError, match="no message 0"):
        branch(Session(id="s"), 0)


def test_a_branch_has_the_settings_of_its_source_and_no_backend_knows_it():
    source = Session(id="s", backend="claude", model="m", cwd="/x", title="T", tags=("t",),
                     native_ids={"claude": "n"}, turns=3, usage=Usage(1, 2), cost=0.5,
                     options={"model": "m"}, metadata={"ticket": 7}, status="archived",
                     messages=said("u: hello", "a: hi").messages)  # fmt: skip
    new = branch(source, 0, "Another")
    assert (new.backend, new.model, new.cwd, new.tags) == ("claude", "m", "/x", ("t",))
    assert (new.title, new.prompt, new.options) == ("Another", "hello", {"model": "m"})
    assert (new.native_ids, new.turns, new.usage, new.cost) == ({}, 0, None, None)
    assert (new.parents, new.status) == (("s",), "active")
    assert new.metadata == {"ticket": 7, "branched_from": "s", "branched_at": 0}
    assert new.id != "s"
    assert source.metadata == {"ticket": 7}


def test_where_a_session_came_from_is_not_told_of_its_own_branches():
    merged = merge(said("u: x", id="a"), said("u: y", id="b"))
    assert set(branch(merged).metadata) == {"branched_from", "branched_at"}


# Merges.


@given(pairs(), st.sampled_from(["chronological", "manual"]))
def test_a_merge_keeps_every_turn_once(pair: tuple[Session, Session], strategy: str):
    a, b = pair
    expected = Session(id="x", messages=_without_common(a, b))
    assert times(merge(a, b, strategy)) == times(expected)


@given(pairs())
def test_a_smart_merge_loses_nothing_that_was_said_and_adds_nothing(pair: tuple[Session, Session]):
    a, b = pair
    plain, smart = times(merge(a, b)), times(merge(a, b, "smart"))
    assert smart <= plain
    fold = lambda counts: {(r, " ".join(t.split()).casefold()) for r, t in counts}  # noqa: E731
    assert fold(smart) == fold(plain)


@given(pairs(), st.sampled_from(STRATEGIES))
def test_a_merge_begins_with_what_both_began_with(pair: tuple[Session, Session], strategy: str):
    a, b = pair
    n = common_prefix_length(a.messages, b.messages)
    assert merge(a, b, strategy).messages[:n] == a.messages[:n]


@given(pairs(), st.sampled_from(STRATEGIES))
def test_a_merge_keeps_the_order_of_each_side(pair: tuple[Session, Session], strategy: str):
    a, b = pair
    merged = merge(a, b, strategy).messages
    for side in (a, b):
        mine = {id(m): i for i, m in enumerate(side.messages)}
        places = [mine[id(m)] for m in merged if id(m) in mine]
        assert all(x < y for x, y in pairwise(places))


@given(conversations, st.sampled_from(STRATEGIES))
def test_a_merge_with_itself_is_itself(said_: list[Message], strategy: str):
    session = Session(id="s", messages=said_)
    assert merge(session, session, strategy).messages == said_


def test_a_chronological_merge_is_in_the_order_of_time():
    a, b = (
        said("u: 0", "a: 2", "u: 4", id="a", every=2),
        said("u: 1", "a: 3", id="b", start=1, every=2),
    )
    assert words(merge(a, b)) == ["0", "1", "2", "3", "4"]


def test_a_smart_merge_keeps_a_question_with_its_answers():
    a = said("u: q1", "a: r1", "u: q2", "a: r2", id="a", every=10)
    b = said("u: q3", "a: r3", id="b", start=5, every=10)
    assert words(merge(a, b, "smart")) == ["q1", "r1", "q3", "r3", "q2", "r2"]


def test_a_smart_merge_drops_an_exchange_that_both_had():
    a = said("s: be kind", "u: one", "a: 1", "u: two", "a: 2", id="a")
    b = said("s: be kind", "u: three", "a: 3", "u: ONE ", "a: 1", id="b", start=100)
    assert words(merge(a, b, "smart")) == ["be kind", "one", "1", "two", "2", "three", "3"]


def test_a_smart_merge_keeps_the_same_question_with_another_answer():
    a, b = said("u: x", "u: q", "a: 1", id="a"), said("u: y", "u: q", "a: 2", id="b", start=50)
    assert words(merge(a, b, "smart")) == ["x", "q", "1", "y", "q", "2"]


def test_a_smart_merge_keeps_what_one_side_says_twice():
    a = said("u: again", "a: done", "u: again", "a: done", id="a")
    assert words(merge(a, Session(id="b"), "smart")) == ["again", "done", "again", "done"]


def test_a_manual_merge_has_the_messages_of_its_order():
    a, b = said("u: a0", "a: a1", id="a"), said("u: b0", "a: b1", id="b")
    order = [("b", 1), ("a", 0), ("a", -1)]
    assert words(merge(a, b, "manual", order=order)) == ["b1", "a0", "a1"]


@pytest.mark.parametrize(
    ("order", "problem"),
    [
        ([("c", 0)], "names session c"),
        ([("a", 0), ("a", 0)], "message 0 of session a twice"),
        ([("a", 0), ("a", -2)], "message 0 of session a twice"),
        ([("a", 5)], "no message 5"),
    ],
)
def test_an_order_that_cannot_be_kept_is_refused(order: list[tuple[str, int]], problem: str):
    a, b = said("u: a0", "a: a1", id="a"), said("u: b0", id="b")
    with pytest.raises(SessionError, match=problem):
        merge(a, b, "manual", order=order)


def test_an_unknown_strategy_is_refused_with_the_known_ones():
    with pytest.raises(UsageError) as raised:
        merge(Session(id="a"), Session(id="b"), "clever")
    assert raised.value.hint == "valid: chronological, smart, manual"
    with pytest.raises(UsageError, match="an order cannot be used"):
        merge(Session(id="a"), Session(id="b"), order=[])


def test_a_merge_has_both_parents_and_the_metadata_of_both():
    a = Session(id="a", metadata={"x": 1, "y": 1}, title="A")
    new = merge(a, Session(id="b", metadata={"y": 2, "z": 2}), "smart")
    assert (new.parents, new.title) == (("a", "b"), "A")
    assert {k: new.metadata[k] for k in "xyz"} == {"x": 1, "y": 1, "z": 2}
    assert (new.metadata["merged_from"], new.metadata["merge_strategy"]) == (["a", "b"], "smart")


# Figures.


def test_stats_count_messages_words_tokens_and_waits():
    session = said("s: be kind", "u: how are you", "a: fine", "u: good", "a: bye now", every=4)
    session.messages[2].tokens = 5
    session.messages[4].tokens = 7
    found = stats(session)
    assert (found["message_count"], found["user_messages"]) == (5, 2)
    assert (found["assistant_messages"], found["system_messages"]) == (2, 1)
    assert found["total_tokens"] == 12
    assert found["avg_response_time"] == 4
    assert found["user_assistant_ratio"] == 1
    assert (found["words"], found["words_by_role"]["user"]) == (9, 4)
    assert (found["first_message_at"], found["duration"]) == (START, 16)


def test_what_a_backend_reported_counts_before_what_messages_say():
    session = Session(id="s", usage=Usage(10, 5), messages=[Message("user", "x", tokens=3)])
    assert stats(session)["total_tokens"] == 15


def test_stats_of_nothing_are_none_and_not_zero():
    found = stats(Session(id="s"))
    assert (found["message_count"], found["total_tokens"]) == (0, 0)
    unknown = ("avg_response_time", "user_assistant_ratio", "first_message_at", "cost", "duration")
    assert [found[name] for name in unknown] == [None] * 5
    assert stats(said("u: x"))["total_tokens"] is None


@given(conversations)
def test_stats_of_any_conversation_can_be_had(said_: list[Message]):
    found = stats(Session(id="s", messages=said_))
    roles = ("user_messages", "assistant_messages", "system_messages")
    assert sum(found[name] for name in roles) == found["message_count"] == len(said_)
    assert (found["avg_response_time"] or 0) >= 0
