"""--approval and --sandbox mean the same with each CLI, or are refused."""

from pathlib import Path

import pytest

from tests.real.user import NO_LIMITS, SHELLS, WRITERS, User, unique

pytestmark = pytest.mark.real

CLAUDE = pytest.mark.parametrize("backend", ["claude"], indirect=True)
CODEX = pytest.mark.parametrize("backend", ["codex"], indirect=True)
GEMINI = pytest.mark.parametrize("backend", ["gemini"], indirect=True)
BUT_CODEX = pytest.mark.parametrize("backend", ["claude", "gemini"], indirect=True)
# Its sandbox leaves the folders for temporary files open, in one of which these tests run.
CLOSED = """
[sandbox_workspace_write]
exclude_slash_tmp = true
exclude_tmpdir_env_var = true
"""


@pytest.fixture
def made(user: User) -> Path:
    """What the model is asked to make: a file of the project."""
    return user.home.project / "made"


@pytest.fixture
def outside(user: User) -> Path:
    """A folder beside the project, which codex may not take for a temporary one."""
    with (user.home.path / ".codex" / "config.toml").open("a") as config:
        config.write(CLOSED)
    folder = user.home.path / "outside"
    folder.mkdir()
    return folder


def test_with_no_approval_needed_a_tool_works(user: User, made: Path) -> None:
    proof = unique()

    answer = user.trusting.result(*NO_LIMITS, user.shell(f"echo {proof} >> {made}; cat {made}"))

    assert proof in answer["content"]
    assert made.read_text() == f"{proof}\n"
    assert answer["denied"] == []


def test_auto_lets_a_file_be_written_and_a_session_keeps_its_approval(
    user: User, made: Path
) -> None:
    id_ = user.result("--approval", "auto", user.write(made, "text"))["session_id"]
    assert made.read_text() == "text"
    later = made.with_name("later")

    user.resumed(id_, user.write(later, "more"))

    assert later.read_text() == "more"


def test_by_default_nothing_is_written_and_a_later_turn_may_change_that(
    user: User, made: Path
) -> None:
    answer = user.result(user.write(made, "text"))
    assert not made.exists()
    # codex says of no tool that it was denied.
    denied = [] if user.backend == "codex" else [WRITERS[user.backend]]
    assert [one["name"] for one in answer["denied"]] == denied

    user.resumed(answer["session_id"], user.write(made, "text"), "--approval", "auto")

    assert made.read_text() == "text"


@BUT_CODEX
def test_a_denied_tool_can_be_a_failure(user: User, made: Path) -> None:
    answer = user.result("--fail-on-denied", user.write(made, "text"), code=1)

    assert answer["error"]["kind"] == "denied"
    assert WRITERS[user.backend] in answer["error"]["message"]


@BUT_CODEX
def test_always_denies_what_would_be_asked(user: User, made: Path) -> None:
    answer = user.result("--approval", "always", user.write(made, "text"))

    assert not made.exists()
    assert answer["denied"]


@CODEX
def test_always_is_refused_where_nobody_can_be_asked(user: User) -> None:
    answer = user.result("--approval", "always", "hello", code=1)

    assert answer["error"]["kind"] == "usage"
    assert "approval" in answer["error"]["message"]
    assert user.models.requests == []


@CLAUDE
def test_claude_reads_only(user: User, made: Path) -> None:
    answer = user.trusting.result("--sandbox", "read-only", *NO_LIMITS, user.write(made, "x"))

    assert not made.exists()
    assert "No such tool" in answer["content"]
    assert set(user.asked[0].tools).isdisjoint({"Bash", "Edit", "NotebookEdit", "Write", "Agent"})


@CLAUDE
def test_claude_has_no_sandbox_for_a_workspace(user: User) -> None:
    answer = user.result("--sandbox", "workspace", "hello", code=1)

    assert "sandbox" in answer["error"]["message"]
    assert user.models.requests == []


@CODEX
def test_codex_reads_only(user: User, made: Path) -> None:
    answer = user.result("--sandbox", "read-only", *NO_LIMITS, user.write(made, "text"))

    assert not made.exists()
    assert "Read-only file system" in answer["content"]
    assert answer["denied"] == []  # the answer is all that tells of it


@CODEX
def test_codex_writes_in_its_workspace_alone(user: User, made: Path, outside: Path) -> None:
    call = user.shell(f"echo in > {made}; echo out > {outside / 'made'}")

    user.result("--sandbox", "workspace", call)

    assert made.exists()
    assert not (outside / "made").exists()


@CODEX
@pytest.mark.parametrize("choice", [("--approval", "none"), ("--sandbox", "full")])
def test_codex_writes_outside_where_it_may(
    choice: tuple[str, str], user: User, outside: Path
) -> None:
    user.result(*choice, user.write(outside / "made", "text"))

    assert (outside / "made").exists()


@CODEX
def test_codex_keeps_to_its_sandbox_on_a_later_turn(user: User, made: Path, outside: Path) -> None:
    id_ = user.result("--approval", "auto", "hello")["session_id"]

    user.resumed(id_, user.shell(f"echo in > {made}; echo out > {outside / 'made'}"))

    assert made.exists()
    assert not (outside / "made").exists()


@GEMINI
def test_gemini_has_no_sandbox_for_reading(user: User) -> None:
    answer = user.result("--sandbox", "read-only", "hello", code=1)

    assert "sandbox" in answer["error"]["message"]
    assert user.models.requests == []


@GEMINI
def test_gemini_edits_but_runs_nothing_on_auto(user: User, made: Path) -> None:
    user.result("--approval", "auto", user.shell(f"touch {made}"))

    assert not made.exists()
    assert "write_file" in user.asked[0].tools
    assert SHELLS["gemini"][0] not in user.asked[0].tools


@BUT_CODEX
def test_a_tool_that_is_allowed_works(user: User, made: Path) -> None:
    tool, _ = SHELLS[user.backend]

    user.result("--allowed-tools", tool, user.shell(f"touch {made}"))

    assert made.exists()


def test_another_folder_can_be_worked_in_on_later_turns_too(user: User, outside: Path) -> None:
    file = outside / "made"
    user.result("--approval", "auto", user.write(file, "text"))
    assert not file.exists()

    added = ("--approval", "auto", "--add-dir", str(outside))
    id_ = user.result(*added, user.write(file, "text"))["session_id"]
    assert file.exists()

    user.resumed(id_, user.write(outside / "later", "text"), cwd=user.home.path)
    assert (outside / "later").exists()
