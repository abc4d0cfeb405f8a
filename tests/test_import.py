"""Native sessions are found, shown and adopted; `tests/real/test_import.py` resumes them."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pexpect
import pytest

from clinvk.sessions.native import READERS, reader_for
from tests.conftest import PROJECT, CommandLine, Home

RECORDED = PROJECT / "tests" / "recordings" / "native"
FOLDER = "/home/somebody/project"
WRITTEN = 1795229000  # seconds; a checkout makes files whenever it likes
ANSWERS = {"claude": 3, "codex": 3, "gemini": 3}
ASKED = {"claude": 4, "codex": 4, "gemini": 3}  # gemini forgets a turn that was refused
MODELS = {"claude": "claude-opus-5-5", "codex": "gpt-5-codex", "gemini": "gemini-2.5-flash"}


@pytest.fixture
def user(home: Home) -> Path:
    """The home of somebody who has used all three."""
    path = Path(home.env["HOME"])
    for backend in READERS:
        shutil.copytree(RECORDED / backend, path, dirs_exist_ok=True)
        for file in files(path, backend):
            os.utime(file, (WRITTEN, WRITTEN))
    return path


def files(user: Path, backend: str) -> list[Path]:
    return list(reader_for(backend).find_files({"HOME": str(user)}))


def imported(clinvk: CommandLine, *words: str) -> dict[str, Any]:
    done = clinvk("sessions", "import", "--yes", "--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("backend", READERS)
def test_a_native_session_is_read_without_its_plumbing(user: Path, backend: str):
    (path,) = files(user, backend)
    native = reader_for(backend).read_session(path)
    assert native is not None
    assert native.native_id == reader_for(backend).find_native_id(path)
    assert native.cwd == FOLDER
    assert native.model == MODELS[backend]
    roles = [m.role.value for m in native.messages]
    assert (roles.count("user"), roles.count("assistant")) == (ASKED[backend], ANSWERS[backend])
    assert native.messages[0].content == "Explain the parser\n\nin two lines"
    assert native.messages[1].content.startswith("answer 1 to: Explain the parser")
    assert native.messages[3].content.startswith("answer 2 with the result")
    assert native.messages[4].content == "And now é 😀 the last"
    assert not any("<system-reminder>" in m.content or "_context>" in m.content[:20]
                   for m in native.messages)  # fmt: skip
    assert native.created < native.updated


def test_all_are_adopted_with_folder_times_and_messages(
    user: Path, clinvk: CommandLine, home: Home
):
    found = imported(clinvk)
    assert {s["backend"] for s in found["sessions"]} == set(READERS)
    for session in found["sessions"]:
        record = home.record(session["id"])
        assert record["cwd"] == FOLDER
        assert record["created_at"].startswith("2026-11-21T02:42")
        assert record["prompt"] == "Explain the parser\nin two lines"
        assert len(home.transcript(session["id"])) == ASKED[session["backend"]] + 3


def test_a_repeated_import_changes_nothing(user: Path, clinvk: CommandLine, home: Home):
    imported(clinvk)
    before = {p: p.read_bytes() for p in home.path.rglob("*.json*")}
    again = imported(clinvk)
    assert (again["sessions"], again["known"]) == ([], 3)
    assert {p: p.read_bytes() for p in home.path.rglob("*.json*")} == before


def test_a_dry_run_tells_the_ids_to_be_and_writes_nothing(
    user: Path, clinvk: CommandLine, home: Home
):
    told = imported(clinvk, "--dry-run")
    assert home.ids() == []
    assert {s["id"] for s in told["sessions"]} == {s["id"] for s in imported(clinvk)["sessions"]}


def test_without_a_terminal_it_wants_a_yes(user: Path, clinvk: CommandLine, home: Home):
    done = clinvk("sessions", "import")
    assert done.returncode == 1
    assert "Explain the parser" in done.stdout
    assert "--yes" in done.stderr
    assert home.ids() == []


@pytest.mark.parametrize(("answer", "count"), [("y", 3), ("n", 0)])
def test_on_a_terminal_it_asks(
    user: Path, clinvk: CommandLine, home: Home, answer: str, count: int
):
    child = pexpect.spawn(clinvk.program[0], [*clinvk.program[1:], "sessions", "import"],
                          env=home.env, cwd=str(home.work), timeout=60)  # fmt: skip
    child.expect(r"Import 3 session\(s\)\?")
    child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    assert len(home.ids()) == count


def test_one_backend_one_folder_or_one_time_can_be_chosen(user: Path, clinvk: CommandLine):
    def count(*words: str) -> int:
        return len(imported(clinvk, "--dry-run", *words)["sessions"])

    assert count("-b", "codex") == 1
    assert count("--here") == 0
    assert count("--since", "2026-11-21") == 3
    assert count("--since", "2999-01-01") == 0
    assert clinvk("sessions", "import", "-b", "echo").returncode == 1
    assert clinvk("sessions", "import", "--since", "yesterday").returncode == 1


def test_damage_is_named_and_stops_nothing(user: Path, clinvk: CommandLine):
    (path,) = files(user, "claude")
    path.write_bytes(b"{torn\n\xff\xfe\n[1]\n7\n" + path.read_bytes() + b'{"type":"us')
    path.with_name("00000000-0000-4000-8000-000000000000.jsonl").mkdir()
    path.with_name("10000000-0000-4000-8000-000000000000.jsonl").write_bytes(os.urandom(5000))
    path.with_name("20000000-0000-4000-8000-000000000000.jsonl").symlink_to("nowhere")
    found = imported(clinvk)
    assert len(found["sessions"]) == 3
    assert len(found["problems"]) == 3
    assert any("2 damaged line(s)" in p for p in found["problems"])


def test_what_a_claude_session_took_back_is_not_part_of_it(tmp_path: Path):
    def line(uuid: str, parent: str | None, text: str, **more: Any) -> str:
        data = {"type": "user", "uuid": uuid, "parentUuid": parent, "cwd": "/x", **more,
                "timestamp": "2026-01-01T00:00:00Z", "message": {"content": text}}  # fmt: skip
        return json.dumps(data) + "\n"

    path = tmp_path / "x.jsonl"
    path.write_text(
        line("a", None, "first")
        + line("b", "a", "taken back")
        + line("c", "a", "<system-reminder>x</system-reminder>second")
        + line("s", None, "of a subagent", isSidechain=True)
        + line("m", "c", "meta", isMeta=True)
        + line("n", "m", "<command-name>/clear</command-name>")
        + line("d", "n", "<command-message>review</command-message>\n"
               "<command-name>/review</command-name>\n<command-args>7</command-args>")
        + json.dumps({"type": "custom-title", "customTitle": "Mine"}) + "\n"
    )  # fmt: skip
    native = reader_for("claude").read_session(path)
    assert native is not None
    assert [m.content for m in native.messages] == ["first", "second", "/review 7"]
    assert native.title == "Mine"


def test_a_huge_transcript_is_read_a_line_at_a_time(tmp_path: Path):
    import tracemalloc

    path = tmp_path / "huge.jsonl"
    ballast = json.dumps({"type": "attachment", "uuid": "b", "blob": "x" * 1_000_000}) + "\n"
    said = {"type": "user", "uuid": "a", "message": {"content": "hello"}}
    path.write_text(ballast * 60 + json.dumps(said) + "\n")
    tracemalloc.start()
    native = reader_for("claude").read_session(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert native is not None
    assert peak < 10_000_000


def test_keys_are_redacted_on_the_way_in(user: Path, clinvk: CommandLine, home: Home):
    key = "gh" + "p_" + "aB3dE6gH9jK2" * 3
    (path,) = files(user, "gemini")
    path.write_text(path.read_text().replace("Explain the parser", f"Explain {key}"))
    imported(clinvk)
    kept = b"".join(p.read_bytes() for p in home.path.rglob("*") if p.is_file())
    assert key.encode() not in kept
    assert b"Explain [redacted: github token]" in kept


def test_an_older_gemini_file_is_read_too(tmp_path: Path):
    folder = tmp_path / "somewhere"
    project = tmp_path / ".gemini" / "tmp" / hashlib.sha256(str(folder).encode()).hexdigest()
    path = project / "chats" / "session-2026-01-01T00-00-0123abcd.json"
    path.parent.mkdir(parents=True)
    projects = {"projects": {str(folder): "somewhere"}}
    (tmp_path / ".gemini" / "projects.json").write_text(json.dumps(projects))
    said = [{"id": "1", "type": "user", "timestamp": "2026-01-01T00:00:00Z", "content": "hello"},
            {"id": "2", "type": "info", "content": "noise"},
            {"id": "3", "type": "gemini", "content": "hi", "model": "g"}]  # fmt: skip
    path.write_text(json.dumps({"sessionId": "0123abcd-x", "messages": said}, indent=2))

    (found,) = reader_for("gemini").find_files({"HOME": str(tmp_path)})
    native = reader_for("gemini").read_session(found)

    assert native is not None
    assert reader_for("gemini").find_native_id(found) == native.native_id == "0123abcd-x"
    assert (native.cwd, native.model) == (os.path.realpath(folder), "g")
    assert [m.content for m in native.messages] == ["hello", "hi"]


def test_turns_that_a_codex_user_took_back_are_left_out(tmp_path: Path):
    def said(role: str, text: str) -> dict[str, Any]:
        content = [{"type": "text", "text": text}]
        return {"type": "response_item",
                "payload": {"type": "message", "role": role, "content": content}}  # fmt: skip

    name = "rollout-2026-01-01T00-00-00-01a1fbfb-d5ad-7302-804c-c21153afa036.jsonl"
    path = tmp_path / "sessions" / "2026" / "01" / "01" / name
    path.parent.mkdir(parents=True)
    rolled_back = {"type": "event_msg", "payload": {"type": "thread_rolled_back", "num_turns": 1}}
    named = {"id": "01a1fbfb-d5ad-7302-804c-c21153afa036", "thread_name": "A name"}
    lines = [said("user", "# AGENTS.md instructions for /x"), said("user", "one"),
             said("assistant", "1"), said("user", "two"), said("assistant", "2"), rolled_back,
             said("user", "three")]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "session_index.jsonl").write_text(json.dumps(named) + "\n")

    native = reader_for("codex").read_session(path)

    assert native is not None
    assert [m.content for m in native.messages] == ["one", "1", "three"]
    assert native.title == "A name"
