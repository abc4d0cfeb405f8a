"""What goes through Redis: requests, events and results as JSON."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.cluster import payload
from clinvk.errors import ConfigError, UsageError
from clinvk.model.checks.check import CheckResult
from clinvk.model.checks.progress import CheckProgress
from clinvk.model.events import (
    EVENT_TYPES,
    Checked,
    Checking,
    Denied,
    Event,
    Failed,
    Finished,
    RateLimit,
    Round,
    Started,
    Text,
    Tool,
    ToolResult,
)
from clinvk.model.plan import TaskWorktree, Worktree
from clinvk.model.request import Request
from clinvk.model.result import Denial, Failure, Result, WorktreeResult
from clinvk.model.session_ref import LatestSession, NewSession, SessionById
from clinvk.model.usage import Usage

MOMENT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
RESULT = Result(
    ok=False, text="half\udc80", backend="claude", exit_code=65, session_id="s", native_id="n", model="m",
    usage=Usage(1, 2, 3), cost=0.5, seconds=1.25, denied=(Denial("Bash", {"a": [1]}, "no"),),
    structured={"x": [None, 1.5]}, structured_attempts=2,
    error=Failure("check", "it failed", "fix it", MOMENT, 500, 2.0, "five_hour", "opus"),
    backend_exit_code=1, unrecognized_lines=3,
    worktree=WorktreeResult(path="/w", ref="refs/clinvk/r/t/1", commit="b", base="a", files=2),
    check=CheckResult(state="failed", command="make", exit_code=2, output="no", protected=("a",)),
)  # fmt: skip
EVENTS: list[Event] = [
    Started(native_id="n", model="m", raw={"type": "x"}), Text(text="héllo", message_id="1"),
    Tool(id="1", name="Read", input={"path": "/x"}, ended=True), ToolResult(id="1", ok=True, output=[1]),
    Denied(id="1", name="Bash", reason="no"), RateLimit(retry_at=MOMENT, window="w"),
    Checking(round=1, command="make", changed=False, result=RESULT),
    Checked(round=1, check=RESULT.check, failure="k", again=True), Round(round=2, rounds=3, message="m"),
    Finished(text="t", usage=Usage(1, 2), cost=0.1), Finished(incomplete="why"),
    Failed(kind="limit", message="m", retry_at=MOMENT, status=429, usage=Usage(1, 2), turns=3),
    *(cls() for cls in EVENT_TYPES.values()),
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def same_text(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_a_result_comes_back_as_it_was():
    found = payload.result_from_json(payload.result_to_json(RESULT))
    assert found.text == same_text(RESULT.text)
    for name in RESULT.__struct_fields__:
        if name != "text":
            assert getattr(found, name) == getattr(RESULT, name), name


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.type)
def test_an_event_comes_back_as_it_was(event: Event):
    found = payload.event_from_json_line(payload.event_to_json(event))
    if isinstance(event, Checking) and event.result is not None:
        assert isinstance(found, Checking)
        assert found.result
        assert found.result.check == RESULT.check
        assert found.round == event.round
    else:
        assert found == event


@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    options=st.dictionaries(st.text(min_size=1), JSON, max_size=4),
    env=st.dictionaries(st.text(min_size=1), st.text(), max_size=3), new=st.booleans(),
)  # fmt: skip
def test_a_request_comes_back_as_it_was(prompt: str, options: dict, env: dict, new: bool):
    asked = Request(
        prompt=prompt, session=NewSession("r1.t") if new else SessionById("r1.t"), options=options,
        env=env, backend="claude" if new else None, to=None if new else "codex", args=("-x",),
        cwd=Path("/srv/x"), timeout=3.5, tags=("a",), title="t", lenient=True, task="r1",
        worktree=TaskWorktree(run="r1", attempt=2, wanted=Worktree(base="main", slug="t")),
        check_progress=CheckProgress(round=1, result=RESULT, failures=("k",), changed=True),
        check_dir=Path("/here"), attempt=(3, 2), on_limit="fail", fallback=(),
    )  # fmt: skip
    found = payload.request_from_json(payload.request_to_json(asked))
    assert found.session_ref == asked.session_ref
    assert found.check_progress
    assert found.check_progress.failures == ("k",)
    assert found.check_dir is not None, "the worker has its own"
    for name in (
        "prompt", "backend", "to", "options", "args", "cwd", "timeout", "tags", "title",
        "lenient", "task", "worktree", "on_limit", "fallback",
    ):  # fmt: skip
        if name == "options":
            assert {same_text(k) for k in found.options} == {same_text(k) for k in asked.options}
        else:
            assert getattr(found, name) == getattr(asked, name), name


@given(st.binary() | JSON.map(repr).map(str.encode))
def test_nonsense_is_no_request(data: bytes):
    with pytest.raises((ValueError, TypeError)):
        payload.request_from_json(data)


def test_a_request_of_another_version_is_refused():
    with pytest.raises(ValueError, match="version 2"):
        payload.request_from_json(b'{"version":2,"prompt":"x"}')


def test_a_value_of_a_variable_is_not_sent():
    asked = Request(
        prompt="use hush-hush", session=NewSession("a"), env={"TOKEN": "${TOKEN}"},
        secrets=("hush-hush",),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="secrets are not sent to Redis"):
        payload.request_to_json(asked)
    assert b"hush" not in payload.request_to_json(asked.replace(prompt="use it"))


@pytest.mark.parametrize("secret", ['a "quoted" one', "two\nlines of it", r"a\\backslash"])
def test_a_value_that_json_escapes_is_not_sent_either(secret: str):
    new = NewSession("a")
    for asked in (
        Request(prompt=f"use {secret}", session=new, secrets=(secret,)),
        Request(prompt="x", session=new, args=("--key", secret), secrets=(secret,)),
        Request(prompt="x", session=new, options={"schema": {secret: [secret]}}, secrets=(secret,)),
    ):
        with pytest.raises(ConfigError, match="secrets are not sent to Redis"):
            payload.request_to_json(asked)


def test_what_is_too_large_is_refused_or_left_out():
    with pytest.raises(UsageError, match="too large for the cluster"):
        payload.request_to_json(Request(prompt="x" * payload.MAX_REQUEST, session=NewSession("a")))
    event = payload.event_to_json(Text(text="x" * payload.MAX_EVENT, raw="y" * payload.MAX_EVENT))
    assert payload.event_from_json_line(event) == Text(text=payload.LEFT_OUT)


def test_a_result_that_is_too_large_is_a_failure(monkeypatch):
    monkeypatch.setattr(payload, "MAX_RESULT", 2000)
    done = Result(ok=True, text="x" * 5000, backend="claude", exit_code=0, session_id="s")
    found = payload.result_from_json(payload.result_to_json(done))
    assert (found.ok, found.exit_code, found.session_id, found.text) == (False, 1, "s", "")
    assert found.error
    assert "too large" in found.error.message


def test_a_session_that_only_this_machine_knows_is_refused():
    with pytest.raises(UsageError):
        payload.request_to_json(Request(prompt="x", session=LatestSession()))


def test_an_event_of_a_newer_clinvk_is_skipped():
    assert payload.event_from_json_line(b'{"type":"hologram"}') is None
    with pytest.raises(ValueError, match="not an event"):
        payload.event_from_json_line(b"[]")
