"""However the output of a CLI is damaged, its result is sound: see `tests/fuzzed_streams.py`."""

import json
import random
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clinvk.backend.catalog import read_manifest
from clinvk.backend.expression import compile_expression
from clinvk.backend.manifest import Manifest
from clinvk.backend.output.failures import classify_failure
from clinvk.config.paths import built_in_manifests
from clinvk.model.usage import Usage
from clinvk.text.json_answer import NoJson, last_value
from clinvk.text.json_output import dumps
from tests.fuzzed_streams import Reading, Stream, make_stream, problems, read_stream


def built_in(name: str) -> Manifest:
    return read_manifest(built_in_manifests() / f"{name}.yaml")


def read(name: str, *lines: dict[str, Any] | str, **how: Any) -> Reading:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    stream = Stream(built_in(name), "\n".join(texts).encode(), **how)
    reading = read_stream(stream)
    assert not list(problems(stream, reading))
    return reading


def test_damaged_streams_have_sound_results():
    for number in range(300):
        stream = make_stream(random.Random(f"1/{number}"))
        assert not list(problems(stream, read_stream(stream))), f"round {number}"


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_streams_damaged_by_any_choice_have_sound_results(rng: random.Random):
    stream = make_stream(rng)
    assert not list(problems(stream, read_stream(stream)))


RESULT = {"type": "result", "is_error": False, "result": "done"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_number_that_json_does_not_have_is_null(number: str):
    message = {"content": [{"type": "tool_use", "name": "Bash", "input": {"a": ["?", 1.5]}}]}
    reading = read(
        "claude",
        json.dumps({"type": "assistant", "message": message}).replace('"?"', number),
        f'\x1b[0m{{"type": "system", "subtype": "init", "model": "m", "a": {number}}}',
        f'{{"type": "result", "result": "done", "total_cost_usd": {number}}}',
    )
    assert reading.events[0].to_json()["input"] == {"a": [None, 1.5]}
    assert (reading.result.ok, reading.result.cost) == (True, None)


@pytest.mark.parametrize("levels", [90, 150, 700, 940])
def test_what_is_nested_too_deeply_is_left_out(levels: int):
    deep = '{"a":' * levels + "1" + "}" * levels
    tool = {"type": "tool_use", "name": "Bash", "input": "?"}
    line = json.dumps({"type": "assistant", "message": {"content": [tool]}}).replace('"?"', deep)
    for start in ("", "\x1b[0m"):
        reading = read("claude", start + line, RESULT)
        assert reading.result.ok
        assert ("…" in dumps(reading.events[0].to_json())) == (levels > 100)
    # As an answer to a schema it is none.
    answer = read("claude", {**RESULT, "result": deep}, schema=True).result
    assert answer.ok == (levels <= 100)


def test_structured_output_has_no_number_that_json_does_not_have():
    reading = read("claude", {**RESULT, "result": '{"a": NaN, "b": 1e999}'}, schema=True)
    assert reading.result.structured == {"a": None, "b": None}


@pytest.mark.parametrize("figure", [-1, 10**15, 10**400, -(10**400), 1e300, True, "7", [7], {}])
def test_what_cannot_be_a_figure_is_unknown(figure: Any):
    usage = {"inputTokens": figure, "outputTokens": 3}
    end = {
        "type": "run_result",
        "finishReason": "completed",
        "usage": {**usage, "totalCost": figure},
    }
    result = read("cline", end).result
    assert (result.ok, result.usage, result.cost) == (True, Usage(output=3), None)


@pytest.mark.parametrize("total", [10**400, 1e300, -5, 10**15])
def test_a_total_that_cannot_be_one_adds_nothing(total: Any):
    stats = {"input_tokens": 4, "output_tokens": 3, "total_tokens": total}
    result = read("gemini", {"type": "result", "status": "success", "stats": stats}).result
    assert result.usage == Usage(input=4, output=3)


@pytest.mark.parametrize("number", [10**400, 1e300, 429.0, "429", None])
def test_numbers_of_any_size_leave_a_failure_one(number: Any):
    failed = {**RESULT, "is_error": True, "api_error_status": number, "num_turns": number}
    tasks = {"type": "system", "subtype": "background_tasks_changed", "tasks": number}
    result = read("claude", tasks, failed).result
    assert result.error is not None
    assert result.error.kind == ("limit" if number == 429.0 else "backend")


@pytest.mark.parametrize(("expression", "data"), [
    ("sum(@)", [10**400, 1.5]),
    ("contains('abc', a)", {"a": 5}),
    ("avg(@)", [10**400]),
])  # fmt: skip
def test_an_expression_that_python_cannot_evaluate_is_null(expression: str, data: Any):
    assert compile_expression(expression)(data) is None


def test_text_after_the_result_is_part_of_the_answer():
    block = {"type": "text", "text": "more, at length"}
    late = {"type": "assistant", "message": {"id": "m2", "content": [block]}}
    assert read("claude", RESULT, late).result.text == "done\n\nmore, at length"
    assert read("claude", RESULT, late, {**RESULT, "result": "more, at"}).result.text == (
        "done\n\nmore, at length"
    )
    same = {"type": "assistant", "message": {"content": [{"type": "text", "text": "done"}]}}
    assert read("claude", RESULT, same).result.text == "done"


def test_a_long_line_of_a_failure_is_classified_in_linear_time():
    claude = built_in("claude")
    for text in ("x" * 65_000, "y mcp " * 10_000, "m" * 65_000, "429 " * 16_000):
        began = time.process_time()
        classify_failure(claude, text, stderr=text)
        assert time.process_time() - began < 3  # it took a minute when each letter began a search


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 30_000, '["' + "x [" * 50_000, "```x\n" * 20_000]
)
def test_json_is_searched_for_in_linear_time(text: str):
    began = time.process_time()
    with pytest.raises(NoJson):
        last_value(text)
    assert time.process_time() - began < 1
