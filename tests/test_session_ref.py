"""A request says in one value which session it is about."""

import copy
import itertools
import pickle
import sys

import pytest

from clinvk.cmd.options.session_flags import check_flags, session_ref
from clinvk.errors import UsageError
from clinvk.model.request import Request
from clinvk.model.session_ref import (
    DefaultSession,
    LatestSession,
    NamedSession,
    NewSession,
    SessionById,
    SessionRef,
)

WORDS = [
    ({}, DefaultSession()),
    ({"new": True}, NewSession()),
    ({"history": 2}, NewSession(history=2)),
    ({"new": True, "history": 2}, NewSession(history=2)),
    ({"session": "s1"}, SessionById("s1")),
    ({"session": ""}, SessionById("")),
    ({"session": "s1", "anywhere": True, "new": True, "history": 2}, SessionById("s1")),
    ({"session": "last"}, LatestSession()),
    ({"session": "last", "anywhere": True}, LatestSession(anywhere=True)),
    ({"anywhere": True}, DefaultSession()),
    ({"name": "docs"}, NamedSession("docs")),
    ({"name": "docs", "history": 2, "session": "last"}, NamedSession("docs", history=2)),
    ({"name": ""}, NamedSession("")),
    ({"session": LatestSession(anywhere=True)}, LatestSession(anywhere=True)),
]


@pytest.mark.parametrize(("words", "ref"), WORDS)
def test_the_words_of_a_request_mean_one_session(words: dict, ref: SessionRef):
    request = Request(prompt="x", **words)
    assert request.session_ref == ref
    # What is read from it means the same again.
    names = ("session", "name", "anywhere", "history", "new")
    read = {name: getattr(request, name) for name in names}
    assert Request(prompt="x", **read) == request
    assert all(read[k] == v for k, v in words.items() if k == "name")


def test_a_request_is_immutable_compared_by_value_and_can_be_changed_into_another():
    request = Request(prompt="x", session="last", options={"model": "m"})
    assert request == Request(prompt="x", session=LatestSession(), options={"model": "m"})
    assert request != Request(prompt="y", session="last", options={"model": "m"})
    assert request != "x"
    with pytest.raises(AttributeError, match="immutable"):
        request.prompt = "y"  # type: ignore[misc]
    with pytest.raises(TypeError, match="unhashable"):
        hash(request)
    assert "prompt='x'" in repr(request)
    there = request.with_session(SessionById("s1"))
    assert (there.session, there.prompt, there.options) == ("s1", "x", {"model": "m"})
    assert request.replace(prompt="y", title="t").session == "last"
    assert pickle.loads(pickle.dumps(request)) == copy.deepcopy(request) == request
    assert request.replace(anywhere=True).session_ref == LatestSession(anywhere=True)
    assert request.replace(session_ref=SessionById("s1")) == there
    assert request.replace(name="docs").session_ref == NamedSession("docs")
    with pytest.raises(TypeError, match="promt"):
        request.replace(promt="y")
    if sys.version_info >= (3, 13):
        assert copy.replace(request, prompt="y") == request.replace(prompt="y")


FLAGS = {
    "-c": True, "--anywhere": True, "--session": "docs", "--history": 2, "--new": True,
    "--to": "codex", "--replay": True, "--ephemeral": True, "--title": "t", "--tag": ["a"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "problem", "hint"),
    [
        ("-c --ephemeral", "-c and --ephemeral cannot be used together: nothing is saved", "leave out one of them"),
        ("--session --ephemeral", "--session and --ephemeral cannot be used together: nothing is saved", "leave out one of them"),
        ("--title --ephemeral", "--title and --ephemeral cannot be used together: nothing is saved", "leave out one of them"),
        ("--tag --ephemeral", "--tag and --ephemeral cannot be used together: nothing is saved", "leave out one of them"),
        ("-c --session", "-c and --session cannot be used together", "leave out one of them"),
        ("--to", "--to needs a session", "add -c, or use: clinvk resume ID"),
        ("--to --replay", "--to needs a session", "add -c, or use: clinvk resume ID"),
        ("--replay --new", "--replay needs a session", "add -c, or use: clinvk resume ID"),
        ("--history -c", "--history starts a new session", "leave out -c and --session"),
        ("--history --session", "--history starts a new session", "leave out -c and --session"),
        ("--anywhere", "--anywhere needs -c", "add -c"),
        ("--anywhere --session", "--anywhere needs -c", "add -c"),
        ("--new -c", "--new and -c cannot be used together", "leave out one of them"),
    ],
)  # fmt: skip
def test_flags_that_exclude_each_other_are_told(flags: str, problem: str, hint: str):
    with pytest.raises(UsageError) as caught:
        check_flags({flag: FLAGS[flag] for flag in flags.split()})
    assert (caught.value.message, caught.value.hint) == (problem, hint)


def test_flags_that_go_together_mean_one_session():
    """Of all combinations: what remains is said by one value, and nothing of it is ignored."""
    allowed = set()
    for chosen in itertools.product([False, True], repeat=len(FLAGS)):
        flags = {flag: value for (flag, value), on in zip(FLAGS.items(), chosen, strict=True) if on}
        try:
            check_flags(flags)
        except UsageError:
            continue
        ref = session_ref(
            continue_="-c" in flags, anywhere="--anywhere" in flags, name=flags.get("--session"),
            history=flags.get("--history", 0), new="--new" in flags,
        )  # fmt: skip
        allowed.add(repr(ref))
        assert isinstance(ref, LatestSession) == ("-c" in flags)
        assert isinstance(ref, NamedSession) == ("--session" in flags)
        assert getattr(ref, "anywhere", False) == ("--anywhere" in flags)
        assert getattr(ref, "history", 0) == flags.get("--history", 0)
        assert "--ephemeral" not in flags or isinstance(ref, (DefaultSession, NewSession))
    assert len(allowed) == 6  # here and anywhere; a name; new with and without history; the default
