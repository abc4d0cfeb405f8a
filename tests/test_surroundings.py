"""Where clinvk is started: in a hook of git, in a deleted directory, without HOME, with relative paths."""

import os
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clinvk.backend.inherited import GIT_VARIABLES, adapt_environment
from clinvk.backend.manifest import Manifest
from clinvk.dispatch.planning.native_env import env_to_store, stored_env
from clinvk.model.session import Session
from clinvk.process.command import Command
from clinvk.store.files.store import FileStore
from clinvk.store.sqlite.store import SqliteStore
from tests.conftest import CommandLine, Home, write_program
from tests.needs import need

# A CLI that prints where it is and what it was given.
SHOWS = f"""\
import json, os, sys
sys.stdin.read()
names = [n for n in os.environ if n.startswith("GIT_")] + ["PATH", "TMPDIR"]
seen = {{n: os.environ.get(n) for n in names}}
seen["cwd"] = os.getcwd()
seen["files"] = [os.path.isfile(word) for word in sys.argv if word.endswith("0.txt")]
print(json.dumps({{"type": "system", "subtype": "init", "session_id": "{"1" * 8}-1111-4111-8111-{"1" * 12}"}}))
print(json.dumps({{"type": "result", "subtype": "success", "is_error": False, "result": json.dumps(seen),
    "session_id": "{"1" * 8}-1111-4111-8111-{"1" * 12}"}}))
"""


def adapt(cwd: Path, env: dict[str, str], given: frozenset[str] = frozenset()):
    command = Command(argv=("x",), env=env, cwd=cwd, stdin=b"", env_changes={})
    return adapt_environment(command, given)


def test_the_list_is_that_of_git():
    need("git")
    listed = subprocess.run(
        ["git", "rev-parse", "--local-env-vars"], check=True, capture_output=True, text=True
    ).stdout.split()
    assert set(listed) <= set(GIT_VARIABLES)


def test_variables_of_a_hook_stay_in_their_directory(tmp_path: Path):
    env = dict.fromkeys(GIT_VARIABLES, "x") | {"GIT_AUTHOR_NAME": "Ada", "GIT_SSH_COMMAND": "ssh"}
    command, notices = adapt(tmp_path, env)
    assert command.env == {"GIT_AUTHOR_NAME": "Ada", "GIT_SSH_COMMAND": "ssh"}
    assert set(command.env_changes) == set(GIT_VARIABLES)
    assert "GIT_DIR" in notices[0]
    assert str(tmp_path) in notices[0]
    assert adapt(Path.cwd(), env) == (Command(("x",), env, Path.cwd(), b"", {}), [])
    command, notices = adapt(
        tmp_path, {"GIT_DIR": "/mine", "GIT_INDEX_FILE": "i"}, frozenset({"GIT_DIR"})
    )
    assert command.env == {"GIT_DIR": "/mine"}
    assert notices[0].startswith("GIT_INDEX_FILE not passed on")


def test_the_same_directory_by_another_name_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "link")
    assert adapt(tmp_path / "real", {"GIT_DIR": ".git"})[0].env == {"GIT_DIR": ".git"}


def test_relative_paths_are_those_of_our_directory(tmp_path: Path):
    here = os.getcwd()
    command, notices = adapt(tmp_path, {"PATH": "bin:/usr/bin::", "TMPDIR": "t", "TMP": "/t"})
    assert command.env == {
        "PATH": f"{here}/bin:/usr/bin:{here}/:{here}/", "TMPDIR": f"{here}/t", "TMP": "/t",
    }  # fmt: skip
    assert notices == []


def test_a_hook_asks_in_another_directory(clinvk: CommandLine, home: Home, tmp_path: Path):
    write_program(tmp_path / "bin" / "claude", f"#!{sys.executable}\n{SHOWS}")
    other = tmp_path / "other"
    other.mkdir()
    env = {
        "PATH": f"{tmp_path}/bin:{home.env['PATH']}",
        "GIT_DIR": "/hooked/.git",
        "GIT_INDEX_FILE": "index",
        "GIT_AUTHOR_NAME": "Ada",
    }
    here = clinvk("-b", "claude", "hi", env=env)
    assert '"GIT_DIR": "/hooked/.git"' in here.stdout
    assert "GIT_DIR" not in here.stderr
    there = clinvk("-b", "claude", "-w", str(other), "hi", env=env)
    assert "/hooked" not in there.stdout
    assert "Ada" in there.stdout
    assert "GIT_DIR, GIT_INDEX_FILE not passed on" in there.stderr
    resumed = clinvk("resume", "--last", "more", env=env)  # its session has its own directory
    assert "/hooked" not in resumed.stdout, resumed
    shown = clinvk("-b", "claude", "-w", str(other), "--dry-run", "hi", env=env)
    assert "env -u GIT_DIR -u GIT_INDEX_FILE" in shown.stdout
    tasks = f"- {{prompt: a, backend: claude, workdir: {other}}}\n- {{prompt: b, backend: claude}}"
    run = clinvk("parallel", "-j", "1", "-", "-o", "json", env=env, stdin=tasks)
    assert run.stdout.count("/hooked/.git") == 1


def test_relative_directories_are_found_from_another_one(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    write_program(home.work / "rbin" / "claude", f"#!{sys.executable}\n{SHOWS}")
    (home.work / "tt").mkdir()
    env = {"PATH": f"rbin:{home.env['PATH']}", "TMPDIR": "tt"}
    run = clinvk("-b", "claude", "-w", str(tmp_path), "--system-prompt", "x", "hi", env=env)
    assert run.returncode == 0, run.stderr
    assert '"files": [true]' in run.stdout
    assert f'"TMPDIR": "{home.work}/tt"' in run.stdout
    assert f'"PATH": "{home.work}/rbin:' in run.stdout


GONE = "mkdir gone; cd gone; rmdir ../gone; exec "


@pytest.mark.parametrize(
    "args",
    ["-b echo hi", "parallel -b echo --format lines", "sessions list --here", "-b echo -w sub hi"],
)
def test_a_deleted_directory_is_named(clinvk: CommandLine, home: Home, args: str):
    run = subprocess.run(
        ["sh", "-c", f"{GONE} {' '.join(clinvk.program)} {args}"],
        env=home.env, cwd=home.work, input="one\n", text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert run.returncode in (1, 2, 3)
    assert "the current directory no longer exists" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("args", ["-b echo -w / hi", "parallel -b echo -w / --format lines"])
def test_another_directory_can_be_named_in_a_deleted_one(
    clinvk: CommandLine, home: Home, args: str
):
    run = subprocess.run(
        ["sh", "-c", f"{GONE} {' '.join(clinvk.program)} {args}"],
        env=home.env, cwd=home.work, input="one\n", text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_without_a_home_nothing_is_written_into_the_current_directory(
    clinvk: CommandLine, home: Home
):
    script = (
        "import os, sys; os.getuid = lambda: 4_000_000_000; from clinvk.cmd.main import main; "
        "import pwd; sys.exit(main(sys.argv[1:]))"
    )
    env = {k: v for k, v in home.env.items() if k not in ("HOME", "CLINVK_HOME")}
    for more, problem in (
        ({}, "HOME is not set, and this user has no home directory"),
        ({"HOME": "rel"}, "HOME is not an absolute path: 'rel'"),
        ({"CLINVK_HOME": "~/x"}, "HOME is not set, and this user has no home directory"),
    ):
        run = subprocess.run(
            [sys.executable, "-c", script, "-b", "echo", "hi"], env={**env, **more}, cwd=home.work,
            stdin=subprocess.DEVNULL, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert run.returncode == 3, run
        assert problem in run.stderr
        assert list(home.work.iterdir()) == []


@pytest.mark.parametrize("storage", ["file", "sqlite"])
def test_the_session_used_last_is_continued_after_the_clock_was_set_back(
    clinvk: CommandLine, home: Home, tmp_path: Path, storage: str
):
    if storage == "sqlite":
        home.config(f"session: {{storage: 'sqlite:///{tmp_path}/s.db'}}")
    store = SqliteStore(tmp_path / "s.db") if storage == "sqlite" else FileStore(home.path)
    ahead = datetime.now(UTC) + timedelta(hours=9)
    elsewhere = datetime.now(UTC) + timedelta(days=900)
    with closing(store):
        for id_, at, cwd in (("ahead", ahead, home.work), ("elsewhere", elsewhere, tmp_path)):
            store.create(
                Session(
                    id=id_, backend="echo", native_ids={"echo": id_}, cwd=str(cwd), updated_at=at
                )
            )
    first = clinvk.json("-b", "echo", "-o", "json", "one")["session_id"]
    assert clinvk.json("-c", "-o", "json", "two")["session_id"] == first
    second = clinvk.json("-b", "echo", "-o", "json", "three")["session_id"]
    assert clinvk.json("-c", "-o", "json", "four")["session_id"] == second
    assert clinvk.json("resume", first, "five", "-o", "json")["session_id"] == first
    assert clinvk.json("-c", "-o", "json", "six")["session_id"] == first
    listed = clinvk.json("sessions", "list", "--here", "--json")["sessions"]
    assert [s["id"] for s in listed] == [first, second, "ahead"]
    assert datetime.fromisoformat(listed[0]["updated_at"]) - ahead < timedelta(seconds=1)


def test_a_session_keeps_the_directory_of_its_cli(clinvk: CommandLine, home: Home, tmp_path: Path):
    write_program(
        tmp_path / "bin" / "claude", f"#!{sys.executable}\n{SHOWS.replace('GIT_', 'CLAUDE_CO')}"
    )
    env = {"PATH": f"{tmp_path}/bin:{home.env['PATH']}", "HOME": str(tmp_path)}
    work, other = tmp_path / "account", tmp_path / "other"
    work.mkdir()
    other.mkdir()
    tasks = "- {name: one, prompt: a, backend: claude, env: {CLAUDE_CONFIG_DIR: ~/account}}"
    run = clinvk("parallel", "-", "-o", "json", env=env, stdin=tasks)
    assert f'\\"CLAUDE_CONFIG_DIR\\": \\"{work}\\"' in run.stdout, run
    (id_,) = home.ids()
    assert home.record()["native_env"] == {"claude": {"CLAUDE_CONFIG_DIR": str(work)}}
    for more in ({}, {"CLAUDE_CONFIG_DIR": str(other)}):
        again = clinvk("resume", id_, "b", env=env | more)
        assert f'"CLAUDE_CONFIG_DIR": "{work}"' in again.stdout, again
        assert f"CLAUDE_CONFIG_DIR={work}, as when session {id_} was last used" in again.stderr
    branch = clinvk.json("sessions", "branch", id_, "--json")["id"]
    assert "native_env" not in home.record(branch)
    (home.path / "sessions" / f"{id_}.json").chmod(0o666)  # others could write it
    again = clinvk("resume", id_, "c", env=env)
    assert str(work) not in again.stdout
    assert "others could have written" in again.stderr
    assert home.record(id_)["options_trusted"] is False  # also in a record that is private again


def test_a_directory_that_is_a_secret_is_not_kept_and_one_that_is_gone_is(tmp_path: Path):
    manifest = Manifest(name="x", command="x", argv={"run": []}, session_env=["X_HOME"])
    assert env_to_store(manifest, {"X_HOME": "/a", "HOME": "/h"}, (), ()) == {"X_HOME": "/a"}
    assert env_to_store(manifest, {"HOME": "/h"}, ("HOME",), ()) == {"HOME": "/h"}
    assert env_to_store(manifest, {"X_HOME": "/a/hidden"}, (), ("hidden",)) == {}
    here = Session(id="s", native_env={"x": {"X_HOME": str(tmp_path), "PATH": str(tmp_path)}})
    gone = Session(id="s", native_env={"x": {"X_HOME": str(tmp_path / "gone")}})
    assert stored_env(manifest, here, {}, (), trusted=True)[0] == {"X_HOME": str(tmp_path)}
    assert stored_env(manifest, here, {}, ("X_HOME",), trusted=True) == ({}, [])
    # Another account would be used otherwise.
    assert stored_env(manifest, gone, {}, (), trusted=True)[0] == {"X_HOME": str(tmp_path / "gone")}


def test_a_home_directory_in_an_environment_is_expanded(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    write_program(tmp_path / "bin" / "codex", "echo $0 >&2; echo $CODEX_HOME >&2; exit 1")
    home.config("backends: {codex: {env: {CODEX_HOME: ~/.codex-work, PATH: ~/bin:/usr/bin:/bin}}}")
    run = clinvk("-b", "codex", "hi", env={"HOME": str(tmp_path)})
    assert f"{tmp_path}/.codex-work" in run.stderr
