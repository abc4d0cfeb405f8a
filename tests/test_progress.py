"""The JSON form of what happens in a run: written and read in one place."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import clinvk
from clinvk.cmd.views.run import describe_outcome
from clinvk.model import events
from clinvk.model.checks.check import CheckResult
from clinvk.model.events import EVENT_TYPES, Event, event_from_json
from clinvk.model.outcome import Outcome
from clinvk.model.progress import Change
from clinvk.model.result import Failure
from clinvk.model.usage import Usage
from clinvk.terminal.printer import Printer

MOMENT = datetime(2026, 3, 1, 12, 0, 0, 123000, UTC)
OUTCOME = Outcome(
    index=3, name="docs", key="docs", state="failed", backend="fake", model="m", session_id="r1.4",
    output="half", structured={"a": 1}, error=Failure("limit", "too many", "wait", MOMENT),
    seconds=1.5, exit_code=1, usage=Usage(10, 5), cost=0.25, attempts=2, started_at=MOMENT,
    ended_at=MOMENT, tags=("x",), meta={"n": 1},
)  # fmt: skip
EVENTS: dict[str, Event] = {
    "started": events.Started(native_id="n", model="m"),
    "delta": events.Delta(text="a"),
    "text": events.Text(text="a"),
    "thinking": events.Thinking(text="a"),
    "tool": events.Tool(id="1", name="Read", input={"path": "x"}),
    "tool_result": events.ToolResult(id="1", ok=True, output=["x"]),
    "denied": events.Denied(id="1", name="Bash", input={}, reason="no"),
    "notice": events.Notice(message="a"),
    "rate_limit": events.RateLimit(retry_at=MOMENT, window="five_hour", model="m"),
    "checking": events.Checking(round=1, command="make test", changed=False),
    "checked": events.Checked(round=1, check=CheckResult(state="failed", protected=("a (removed)",))),
    "round": events.Round(round=2, rounds=3),
    "finished": events.Finished(text="a", usage=Usage(1, 2), cost=0.5, structured=[1]),
    "failed": events.Failed(kind="limit", message="a", hint="b", retry_at=MOMENT, status=429,
                            usage=Usage(1, 2), cost=0.5),
}  # fmt: skip
CHANGES = {
    "started": Change(kind="started", outcome=OUTCOME),
    "node": Change(kind="node", outcome=replace(OUTCOME, node="w1")),
    "event": Change(kind="event", outcome=OUTCOME, event=EVENTS["tool"]),
    "retry": Change(kind="retry", outcome=OUTCOME, until=MOMENT),
    "limit": Change(kind="limit", outcome=OUTCOME, until=MOMENT, message="too many"),
    "ended": Change(kind="ended", outcome=OUTCOME),
    "notice": Change(kind="notice", outcome=OUTCOME, message="careful"),
    "nothing of a task": Change(kind="notice", message="careful"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_read_from_the_line_of_a_change_makes_the_same_line(name: str):
    line = json.loads(json.dumps(CHANGES[name].to_json("r1")))
    assert Change.from_json(line).to_json("r1") == line


def test_the_line_of_an_end_holds_all_of_the_outcome():
    line = json.loads(json.dumps(CHANGES["ended"].to_json("r1")))
    assert Change.from_json(line) == CHANGES["ended"]
    assert list(line) == ["version", "type", "run", "index", "name", "backend", "attempt", "result"]


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_an_event_is_read_as_it_was_written(kind: str):
    line = json.loads(json.dumps(EVENTS[kind].to_json()))
    assert event_from_json(line) == EVENTS[kind]


def test_an_event_of_a_newer_kind_is_no_event():
    assert event_from_json({"type": "song", "text": "la"}) is None
    line = CHANGES["event"].to_json() | {"event": {"type": "song"}}
    assert Change.from_json(line).event is None


@pytest.mark.parametrize(
    "line",
    [
        {}, {"type": "begin"}, {"type": "ended"}, {"type": "task_song"}, {"type": None},
        {"type": "task_ended", "index": 1}, {"type": "task_started", "index": "x", "name": "a"},
        {"type": "task_retry", "until": "soon"}, {"type": "task_event", "event": None},
        {"type": "task_ended", "index": 1, "result": []}, {"type": "task_limit", "until": 7},
    ],
)  # fmt: skip
def test_a_line_that_is_no_change_is_refused(line: dict[str, Any]):
    with pytest.raises(ValueError, match="change"):
        Change.from_json(line)


def test_a_wait_is_kept_in_a_journal_and_read_from_there():
    limit = Change(kind="limit", outcome=OUTCOME, until=MOMENT, message="m", instead="other")
    kept = limit.wait_to_json()
    assert kept == {"kind": "limit", "until": MOMENT.isoformat(), "message": "m",
                    "instead": "other"}  # fmt: skip
    line = {"task": 3, "state": "queued", "attempts": 1, "wait": kept}
    read = Change.wait_from_json(line, Outcome(index=3, name="docs"))
    assert read is not None
    assert (read.wait_to_json(), read.outcome and read.outcome.attempts) == (kept, 1)
    for kind in ("started", "event", "ended", "notice"):
        assert CHANGES[kind].wait_to_json() is None


@pytest.mark.parametrize("wait", [None, [], {}, {"kind": "song"}, {"kind": "retry"},
                                  {"kind": "retry", "until": "soon"}])  # fmt: skip
def test_a_wait_that_is_none_is_left_out(wait: Any):
    line = {"task": 0, "state": "queued", "wait": wait}
    assert Change.wait_from_json(line, Outcome(index=0, name="1")) is None


def test_only_one_module_writes_or_reads_the_lines_of_changes():
    package = Path(clinvk.__file__).parent
    found = {path.stem for path in package.rglob("*.py") if '"task_' in path.read_text()}
    assert found == {"progress"}


def test_a_task_whose_end_is_unknown_has_no_time():
    lost = replace(
        OUTCOME, state="indeterminate", seconds=0.0, error=None, attempts=1, node="north"
    )
    line = describe_outcome(lost, Printer.for_errors("never"))
    assert line == "docs: ? indeterminate on fake (north)"
    known = describe_outcome(replace(lost, seconds=1.5), Printer.for_errors("never"))
    assert known == "docs: ? indeterminate in 1.5 s on fake (north)"
