"""A conversation at the prompt that works in a git worktree: /diff, /apply, /drop."""

import os
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ClinvkError
from clinvk.model.events import Event
from clinvk.model.plan import Worktree
from clinvk.model.request import Request
from clinvk.repl.conversation import Conversation
from clinvk.repl.sending import Sender
from tests.conftest import CommandLine, Home, wait_for
from tests.needs import need
from tests.stores import keep
from tests.test_worktrees import git, new_repository
from tests.tmux import Tmux

need("git")

# It runs the last line of its prompt.
SHELL = r"""p=$(cat)
[ "$1" = resume ] && id=$2 || id=native-$$
printf '{"type":"start","id":"%s","model":"made-up-1"}\n' "$id"
pwd >>OUT/folders
eval "$(printf %s "$p" | tail -n 1)" >OUT/said 2>&1
printf '{"type":"end","text":"It is done."}\n'
"""


@pytest.fixture
def repo(tmp_path: Path, home: Home) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    home.backend("shell", SHELL.replace("OUT", str(out)))
    home.config("default_backend: shell\nsession: {auto_resume: false}\n")
    return new_repository(tmp_path / "repo", a="one\n", b="two\n")


def folders(repo: Path) -> list[str]:
    return (repo.parent / "out" / "folders").read_text().split()


def typed(
    clinvk: CommandLine, repo: Path, *lines: str, args: tuple[str, ...] = ("--worktree",)
) -> str:
    """What the prompt prints for these lines."""
    done = clinvk("repl", *args, stdin="".join(f"{line}\n" for line in lines), cwd=repo)
    return done.stdout + done.stderr


def runs_of(home: Home) -> list[str]:
    return sorted(path.name for path in (home.path / "runs").iterdir())


def place_of(home: Home, run: str) -> Path:
    return home.path / "worktrees" / run / "prompt"


def test_a_conversation_works_in_one_worktree_until_its_changes_are_applied(
    clinvk: CommandLine, home: Home, repo: Path
):
    shown = typed(
        clinvk, repo, "/apply", "echo 1 > a", "cat a; echo new > c", "/diff", "/diff --stat",
        "/diff c", "/diff b", "/apply --check", "!git -C ../../../../repo status -s", "/apply",
        "echo 3 >> c", "/apply", "true",
    )  # fmt: skip
    (run,) = runs_of(home)
    place = place_of(home, run)
    assert folders(repo) == [str(place)] * 4
    assert "there is nothing to apply yet" in shown
    assert "-one\n+1\n" in shown
    assert "2 files changed, 2 insertions(+), 1 deletion(-)" in shown
    assert "no files were changed in the worktree in b" in shown
    assert "Would apply 1 task to" in shown
    assert "Applied 1 task to" in shown
    # What is uncommitted is not overwritten.
    assert "uncommitted changes in a, c" in shown
    assert (repo / "c").read_text() == "new\n"
    assert (place / "c").read_text() == "new\n3\n"
    assert git(repo, "status", "--short") == "M  a\nA  c"
    git(repo, "commit", "-q", "-m", "taken")

    # It is resumed in the worktree, and only what is new is merged.
    again = typed(clinvk, repo, "echo 4 >> c", "/apply", args=("--session", home.ids()[0]))
    assert "Applied 1 task" in again
    assert folders(repo)[-1] == str(place)
    assert git(repo, "diff", "--cached", "--stat", "--format=").splitlines()[0].split() == [
        *("c", "|", "2", "++"),
    ]
    assert (repo / "c").read_text() == "new\n3\n4\n"
    # Nothing holds it any more.
    cleaned = clinvk("runs", "clean", cwd=repo)
    assert not place.exists(), cleaned.stderr


def test_a_conflict_changes_nothing(clinvk: CommandLine, home: Home, repo: Path):
    typed(clinvk, repo, "echo theirs > a")
    (repo / "a").write_text("mine\n")
    git(repo, "commit", "-qam", "mine")
    shown = typed(clinvk, repo, "/apply --check", "/apply", args=("-c",))
    assert shown.count("conflicts with what has been committed since its base: a") == 2
    assert git(repo, "status", "--short") == ""


def test_drop_asks_and_the_next_message_begins_with_a_new_worktree(
    clinvk: CommandLine, home: Home, repo: Path
):
    shown = typed(clinvk, repo, "echo 1 > a", "/drop", "/drop --yes", "/diff", "cat a", "/diff")
    first, second = sorted(
        runs_of(home), key=lambda run: not folders(repo)[0].endswith(f"{run}/prompt")
    )
    assert "pass --yes" in shown
    assert "Dropped prompt: 1 file, +1 -1, not applied; undo: git branch NAME" in shown
    assert "the next message begins with a new worktree" in shown
    assert not place_of(home, first).exists()
    assert folders(repo) == [str(place_of(home, first)), str(place_of(home, second))]
    assert (repo.parent / "out" / "said").read_text() == "one\n"
    assert (repo / "a").read_text() == "one\n"
    assert len(home.ids()) == 1


def test_a_session_of_a_prompt_in_a_worktree_is_opened_with_its_changes(
    clinvk: CommandLine, home: Home, repo: Path
):
    clinvk("--worktree", "echo 1 > a", cwd=repo)
    (run,) = runs_of(home)
    (place_of(home, run) / "by-hand").write_text("x\n")
    shown = typed(clinvk, repo, "/diff --stat", "/apply", "/drop --yes", "/apply", args=("-c",))
    assert "2 files changed" in shown  # also what was changed by hand
    assert "Applied 1 task" in shown
    assert "applied before; undo" in shown
    assert git(repo, "status", "--short") == "M  a\nA  by-hand"
    assert not place_of(home, run).exists()


def test_without_a_worktree_the_commands_say_what_to_do(
    clinvk: CommandLine, home: Home, repo: Path
):
    shown = typed(clinvk, repo, "echo 1 > a", "/apply", "/drop", args=())
    assert "there is nothing to apply: this conversation works in your files" in shown
    assert "there is nothing to drop: this conversation works in your files" in shown
    assert shown.count("to work in one: clinvk repl --worktree") == 2
    assert not (home.path / "runs").exists()


def test_a_worktree_that_is_not_possible_is_refused_before_a_message_is_typed(
    clinvk: CommandLine, home: Home, repo: Path, tmp_path: Path
):
    outside = clinvk("repl", "--worktree", stdin="true\n", cwd=tmp_path)
    assert outside.returncode == 1
    assert "is not in a git repository, so it has no worktrees" in outside.stderr
    for flags in (("--rounds", "3"), ("--check-timeout", "5m")):
        alone = clinvk("repl", "--worktree", *flags, stdin="touch a\n", cwd=repo)
        assert f"{flags[0]} needs a check" in alone.stderr
        assert "add --check CMD" in alone.stderr
        assert alone.returncode == clinvk(*flags, "touch a", cwd=repo).returncode == 1
        assert alone.stdout == ""
    assert "--base needs a worktree" in clinvk("repl", "--base", "main", cwd=repo).stderr
    unknown = clinvk("repl", "--worktree", "--base", "nope", stdin="true\n", cwd=repo)
    assert "the base 'nope' is not a commit" in unknown.stderr
    assert not (home.path / "runs").exists()


def test_other_commands_leave_the_worktree_of_an_open_prompt_alone(
    clinvk: CommandLine, home: Home, repo: Path
):
    shown = typed(
        clinvk, repo, "echo 1 > a", "runs clean", "runs drop last --yes", "runs apply last", "cat a",
    )  # fmt: skip
    (run,) = runs_of(home)
    assert "or a prompt is open on it" in shown
    assert folders(repo) == [str(place_of(home, run))] * 2
    assert (repo.parent / "out" / "said").read_text() == "1\n"


def test_a_check_is_run_after_each_turn_in_the_worktree(
    clinvk: CommandLine, home: Home, repo: Path
):
    check = ("--worktree", "--check", "test -e fixed")
    shown = typed(clinvk, repo, "echo 1 > a", "touch fixed", "/apply", args=check)
    assert "check passed: test -e fixed" in shown
    # The task of the run has failed, but not what it is now.
    assert "Applied 1 task" in shown
    assert git(repo, "status", "--short") == "M  a\nA  fixed"


# From Python.


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.notices: list[str] = []

    def notify(self, message: str) -> None:
        self.notices.append(message)

    def begin(self, turn: Any) -> None:
        pass

    async def show(self, event: Event) -> None:
        self.events.append(event)


def conversation(home: Home, repo: Path, wanted: Worktree | None = None) -> Conversation:
    dispatcher = keep(Dispatcher(loading.load(home.env), env=home.env))
    return keep(Conversation(dispatcher, Request(prompt="-", cwd=repo), None, wanted or Worktree()))


def test_a_conversation_says_what_each_turn_has_changed(home: Home, repo: Path, anyio_backend: str):
    talk = conversation(home, repo)

    async def say(prompt: str) -> str | None:
        result = await Sender(talk).send(talk.request(prompt), Recorder())
        assert result is not None
        assert result.ok
        return talk.done

    async def talks() -> None:
        assert talk.shown_directory == f"{repo} (worktree)"
        assert await say("true") is None
        done = await say("echo 1 > a")
        assert done is not None
        assert done.startswith("in the worktree so far: 1 file changed (+1 -1); /diff shows that")
        assert await say("true") is None
        done = await say("echo new > c")
        assert done is not None
        assert "2 files changed (+2 -1)" in done
        assert talk.shown_directory == f"{repo} (worktree)"
        assert talk.worktree.files() == ["a", "c"]
        told = talk.worktree.describe_unapplied()
        assert told is not None
        assert told.endswith(f"clinvk runs apply {runs_of(home)[0]} prompt")
        first, sessions = talk.directory, [talk.session.id] if talk.session else []
        talk.start_new()
        assert talk.worktree.place is None
        await say("true")
        assert talk.directory not in (first, str(repo))
        talk.resume(talk.dispatcher.store.get(sessions[0]))
        await say("cat a c")
        assert (repo.parent / "out" / "said").read_text() == "1\nnew\n"

    anyio.run(talks, backend=anyio_backend)


def test_completion_of_changed_files_writes_nothing(home: Home, repo: Path, anyio_backend: str):
    talk = conversation(home, repo)

    async def talks() -> None:
        assert talk.worktree.files() == []
        await Sender(talk).send(talk.request("echo 1 > a"), Recorder())

    anyio.run(talks, backend=anyio_backend)
    (run,) = runs_of(home)
    tree = place_of(home, run)
    (tree / "new").write_text("of the user\n")
    (tree / "b").unlink()
    (tree / "ignored.txt").write_text("a secret\n")
    exclude = repo / ".git" / "info" / "exclude"
    exclude.parent.mkdir(exist_ok=True)
    exclude.write_text("ignored.txt\n")
    os.utime(tree / "a")  # so that git would write its index again

    def state() -> tuple[str, str, bytes]:
        index = Path(
            git(tree, "rev-parse", "--path-format=absolute", "--git-path", "index").strip()
        )
        return git(repo, "for-each-ref"), git(repo, "count-objects", "-v"), index.read_bytes()

    before = state()
    assert talk.worktree.files() == ["a", "b", "new"]
    assert state() == before
    assert talk.worktree.save() is not None
    assert state() != before
    assert talk.worktree.files() == ["a", "b", "new"]


def test_a_conversation_is_stopped_while_its_worktree_is_set_up(
    home: Home, repo: Path, anyio_backend: str
):
    begun = repo.parent / "begun"
    talk = conversation(home, repo, Worktree(setup=f"touch {begun}; sleep 600"))

    async def talks() -> None:
        results: list[Any] = []
        sender = Sender(talk)

        async def send() -> None:
            results.append(await sender.send(talk.request("true"), Recorder()))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await anyio.to_thread.run_sync(lambda: wait_for(begun.exists, "its setup", 30))
            assert sender.stop()
        assert results == [None]
        assert talk.session is None

    anyio.run(talks, backend=anyio_backend)
    assert not (repo.parent / "out" / "folders").exists()


def test_a_worktree_whose_setup_fails_leaves_nothing(home: Home, repo: Path, anyio_backend: str):
    talk = conversation(home, repo, Worktree(setup="echo no such package; false"))

    async def talks() -> None:
        with pytest.raises(ClinvkError, match="no such package"):
            await Sender(talk).send(talk.request("true"), Recorder())

    anyio.run(talks, backend=anyio_backend)
    assert runs_of(home) == []
    assert git(repo, "for-each-ref", "refs/clinvk") == ""


# On the screen.


def test_the_screen_says_what_was_changed_and_asks_before_it_is_dropped(
    tmux: Tmux, home: Home, repo: Path
):
    tmux.cwd = repo

    def enter(text: str) -> None:
        tmux.waits(lambda: tmux.screen().endswith("(worktree)"), "the prompt")
        tmux.type(text)

    def answer(key: str) -> None:
        tmux.waits(lambda: tmux.screen().endswith("[y/N]"), "the question")
        tmux.keys(key, "Enter")

    tmux.start("--worktree", "--check", "test -e fixed", "--rounds", "1", columns=100)
    enter("echo 1 > a; touch fixed")
    tmux.shows("check passed: test -e fixed")
    tmux.shows("in the worktree so far: 2 files changed (+1 -1), the check passed;")
    enter("/diff a")
    tmux.shows("+++ b/a")
    enter("/apply --check")
    tmux.shows("Would apply 1 task")
    assert git(repo, "status", "--short") == ""
    enter("/apply")
    tmux.shows("Applied 1 task")
    enter("rm -f fixed")
    tmux.shows("round 1 of at most 1")
    tmux.shows("the check failed;")
    enter("/drop")
    answer("n")
    enter("/drop")
    (run,) = runs_of(home)
    assert place_of(home, run).exists()
    answer("y")
    tmux.shows("the next message begins with a new worktree")
    assert not place_of(home, run).exists()
    enter("echo 2 > b; touch fixed")
    wait_for(lambda: len(runs_of(home)) == 2, "another run", 60)
    tmux.waits(
        lambda: "so far: 2 files changed" in tmux.history().rpartition("begins with")[2], "it"
    )
    tmux.keys("C-d")
    tmux.shows("exit 0")
    assert "not applied; to apply: clinvk runs apply" in tmux.screen().replace("\n", "")
