"""The events of a turn become its result: no process, no event loop."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from clinvk.backend.manifest import Manifest
from clinvk.backend.options import Setting
from clinvk.dispatch.answer_schema import AnswerSchema
from clinvk.dispatch.folding.fold import TurnFold
from clinvk.dispatch.folding.turn_failure import MAX_STDERR_LENGTH, Exit
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.model.events import (
    Delta,
    Denied,
    Event,
    Failed,
    Finished,
    Notice,
    RateLimit,
    Started,
    Text,
    Thinking,
    Tool,
    ToolResult,
)
from clinvk.model.request import Request
from clinvk.model.result import Denial, Failure, Result
from clinvk.model.session import Session
from clinvk.model.usage import Usage
from clinvk.process.command import Command
from tests.conftest import PROTOCOL

MANIFEST = msgspec.convert({"name": "fake", "command": "fake", **PROTOCOL}, Manifest)
COMMAND = Command(("fake",), {}, Path("/"), b"", {})
SUCCESS = Finished(text="It is done.")


def plan_with(
    *, resumes: str | None = None, forks: str | None = None, settings: Any = None, **request: Any
) -> TurnPlan:
    return TurnPlan(
        Request(prompt="p", **request), MANIFEST, None, resumes, forks, {},
        {k: Setting(v, "flag") for k, v in (settings or {}).items()}, COMMAND, None, (),
        schema=AnswerSchema(settings["schema"]) if settings and "schema" in settings else None,
    )  # fmt: skip


def result_of(
    *events: Event, plan: TurnPlan | None = None, stop: Failure | None = None, **end: Any
) -> Result:
    fold = TurnFold(plan or plan_with())
    for event in events:
        fold.add(event)
    if stop:
        fold.stop(stop)
    return fold.finish(Exit(**{"code": 0, **end}))


def failure_of(*events: Event, **how: Any) -> Failure:
    result = result_of(*events, **how)
    assert not result.ok
    assert result.error is not None
    return result.error


# What was said


def test_the_answer_is_what_the_terminal_event_says():
    assert result_of(Text(text="one"), Finished(text="all of it")).text == "all of it"


def test_without_an_answer_in_the_terminal_event_it_is_the_last_block():
    assert result_of(Text(text="one"), Text(text="two"), Finished()).text == "two"


def test_an_empty_block_is_not_an_answer():
    assert result_of(Text(text="one"), Text(text=""), Finished()).text == "one"


def test_pieces_make_a_block_which_a_tool_or_a_thought_ends():
    said = (Delta(text="a"), Delta(text="b"), Tool(name="ls"), Delta(text="c"))
    assert result_of(*said, Finished()).text == "c"
    assert result_of(*said, Failed(message="no")).text == "ab\n\nc"
    assert (
        result_of(Delta(text="a"), Thinking(text="?"), Delta(text="b"), Failed()).text == "a\n\nb"
    )
    assert result_of(Delta(text="a"), ToolResult(), Delta(text="b"), Failed()).text == "a\n\nb"


def test_a_whole_text_replaces_the_pieces_before_it():
    assert result_of(Delta(text="a"), Delta(text="b"), Text(text="ab"), Failed()).text == "ab"


def test_a_failed_turn_keeps_everything_that_was_said():
    assert result_of(Text(text="one"), Text(text="two"), code=1).text == "one\n\ntwo"


# How it ended


def test_a_success_with_exit_code_0_is_a_success():
    result = result_of(SUCCESS)
    assert (result.ok, result.error, result.exit_code, result.backend_exit_code) == (
        True, None, 0, 0,
    )  # fmt: skip


def test_a_failure_after_a_success_counts():
    error = failure_of(SUCCESS, Failed(message="overloaded", status=529))
    assert (error.kind, error.message, error.status) == ("server", "overloaded", 529)


def test_a_success_after_a_failure_only_adds_its_figures():
    usage = Usage(input=3, output=4)
    events = (Failed(message="overloaded", status=529), Finished(text="x", usage=usage, cost=0.5))
    result = result_of(*events)
    assert (result.ok, result.usage, result.cost) == (False, usage, 0.5)
    assert (result.error.kind, result.error.message) == ("server", "overloaded")


def test_without_a_terminal_event_a_turn_is_incomplete_though_the_program_exits_with_0():
    error = failure_of(Text(text="half"), stderr="warning: low disk\n")
    assert error.kind == "incomplete"
    assert error.message.endswith("reporting success or failure: warning: low disk")


def test_a_line_that_was_too_long_is_named_as_a_possible_reason():
    assert "was skipped" in failure_of(skipped_lines=True).message


@pytest.mark.parametrize(("end", "message", "exit_code"), [
    ({"code": 3}, "fake exited with code 3 without output", 1),
    ({"code": 9}, "fake exited with code 9 without output", 9),
    ({"code": -9}, "fake was terminated by signal 9", 137),
    ({"code": -15, "stderr": "bye"}, "fake was terminated by signal 15: bye", 143),
    ({"code": 143}, "fake was terminated by signal 15", 143),
    ({"code": 3, "stderr": "\n bad option \n"}, " bad option ", 1),
    ({"code": 3, "noise": ("not JSON",)}, "not JSON", 1),
])  # fmt: skip
def test_without_a_terminal_event_the_exit_code_and_stderr_tell_why(
    end: dict[str, Any], message: str, exit_code: int
):
    result = result_of(**end)
    assert (result.error.kind, result.error.message) == ("backend", message)
    assert (result.exit_code, result.backend_exit_code) == (exit_code, end["code"])


def test_a_program_that_was_killed_may_have_needed_more_memory():
    for end in (
        {"code": -9},
        {"code": 137},
        {"code": 134, "stderr": "FATAL ERROR: JavaScript heap out of memory"},
    ):
        assert "run fewer tasks at once (-j)" in (failure_of(**end).hint or "")
        assert "run fewer tasks at once (-j)" in (failure_of(SUCCESS, **end).hint or "")
    assert failure_of(code=-15).hint is None
    assert failure_of(code=1, stderr="bad option").hint is None


def test_a_success_that_exits_with_another_code_than_0_is_a_failure():
    error = failure_of(SUCCESS, code=2, stderr="usage limit")
    assert error.kind == "limit"
    assert error.message == "fake reported success but exited with code 2: usage limit"


def test_a_failure_without_a_message_takes_the_last_notice():
    events = (Notice(message="old"), Notice(message="login expired"), Failed(status=401))
    error = failure_of(*events)
    assert (error.kind, error.message, error.hint) == ("auth", "login expired", "log in")
    assert failure_of(Failed()).message == "fake failed"


def test_a_long_stderr_is_cut_between_its_first_line_and_its_end():
    text = "the reason\n" + "usage\n" * 1_000 + "the end"
    message = failure_of(code=1, stderr=text).message
    assert message.startswith("the reason\n…")
    assert message.endswith("the end")
    assert len(message) <= MAX_STDERR_LENGTH + 2


def test_the_first_reason_to_stop_counts_whatever_the_events_say():
    fold = TurnFold(plan_with())
    fold.stop(Failure("timeout", "no answer within 1 s"))
    fold.stop(Failure("cancelled", "cancelled"))
    fold.add(SUCCESS)
    result = fold.finish(Exit(code=0))
    assert (result.ok, result.error.kind, result.exit_code) == (False, "timeout", 6)


def test_a_program_that_was_stopped_still_names_its_usage_and_its_session():
    fold = TurnFold(plan_with())
    fold.add(Text(text="half"))
    fold.stop(Failure("cancelled", "cancelled"))
    for event in (Started(native_id="n1"), Text(text="more"), Failed(usage=Usage(input=2))):
        fold.add_after_stop(event)
    result = fold.finish(Exit(code=-15))
    assert (result.text, result.native_id, result.usage.input) == ("half", "n1", 2)
    assert (result.error.kind, result.exit_code) == ("cancelled", 7)


# Sessions and models


def test_the_native_id_of_the_start_is_to_be_recorded():
    fold = TurnFold(plan_with())
    assert (fold.has_started, fold.unrecorded_id) == (False, None)
    fold.add(Started(native_id="n1", model="big"))
    assert (fold.has_started, fold.unrecorded_id, fold.native_id) == (True, "n1", "n1")
    result = fold.finish(Exit(code=0, native_id="n2"))
    assert (result.native_id, result.model) == ("n1", "big")


def test_a_native_id_that_only_the_end_names_is_taken():
    assert result_of(SUCCESS, native_id="n2").native_id == "n2"


def test_an_id_that_is_resumed_is_not_recorded_again_unless_a_model_is_new():
    fold = TurnFold(plan_with(resumes="n1"))
    fold.add(Started(native_id="n1"))
    assert fold.unrecorded_id is None
    fold.add(Started(native_id="n1", model="big"))
    assert fold.unrecorded_id == "n1"


@pytest.mark.parametrize("events", [(Started(native_id="n2"), SUCCESS), (SUCCESS,)])
def test_an_answer_from_another_session_is_a_failure(events: tuple[Event, ...]):
    error = failure_of(*events, plan=plan_with(resumes="n1"), native_id="n2")
    assert error.kind == "session"
    assert "resume n1, and it answered from n2" in error.message


USED = Usage(input=1080, output=81)


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ((Started(native_id="n2"), Text(text="secret"), Finished(text="secret", usage=USED, cost=1.0)), {}),
        ((Text(text="secret"), Finished(text="secret", usage=USED, cost=1.0)), {"native_id": "n2"}),
    ],
)  # fmt: skip
def test_what_another_conversation_answered_and_used_is_not_this_ones(events: Any, end: Any):
    result = result_of(*events, plan=plan_with(resumes="n1"), **end)
    assert (result.ok, result.error.kind, result.native_id) == (False, "session", "n1")
    assert (result.text, result.usage, result.cost) == ("", None, None)


def test_a_cli_that_renews_its_ids_is_continued_under_the_new_one():
    for renews in (True, False):
        manifest = replace(MANIFEST, new_id_on_resume=renews)
        fold = TurnFold(replace(plan_with(resumes="n1"), manifest=manifest))
        fold.add(Started(native_id="n2"))
        assert (fold.stop_reason is None, fold.unrecorded_id) == (renews, "n2" if renews else None)
        fold.add(Started(native_id="n2"))
        fold.add(SUCCESS)
        result = fold.finish(Exit(code=0, native_id="n2"))
        assert (result.ok, result.native_id) == (renews, "n2" if renews else "n1")
        assert fold.is_elsewhere is not renews
    manifest = replace(MANIFEST, new_id_on_resume=True)
    fold = TurnFold(replace(plan_with(resumes="n1"), manifest=manifest))
    fold.add(Started(native_id="n2"))
    fold.add(Started(native_id="n3"))
    assert fold.is_elsewhere


def test_another_session_than_the_one_resumed_stops_the_turn_at_once():
    fold = TurnFold(plan_with(resumes="n1"))
    fold.add(Started(native_id="n2"))
    assert fold.stop_reason is not None
    assert (fold.native_id, fold.unrecorded_id) == ("n1", None)


def test_a_copy_that_is_not_one_stops_the_turn():
    fold = TurnFold(plan_with(forks="n1"))
    fold.add(Started(native_id="n1"))
    assert fold.stop_reason is not None
    assert "a copy of n1" in fold.stop_reason.message
    assert fold.native_id is None


def test_the_model_that_was_asked_for_is_named_if_the_backend_names_none():
    plan = plan_with(settings={"model": "small"})
    assert result_of(SUCCESS, plan=plan).model == "small"
    assert result_of(Started(model="big"), SUCCESS, plan=plan).model == "big"


def test_the_result_names_the_session_and_how_long_it_took():
    plan = msgspec.structs.replace(plan_with(), session=Session(id="s1"))
    result = result_of(SUCCESS, plan=plan, seconds=1.5)
    assert (result.session_id, result.seconds, result.backend) == ("s1", 1.5, "fake")


# Denied tools


def test_a_denied_tool_that_has_only_an_id_is_named_by_its_call():
    fold = TurnFold(plan_with())
    fold.add(Tool(id="t1", name="rm", input={"path": "/"}))
    shown = fold.add(Denied(id="t1", reason="no"))
    assert isinstance(shown, Denied)
    assert (shown.name, shown.input) == ("rm", {"path": "/"})
    fold.add(Denied(id="t2"))
    fold.add(Denied())
    fold.add(SUCCESS)
    result = fold.finish(Exit(code=0))
    assert result.denied == (Denial("rm", {"path": "/"}, "no"), Denial("t2"), Denial("a tool"))
    assert result.ok


def test_a_denied_tool_is_a_failure_if_the_request_says_so():
    denied = (Denied(name="rm"), Denied(name="rm"), Denied(name="ls"))
    error = failure_of(*denied, SUCCESS, plan=plan_with(fail_on_denied=True))
    assert (error.kind, error.message) == ("denied", "tools were denied: rm, ls")


# Structured answers


SCHEMA = {"settings": {"schema": '{"type": ["object", "array"]}'}}


@pytest.mark.parametrize(("terminal", "structured"), [
    (Finished(structured={"a": 1}), {"a": 1}), (Finished(text='{"a": 2}'), {"a": 2}),
    (Finished(), [3]),
])  # fmt: skip
def test_an_answer_to_a_schema_is_parsed(terminal: Finished, structured: Any):
    result = result_of(Text(text="[3]"), terminal, plan=plan_with(**SCHEMA))
    assert (result.ok, result.structured) == (True, structured)


def test_an_answer_that_is_not_json_fails_its_schema():
    result = result_of(SUCCESS, plan=plan_with(**SCHEMA))
    assert (result.error.kind, result.exit_code, result.structured) == ("schema", 1, None)


def test_without_a_schema_nothing_is_parsed():
    assert result_of(Finished(text="[1]", structured=[1])).structured is None


# What is shown


def test_all_events_but_the_terminal_one_are_shown():
    fold = TurnFold(plan_with())
    shown = (Started(), Delta(text="a"), Text(text="a"), Tool(), ToolResult(), Notice(message="x"))
    assert [fold.add(event) for event in shown] == list(shown)
    assert fold.add(SUCCESS) is None
    assert fold.add(Failed()) is None


def test_the_last_event_says_what_the_result_says():
    fold = TurnFold(plan_with())
    fold.add(Finished(text="x", usage=Usage(input=1), cost=0.1, raw={"type": "end"}))
    result = fold.finish(Exit(code=0))
    assert fold.last_event(result) == Finished(
        text="x", usage=Usage(input=1), cost=0.1, raw={"type": "end"}
    )
    result = fold.finish(Exit(code=1, stderr="no"))
    last = fold.last_event(result)
    assert isinstance(last, Failed)
    assert (last.kind, last.message, last.usage) == ("backend", result.error.message, result.usage)


# Laws


TEXTS = st.text(alphabet="ab \n", max_size=6)
EVENTS = st.one_of(
    st.builds(Started, native_id=st.sampled_from([None, "n1", "n2"])),
    st.builds(Delta, text=TEXTS), st.builds(Text, text=TEXTS), st.builds(Thinking, text=TEXTS),
    st.builds(Tool, id=st.sampled_from([None, "t1"]), name=TEXTS), st.builds(ToolResult),
    st.builds(Denied, id=st.sampled_from([None, "t1"]), name=TEXTS),
    st.builds(Notice, message=TEXTS),
    st.builds(Finished, text=st.none() | TEXTS), st.builds(Failed, message=TEXTS),
)  # fmt: skip
PLANS = st.builds(
    plan_with,
    resumes=st.sampled_from([None, "n1"]),
    settings=st.sampled_from([None, {"schema": "{}"}]),
    fail_on_denied=st.booleans(),
)


@given(PLANS, st.lists(EVENTS, max_size=12), st.sampled_from([0, 1, 75, -15]), st.booleans())
def test_any_events_end_in_one_success_or_one_failure(
    plan: TurnPlan, events: list[Event], code: int, stopped: bool
):
    fold = TurnFold(plan)
    shown = [fold.add(event) for event in events]
    assert not any(isinstance(event, (Finished, Failed)) for event in shown)
    if stopped:
        fold.stop(Failure("cancelled", "cancelled"))
    result = fold.finish(Exit(code=code))
    assert result.ok == (result.error is None) == (result.exit_code == 0)
    assert isinstance(fold.last_event(result), Finished if result.ok else Failed)
    ends = [event for event in events if isinstance(event, (Finished, Failed))]
    succeeded = bool(ends) and all(isinstance(event, Finished) for event in ends)
    if result.ok:
        assert succeeded
        assert code == 0
        assert not stopped


WHOLE = EVENTS.filter(lambda event: not isinstance(event, Delta))


@given(PLANS, st.lists(WHOLE, max_size=12), st.sampled_from([0, 1]))
def test_an_answer_holds_the_last_text_unless_the_terminal_event_states_the_answer(
    plan: TurnPlan, events: list[Event], code: int
):
    result = result_of(*events, plan=plan, code=code)
    stated = [e.text for e in events if isinstance(e, Finished) and e.text]
    last = next((e.text for e in reversed(events) if isinstance(e, Text) and e.text), "")
    if result.error is not None and result.error.kind == "session":
        assert result.text == ""  # of another conversation
        return
    assert last in result.text or any(text in result.text for text in stated)
    if result.ok:
        assert all(text in result.text for text in stated if text.strip())


def test_the_end_of_one_limit_is_not_the_end_of_another():
    weekly = RateLimit(reached=True, window="seven_day")
    fold = TurnFold(plan_with())
    for event in (weekly, RateLimit(reached=False, window="five_hour")):
        fold.add(event)
    assert fold.limit == weekly
    fold.add(RateLimit(reached=False, window="seven_day"))
    assert fold.limit is None
