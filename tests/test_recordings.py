"""What the real CLIs printed, read by their manifests."""

import json
from pathlib import Path

import pytest

from clinvk.backend.catalog import Catalog
from clinvk.backend.output.event_parser import EventParser
from clinvk.process.pipes import LineSplitter
from tests.recordings_expected import RECORDINGS, cases, replay

CATALOG = Catalog(Path("/nowhere"))

# The most important findings once more, so that nobody regenerates a wrong expectation unawares.
FAILURES = {
    "claude/err-401-stream": ("auth", 1),
    "claude/err-429-stream": ("limit", 75),
    "claude/err-500-stream": ("server", 1),
    "claude/err-529": ("server", 1),
    "claude/json-schema-ignored-stream": ("schema", 1),
    "claude/max-budget": ("backend", 1),
    "claude/perm-auto": ("backend", 1),  # it says success and exits with 1
    "claude/resume-nonexistent-stream": ("session", 4),
    "claude/resume-nonexistent": ("session", 4),
    "claude/sigint-midrun-stream": ("backend", 1),  # with exit code 0
    "claude/sigkill-in-tool": ("backend", 137),
    "claude/sigterm-midrun-stream": ("backend", 143),
    "codex/bad-config": ("config", 3),
    "codex/conc-resume-0": ("session", 4),
    "codex/err-401": ("auth", 1),
    "codex/err-429": ("limit", 75),
    "codex/err-500": ("server", 1),
    "codex/err-no-key": ("auth", 1),
    "codex/output-schema": ("schema", 1),
    "codex/resume-nonexistent": ("session", 4),
    "codex/sigint-midrun": ("backend", 1),
    "codex/sigterm-midrun": ("backend", 143),
    "gemini/err-400-stream": ("backend", 144),
    "gemini/err-401-stream": ("auth", 145),
    "gemini/err-429-stream": ("limit", 75),
    "gemini/err-500-maxAttempts1-stream": ("server", 1),
    "gemini/norelaunch-sigint-midrun": ("incomplete", 1),  # with exit code 0
    "gemini/norelaunch-sigterm-midrun": ("incomplete", 1),
    "gemini/resume-nonexistent-stream": ("session", 4),
    "gemini/sandbox-flag": ("config", 3),
    "gemini/untrusted-dir": ("config", 3),
    "qwen/empty-answer": ("server", 1),
    "qwen/err-401": ("auth", 1),
    "qwen/err-429": ("limit", 75),  # killed while it waited to try again
    "qwen/err-500": ("server", 1),
    "qwen/max-session-turns": ("backend", 53),
    "qwen/resume-nonexistent": ("session", 4),
    "pi/err-401": ("auth", 1),  # it exits with 0 in all of these
    "pi/err-429": ("limit", 75),
    "pi/err-500": ("server", 1),
    "pi/err-cut": ("server", 1),
    "pi/no-model": ("config", 3),
    "pi/resume-nonexistent": ("session", 4),
    "copilot/empty-answer": ("backend", 1),
    "copilot/err-401": ("auth", 1),
    "copilot/err-429": ("limit", 75),
    "copilot/err-500": ("server", 1),
    "copilot/err-cut": ("server", 1),
    "copilot/no-login": ("auth", 1),
    "copilot/resume-nonexistent": ("session", 4),
    "cline/empty-answer": ("server", 1),
    "cline/err-401": ("backend", 1),  # nothing in it says that it is about the login
    "cline/err-cut": ("server", 1),
    "cline/resume-nonexistent": ("backend", 1),
    "opencode/err-401": ("auth", 1),
    "opencode/err-429": ("limit", 75),
    "opencode/err-cut": ("server", 1),
    "opencode/resume-nonexistent": ("session", 4),
    "opencode/tool-ask": ("incomplete", 1),  # it stops when a tool is denied, and exits with 0
    "llm/err-401": ("auth", 1),
    "llm/err-429": ("limit", 75),
    "llm/err-500": ("server", 1),
    "llm/err-cut": ("server", 1),
}
DENIED = {
    "claude/perm-default-write": "Write",
    "gemini/approval-default-write": "write_file",
    "gemini/approval-default-shell": "run_shell_command",
    "qwen/tool-denied": "write_file",
    "copilot/tool-denied": "create",
    "cline/tool-denied": "editor",
    "cline/tool-refused": "run_commands",
}
USAGE = {  # input, cached, output
    "claude/tool-stream": (300, 60, 14),
    "codex/run-json": (120, 30, 9),
    "codex/fork-json-before": None,  # of the whole thread, and nobody knows what went before
    "codex/resume-id-json": None,
    "gemini/run-stream-json": (240, 60, 18),  # with what it thought
    "qwen/run": (120, 30, 9),
    "qwen/tool-write": (240, 60, 18),
    "pi/run": (120, 30, 9),
    "pi/tool-write": (240, 60, 18),  # of two calls
    "copilot/run": None,
    "cline/tool-write": (240, 60, 18),
    "opencode/run": (120, 30, 9),
    "opencode/tool-write": (240, 60, 18),
}
RESUMABLE = ["claude/sigkill-in-tool", "codex/sigkill-midrun", "gemini/sigkill-midrun",
             "gemini/norelaunch-sigterm-midrun", "claude/err-500-stream", "codex/err-500",
             "qwen/sigterm", "pi/sigterm"]  # fmt: skip


def expected(case: str | Path) -> dict:
    return json.loads((RECORDINGS / case / "expected.json").read_text(encoding="utf-8"))


def name(case: Path) -> str:
    return f"{case.parent.name}/{case.name}"


@pytest.mark.parametrize("case", cases(), ids=name)
def test_a_recording_is_read_as_expected(case: Path, tmp_path: Path):
    assert json.loads(json.dumps(replay(case, tmp_path))) == expected(case)


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_has_its_kind_and_exit_code(case: str):
    result = expected(case)["result"]
    assert result["ok"] is False
    assert (result["error"]["kind"], result["exit_code"]) == FAILURES[case]


@pytest.mark.parametrize("case", DENIED)
def test_a_denied_tool_is_told_by_its_name_and_is_no_failure(case: str):
    found = expected(case)
    assert found["result"]["ok"] is True
    assert [d["name"] for d in found["result"]["denied"]] == [DENIED[case]]
    assert [e["name"] for e in found["events"] if e["type"] == "denied"] == [DENIED[case]]


@pytest.mark.parametrize("case", USAGE)
def test_usage_is_the_turns_own_with_what_was_cached_in_the_input(case: str):
    usage = expected(case)["result"]["usage"]
    assert (usage and (usage["input"], usage["cached"], usage["output"])) == USAGE[case]


@pytest.mark.parametrize("case", RESUMABLE)
def test_a_run_that_was_cut_off_keeps_its_native_id(case: str):
    found = expected(case)
    assert found["kept"]["native_id"] == found["events"][0]["native_id"]


@pytest.mark.parametrize("case", ["gemini/err-then", "gemini/err-429-stream"])
def test_what_the_model_service_refused_leaves_no_gemini_session(case: str):
    assert expected(case)["kept"]["native_id"] is None


def test_every_recording_ends_in_exactly_one_last_event():
    for case in cases():
        types = [event["type"] for event in expected(case)["events"]]
        assert types[-1] in ("finished", "failed"), case
        assert not {"finished", "failed"} & set(types[:-1]), case


def test_every_line_of_every_recording_has_a_rule():
    for case in cases():
        reader = EventParser(CATALOG.load(case.parent.name), is_first_turn=True)
        for line in (case / "stdout").read_bytes().splitlines():
            reader.parse_line(line)
            assert not reader.ends_unrecognized, (case, line)


def test_no_ok_result_comes_from_a_program_that_failed_or_fell_silent():
    for case in cases():
        result = expected(case)["result"]
        if result["ok"]:
            assert result["backend_exit_code"] == 0, case
            assert result["error"] is None, case


@pytest.mark.parametrize("backend", ["claude", "codex", "gemini"])
@pytest.mark.parametrize("size", [1, 7, 100, 4096])
def test_a_stream_is_read_the_same_in_pieces_of_any_size(backend: str, size: int, tmp_path: Path):
    manifest = Catalog(tmp_path).load(backend)
    for case in (RECORDINGS / backend).glob("*[rn]un*"):
        data = (case / "stdout").read_bytes()

        def events(pieces: list[bytes]) -> list[dict]:
            lines, reader = LineSplitter(), EventParser(manifest, is_first_turn=True)
            complete = [line for piece in pieces for line in lines.feed(piece)]
            return [
                e.to_json()
                for line in (*complete, *lines.finish())
                for e in reader.parse_line(line)
            ]

        whole = events([data])
        assert events([data[i : i + size] for i in range(0, len(data), size)]) == whole
        assert whole or not data.strip()
