"""A file is read only if it is one: no FIFO is waited for, and no device read without end."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from clinvk.disk.reading import LARGEST, open_regular, read_file, read_named
from tests.conftest import CommandLine, Home


@pytest.fixture(params=["fifo", "zero", "folder", "huge"])
def bad(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Something that is no file to be read."""
    path = tmp_path / "bad"
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "zero":
        path.symlink_to("/dev/zero")
    elif request.param == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(LARGEST + 1)  # takes no room
    return path


def put(bad: Path, where: Path) -> Path:
    where.parent.mkdir(parents=True, exist_ok=True)
    where.symlink_to(bad)
    return where


def test_what_is_no_regular_file_of_a_usual_size_is_refused_at_once(bad: Path):
    with pytest.raises(OSError, match=r"regular|larger|directory"):
        read_file(bad)


def test_a_path_that_cannot_be_one_is_an_error_of_the_system():
    with pytest.raises(OSError, match="invalid path"):
        open_regular("a\0b")
    with pytest.raises(OSError, match="invalid path"):
        read_named("a\ud800b")


def test_a_link_is_followed_only_where_that_is_wanted(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_file(tmp_path / "link") == b"x"
    with pytest.raises(OSError, match="symbolic"):
        read_file(tmp_path / "link", follow=False)


def test_a_user_may_name_a_pipe(clinvk: CommandLine, home: Home):
    program = " ".join(clinvk.program)
    for words in (
        "parallel <(echo a; echo b) --format lines -b echo --dry-run -o json",
        "parallel /dev/stdin --format lines -b echo --dry-run -o json < <(echo a; echo b)",
        "parallel - --format lines -b echo --dry-run -o json < <(echo a; echo b)",
        "--config <(echo 'default_backend: echo') parallel <(echo '[a, b]') --dry-run -o json",
    ):
        done = subprocess.run(
            ["bash", "-c", f"{program} {words}"], env=home.env, cwd=home.work, text=True,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stderr)
        assert [t["prompt"] for t in json.loads(done.stdout)["tasks"]] == ["a", "b"]


def test_nothing_of_the_users_hangs_or_fills_the_memory(clinvk: CommandLine, home: Home, bad: Path):
    put(bad, home.path / "templates" / "mine.yaml")
    put(bad, home.path / "backends" / "mine.yaml")
    put(bad, home.path / "sessions" / "s.json")
    put(bad, home.work / "p.txt")
    (home.work / "t.json").write_text('[{"prompt_file": "p.txt"}]')
    (home.work / "u.json").write_text('[{"prompt": "x", "schema": "p.txt"}]')
    for words in (
        ("templates", "show", "mine"), ("backends", "show", "mine"), ("sessions", "show", "s"),
        ("parallel", "t.json", "-b", "echo"), ("parallel", "u.json", "-b", "echo"),
    ):  # fmt: skip
        done = clinvk(*words)
        assert done.returncode != 0, words
        assert "unexpected" not in done.stderr, (words, done.stderr)
    put(bad, home.path / "config.yaml")
    done = clinvk("config", "show")
    assert (done.returncode, "config.yaml" in done.stderr) == (3, True), done


def test_what_never_ends_is_read_up_to_the_limit(clinvk: CommandLine):
    done = clinvk("parallel", "/dev/zero", "-b", "echo")
    assert (done.returncode, "larger than 268,435,456 bytes" in done.stderr) == (3, True), done


CLAUDE = "0f3ab2c4-1111-4222-8333-94445555{:04}.jsonl"


def test_a_bad_file_is_reported_and_the_others_are_imported(
    clinvk: CommandLine, home: Home, bad: Path
):
    folder = Path(home.env["HOME"]) / ".claude" / "projects" / "p"
    folder.mkdir(parents=True)

    def line(cwd: str) -> str:
        said = {"role": "user", "content": f"in {cwd}"}
        return json.dumps({"type": "user", "uuid": "u", "cwd": cwd, "message": said}) + "\n"

    for i, cwd in enumerate(["/a", "/b\0c", "/e"]):
        (folder / CLAUDE.format(i)).write_text(line(cwd))
    (folder / CLAUDE.format(9)).symlink_to(bad)
    found = clinvk.json("sessions", "import", "--yes", "--json")
    assert sorted(s["cwd"] for s in found["sessions"]) == ["/a", "/e"]
    told = "\n".join(found["problems"])
    assert CLAUDE.format(1) in told
    if bad.is_file() and bad.stat().st_size:  # one long line
        assert "damaged line" in told or CLAUDE.format(9) not in told
    else:
        assert CLAUDE.format(9) in told
