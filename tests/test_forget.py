"""What an ephemeral run deletes of a CLI's own files: its own session, and nothing else."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from clinvk.backend.files import cleanup
from clinvk.backend.files.cleanup import delete_native_session
from clinvk.backend.reading.parse import parse_manifest
from clinvk.disk.reading import LARGEST
from clinvk.errors import ConfigError
from clinvk.process.command import Command
from tests.conftest import END, READ, CommandLine, Home, say

MINE = "0f3ab2c4-1111-4222-8333-944455556666"
OTHERS = [f"{i:08x}-1111-4222-8333-944455556666" for i in range(20)]
HOSTILE = [
    "s",
    "sessionId",
    "*",
    "",
    "?" * 36,
    MINE[:8],
    MINE[:-1],
    "[0-9a-f]*",
    "../" * 4,
    '"',
    "{",
]
PATTERN = "[A-Za-z0-9][A-Za-z0-9-]{7,127}"
REMOVE = [
    {"glob": "~/.cli/*/chats/session-*.json*", "owner": "sessionId"},
    {"glob": "~/.cli/*/logs.json", "owner": "sessionId"},
]


def chat(id_: str, *lines: Any) -> str:
    return "".join(json.dumps(line) + "\n" for line in ({"sessionId": id_, "kind": "main"}, *lines))


@pytest.fixture
def chats(home: Home) -> Path:
    """A project with the conversations of others, which all speak of the session that is asked
    for."""
    folder = Path(home.env["HOME"]) / ".cli" / "project" / "chats"
    folder.mkdir(parents=True)
    for i, other in enumerate(OTHERS):
        about = {"type": "user", "content": f"the sessionId of {MINE} is *, s and {OTHERS[i - 1]}"}
        (folder / f"session-{i}.jsonl").write_text(chat(other, about))
        (folder / f"session-old-{i}.json").write_text(
            json.dumps({"sessionId": other, "messages": [about]}, indent=2)
        )
    entries = [{"sessionId": other, "message": MINE} for other in OTHERS]
    (folder.parent / "logs.json").write_text(json.dumps(entries))
    return folder


def everything(folder: Path) -> dict[str, str]:
    return {str(p): p.read_text() for p in folder.parent.rglob("*") if p.is_file()}


def forget_in(home: Home, native_id: str) -> None:
    remove = tuple((r["glob"], r["owner"]) for r in REMOVE)
    delete_native_session(
        Command((), {"HOME": home.env["HOME"]}, home.work, b"", {}, removals=remove), native_id
    )


def test_the_files_of_a_session_go_and_those_of_others_stay(home: Home, chats: Path):
    before = everything(chats)
    (chats / "session-mine.jsonl").write_text(chat(MINE, {"type": "user"}, {"$set": {}}))
    (chats / "session-mine.json").write_text(json.dumps({"sessionId": MINE, "messages": []}))
    forget_in(home, MINE)
    assert everything(chats) == before


@pytest.mark.parametrize("native_id", HOSTILE)
def test_an_id_that_is_not_a_files_own_deletes_nothing(home: Home, chats: Path, native_id: str):
    (chats / "session-mine.jsonl").write_text(chat(MINE))
    before = everything(chats)
    forget_in(home, native_id)
    assert everything(chats) == before


@pytest.mark.parametrize("native_id", HOSTILE)
def test_a_cli_that_prints_a_hostile_id_deletes_no_conversation_of_others(
    clinvk: CommandLine, home: Home, chats: Path, native_id: str
):
    (chats / "session-odd.jsonl").write_text(chat(native_id))
    before = everything(chats)
    script = READ + say(type="start", id=native_id) + END.replace("native-1", native_id)
    home.backend("fake", script, native_id=PATTERN, ephemeral={"remove": REMOVE})
    assert clinvk("-b", "fake", "--ephemeral", "hi").returncode == 0
    kept = everything(chats)
    if len(native_id) > 7 and native_id.replace("-", "").isalnum():
        kept |= {p: text for p, text in before.items() if p.endswith("session-odd.jsonl")}
    assert kept == before


@pytest.mark.parametrize("form", ["list", "lines"])
def test_of_a_file_with_entries_of_several_sessions_only_those_of_one_go(
    home: Home, chats: Path, form: str
):
    entries = [{"sessionId": id_, "message": MINE} for id_ in (OTHERS[0], MINE, OTHERS[1], MINE)]
    path = chats / "session-many.json"
    lines = "".join(json.dumps(e) + "\n" for e in entries)
    path.write_text(json.dumps(entries) if form == "list" else lines)
    forget_in(home, MINE)
    text = path.read_text()
    left = json.loads(text) if form == "list" else [json.loads(x) for x in text.splitlines()]
    assert left == [e for e in entries if e["sessionId"] != MINE]


@pytest.mark.parametrize(
    "text",
    [
        chat(OTHERS[0], {"sessionId": MINE}, {"type": "user"}),
        chat(MINE, {"sessionId": OTHERS[0]}, {"type": "user"}),
        json.dumps([{"sessionId": MINE}, {"message": "whose?"}]),
        json.dumps({"about": {"sessionId": MINE}}),
        json.dumps({"sessionId": [MINE]}),
        chat(MINE, {"sessionId": [1]}),
        chat(MINE, {"sessionId": {MINE: MINE}}),
        json.dumps(MINE),
        "not JSON\n" + chat(MINE),
        "[" * 100_000 + MINE,
        "",
    ],
)
def test_a_file_that_does_not_say_whose_it_is_stays(home: Home, chats: Path, text: str):
    path = chats / "session-unclear.json"
    path.write_text(text)
    forget_in(home, MINE)
    assert path.read_text() == text


def test_symbolic_links_and_special_files_are_left_alone(home: Home, chats: Path, tmp_path: Path):
    outside = tmp_path / "outside" / "chats"
    outside.mkdir(parents=True)
    (outside / "session-1.json").write_text(json.dumps({"sessionId": MINE}))
    (chats.parent.parent / "linked").symlink_to(outside.parent)
    (chats / "session-link.json").symlink_to(outside / "session-1.json")
    os.mkfifo(chats / "session-pipe.json")
    (chats / "session-zero.json").symlink_to("/dev/zero")
    (chats / "session-folder.json").mkdir()
    forget_in(home, MINE)
    assert (outside / "session-1.json").exists()
    assert (chats / "session-link.json").is_symlink()
    assert (chats / "session-pipe.json").exists()
    assert (chats / "session-folder.json").is_dir()


def forget_told(home: Home) -> list[str]:
    remove = tuple((r["glob"], r["owner"]) for r in REMOVE)
    return delete_native_session(
        Command((), {"HOME": home.env["HOME"]}, home.work, b"", {}, removals=remove), MINE
    )


def test_a_file_that_is_too_large_to_examine_is_named(home: Home, chats: Path):
    for name in ("session-large.json", "session-larger.json"):
        with (chats / name).open("w") as file:
            file.truncate(LARGEST + 1)
    (chats / "session-mine.jsonl").write_text(chat(MINE))
    [said] = forget_told(home)
    assert "larger than" in said
    assert "and 1 more file" in said
    assert MINE in said
    assert not (chats / "session-mine.jsonl").exists()
    (chats / "session-large.json").unlink()
    (chats / "session-larger.json").unlink()
    (chats / "session-link.json").symlink_to("/nowhere")
    assert forget_told(home) == []


def test_an_ephemeral_turn_tells_which_file_it_could_not_examine(
    clinvk: CommandLine, home: Home, chats: Path
):
    with (chats / "session-large.json").open("w") as file:
        file.truncate(LARGEST + 1)
    home.backend("fake", READ + say(type="start", id=MINE) + END.replace("native-1", MINE),
                 native_id=PATTERN, ephemeral={"remove": REMOVE})  # fmt: skip
    done = clinvk("-b", "fake", "--ephemeral", "hi")
    assert done.returncode == 0
    assert "session-large.json" in done.stderr


def test_a_shared_list_keeps_an_entry_that_another_process_adds_meanwhile(
    home: Home, chats: Path, monkeypatch: pytest.MonkeyPatch
):
    path = chats.parent / "logs.json"
    others = json.loads(path.read_text())
    path.write_text(json.dumps([*others, {"sessionId": MINE}]))
    added = {"sessionId": OTHERS[0], "message": "new"}
    read_entries = cleanup._read_entries

    def read_and_add(data: bytes) -> tuple[list[Any], bool]:
        entries, is_list = read_entries(data)
        if added not in entries and {"sessionId": MINE} in entries:
            path.write_text(json.dumps([*entries, added]))
        return entries, is_list

    monkeypatch.setattr(cleanup, "_read_entries", read_and_add)
    assert forget_told(home) == []
    assert json.loads(path.read_text()) == [*others, added]


def test_a_home_with_signs_of_a_pattern_in_its_name_is_that_home(home: Home, tmp_path: Path):
    for name in ("user[12]*", "user1x"):
        folder = tmp_path / name / ".cli" / "p" / "chats"
        folder.mkdir(parents=True)
        (folder / "session-1.json").write_text(json.dumps({"sessionId": MINE}))
    home.env["HOME"] = str(tmp_path / "user[12]*")
    forget_in(home, MINE)
    assert [p.parents[3].name for p in tmp_path.rglob("session-1.json")] == ["user1x"]


@pytest.mark.parametrize(
    ("remove", "native_id", "said"),
    [
        ("{glob: '~/x/*', owner: id}", "", "native_id"),
        ("{glob: '~/x/*'}", "native_id: '[a-z]+'", "ephemeral.remove[0]: missing key 'owner'"),
        (
            "{glob: '~/x/*', containing: $native_id}",
            "native_id: '[a-z]+'",
            "unknown key 'containing'",
        ),
    ],
)
def test_a_manifest_that_could_delete_the_files_of_others_is_rejected(
    remove: str, native_id: str, said: str
):
    text = f"{{name: x, command: x, argv: {{run: []}}, ephemeral: {{remove: [{remove}]}}, {native_id}}}"
    with pytest.raises(ConfigError) as caught:
        parse_manifest(text, Path("x.yaml"))
    assert said in str(caught.value)
