"""Options with a range, a type or a switch: what is accepted, and what is refused by its name."""

import pytest

from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import UsageError
from clinvk.model.option_values import parse_value, value_problem
from clinvk.model.request import Request
from tests.conftest import CommandLine, Home, say

GOOD = [
    ("temperature", "0.7", 0.7), ("temperature", "0", 0.0), ("temperature", " 2 ", 2.0),
    ("top_p", "1", 1.0), ("frequency_penalty", "-2", -2.0), ("presence_penalty", "6e-1", 0.6),
    ("max_tokens", "1024", 1024), ("stream", "off", False), ("stream", "True", True),
    ("stop", "END", "END"), ("stop", "['END']", "END"), ("stop", "[1", "[1"),
    ("model", "gpt-4-turbo", "gpt-4-turbo"), ("effort", "high", "high"),
]  # fmt: skip
BAD = [
    ("temperature", "2.1", "too large; the maximum is 2"),
    ("temperature", "-0.1", "too small; the minimum is 0"),
    ("temperature", "warm", "not a number"), ("temperature", "nan", "not a number"),
    ("temperature", "inf", "not a number"), ("temperature", "", "not a number"),
    ("top_p", "1.01", "maximum is 1"), ("frequency_penalty", "-3", "minimum is -2"),
    ("presence_penalty", "3", "maximum is 2"), ("max_tokens", "0", "minimum is 1"),
    ("max_tokens", "1.5", "not a whole number"), ("stream", "maybe", "not true or false"),
    ("stop", "", "not a text"), ("stop", "[]", "0 texts"), ("stop", "[a, b]", "2 texts"),
    ("stop", "[1]", "not a text"), ("stop", "x" * 1001, "not a text"),
]  # fmt: skip


def test_the_text_of_an_option_becomes_its_value() -> None:
    for name, text, value in GOOD:
        found = parse_value(name, text)
        assert (found, type(found)) == (value, type(value)), name
        assert value_problem(name, found) is None


def test_an_invalid_value_says_what_is_wrong() -> None:
    for name, text, problem in BAD:
        with pytest.raises(ValueError, match=problem):
            parse_value(name, text)


def test_python_and_the_command_line_refuse_the_same_values(
    home: Home, clinvk: CommandLine
) -> None:
    with Dispatcher(env=home.env) as dispatcher:
        for value in (3, float("nan"), True, "hot", [1]):
            with pytest.raises(UsageError, match=r"^temperature: "):
                dispatcher.plan(Request(prompt="x", backend="llm", options={"temperature": value}))
        with pytest.raises(UsageError, match=r"^stream: "):
            dispatcher.plan(Request(prompt="x", backend="echo", options={"stream": "no"}))
    for words, said in (
        (["--temperature", "3"], "--temperature: 3 is too large; the maximum is 2"),
        (["--temperature", "nan"], "--temperature: nan is not a number"),
        (["--top-p", "x"], "--top-p: 'x' is not a number"),
        (["--option", "temperature=x"], "--option temperature: 'x' is not a number"),
    ):
        done = clinvk("ask", "-b", "echo", *words, "hello")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"clinvk: {said}\n")


def test_a_task_may_have_a_temperature_in_its_range(home: Home, clinvk: CommandLine) -> None:
    home.backend("warm", options={"temperature": ["--temperature", "$value"]})
    task = "tasks: [{{prompt: x, backend: warm, temperature: {}}}]\n"

    dry = clinvk("parallel", "--dry-run", "--json", stdin=task.format("0.2"))
    bad = clinvk("parallel", stdin=task.format("5"))

    assert (dry.returncode, bad.returncode) == (0, 3)
    assert "temperature" in dry.stdout
    assert "tasks[0].temperature: 5.0 is too large; the maximum is 2" in bad.stderr


PIECES = (
    "cat >/dev/null\n"
    + say(type="start", id="n")
    + say(type="delta", text="one ")
    + "echo unfinished >&2\n"
    + say(type="delta", text="two")
    + say(type="text", text="one two")
    + say(type="end")
)


def test_an_answer_that_is_not_streamed_is_shown_when_it_is_complete(
    home: Home, clinvk: CommandLine
) -> None:
    home.backend("pieces", PIECES)

    assert clinvk("-b", "pieces", "--no-stream", "x").stdout == "one two\n"
    assert clinvk("-b", "pieces", "--stream", "x").stdout == "one two\n"
    streamed = clinvk("-b", "pieces", "-o", "stream-json", "x").stdout
    whole = clinvk("-b", "pieces", "-o", "stream-json", "--option", "stream=no", "x").stdout
    assert streamed.count('"delta"') == 2
    assert whole.count('"delta"') == 0
    assert '"one two"' in whole


def test_a_manifest_may_say_what_a_false_value_adds(home: Home, clinvk: CommandLine) -> None:
    home.backend("whole", options={"stream": {"when_false": ["--no-stream"]}})

    off = clinvk("-b", "whole", "--dry-run", "--no-stream", "x").stdout
    on = clinvk("-b", "whole", "--dry-run", "--stream", "x").stdout

    assert off.splitlines()[0].endswith("--no-stream")
    assert on.splitlines()[0].endswith("run")
