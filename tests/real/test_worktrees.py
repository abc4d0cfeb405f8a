"""Each of the real CLIs edits files in a git worktree, trusted and configured as the repository is."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import GEMINI
from tests.real.user import BACKENDS, SHELLS, User, result

pytestmark = pytest.mark.real

CODEX = pytest.mark.parametrize("backend", ["codex"], indirect=True)
ALL_AT_ONCE = pytest.mark.parametrize("backend", ["claude"], indirect=True)


@pytest.fixture
def repo(user: User) -> Path:
    """A repository that the user trusts, with ignored settings of claude."""
    project = user.home.project
    (project / "a").write_text("one\n")
    (project / ".gitignore").write_text(".claude/settings.local.json\n")
    git(user, "add", ".")
    git(user, "commit", "-q", "-m", "start")
    (project / ".claude").mkdir()
    allowed = {"permissions": {"allow": ["Bash(touch:*)"]}}
    (project / ".claude" / "settings.local.json").write_text(json.dumps(allowed))
    gemini = user.home.path / ".gemini"
    settings = {**GEMINI, "security": {**GEMINI["security"], "folderTrust": {"enabled": True}}}
    (gemini / "settings.json").write_text(json.dumps(settings))
    (gemini / "trustedFolders.json").write_text(json.dumps({str(project): "TRUST_FOLDER"}))
    return project


def git(user: User, *words: str) -> str:
    identity = {f"GIT_{role}_{part}": "a@b" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}  # fmt: skip
    argv = ["git", "-C", str(user.home.project), *words]
    env = {**user.environment(), **identity}
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout.strip()


def edit(backend: str) -> dict[str, Any]:
    """A task that changes a file by a tool call."""
    name, argument = SHELLS[backend]
    call = json.dumps({argument: f"touch by-{backend}"})
    # claude needs no approval: its settings, which git ignores, are in the worktree, too.
    approval = {"claude": "default", "codex": "auto", "gemini": "none"}[backend]
    return {
        "name": backend, "backend": backend, "prompt": f"<<tool {name} {call}>>",
        "approval_mode": approval,
    }  # fmt: skip


@ALL_AT_ONCE
def test_each_cli_edits_a_file_in_a_worktree_of_its_own(user: User, repo: Path, tmp_path: Path):
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps({"tasks": [edit(name) for name in BACKENDS], "worktree": True}))
    untrusted = {"GEMINI_CLI_TRUST_WORKSPACE": ""}  # the environment of the tests trusts everything
    found = result(user.run("parallel", str(file), "--json", env=untrusted))["results"]
    for task in found:
        assert task["state"] == "done", task["error"]
        changed = task["worktree"]
        names = git(user, "ls-tree", "--name-only", changed["ref"]).split()
        assert names == [".gitignore", "a", f"by-{task['name']}"], task["output"]
        assert changed["files"] == 1
        assert user.show(task["session_id"])["cwd"] == changed["path"]
    assert git(user, "status", "--short", "--untracked-files=no") == ""
    assert not list(repo.glob("by-*"))


@CODEX
def test_codex_resumes_in_its_worktree_whose_sandbox_allows_no_commit(user: User, repo: Path):
    commit = "echo x > b && git add b && git -c user.name=a -c user.email=a@b commit -qm mine; echo rc $?"
    first = user.result("--worktree", "--sandbox", "workspace", user.shell(commit))
    # clinvk commits all the same.
    assert "rc 128" in first["content"]
    assert git(user, "show", f"{first['worktree']['ref']}:b") == "x"
    again = user.resumed(first["session_id"], user.shell("echo y >> b"))
    assert again["worktree"]["ref"].endswith("/prompt/2")
    assert git(user, "show", f"{again['worktree']['ref']}:b") == "x\ny"
    assert again["native_id"] == first["native_id"]
