"""Notes of a directory, and what `--memory` adds to a prompt."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from clinvk.errors import SessionError, UsageError
from clinvk.knowledge.memory import MAX_BYTES, memory_part
from clinvk.knowledge.notes import LONGEST, Notes
from tests.conftest import END, START, CommandLine, Home
from tests.terminals import on_terminal

KEEPS = "cat >prompt\n" + START + END


def test_notes_are_stored_listed_and_forgotten(clinvk: CommandLine, home: Home) -> None:
    other = home.path.parent / "other"
    other.mkdir()

    assert clinvk("memory", "add", "tests", "need", "redis").returncode == 0
    assert clinvk("memory", "add", "-", stdin="line 1\nline 2\n").returncode == 0
    clinvk("memory", "add", "elsewhere", "-w", str(other))
    found = clinvk.json("memory", "list", "--json")["notes"]

    assert [note["text"] for note in found] == ["tests need redis", "line 1\nline 2"]
    assert {note["directory"] for note in found} == {os.path.realpath(home.work)}
    assert len(clinvk.json("memory", "list", "--all", "--json")["notes"]) == 3
    assert clinvk("memory", "forget", found[0]["id"][:6], "--yes").stdout == "1 note deleted.\n"
    assert [n["text"] for n in clinvk.json("memory", "list", "--json")["notes"]] == [
        "line 1\nline 2"
    ]
    for path in (home.path / "memory").glob("*.jsonl"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_prompt_gets_the_notes_and_a_session_does_not_store_them(
    clinvk: CommandLine, home: Home
) -> None:
    home.backend("keeps", KEEPS)
    clinvk("memory", "add", "tests need redis")

    done = clinvk("-b", "keeps", "--memory", "fix it")
    dry = clinvk("-b", "keeps", "--memory", "--dry-run", "fix it")

    assert "tests need redis" in (home.work / "prompt").read_text()
    assert "memory: 1 note added before the prompt (30 bytes)" in done.stderr
    assert "# memory: True  (command line)" in dry.stdout
    assert "1 note added" in dry.stderr
    assert home.transcript()[0]["content"] == "fix it"


def test_the_notes_of_another_turn_are_added_again(clinvk: CommandLine, home: Home) -> None:
    clinvk("memory", "add", "tests need redis")
    clinvk("-b", "echo", "hello")

    assert "1 note added" in clinvk("-c", "--memory", "and now?").stderr
    assert "note" not in clinvk("-c", "and now?").stderr


def test_notes_are_listed_on_a_terminal(clinvk: CommandLine, home: Home) -> None:
    clinvk("memory", "add", "we use tabs")
    assert "we use tabs" in on_terminal(home, "memory", "list")[0]


def test_without_notes_it_says_so(clinvk: CommandLine) -> None:
    done = clinvk("-b", "echo", "--memory", "hello")

    assert done.returncode == 0
    assert "no notes are stored for" in done.stderr
    assert "clinvk memory add" in done.stderr


def test_tasks_get_the_notes_of_their_directories(clinvk: CommandLine, home: Home) -> None:
    (home.work / "tasks.yaml").write_text("tasks:\n- {prompt: one, memory: true, backend: echo}\n")
    clinvk("memory", "add", "tests need redis")

    result = clinvk.json("parallel", "tasks.yaml", "--json")

    assert "tests need redis" in result["results"][0]["output"]


def test_a_note_is_not_stored_with_a_key_in_it(clinvk: CommandLine, home: Home) -> None:
    done = clinvk("memory", "add", "use ghp_abcdefghijklmnopqrstuvwxyz0123456789")

    assert "what looks like a key was not stored" in done.stderr
    assert "ghp_" not in next((home.path / "memory").glob("*.jsonl")).read_text()


@pytest.mark.parametrize(
    ("text", "problem"),
    [(" \n", "is empty"), ("é" * LONGEST, "40,000 bytes; the maximum is 20,000"), ("a\0b", "NUL")],
)
def test_an_invalid_note_is_an_error(home: Home, text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Notes(home.path).add("/x", text)


def test_of_ten_megabytes_the_newest_notes_are_added(home: Home) -> None:
    notes = Notes(home.path)
    notes.add("/x", "the first")
    path = next((home.path / "memory").glob("*.jsonl"))
    line = path.read_bytes().replace(b"the first", b"x" * 9_900)
    path.write_bytes(path.read_bytes() + line * 1000 + b'{"torn')
    notes.add("/x", "the last")

    part = memory_part(home.path, "/x")

    assert len(notes.of("/x")) == 1002
    assert len(part.pieces[0].text) <= MAX_BYTES
    assert part.pieces[0].text.endswith("the last")
    assert "memory: the last 6 of 1,002 notes added before the prompt (49." in part.notice


def test_writers_at_the_same_time_lose_no_note(home: Home) -> None:
    notes = Notes(home.path)
    first = notes.add("/x", "to be forgotten")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: notes.add("/x", f"note {n}"), range(20)))
        notes.forget("/x", [first])

    assert sorted(n.text for n in notes.of("/x")) == sorted(f"note {n}" for n in range(20))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["forget"], "no note given"),
        (["forget", "--all", "ab"], "cannot be used together"),
        (["forget", "zz"], "'zz' is not a note of this directory"),
        (["forget", "--all"], "refusing to delete without confirmation"),
        (["list", "-w", "no-such"], "no-such: no such directory"),
    ],
)
def test_mistakes_are_explained(clinvk: CommandLine, words: list[str], problem: str) -> None:
    clinvk("memory", "add", "a note")

    done = clinvk("memory", *words)

    assert done.returncode != 0
    assert problem in done.stderr


def test_a_file_of_notes_that_cannot_be_read_is_reported(home: Home) -> None:
    notes = Notes(home.path)
    notes.add("/x", "a note")
    path = next((home.path / "memory").glob("*.jsonl"))
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(SessionError, match="cannot read"):
        notes.of("/x")


def test_a_turn_that_only_corrects_or_fixes_does_not_get_the_notes_again(
    clinvk: CommandLine, home: Home
) -> None:
    home.backend("wrong", "cat >>prompts; echo >>prompts\n" + START + END)
    (home.work / "s.json").write_text('{"type": "object"}')
    clinvk("memory", "add", "tests need redis")

    clinvk("-b", "wrong", "--memory", "--planning", "--schema", "s.json", "fix it")
    corrected = (home.work / "prompts").read_text()
    (home.work / "prompts").unlink()
    clinvk("-b", "wrong", "--memory", "--check", "echo $RANDOM; false", "--rounds", "1", "fix it")
    fixed = (home.work / "prompts").read_text()

    assert corrected.count("tests need redis") == 1
    assert corrected.count("change nothing: create, edit and delete no files") == 2
    assert fixed.count("tests need redis") == 1
