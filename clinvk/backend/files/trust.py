"""A worktree is trusted as the directory is that it was made from, though a CLI knows only paths."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from clinvk.backend.command.environment import expand_home, expand_variables
from clinvk.backend.manifest import Manifest, TrustSpec
from clinvk.disk.reading import read_file
from clinvk.process.command import Command

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def inherit_trust(manifest: Manifest, command: Command, started_in: str) -> Command:
    """The command, with what makes its CLI trust a worktree of this directory, if the user trusts
    that."""
    spec = manifest.worktree.trust
    if spec is None or not is_trusted(spec, started_in, command.env):
        return command
    env = {name: value for name, value in spec.env.items() if name not in command.env}
    return replace(command, env={**command.env, **env}, env_changes={**command.env_changes, **env})


def is_trusted(spec: TrustSpec, folder: str, env: Mapping[str, str]) -> bool:
    """Whether the CLI's own notes say that the user trusts the directory: the longest path in them
    that contains it decides."""
    path = os.path.realpath(folder)
    longest, found = -1, False
    for noted, level in _notes(spec, env).items():
        is_of_parent = level in spec.trusted_parent
        place = os.path.realpath(os.path.dirname(noted) if is_of_parent else noted)
        if len(noted) > longest and Path(path).is_relative_to(place):
            longest, found = len(noted), is_of_parent or level in spec.trusted
    return found


def _notes(spec: TrustSpec, env: Mapping[str, str]) -> dict[str, str]:
    for written in spec.files:
        if all(env.get(name) for name in _VARIABLE.findall(written)):
            with suppress(OSError, ValueError):
                data = json.loads(read_file(Path(expand_home(expand_variables(written, env), env))))
                if isinstance(data, dict):
                    return {k: v for k, v in data.items() if isinstance(v, str)}
            return {}
    return {}
