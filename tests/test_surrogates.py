"""Halves of characters, which models, tools and files cut in two: on every way in and out."""

import json
from typing import Any

import pytest

from clinvk.backend.output.event_parser import EventParser
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.engine.scheduling.scheduler import Scheduler
from clinvk.model.request import Request
from clinvk.text.values import sound
from tests.conftest import END, READ, START, CommandLine, Home
from tests.stores import keep

HALVES = ("\ud83d", "\ude00", "\udc80", "a\ud800b\udfffc")
# Answers with its prompt, arguments and variable, in JSON with escapes.
REPEAT = """\
import json, os, sys
prompt = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
files = [open(w, "rb").read().decode() for w in sys.argv if os.path.isfile(w)]
print(json.dumps({"type": "start", "id": "n1"}))
print(json.dumps({"type": "end", "text": f"{prompt}|{sys.argv[2:4]}|{os.environ.get('A')}|{files[1:]}"}))
"""
CUT = 'printf \'%s\\n\' \'{"type": "text", "text": "cut \\ud83d"}\'\n'


@pytest.fixture
def dispatcher(home: Home) -> Dispatcher:
    import sys

    home.backend("repeat", f"#!{sys.executable} -SE\n{REPEAT}")
    return keep(Dispatcher(loading.load(home.env), env=home.env))


def test_only_what_stands_for_no_byte_is_replaced():
    assert sound("a\ud83d\udcffb") == "a\ufffd\udcffb"
    assert sound("plain ü 😀") == "plain ü 😀"


@pytest.mark.anyio
async def test_a_request_reaches_its_program(dispatcher: Dispatcher, home: Home):
    request = Request(
        prompt="bad \ud83d", backend="repeat", cwd=home.work, env={"A": "x\ud800"},
        options={"model": "m\ud83d", "system_prompt": "s\ud83d"},
    )  # fmt: skip
    async with dispatcher.stream(request) as turn:
        events = [event async for event in turn]
    assert turn.result.ok
    assert turn.result.text == "bad \ufffd|['--model', 'm\ufffd']|x\ufffd|['s\ufffd']"
    assert any("replaced by U+FFFD" in str(event) for event in events)


@pytest.mark.parametrize("half", HALVES)
def test_one_task_does_not_affect_the_others(
    half: str, dispatcher: Dispatcher, home: Home, clinvk: CommandLine
):
    tasks = [
        {"prompt": f"bad {half}", "backend": "repeat", "title": half, "tags": [f"t{half}"]},
        {"prompt": "fine", "backend": "repeat", "model": half, "env": {"A": half}},
    ]
    (home.work / "tasks.json").write_text(json.dumps({"tasks": tasks}))
    reports = ("--report", "r.html", "--report", "r.md", "--report", "r.xml")
    run = clinvk.json("parallel", "tasks.json", "-o", "json", *reports)
    assert [task["state"] for task in run["results"]] == ["done", "done"]
    shown = half.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert run["results"][0]["output"].startswith(f"bad {shown}|")
    folder = home.path / "runs" / run["id"]
    for path in (*folder.rglob("*"), *home.work.glob("r.*"), *home.path.glob("transcripts/*")):
        if path.is_file():
            path.read_bytes().decode("utf-8")
    for form in ("text", "json", "stream-json"):
        assert clinvk("parallel", "tasks.json", "-o", form).returncode == 0


@pytest.mark.parametrize("ephemeral", [(), ("--ephemeral",)])
@pytest.mark.parametrize("form", ["text", "json", "stream-json"])
def test_a_cut_answer_is_shown_and_passed_on(
    ephemeral: tuple[str, ...], form: str, home: Home, clinvk: CommandLine
):
    home.backend("cut", READ + START + CUT + END.replace("It is done.", "cut \\ud83d"))
    steps = [{"name": "a", "prompt": "x", "backend": "cut"},
             {"name": "b", "prompt": "{{previous}}", "backend": "echo"}]  # fmt: skip
    (home.work / "chain.json").write_text(json.dumps({"steps": steps}))
    home.backend("cut", READ + START + CUT + END, ephemeral={"argv": ["x"]})
    script = READ + START + CUT + "printf '%s\\n' '{\"type\": \"end\"}'\n"
    home.backend("cut", script, ephemeral={"argv": ["x"]})
    done = clinvk("chain", "chain.json", "-o", form, *ephemeral)
    assert done.returncode == 0, done.stderr
    assert "You said: cut \ufffd" in done.stdout
    done = clinvk("-b", "cut", "-o", form, *ephemeral, "hello")
    assert "cut \ufffd" in done.stdout
    assert "\\ud83d" not in done.stdout


def test_every_field_of_a_line_is_sound(home: Home, dispatcher: Dispatcher):
    manifest = dispatcher.catalog.load("repeat")
    parser = EventParser(manifest, is_first_turn=True)
    line = {"type": "tool", "id": "t", "name": "\ud83d", "input": {"a\udc80": ["\ude00", "😀"]}}
    (event,) = parser.parse_line(json.dumps(line).encode())
    assert event.to_json(raw=True)["raw"]["input"] == {"a\ufffd": ["\ufffd", "😀"]}
    assert (event.name, event.input) == ("\ufffd", {"a\ufffd": ["\ufffd", "😀"]})
    deep = b'{"type": "text", "text": "\\ud83d", "x": ' + b"[" * 900 + b"]" * 900 + b"}"
    assert parser.parse_line(deep)[0].text == "\ufffd"
    escaped = rb'{"type": "text", "text": "\\ud83d \\\ud83d \uD83D\uDE00 \udE00\uD83d"}'
    assert parser.parse_line(escaped)[0].text == "\\ud83d \\\ufffd 😀 \ufffd\ufffd"


def test_an_unexpected_exception_is_the_failure_of_one_task(
    home: Home, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
):
    from clinvk import parallel

    real = Scheduler.on_result

    async def on_result(self: Any, i: int, *args: Any) -> None:
        if i == 0:
            raise RuntimeError("a mistake")
        await real(self, i, *args)

    monkeypatch.setattr(Scheduler, "on_result", on_result)
    home.backend("fake", READ + START + END)
    (home.work / "tasks.json").write_text(json.dumps(
        [{"prompt": p, "backend": "fake", "workdir": str(home.work)} for p in "abc"]
    ))  # fmt: skip
    result = parallel(home.work / "tasks.json", dispatcher=dispatcher)
    assert [o.state for o in result.results] == ["failed", "done", "done"]
    assert "a mistake" in result.results[0].error.message
