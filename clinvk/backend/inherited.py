"""What a CLI inherits from clinvk's environment that is only right in clinvk's directory."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping

from msgspec.structs import replace

from clinvk.backend.command.environment import expand_home, home_of
from clinvk.process.command import Command

# `git rev-parse --local-env-vars`, of git 2.39 to 2.47. Git sets them for hooks, and they take
# precedence over the directory: a commit would be made in the repository of the hook.
GIT_VARIABLES = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS", "GIT_DIR", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)  # fmt: skip
_DIRECTORIES = ("TMPDIR", "TEMP", "TMP")


def adapt_environment(command: Command, given: Container[str]) -> tuple[Command, list[str]]:
    """The command with an environment that fits its directory, and notices. The variables that are
    `given`, by the user and for this CLI, are left as they are."""
    here = _current_directory()
    if here == str(command.cwd) or here == os.path.realpath(command.cwd):
        return command, []
    changes: dict[str, str | None] = {
        name: None for name in GIT_VARIABLES if name in command.env and name not in given
    }
    notices = []
    if changes:
        names = ", ".join(changes)
        notices.append(f"{names} not passed on, since the directory is another: {command.cwd}")
    changes |= _absolute(command.env, here)
    if not changes:
        return command, []
    env = {k: v for k, v in command.env.items() if changes.get(k, v) is not None}
    env |= {k: v for k, v in changes.items() if v is not None}
    return replace(command, env=env, env_changes={**command.env_changes, **changes}), notices


def expand_homes(given: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """The variables with a `~` at the beginning of a value as the home directory: a CLI would take
    it for the name of a directory."""
    return {name: _expand_home(value, env) for name, value in given.items()}


def _expand_home(value: str, env: Mapping[str, str]) -> str:
    if not value.startswith("~"):
        return value
    return home_of(env) if value == "~" else expand_home(value, env)


def _absolute(env: Mapping[str, str], here: str) -> dict[str, str]:
    """The paths that the CLI would look for in its own directory."""
    found = {
        name: os.path.join(here, path)
        for name in _DIRECTORIES
        if (path := env.get(name)) and not os.path.isabs(path)
    }
    folders = env.get("PATH", "").split(os.pathsep)
    if "PATH" in env and not all(map(os.path.isabs, folders)):
        found["PATH"] = os.pathsep.join(os.path.join(here, folder) for folder in folders)
    return found


def _current_directory() -> str:
    """Empty if it no longer exists."""
    try:
        return os.getcwd()  # without links
    except FileNotFoundError:
        return ""
