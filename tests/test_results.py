"""What the CLIs report at the end of a turn, and what becomes of it: by the manifests themselves."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clinvk.backend.options import Setting
from clinvk.backend.output.event_parser import EventParser
from clinvk.backend.reading.parse import parse_manifest
from clinvk.config.paths import built_in_manifests
from clinvk.dispatch.answer_schema import AnswerSchema
from clinvk.dispatch.folding.fold import TurnFold
from clinvk.dispatch.folding.turn_failure import Exit
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.model.events import Notice
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.process.command import Command
from tests.conftest import READ, CommandLine, Home, say, write_program
from tests.recordings_expected import RECORDINGS

COMMAND = Command(("fake",), {}, Path("/"), b"", {})
INIT = {"type": "system", "subtype": "init", "session_id": "0" * 8 + "-0000-0000-0000-" + "0" * 12}


def path_of(name: str) -> Path:
    return built_in_manifests() / f"{name}.yaml"


def folded(
    *lines: dict[str, Any], backend: str = "claude", code: int = 0, resumes: str | None = None,
    schema: bool = False, notices: list[str] | None = None, totals: Any = None, stderr: str = "",
) -> Result:  # fmt: skip
    """The result of a program that prints these lines and exits."""
    manifest = parse_manifest(path_of(backend).read_text(), path_of(backend))
    settings = {"schema": Setting("{}", "flag")} if schema else {}
    request = Request(prompt="p")
    plan = TurnPlan(
        request, manifest, None, resumes, None, {}, settings, COMMAND, None, (),
        schema=AnswerSchema("{}") if schema else None,
    )  # fmt: skip
    parser = EventParser(manifest, is_first_turn=resumes is None, previous_totals=totals)
    fold = TurnFold(plan)
    for line in lines:
        for event in parser.parse_line(json.dumps(line).encode()):
            shown = fold.add(event)
            if isinstance(shown, Notice) and notices is not None:
                notices.append(shown.message)
    return fold.finish(Exit(code=code, stderr=stderr, native_id=parser.native_id))


def result_line(text: str = "done", used: tuple[int, int] | None = (100, 50), **more: Any) -> Any:
    line: dict[str, Any] = {"type": "result", "subtype": "success", "is_error": False}
    if used:
        line["usage"] = {"input_tokens": used[0], "output_tokens": used[1]}
    return line | {"result": text} | more


def assistant(text: str, id_: str | None = "m1") -> dict[str, Any]:
    message = {"content": [{"type": "text", "text": text}]} | ({"id": id_} if id_ else {})
    return {"type": "assistant", "message": message}


def by_model(**tokens: tuple[int, int]) -> dict[str, Any]:
    return {
        name: {"inputTokens": used[0], "outputTokens": used[1], "costUSD": 0.01}
        for name, used in tokens.items()
    }


# Several results


FIRST = result_line("the answer", structured_output={"a": 1}, total_cost_usd=0.10, num_turns=4)
SECOND = result_line(
    "task done", (10, 5), total_cost_usd=0.13,
    model_usage_since_last_result={"opus": {"costUSD": 0.03}},
)  # fmt: skip


def test_several_results_are_one_turn():
    result = folded(INIT, FIRST, SECOND, schema=True)

    assert result.ok
    assert result.text == "the answer\n\ntask done"
    assert result.structured == {"a": 1}
    assert (result.usage.input, result.usage.output, result.usage.total) == (110, 55, 165)
    assert result.cost == pytest.approx(0.13)


def test_a_sum_of_costs_is_counted_once_however_often_it_is_reported():
    first, second = result_line(total_cost_usd=0.10), result_line("more", total_cost_usd=0.13)
    assert folded(first, second).cost == pytest.approx(0.13)
    assert folded(first, result_line("more", total_cost_usd=0.03)).cost == pytest.approx(0.13)
    assert folded(first, second, resumes="x").cost is None  # it has no figure of its own


def test_the_same_answer_twice_is_one_answer():
    assert folded(result_line("yes"), result_line("yes")).text == "yes"
    assert folded(result_line("yes"), result_line("")).text == "yes"
    assert folded(result_line(""), result_line("yes")).text == "yes"
    assert folded(result_line("yes, soon"), result_line("yes")).text == "yes, soon\n\nyes"


def test_an_answer_as_json_is_found_in_either_result():
    assert folded(result_line("[1]"), result_line("done"), schema=True).structured == [1]
    assert folded(result_line("done"), result_line("[2]"), schema=True).structured == [2]


@pytest.mark.parametrize("code", [0, 1])
def test_an_error_without_a_model_call_after_the_answer_is_a_notice(code: int):
    error = {
        "type": "result",
        "is_error": True,
        "num_turns": 0,
        "subtype": "error_during_execution",
    }
    notices: list[str] = []
    result = folded(INIT, FIRST, error, code=code, notices=notices)
    assert (result.ok, result.text, result.exit_code) == (True, "the answer", 0)
    assert result.usage.total == 150
    assert notices == ["after its answer: error_during_execution"]
    assert not folded(INIT, error, FIRST, code=1).ok
    assert not folded(INIT, error, code=1).ok


def test_an_error_of_a_later_model_call_fails_the_turn_and_its_tokens_count():
    error = result_line("Overloaded", (10, 5), is_error=True, api_error_status=529, num_turns=1)
    result = folded(INIT, assistant("the answer"), FIRST, error, code=1)
    assert (result.ok, result.error.kind, result.text) == (False, "server", "the answer")
    assert result.usage.total == 165


def test_two_turns_of_codex_in_one_process_are_counted_once():
    def completed(tokens: tuple[int, int]) -> dict[str, Any]:
        return {"type": "turn.completed", "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]}}  # fmt: skip

    def message(text: str) -> dict[str, Any]:
        return {"type": "item.completed", "item": {"type": "agent_message", "text": text}}

    lines = (message("one"), completed((100, 10)), message("two"), completed((150, 25)))
    result = folded(*lines, backend="codex")
    assert (result.text, result.usage.input, result.usage.output) == ("one\n\ntwo", 150, 25)
    before = {"usage": {"input": 90, "output": 5}}
    result = folded(*lines, backend="codex", resumes="x", totals=before)
    assert (result.usage.input, result.usage.output) == (60, 20)


def test_the_recorded_results_of_a_background_task_add_up():
    """claude 2.1.329: `usage` is that of each result, `modelUsage` and the cost add up."""
    stdout = (RECORDINGS / "claude" / "background-task" / "stdout").read_text()
    lines = [json.loads(line) for line in stdout.splitlines()]
    results = [line for line in lines if line["type"] == "result"]
    assert [line["usage"]["input_tokens"] for line in results] == [140, 70]
    sums = [sum(m["inputTokens"] for m in line["modelUsage"].values()) for line in results]
    assert sums == [140, 210]
    result = folded(*lines)
    assert result.ok
    assert (result.usage.input, result.usage.output) == (360, 27)
    assert result.cost == pytest.approx(results[-1]["total_cost_usd"])


# An answer that claude continues after the limit of its tokens


def said(id_: str, text: str, stop: str, parent: str | None = None) -> list[dict[str, Any]]:
    about = {"parent_tool_use_id": parent}
    content = [{"type": "text", "text": text}]
    return [
        {"type": "stream_event", "event": {"type": "message_start", "message": {"id": id_}}, **about},
        {"type": "assistant", "message": {"id": id_, "content": content}, **about},
        {"type": "stream_event", "event": {"type": "message_delta", "delta": {"stop_reason": stop}}, **about},
    ]  # fmt: skip


def test_an_answer_that_is_continued_after_its_limit_is_whole():
    parts = [*said("a", "It came in two, and ", "max_tokens"), *said("b", "three", "end_turn")]
    assert folded(INIT, *parts, result_line("three")).text == "It came in two, and three"
    thought = {"type": "thinking", "thinking": "on"}
    parts.insert(3, {"type": "assistant", "message": {"id": "b", "content": [thought]}})
    assert folded(INIT, *parts, result_line("three")).text == "It came in two, and three"
    thrice = [*said("a", "1", "max_tokens"), *said("b", "2", "max_tokens"), *said("c", "3", "x")]
    assert folded(INIT, *thrice, result_line("3")).text == "123"


def test_only_what_was_cut_is_continued_by_the_next_message():
    whole = [*said("a", "First. ", "tool_use"), *said("b", "Second.", "end_turn")]
    assert folded(INIT, *whole, result_line("Second.")).text == "Second."
    later = [
        *said("a", "1", "max_tokens"),
        *said("b", "2", "tool_use"),
        *said("c", "3", "end_turn"),
    ]
    assert folded(INIT, *later, result_line("3")).text == "3"
    other = [*said("s", "sub", "max_tokens", parent="t"), *said("b", "mine", "end_turn")]
    assert folded(INIT, *other, result_line("mine")).text == "mine"


# Subagents


def test_the_tokens_of_subagents_count():
    models = by_model(opus=(100, 10), haiku=(90_000, 4_000))
    used = (100, 10)
    assert folded(result_line("x", used, modelUsage=models)).usage.total == 94_110
    assert folded(result_line("x", None, modelUsage=models)).usage.total == 94_110
    since = result_line(
        "x", used, model_usage_since_last_result=models, modelUsage=by_model(a=(1, 1))
    )
    assert folded(since).usage.total == 94_110
    assert folded(since, resumes="x").usage.total == 94_110
    # In an older session it has those of the turns before, too.
    assert folded(result_line("x", used, modelUsage=models), resumes="x").usage.total == 110


def test_what_models_read_from_a_cache_counts():
    model = {"inputTokens": 5, "outputTokens": 7, "cacheReadInputTokens": 1000,
             "cacheCreationInputTokens": 200, "thinkingTokens": 3}  # fmt: skip
    usage = folded(result_line("x", (5, 7), model_usage_since_last_result={"m": model})).usage
    assert (usage.input, usage.cached, usage.cache_write, usage.reasoning) == (1205, 1000, 200, 3)


def test_without_any_figures_usage_and_cost_are_unknown():
    result = folded(result_line("x", None))
    assert (result.usage, result.cost) == (None, None)


# An answer in several parts


PARTS = ('{"verdict": "ok", ', '"why": "all of it"}')


def test_an_answer_is_never_shorter_than_the_message_that_it_is_the_beginning_of():
    whole = "".join(PARTS)
    parts = [assistant(part) for part in PARTS]
    for line in (PARTS[0], PARTS[0].rstrip(), "", whole):
        result = folded(*parts, result_line(line), schema=True)
        assert (result.text, result.structured["why"]) == (whole, "all of it")
    other = [assistant("ok", "m1"), assistant("ok", "m2")]
    assert folded(*other, result_line("ok")).text == "ok"
    assert folded(*other, result_line("another")).text == "another"
    assert folded(assistant("ok\n"), result_line("ok")).text == "ok"


def test_pieces_that_no_block_repeats_are_part_of_the_answer():
    start = {"type": "stream_event", "event": {"type": "message_start", "message": {"id": "m1"}}}

    def piece(text: str) -> dict[str, Any]:
        delta = {"type": "text_delta", "text": text}
        return {"type": "stream_event", "event": {"type": "content_block_delta", "delta": delta}}

    lines = (start, piece("one, "), assistant("one, "), piece("two"), result_line("one, "))
    assert folded(*lines).text == "one, two"
    subagent = piece("not for the user") | {"parent_tool_use_id": "t"}
    assert folded(start, assistant("one"), subagent, result_line("one")).text == "one"


def stub(home: Home, *lines: dict[str, Any], backend: str = "claude", then: str = "") -> None:
    """The backend of that name, whose program prints these lines."""
    program = home.path.parent / "fakes" / backend
    write_program(program, READ + "".join(say(**line) for line in lines) + then)
    manifest = yaml.safe_load(path_of(backend).read_text())
    home.manifest(backend, {**manifest, "command": str(program)})


def test_all_outputs_have_all_parts_of_an_answer(home: Home, clinvk: CommandLine):
    whole = "".join(PARTS)
    stub(home, INIT, *(assistant(part) for part in PARTS), result_line(PARTS[0]))

    assert clinvk("-b", "claude", "hello").stdout == whole + "\n"
    assert home.transcript()[-1]["content"] == whole
    assert clinvk.json("-b", "claude", "-o", "json", "hello")["content"] == whole
    last = clinvk("-b", "claude", "-o", "stream-json", "hello").stdout.splitlines()[-1]
    assert json.loads(last)["content"] == whole
    plan = {"tasks": [
        {"name": "a", "prompt": "x", "backend": "claude"},
        {"name": "b", "prompt": "{{tasks.a.output}}", "backend": "echo", "needs": ["a"]},
    ]}  # fmt: skip
    (home.work / "plan.json").write_text(json.dumps(plan))
    run = clinvk.json("parallel", "plan.json", "-o", "json")
    assert [whole in task["output"] for task in run["results"]] == [True, True]


def test_blocks_of_different_messages_stay_apart_in_text(home: Home, clinvk: CommandLine):
    stub(home, INIT, assistant("one", "m1"), assistant("two", "m2"), result_line("two"))
    assert clinvk("-b", "claude", "hello").stdout == "one\n\ntwo\n"


# A turn that stopped in the middle


@pytest.mark.parametrize("reason", ["tool_use", "pause_turn", "max_tokens"])
def test_a_success_that_stopped_in_the_middle_is_incomplete(reason: str):
    result = folded(INIT, result_line("starting", stop_reason=reason, num_turns=9))
    assert (result.ok, result.error.kind, result.exit_code) == (False, "incomplete", 1)
    assert result.text == "starting"
    assert reason in result.error.message
    assert result.usage.total == 150


def test_another_terminal_reason_than_completed_is_incomplete():
    for reason in ("aborted_tools", "hook_stopped", "something new"):
        result = folded(result_line(stop_reason="end_turn", terminal_reason=reason))
        assert result.error.kind == "incomplete"
        assert reason in result.error.message


def test_an_ordinary_end_is_a_success():
    for more in ({}, {"stop_reason": None}, {"stop_reason": "end_turn"},
                 {"stop_reason": "stop_sequence", "terminal_reason": None},
                 {"stop_reason": "end_turn", "terminal_reason": "completed"}):  # fmt: skip
        assert folded(result_line(**more)).ok
    # The tool is the one that takes the answer.
    answered = result_line(stop_reason="tool_use", structured_output={})
    assert folded(answered, schema=True).ok


def test_the_last_result_says_whether_the_turn_is_complete():
    stopped, ended = (
        result_line("a", stop_reason="tool_use"),
        result_line("b", stop_reason="end_turn"),
    )
    assert folded(stopped, ended).ok
    assert folded(ended, stopped).error.kind == "incomplete"


def test_a_limit_of_tokens_that_a_cli_reports_as_a_failure_is_incomplete():
    """As codex 0.169.0 and claude 2.1.329 report it."""
    error = {"message": "Incomplete response returned, reason: max_output_tokens"}
    message = {"type": "item.completed", "item": {"type": "agent_message", "text": "half"}}
    result = folded(message, {"type": "turn.failed", "error": error}, backend="codex", code=1)
    assert (result.error.kind, result.text) == ("incomplete", "half")
    text = "API Error: Claude's response exceeded the 77 output token maximum. To configure this"
    assert folded(result_line(text, is_error=True), code=1).error.kind == "incomplete"


def test_a_session_that_stopped_in_the_middle_can_be_continued(home: Home, clinvk: CommandLine):
    stub(home, INIT, result_line("starting", stop_reason="tool_use"))
    done = clinvk("-b", "claude", "go")
    assert (done.returncode, done.stdout) == (1, "starting\n")
    assert "stop reason tool_use" in done.stderr
    assert "clinvk resume" in done.stderr

    stub(home, INIT, result_line("done", stop_reason="end_turn"))
    assert clinvk("-c", "go on").stdout == "done\n"
    assert len(home.ids()) == 1


# No answer


def silent(**stats: int) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"type": "init", "session_id": "abcdefgh"}, {
        "type": "result", "status": "success", "stats": stats}  # fmt: skip


def test_a_success_without_an_answer_is_reported(home: Home, clinvk: CommandLine):
    stub(home, *silent(input_tokens=43706, output_tokens=1026), backend="gemini")
    for form in ("text", "json", "stream-json"):
        done = clinvk("-b", "gemini", "-o", form, "hello")
        assert done.returncode == 0
        told = done.stdout if form == "stream-json" else done.stderr
        assert "gemini reported success without an answer (44,732 tokens)" in told
    stub(home, *silent(), backend="gemini")
    assert "without an answer\n" in clinvk("-b", "gemini", "hello").stderr


def test_a_judge_is_not_asked_about_silence(home: Home, clinvk: CommandLine):
    stub(home, *silent(input_tokens=1, output_tokens=1), backend="gemini")
    compare = ("compare", "hello", "--backends", "gemini,echo", "-o", "json")
    judged = clinvk.json(*compare, "--judge", "echo")
    states = {o["name"]: (o["state"], (o["error"] or {}).get("kind")) for o in judged["results"]}
    assert states["gemini"] == ("failed", "incomplete")
    assert states["echo"] == ("done", None)
    assert [o["state"] for o in clinvk.json(*compare)["results"]] == ["done", "done"]


# Why it failed, if only stderr or a signal says so


def reason(
    stderr: str, code: int, *lines: dict[str, Any], backend: str = "codex"
) -> tuple[str, str]:
    result = folded(*lines, backend=backend, code=code, stderr=stderr)
    assert result.error
    return result.error.kind, result.error.message


CODEX_NOISE = (RECORDINGS / "codex" / "sigterm-midrun" / "stderr").read_text()
GEMINI_NOISE = (RECORDINGS / "gemini" / "norelaunch-sigterm-midrun" / "stderr").read_text()


def test_a_signal_is_the_reason_and_not_what_is_printed_in_any_case():
    assert reason(CODEX_NOISE, -15) == ("backend", "codex was terminated by signal 15")
    assert reason(CODEX_NOISE, 1) == ("backend", "codex exited with code 1 without output")
    for code in (-9, 137):
        assert (
            reason(GEMINI_NOISE, code, backend="gemini")[1] == "gemini was terminated by signal 9"
        )
    kind, message = reason(GEMINI_NOISE, 0, backend="gemini")
    assert (kind, message) == ("incomplete", "gemini exited without reporting success or failure")


def test_a_program_that_has_printed_something_is_not_said_to_have_printed_nothing():
    assert (
        reason("", 143, INIT, assistant("hm"), backend="claude")[1]
        == "claude was terminated by signal 15"
    )
    assert reason("", 5, INIT, backend="claude")[1] == "claude exited with code 5"


def test_the_line_that_an_error_rule_knows_is_the_reason():
    page = "usage: codex\n" * 40
    line = "Error: Model provider `nope` not found"
    for stderr in (f"{CODEX_NOISE}{line}\n", f"{page}{line}\n{page}"):
        assert reason(stderr, 1) == ("config", line)
    unknown = reason(f"{CODEX_NOISE}something odd\n", 1)
    assert unknown == ("backend", "something odd")


def test_noise_is_no_reason_for_a_kind():
    noise = "WARNING: proceeding, even though we could not create PATH aliases: 401 Unauthorized\n"
    assert reason(noise, 1)[0] == "backend"
