"""What the interactive prompt does with the directory: /diff, /undo, !COMMAND, /memory, /native."""

import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ClinvkError
from clinvk.model.request import Request
from clinvk.repl.conversation import Conversation
from clinvk.repl.sending import Sender
from tests.conftest import END, START, CommandLine, Home
from tests.needs import need
from tests.stores import keep
from tests.test_repl_worktree import Recorder
from tests.tmux import Tmux

EDITS = """\
prompt=$(cat)
case "$prompt" in
  *edit*) echo new > known.txt; echo x > "a file.txt"; rm -f gone.txt;;
esac
printf '%s' "$prompt" >> ../prompts; echo >> ../prompts
"""


@pytest.fixture
def repository(home: Home) -> Path:
    need("git")
    home.backend("fake", EDITS + START + END)
    git(home.work, "init", "-q")
    for name in ("known.txt", "gone.txt", "staged.txt"):
        (home.work / name).write_text("old\n")
    (home.work / ".gitignore").write_text("ignored*\n")
    git(home.work, "add", "known.txt", "gone.txt", ".gitignore")
    git(home.work, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qm", "first")
    git(home.work, "add", "staged.txt")
    (home.work / "untracked.txt").write_text("of the user\n")
    (home.work / "ignored.txt").write_text("a secret\n")
    return home.work


def git(directory: Path, *words: str) -> str:
    argv = ["git", "-C", str(directory), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def typed(clinvk: CommandLine, *lines: str, **more: Any) -> str:
    """What the prompt prints for these lines."""
    done = clinvk("repl", "-b", "fake", stdin="".join(f"{line}\n" for line in lines), **more)
    return done.stdout + done.stderr


def test_diff_shows_what_the_last_turn_changed(repository: Path, clinvk: CommandLine):
    before = git(repository, "status", "--porcelain"), git(repository, "count-objects", "-v")
    shown = typed(
        clinvk, "/diff", "edit it", "/diff", "/diff --stat", "/diff known.txt", "ok", "/diff"
    )
    assert "no turn was run at this prompt yet" in shown
    assert "-old\n+new\n" in shown
    assert "b/a file.txt" in shown
    assert "deleted file mode" in shown
    assert "3 files changed" in shown
    assert "the last turn changed no files" in shown
    assert "of the user" not in shown
    assert "secret" not in shown
    git(repository, "checkout", "known.txt", "gone.txt")
    (repository / "a file.txt").unlink()
    assert before == (
        git(repository, "status", "--porcelain"),
        git(repository, "count-objects", "-v"),
    )


def test_a_turn_starts_once_git_has_looked_at_the_files(
    home: Home, repository: Path, clinvk: CommandLine
):
    # The backend is done long before git would be.
    folder = home.path.parent / "slow"
    folder.mkdir()
    slow = folder / "git"
    slow.write_text(
        f'#!/bin/sh\ncase "$*" in *--update*) sleep 1;; esac\nexec {need("git")} "$@"\n'
    )
    slow.chmod(0o755)
    path = {"PATH": f"{folder}:{home.env['PATH']}"}
    before = (repository / ".git/index").read_bytes()
    shown = typed(clinvk, "edit it", "/diff --stat", "/undo", env=path)
    assert "3 files changed" in shown
    assert "M  known.txt" in shown.replace("\t", "  ")
    assert (repository / ".git/index").read_bytes() == before


def test_a_message_that_is_refused_leaves_the_changes_of_the_last_turn(
    home: Home, repository: Path, anyio_backend: str
):
    dispatcher = keep(Dispatcher(loading.load(home.env), env=home.env))
    request = Request(prompt="-", backend="fake", cwd=str(repository))
    talk = keep(Conversation(dispatcher, request))

    async def talks() -> None:
        await Sender(talk).send(talk.request("edit"), Recorder())
        changed = ["a file.txt", "gone.txt", "known.txt"]
        assert sorted(talk.changes.files()) == changed
        with pytest.raises(ClinvkError, match="unknown backend"):
            await Sender(talk).send(talk.request("edit").replace(to="none"), Recorder())
        assert sorted(talk.changes.files()) == changed
        await Sender(talk).send(talk.request("look"), Recorder())
        assert talk.changes.files() == []

    anyio.run(talks, backend=anyio_backend)


def test_paths_of_a_diff_are_those_of_the_directory(repository: Path, clinvk: CommandLine):
    below = repository / "below"
    below.mkdir()
    shown = typed(clinvk, "edit", "/diff new", "/diff known.txt", "/diff ../known.txt", cwd=below)
    assert "the last turn changed no files in new" in shown
    assert "changed no files in ../known.txt" in shown
    assert "b/below/known.txt" in shown


def test_diff_says_that_there_is_no_repository(home: Home, clinvk: CommandLine):
    home.backend("fake", EDITS + START + END)
    shown = typed(clinvk, "edit", "/diff", "/diff --weird", "/diff 'x")
    assert "is not in a git repository, so what a turn changes is not recorded" in shown
    assert "/diff: unknown option --weird" in shown
    assert "No closing quotation" in shown
    assert (home.work / "known.txt").read_text() == "new\n"


def test_undo_continues_in_a_copy_from_before_the_last_turn(
    home: Home, repository: Path, clinvk: CommandLine
):
    shown = typed(clinvk, "/undo", "hello", "please edit", "/undo", "/exit")
    assert "there is no turn to undo yet" in shown
    assert "now in" in shown
    assert "the turn changed these files, which stay as they are:" in shown
    for line in ("M  known.txt", "D  gone.txt", "A  a file.txt"):
        assert line in shown
    assert (repository / "known.txt").read_text() == "new\n"
    first, copy = sorted(home.ids(), key=lambda i: home.record(i)["created_at"])
    asked = [
        [m["content"] for m in home.transcript(i) if m["role"] == "user"] for i in (first, copy)
    ]
    assert asked[0] == ["hello", "please edit"]
    assert asked[1] == ["hello"]


def test_undoing_the_first_turn_starts_a_session(home: Home, repository: Path, clinvk: CommandLine):
    shown = typed(clinvk, "hello", "/undo")
    assert "the next message starts a new session" in shown
    assert "/diff" not in shown


def test_the_output_of_a_command_goes_with_the_next_message(
    home: Home, repository: Path, clinvk: CommandLine
):
    noise = "\\033[31mred\\033[0m"
    lines = [
        "!!", "!", f"!printf '{noise}\\n'; exit 3", "!!", "look at this", "and this",
        "!echo again", "!!", "!!", "last", "!sleep 60 & echo quick", "!cat", "!seq 100000", "!!", "long",
    ]  # fmt: skip
    shown = typed(clinvk, *lines)
    assert "there is no output to send yet" in shown
    assert "! needs a command" in shown
    assert "exit code 3; 1 line; !! sends the output with the next message" in shown
    assert "will be sent with the next message; !! removes it" in shown
    assert "is not sent" in shown
    assert "quick" in shown
    prompts = (home.work.parent / "prompts").read_text()
    assert "red\n===" in prompts
    assert "exit code 3, begins" in prompts
    assert "again" not in prompts
    assert prompts.count("look at this") == 1
    assert home.record()["prompt"].startswith("look at this")
    assert "bytes left out" in prompts
    assert "\n1\n2\n" in prompts
    assert "\n99999\n100000\n" in prompts


def test_a_command_runs_in_the_directory_of_the_session(
    home: Home, repository: Path, clinvk: CommandLine, tmp_path: Path
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    clinvk("-b", "fake", "--session", "talk", "hello")
    shown = typed(clinvk, "/resume talk", "!pwd", cwd=elsewhere)
    assert str(repository) in shown


def test_notes_are_managed_and_added_from_the_prompt(
    home: Home, repository: Path, clinvk: CommandLine
):
    shown = typed(
        clinvk, "/memory add we use tabs", "/memory", "/memory on", "hello", "/memory off", "later"
    )
    assert "we use tabs" in shown
    first, later = (home.work.parent / "prompts").read_text().split("hello")
    assert "we use tabs" in first
    assert "we use tabs" not in later


def test_the_screen_of_the_backend_is_opened_from_the_prompt(
    home: Home, repository: Path, clinvk: CommandLine
):
    shown = typed(clinvk, "/native", "hello", "/native")
    assert shown.count("--native needs a terminal") == 2


def test_the_screen_shows_a_diff_runs_commands_and_offers_an_undone_message(
    repository: Path, tmux: Tmux
):
    tmux.start("-b", "fake", PAGER="sed s/^/paged:/", LINES="18", rows=18)
    tmux.shows("new session")
    tmux.type("please edit")
    tmux.shows("It is done.")
    tmux.type("/diff known.txt")
    tmux.shows("+new")
    assert "paged:" not in tmux.screen()  # it fits
    tmux.type("/diff")
    tmux.shows("paged:deleted file mode")
    tmux.type("!echo wh''at; read word; echo got $word")
    tmux.shows("what")
    tmux.tmux("send-keys", "typed", "Enter")
    tmux.shows("got typed")
    tmux.type("!echo sl''eeps; sleep 99")
    tmux.shows("sleeps")
    tmux.keys("C-c")
    tmux.shows("exit code 130")
    tmux.type("/undo")
    tmux.shows("files, which stay as they are")
    tmux.shows("› please edit")
    tmux.keys("C-u")
    tmux.keys("C-d")
    tmux.shows("exit 0")
