"""`clinvk init`: at a terminal, where it asks, and in a script, where it does not."""

import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import CommandLine, Home, write_program
from tests.terminals import Terminal, ending


@pytest.fixture
def clis(home: Home) -> None:
    """claude and codex are installed. They are asked for their version, and nothing else."""
    folder = home.path.parent / "bin"
    for name in ("claude", "codex"):
        script = f'[ "$*" = --version ] || echo "$*" >>{folder}/misused\necho {name} 1.2.3\n'
        write_program(folder / name, script)
    home.env["PATH"] = f"{folder}:{home.env['PATH']}"


def written(home: Home) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((home.path / "config.yaml").read_text())
    return found


def settings(backend: str, mode: str = "default") -> dict[str, object]:
    return {"default_backend": backend, "unified_flags": {"approval_mode": mode}}


# In a script


@pytest.mark.usefixtures("clis")
def test_without_a_terminal_it_says_how_to_answer_and_writes_nothing(
    clinvk: CommandLine, home: Home
):
    for args in ([], ["--backend", "codex"], ["--force"], ["--json"]):
        done = clinvk("init", *args)
        assert (done.returncode, done.stdout) == (1, ""), args
        assert "hint: pass --yes" in done.stderr
    assert not home.path.exists()


def test_the_default_is_a_cli_with_a_login_then_any_then_echo(clinvk: CommandLine, home: Home):
    done = clinvk("init", "--yes")
    assert "no AI CLI is installed, so the default backend is echo" in done.stderr
    assert f"Wrote {home.path}/config.yaml:\n  default_backend: echo\n" in done.stdout
    assert f"Sessions are stored in {home.path}.\n" in done.stdout
    assert written(home) == settings("echo")

    home.backend("mine", "echo 1.0\n")  # the file still says echo, which was no choice
    assert clinvk.json("init", "--yes", "--force", "--json")["written"] == {
        "default_backend": "mine"
    }


@pytest.mark.usefixtures("clis")
def test_a_cli_that_is_logged_in_comes_before_one_that_is_not(clinvk: CommandLine, home: Home):
    done = clinvk("init", "--yes", env={"OPENAI_API_KEY": "made-up"})
    assert done.stderr == ""
    assert written(home) == settings("codex")
    (home.path / "config.yaml").unlink()
    done = clinvk("init", "--yes", env={"CLINVK_BACKEND": "codex"})
    assert "claude is not logged in: run `claude` once and log in" in done.stderr
    assert "CLINVK_BACKEND=codex overrides default_backend as long as it is set" in done.stderr
    assert written(home) == settings("claude")
    assert not (home.path.parent / "bin" / "misused").exists()


@pytest.mark.usefixtures("clis")
def test_answers_are_given_in_advance_and_what_was_written_is_json(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    file = tmp_path / "other" / "clinvk.yaml"
    home.config("session: {storage: 'redis://ada:secret@localhost:6379/0'}\n")
    args = ("init", "--yes", "-b", "codex", "--approval", "auto", "--json")
    said = clinvk.json(*args, env={"CLINVK_CONFIG": str(file)})
    flat = {"default_backend": "codex", "unified_flags.approval_mode": "auto"}
    assert (said["path"], said["written"], said["settings"]) == (str(file), flat, flat)
    assert said["sessions"] == str(home.path)
    assert [b["name"] for b in said["backends"] if b["state"] == "installed"] == [
        "claude", "codex", "echo",
    ]  # fmt: skip
    assert yaml.safe_load(file.read_text()) == settings("codex", "auto")
    assert file.read_text().startswith("# clinvk's configuration")

    done = clinvk(*args, "--force")
    assert "secret" not in done.stdout + done.stderr
    assert json.loads(done.stdout)["sessions"].startswith("redis://ada:")


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--backend", "gemini"), 2, "gemini is not installed\n  hint: npm install"),
        (("--backend", "codx"), 2, "unknown backend 'codx'; did you mean 'codex'?"),
        (("--approval", "maybe"), 1, "'maybe' is not one of: default, auto, none, always"),
        (("--backend", "plain", "--approval", "auto"), 1, "plain cannot enforce --approval auto"),
    ],
)
def test_an_answer_that_cannot_be_used_writes_nothing(
    clinvk: CommandLine, home: Home, args: tuple[str, ...], code: int, said: str
):
    home.backend("plain", "echo 1.0\n", options={})
    done = clinvk("init", "--yes", *args)
    assert done.returncode == code
    assert said in done.stderr
    assert not (home.path / "config.yaml").exists()


EXISTING = """\
# mine
output:
  format: text  # for people
default_backend: claude  # for now
"""


@pytest.mark.usefixtures("clis")
def test_an_existing_file_keeps_its_comments_and_is_changed_only_with_force(
    clinvk: CommandLine, home: Home
):
    file = home.config(EXISTING)
    done = clinvk("init", "--yes", "--backend", "codex")
    assert done.returncode == 1
    assert f"{file} exists, and default_backend and unified_flags.approval_mode" in done.stderr
    assert "hint: pass --force" in done.stderr
    assert file.read_text() == EXISTING

    assert clinvk("init", "--yes", "--backend", "codex", "--force").returncode == 0
    assert [c in file.read_text() for c in ("# mine", "# for people", "# for now")] == [True] * 3
    assert written(home) == {"output": {"format": "text"}, **settings("codex")}

    done = clinvk("init", "--yes")  # what the file says is the default answer
    assert done.returncode == 0
    assert f"{file} needs no change:\n  default_backend: codex\n" in done.stdout

    file.write_text("output: {fromat: text}\n")
    assert clinvk("init", "--yes", "--force").returncode == 3
    assert file.read_text() == "output: {fromat: text}\n"


# At a terminal


@pytest.mark.usefixtures("clis")
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_two_questions_write_the_configuration(terminal: Terminal, home: Home, term: str):
    child = terminal("init", width=60, TERM=term)
    child.expect_exact(
        "Installed CLIs:\r\n  1  claude  claude 1.2.3  (not logged in)\r\n  2  codex "
    )
    child.expect_exact("Default backend? [1-2, Enter for claude] ")
    child.sendline("3")
    child.expect_exact("Please type a number or a name. [1-2, Enter for claude] ")
    child.sendline("2")
    child.expect_exact("with auto\r\nit edits them without asking.\r\n")
    child.expect_exact("May CLIs edit files without asking? [y/N] ")
    child.sendline("y")
    text, code = ending(child)
    assert code == 0
    assert "default_backend: codex\r\n  unified_flags.approval_mode: auto\r\n" in text
    assert f"Sessions are stored in {home.path}." in " ".join(text.split())
    assert written(home) == settings("codex", "auto")


@pytest.mark.usefixtures("clis")
def test_ctrl_c_and_ctrl_d_leave_everything_as_it_was(terminal: Terminal, home: Home):
    for key, answered in ((key, n) for key in "cd" for n in (0, 1)):
        child = terminal("init")
        child.expect_exact("Enter for claude] ")
        if answered:
            child.sendline("codex")
            child.expect_exact("[y/N] ")
        child.sendcontrol(key)
        text, code = ending(child)
        assert code == 7, (key, answered)
        assert text.replace("^C", "").replace("\x1b[31m", "").startswith("\r\n"), text
        assert "cancelled" in text
        assert not home.path.exists()


@pytest.mark.usefixtures("clis")
def test_an_existing_file_is_changed_after_asking(terminal: Terminal, home: Home):
    file = home.config(EXISTING)
    for answer, code in (("n", 7), ("", 0)):
        child = terminal("init", "--backend", "codex", "--approval", "default", "--json")
        child.expect_exact("exists. It would change:\r\n")
        child.expect_exact("  default_backend: claude -> codex\r\n")
        child.expect_exact("  unified_flags.approval_mode: not set -> default\r\n")
        child.expect_exact("Change it? [Y/n] ")
        assert file.read_text() == EXISTING
        child.sendline(answer)
        assert ending(child)[1] == code
        assert (file.read_text() == EXISTING) == (code == 7)
    assert "# for people" in file.read_text()
    assert written(home) == {"output": {"format": "text"}, **settings("codex")}


def test_the_only_cli_is_the_default_without_a_question(terminal: Terminal, home: Home):
    home.backend("mine", "echo 1.0\n")
    child = terminal("init")
    child.expect_exact("Installed CLIs:\r\n  1  mine  1.0\r\n")
    child.expect_exact("May CLIs edit files without asking? [y/N] ")
    child.sendline("")
    assert ending(child)[1] == 0
    assert written(home) == settings("mine")
