"""Output that is not what the manifest describes: control sequences around the lines, several
objects on one line, and lines of another version of the CLI."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.backend.catalog import Catalog
from clinvk.backend.output.event_parser import EventParser
from clinvk.text.json_input import split_objects
from tests.conftest import END, READ, START, CommandLine, Home, say
from tests.recordings_expected import RECORDINGS

TITLE, TITLE_ST = "\x1b]0;ready {\x07", '\x1b]2;a {"type":"result"} title\x1b\\'
PROMPT, MODE, RESET = "\x1b[?2004h", "\x1b=", "\x1bc"
DCS, APC, C1, CHARSET = "\x1bP+q544e\x1b\\", "\x1b_Ga=q;\x1b\\", "\x9b0m", "\x1b(B"
SEQUENCES = [
    TITLE, TITLE_ST, PROMPT, MODE, RESET, DCS, APC, C1, CHARSET, "\r", "\x00", "\ufeff", " \t",
    "\x07", "\x1b[?25l\x1b[2K\x1b[1G", "Thinking…\r\x1b[K",
]  # fmt: skip
A, B = {"type": "a", "text": "one } { \u2028 \x1b[1m"}, {"type": "b", "n": [1, {"c": "}{"}]}


def text_of(data: object) -> str:
    return json.dumps(data, ensure_ascii=False)


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_control_sequences_around_an_object_are_not_part_of_it(sequence: str):
    line = f"{sequence}{text_of(A)}"
    assert split_objects(line.encode()) == ([A], sequence)
    if sequence.endswith("\x1b[K"):  # text after an object is kept as text
        return
    line = f"{text_of(A)}{sequence}{text_of(B)}{sequence}"
    objects, rest = split_objects(line.encode())
    assert objects == [A, B]
    assert rest == sequence * 2


@pytest.mark.parametrize(
    "text",
    ["plain text", "", "42", '["a"]', 'note: {"type": "result"}', '\x1b]0;open {"a": 1}',
     '{"type": "result", "te'],
)  # fmt: skip
def test_other_text_is_no_object(text: str):
    assert split_objects(text.encode()) == ([], text)


def test_what_follows_an_object_does_not_hide_it():
    assert split_objects(f"{text_of(A)} warning: x".encode()) == ([A], " warning: x")
    assert split_objects(f'{text_of(A)}{{"type": "b", '.encode()) == ([A], '{"type": "b", ')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(SEQUENCES[:-1]), max_size=4),
            st.dictionaries(st.text(), JSON, max_size=3),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_objects_with_any_sequences_between_them_are_found(parts):
    line = "".join("".join(before) + text_of(data) for before, data in parts)
    data = line.encode("utf-8", "surrogatepass").replace(b"\n", b" ")
    assert split_objects(data)[0] == [
        json.loads(text_of(d).encode("utf-8", "surrogatepass").decode("utf-8", "replace"))
        for _, d in parts
    ]


@pytest.mark.parametrize(
    "case", ["claude/run-stream-json-partial", "codex/run-json", "gemini/run-stream-json-tool"]
)
def test_a_recording_with_titles_in_it_is_read_as_without(case: str, tmp_path: Path):
    manifest = Catalog(tmp_path).load(case.partition("/")[0])
    lines = (RECORDINGS / case / "stdout").read_bytes().splitlines()

    def events(printed: list[bytes]) -> list[dict]:
        parser = EventParser(manifest, is_first_turn=True)
        found = [e.to_json() for line in printed for e in parser.parse_line(line)]
        return [*found, {"unrecognized": parser.unrecognized, "id": parser.native_id}]

    expected = events(lines)
    assert expected[-1]["unrecognized"] == 0
    assert events([TITLE.encode() + line + b"\r" for line in lines]) == expected
    assert events([b"".join(lines)]) == expected


def test_a_title_before_the_result_costs_nothing(clinvk: CommandLine, home: Home):
    title = "printf '\\033]0;ready\\007'\n"
    home.backend("fake", READ + title + START + title + END + title)
    data = clinvk.json("-b", "fake", "-o", "json", "hello")
    assert (data["content"], data["native_id"], data["error"]) == ("It is done.", "native-1", None)


# Another version of the CLI

OLD_CODEX = [
    {"id": "0", "msg": {"type": "session_configured"}},
    {"id": "1", "msg": {"type": "agent_message", "message": "hello"}},
    {"id": "1", "msg": {"type": "task_complete"}},
]
STARTED = {"type": "thread.started", "thread_id": "01a21fce-05a3-7ce1-82ad-b3bb278cc9f3"}
INIT = {"type": "system", "subtype": "init", "session_id": "65754ce3-ef40-4fde-8795-29a250cf7823"}
DONE = {"type": "turn.completed", "usage": {"input_tokens": 1, "output_tokens": 1}}


def program(home: Home, name: str, lines: list, code: int = 0, version: str = "0.144.0") -> dict:
    """A CLI on PATH with the built-in manifest, which prints these lines."""
    folder = home.path.parent / "bin"
    folder.mkdir(exist_ok=True)
    said = "".join(say(**line) if isinstance(line, dict) else f"echo '{line}'\n" for line in lines)
    path = folder / name
    version = f'[ "$1" = --version ] && echo "{name}-cli {version}" && exit\n'
    path.write_text(f"#!/bin/sh\n{version}cat >/dev/null\n{said}exit {code}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{home.env['PATH']}"}


@pytest.mark.parametrize(
    ("backend", "lines", "counted"),
    [
        ("codex", OLD_CODEX, "printed 3 lines"),
        # a rule would match but for the types
        ("codex", [STARTED, {"type": "item.completed", "item": {"type": "agent_message", "text": {"v": "hi"}}}],
         "printed 1 of 2 lines"),
        ("codex", [STARTED, {"type": "item.completed", "item": "hi"}, {"type": "turn.done"}], "printed 2 of 3 lines"),
        ("claude", [INIT, {"type": "assistant", "message": {"content": "hi"}}], "printed 1 of 2 lines"),
        ("claude", [{"type": ["result"]}, {"kind": "result"}], "printed 2 lines"),
        ("gemini", [{"type": "message", "role": "assistant", "delta": True, "content": {"parts": []}}],
         "printed 1 line "),
    ],
)  # fmt: skip
def test_another_format_is_named_and_not_retried(
    clinvk: CommandLine, home: Home, backend: str, lines: list, counted: str
):
    env = program(home, backend, lines)
    done = clinvk("-b", backend, "-o", "json", "hello", env=env)
    data = json.loads(done.stdout)
    assert (done.returncode, data["error"]["kind"]) == (1, "backend")
    message, hint = data["error"]["message"], data["error"]["hint"]
    assert f"{backend} {counted}" in message
    assert "that its manifest does not recognize (tested with " in message
    assert message.endswith("this is 0.144.0)")
    assert "0.144.0" not in hint  # it is said once
    assert f"{backend}: {backend}" not in done.stderr
    assert "update clinvk" in hint
    assert f"backends/{backend}.yaml" in hint


def test_in_a_run_another_format_is_not_retried(clinvk: CommandLine, home: Home):
    env = program(home, "codex", OLD_CODEX)
    (home.work / "tasks.json").write_text(json.dumps([{"prompt": "a"}]))
    done = clinvk("parallel", "tasks.json", "-b", "codex", "--retries", "2", "-o", "json", env=env)
    (task,) = json.loads(done.stdout)["results"]
    assert (task["attempts"], task["error"]["kind"]) == (1, "backend")


def test_a_stream_that_is_cut_off_stays_incomplete(clinvk: CommandLine, home: Home):
    for last in ([], ['{"type":"item.comp']):
        env = program(home, "codex", [STARTED, {"type": "new"}, {"type": "turn.started"}, *last])
        data = json.loads(clinvk("-b", "codex", "-o", "json", "hello", env=env).stdout)
        assert data["error"]["kind"] == "incomplete"
        assert data["unrecognized_lines"] == 1


def test_unknown_lines_beside_an_answer_are_counted_and_no_more(clinvk: CommandLine, home: Home):
    answer = {"type": "item.completed", "item": {"type": "agent_message", "text": "hi"}}
    env = program(home, "codex", [STARTED, {"type": "new"}, answer, {"type": "newer"}, DONE])
    done = clinvk("-b", "codex", "-o", "json", "hello", env=env)
    data = json.loads(done.stdout)
    assert (done.returncode, data["content"], data["unrecognized_lines"]) == (0, "hi", 2)
    assert "recognize" not in done.stderr
    assert "does not recognize: 2" in clinvk("-v", "-b", "codex", "hello", env=env).stderr


def test_an_empty_answer_beside_unknown_lines_is_reported(clinvk: CommandLine, home: Home):
    answer = {"type": "item.completed", "item": {"type": "agent_message", "message": "hi"}}
    env = program(home, "codex", [STARTED, answer, DONE])
    done = clinvk("-b", "codex", "hello", env=env)
    assert "the answer is empty: codex printed 1 of 3 lines that its manifest" in done.stderr


def test_a_failure_in_another_format_names_both(clinvk: CommandLine, home: Home):
    lines = [*OLD_CODEX[:1], {"id": "1", "msg": {"type": "error", "message": "no"}}]
    env = program(home, "codex", lines, code=1)
    data = json.loads(clinvk("-b", "codex", "-o", "json", "hello", env=env).stdout)
    assert "codex printed 2 lines that its manifest does not recognize" in data["error"]["message"]


def test_the_built_in_manifests_know_every_line_of_the_recordings(tmp_path: Path):
    for backend in ("claude", "codex", "gemini"):
        manifest = Catalog(tmp_path).load(backend)
        for case in (RECORDINGS / backend).glob("*/stdout"):
            parser = EventParser(manifest, is_first_turn=True)
            for line in case.read_bytes().split(b"\n"):
                parser.parse_line(line)
            assert parser.unrecognized == 0, case
