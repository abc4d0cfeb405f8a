"""Git as clinvk runs it: environment, errors, names."""

import json
import os
import subprocess

import pytest

from clinvk.backend.files.trust import is_trusted
from clinvk.backend.inherited import GIT_VARIABLES
from clinvk.backend.manifest import TrustSpec
from clinvk.errors import NotInstalledError
from clinvk.worktrees import git as gits
from clinvk.worktrees.git import Git, GitError
from clinvk.worktrees.names import slugs


def test_all_variables_that_git_calls_local_are_removed():
    said = subprocess.run(["git", "rev-parse", "--local-env-vars"], capture_output=True, check=True)
    assert set(said.stdout.decode().split()) <= set(GIT_VARIABLES)
    cleaned = gits.clean_environment(
        {"GIT_DIR": "/x", "GIT_CONFIG_KEY_0": "a", "GIT_SSH_COMMAND": "ssh", "HOME": "/h"}
    )
    assert "GIT_DIR" not in cleaned
    assert "GIT_CONFIG_KEY_0" not in cleaned
    assert (cleaned["GIT_SSH_COMMAND"], cleaned["HOME"]) == ("ssh", "/h")


def test_an_error_says_what_git_said_and_what_to_do(tmp_path):
    with pytest.raises(GitError) as raised:
        Git.at(tmp_path, {**os.environ, "GIT_CEILING_DIRECTORIES": "/"}).text("rev-parse", "HEAD")
    assert raised.value.message.startswith("git rev-parse: not a git repository")
    assert "run it in a git repository" in str(raised.value.hint)


def test_a_missing_git_is_reported(tmp_path):
    with pytest.raises(NotInstalledError, match="git is not installed"):
        Git.at(tmp_path, {"PATH": str(tmp_path)}).text("version")


def test_a_git_that_is_too_old_is_reported(tmp_path):
    old = tmp_path / "git"
    old.write_text("#!/bin/sh\necho git version 2.30.2\n")
    old.chmod(0o755)
    with pytest.raises(NotInstalledError, match=r"worktrees need git 2\.38"):
        gits.check_version({"PATH": str(tmp_path)})


def test_a_slug_is_valid_in_a_ref_and_unique():
    keys = ["a", "A", "x.lock", "a..b", "a-b", "1", "weird.LOCK", "..", "x-lock"]
    found = slugs(keys)
    assert len({slug.lower() for slug in found}) == len(keys)
    for slug in found:
        subprocess.run(["git", "check-ref-format", f"refs/clinvk/r1/{slug}/1"], check=True)


def test_a_worktree_is_trusted_as_the_longest_path_in_the_notes_of_the_cli_says(tmp_path):
    spec = TrustSpec(
        files=["${OTHER}", "~/.cli/trusted.json"], trusted=["YES"], trusted_parent=["ABOVE"]
    )
    notes = tmp_path / ".cli" / "trusted.json"
    notes.parent.mkdir()
    project = tmp_path / "project"
    (project / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(project)
    env = {"HOME": str(tmp_path)}
    for levels, expected in [
        ({project: "YES"}, True),
        ({project: "NO"}, False),
        ({tmp_path: "YES"}, True),
        ({tmp_path: "YES", project: "NO"}, False),
        ({tmp_path: "NO", project: "YES"}, True),
        ({project / "inner": "YES"}, False),
        ({project / "inner": "ABOVE"}, True),
        ({tmp_path / "link": "YES"}, True),
        ({f"{project}-2": "YES"}, False),
        ({project: 1}, False),
        ({}, False),
    ]:
        notes.write_text(json.dumps({str(path): level for path, level in levels.items()}))
        assert is_trusted(spec, str(project), env) is expected, levels
    for broken in ("", "[]", "{", '{"a": {}}'):
        notes.write_text(broken)
        assert not is_trusted(spec, str(project), env)
    other = tmp_path / "other.json"
    other.write_text(json.dumps({str(project): "YES"}))
    assert is_trusted(spec, str(project), env | {"OTHER": str(other)})
    assert not is_trusted(spec, str(project), env | {"OTHER": str(tmp_path / "none")})
