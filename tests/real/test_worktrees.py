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


def each(lines: dict[str, int]) -> str:
    """A prompt that makes the model of each CLI write so many lines into a file."""
    return " ".join(
        f"<<tool {name} {json.dumps({argument: f'seq {lines[backend]} > made'})}>>"
        for backend, (name, argument) in SHELLS.items()
    )


@ALL_AT_ONCE
def test_the_best_of_three_clis_is_applied(user: User, repo: Path, tmp_path: Path):
    plan = {
        "max_parallel": 3,
        "defaults": {
            "candidates": [{"backend": name, "approval": "none"} for name in BACKENDS],
            "check": "test -s made",
        },
        "tasks": [
            {"name": "most", "prompt": each({"claude": 2, "codex": 1, "gemini": 3}), "score": "tail -1 made"},
            {"name": "least", "prompt": each({"claude": 2, "codex": 1, "gemini": 0})},
            {"name": "same", "prompt": each({"claude": 0, "codex": 1, "gemini": 1}), "judge": "claude"},
        ],
    }  # fmt: skip
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps(plan))
    as_root = {"IS_SANDBOX": "1"}  # otherwise claude refuses that approval to root
    found = result(user.run("parallel", str(file), "--json", env=as_root))
    tasks = {task["name"]: task for task in found["results"]}
    chosen = {name: tasks[name]["decision"] for name in ("most", "least", "same")}
    assert {name: (d["best"], d["decided_by"]) for name, d in chosen.items()} == {
        "most": ("most[gemini]", "score"),
        "least": ("least[codex]", "diff"),
        "same": ("same[codex]", None),
    }, json.dumps(chosen)
    assert [c["score"] for c in chosen["most"]["candidates"]] == [3, 2, 1]
    assert "check failed" in chosen["least"]["candidates"][2]["problem"]
    assert chosen["same"]["summary"].endswith("; the judge gave no verdict")
    assert tasks["same"]["usage"]["output"] > 0  # of the judge
    assert (found["exit_code"], found["completed"]) == (0, 3)
    assert tasks["most"]["session_id"] == tasks["most[gemini]"]["session_id"]
    assert user.show(tasks["most"]["session_id"])["backend"] == "gemini"
    user.run("runs", "apply", found["id"], "most")
    assert (repo / "made").read_text() == "1\n2\n3\n"


def test_a_conflict_is_resolved_by_the_cli_in_a_worktree_of_its_own(user: User, repo: Path):
    """What each CLI may do unasked is what the user has allowed it."""
    keep = user.home.path / "keep"
    # Where there are conflict markers, it removes them, and keeps both sides.
    keep.write_text("#!/bin/sh\nexec sed -i -e '/^[<=>]/d' -e \"s/^top$/$1/\" a\n")
    keep.chmod(0o755)
    settings = user.home.path / ".gemini" / "settings.json"
    allowed = {"tools": {"allowed": [f"run_shell_command({keep})"]}}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | allowed))
    allowed = {"permissions": {"allow": [f"Bash({keep}:*)"]}}
    (repo / ".claude" / "settings.local.json").write_text(json.dumps(allowed))
    git(user, "config", "user.name", "user")
    git(user, "config", "user.email", "user@localhost")
    (repo / "a").write_text("above\n\ntop\n\nbelow\n")
    git(user, "commit", "-qam", "more")
    (repo / "mine").write_text("not committed")
    tasks = [{"name": word, "prompt": user.shell(f"{keep} {word}")} for word in ("left", "right")]
    file = user.home.path / "tasks.json"
    rules = {"backend": user.backend, "approval_mode": "auto", "worktree": True}
    file.write_text(json.dumps({"tasks": tasks, "defaults": rules}))
    untrusted = {"GEMINI_CLI_TRUST_WORKSPACE": ""}
    assert user.run("parallel", str(file), env=untrusted).returncode == 0
    refused = user.run("runs", "apply")
    assert refused.returncode == 1
    assert "task 'right' conflicts with task 'left': a" in refused.stderr
    assert git(user, "status", "--short") == "?? mine"

    done = user.run("runs", "apply", "--commit", "--resolve", user.backend, env=untrusted)

    assert done.returncode == 0, done.stderr
    assert git(user, "show", "HEAD:a").split() == ["above", "left", "right", "below"]
    subjects = git(user, "log", "--format=%s", "-3").splitlines()
    assert [subject.partition(":")[0] for subject in subjects] == ["right", "left", "more"]
    assert git(user, "status", "--short") == "?? mine"
    assert git(user, "worktree", "list", "--porcelain").count("worktree ") == 1
    assert user.processes() == []


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
