"""The files below a directory, as `--fast-context` adds them to a prompt."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from clinvk.errors import UsageError
from clinvk.knowledge import fast, files
from clinvk.knowledge.fast import MAX_BYTES, MAX_FILE, fast_context_part
from clinvk.knowledge.files import Skipped, check_root, find_files, read_text
from clinvk.knowledge.secret_files import is_secret_file
from tests.conftest import CommandLine, Home
from tests.needs import need


def write(root: Path, contents: Mapping[str, str]) -> None:
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(root: Path) -> list[str]:
    return [file.name for file in find_files(os.path.realpath(root), Skipped())]


def test_a_prompt_gets_the_files(clinvk: CommandLine, home: Home) -> None:
    write(home.work, {"src/a.py": "def parse(): pass\n", "src/b/c.md": "# Title\n", "d.py": "no"})

    done = clinvk("-b", "echo", "--fast-context", "src", "hello", "-o", "json")
    dry = clinvk.json("-b", "echo", "--dry-run", "-o", "json", "--fast-context", "./src", "hello")

    root = os.path.realpath(home.work / "src")
    assert f"fast context: 2 files below {root} added before the prompt (26 bytes)" in done.stderr
    assert "file src/a.py begins ===\ndef parse(): pass\n===" in dry["prompt"]
    assert "file src/b/c.md begins ===\n# Title\n===" in dry["prompt"]
    assert dry["prompt"].endswith("\n\nhello")
    assert dry["settings"]["fast_context"] == {"value": [root], "from": "command line"}
    assert home.transcript()[0]["content"] == "hello"


def test_tasks_and_functions_have_it(clinvk: CommandLine, home: Home) -> None:
    write(home.work, {"src/a.py": "def parse(): pass\n"})
    (home.work / "tasks.yaml").write_text(
        "defaults: {backend: echo, fast_context: src}\ntasks: [one]\n"
    )

    (home.work / "plain.yaml").write_text("tasks: [{backend: echo, prompt: one}]\n")

    result = clinvk.json("parallel", "tasks.yaml", "--json")
    by_flag = clinvk.json("parallel", "plain.yaml", "--json", "--fast-context", "src")
    refused = clinvk("parallel", "plain.yaml", "--fast-context", "no-such")

    assert "def parse(): pass" in result["results"][0]["output"]
    assert "def parse(): pass" in by_flag["results"][0]["output"]
    assert "--fast-context: no-such: no such directory" in refused.stderr


RULES = {
    ".gitignore": "*.log\n!keep.log\n/build/\ncache\n**/deep/*.tmp\n\\#x\n# a comment\n[\ntail \n",
    "sub/.gitignore": "!*.log\nlocal.*\n/only-here\n",
    ".git/info/exclude": "excluded*\n",
}
FILES = [
    *("a.log", "keep.log", "build/x", "sub/build/y", "cache/z", "sub/cache", "a/deep/b.tmp"),
    *("deep/c.tmp", "a/deep/d/e.tmp", "#x", "sub/a.log", "sub/local.txt", "local.txt"),
    *(
        "sub/only-here",
        "sub/b/only-here",
        "excluded.txt",
        "sub/excluded",
        "plain",
        "tail",
        "[",
        "ä",
    ),
]


def test_the_files_are_those_that_git_does_not_ignore(tmp_path: Path) -> None:
    need("git")
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    write(tmp_path, dict.fromkeys(FILES, "x") | RULES)
    listed = ["git", "-c", "core.quotepath=off", "ls-files", "-co", "--exclude-standard"]

    for folder in (tmp_path, tmp_path / "sub", tmp_path / "a"):
        done = subprocess.run(listed, cwd=folder, capture_output=True, text=True, check=True)
        assert sorted(names(folder)) == sorted(done.stdout.split("\n")[:-1])
    assert names(tmp_path / "build") == ["x"]  # named, though it is ignored


def test_rules_of_many_stars_take_no_time(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "*a" * 60 + "b\n", "a" * 200: "x", "a" * 200 + "b": "x"})

    assert names(tmp_path) == [".gitignore", "a" * 200]


def test_a_loop_a_fifo_a_device_and_secrets_are_skipped(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "a", ".env": "KEY=1", "sub/id_rsa": "x", ".ssh/config": "x"})
    write(tmp_path, {"node_modules/m.js": "x", "env/pyvenv.cfg": "", "env/lib/x.py": "x"})
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "out").symlink_to("/etc/passwd")
    (tmp_path / "bin").write_bytes(b"\x7fELF\0\0")
    (tmp_path / "latin").write_bytes(b"caf\xe9 au lait")
    (tmp_path / "k.txt").write_text("ghp_abcdefghijklmnopqrstuvwxyz0123456789")
    os.mkfifo(tmp_path / "fifo")

    part = fast_context_part(str(tmp_path), str(tmp_path))

    assert [piece.what for piece in part.pieces] == ["file a.txt", "file k.txt"]
    assert part.pieces[1].text == "[redacted: github token]"
    assert part.notice.endswith(
        "skipped: 2 binary files, 2 possible secrets, 1 special file, 2 symbolic links"
    )


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        *((name, True) for name in (
            ".env", ".env.local", "prod.env", "server.pem", "ID_RSA", "id_ed25519", "credentials",
            "credentials.json", "secrets.yaml", "app-secrets.yml", "my-service-account-1.json",
            ".npmrc", "terraform.tfstate.backup", "x.kdbx", ".bash_history", "key.p12",
        )),
        *((name, False) for name in (
            ".env.example", "env.py", "id_rsa.pub", "keys.py", "secrets.py", "monkey.txt",
            "environment.yml", "credentials.py", "README.md", "secret_files.py", ".envrc.sample",
        )),
    ],
)  # fmt: skip
def test_files_with_secrets_are_known_by_their_names(name: str, is_secret: bool) -> None:
    assert is_secret_file(name) is is_secret


def test_what_is_added_is_bounded(tmp_path: Path) -> None:
    write(tmp_path, {"first.md": "é" * MAX_FILE, "package-lock.json": "x\n" * 10})
    write(tmp_path, {f"sub/{n:04}.py": f"line {n}\n" * 1000 for n in range(300)})

    part = fast_context_part(str(tmp_path), str(tmp_path))

    sizes = [len(piece.text.encode()) for piece in part.pieces]
    assert part.pieces[0].what == "file first.md"
    assert max(sizes) <= MAX_FILE + 10
    assert sum(sizes[:-1]) <= MAX_BYTES
    assert part.pieces[-1].what == "names of files that did not fit"
    assert "sub/0299.py" in part.pieces[-1].text
    assert part.pieces[-1].text.endswith("package-lock.json")
    assert part.notice.startswith("fast context: 13 of 302 files below ")


def test_a_huge_directory_is_left_after_a_while(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(files, "MAX_ENTRIES", 20)
    write(tmp_path, dict.fromkeys(map(str, range(30)), "x"))

    assert fast_context_part(str(tmp_path), "/").notice.endswith("everything after 20 files")


def test_a_file_that_changes_or_vanishes_while_it_is_read_is_no_error(tmp_path: Path) -> None:
    write(tmp_path, {"a": "x" * 100, "b": "y"})
    root, skipped = os.path.realpath(tmp_path), Skipped()
    found = {file.name: file for file in find_files(root, skipped)}
    (tmp_path / "a").write_text("shorter")
    (tmp_path / "b").unlink()

    assert read_text(found["a"].path, 50, skipped) == ("shorter", True)
    assert read_text(found["b"].path, 50, skipped) is None
    (tmp_path / "b").symlink_to("/etc/passwd")
    assert read_text(found["b"].path, 50, skipped) is None
    assert str(skipped) == "2 unreadable files"


def test_an_empty_directory_is_reported(tmp_path: Path) -> None:
    assert "there are no text files below" in fast_context_part(str(tmp_path), "/").notice


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/", "the files of the whole system"),
        ("/proc/self", "its files are no documents"),
        ("fifo", "not a directory"),
        ("no-such", "no such directory"),
        ("root", "the files of the whole system"),
    ],
)
def test_what_is_no_directory_of_documents_is_refused(tmp_path: Path, path, problem) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "root").symlink_to("/")

    with pytest.raises(UsageError, match=problem):
        check_root(str(tmp_path / path), "--fast-context")


def test_a_name_cannot_end_a_line_of_the_prompt(tmp_path: Path) -> None:
    write(tmp_path, {"a\nb": "text", os.fsdecode(b"\xff"): "text"})

    part = fast_context_part(str(tmp_path), str(tmp_path))

    assert [piece.what for piece in part.pieces] == ["file a b", "file \ufffd"]
    assert fast.MAX_NAMES < MAX_FILE


@pytest.mark.parametrize("flag", ["--fast-context=file", "--knowledge=file", "--workdir=file"])
def test_a_file_in_place_of_a_directory_is_called_one(
    clinvk: CommandLine, home: Home, flag
) -> None:
    (home.work / "file").touch()

    refused = clinvk("-b", "echo", flag, "a prompt")

    assert refused.returncode == 1
    assert "file: not a directory" in refused.stderr
