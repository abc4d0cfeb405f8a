"""The environment of a CLI, and its home directory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

from clinvk.backend.manifest import Manifest


def manifest_env(
    manifest: Manifest, env: Mapping[str, str], fill: Callable[[str], str] = str
) -> dict[str, str | None]:
    """The manifest's changes to this environment, with the placeholders in values replaced by
    `fill`. A name that ends in `*` stands for all variables that begin so."""
    changes: dict[str, str | None] = {}
    # The environment is looked through once, not once for each of these names.
    begins = tuple(name[:-1] for name in manifest.env if name.endswith("*"))
    found = [known for known in env if known.startswith(begins)]
    for name, value in manifest.env.items():
        if name.endswith("*"):
            changes |= {known: None for known in found if known.startswith(name[:-1])}
        else:
            changes[name] = value and expand_variables(fill(value), env)
    return changes


def changed_env(env: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    merged = dict(env)
    for name, value in changes.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged


def expand_variables(text: str, env: Mapping[str, str]) -> str:
    """Replace `${NAME}` in a manifest's environment with the previous value of the variable."""
    return re.sub(r"\$\{(\w+)\}", lambda m: env.get(m.group(1), ""), text).strip()


def expand_home(path: str, env: Mapping[str, str]) -> str:
    """`~/x` in the child's home, which may differ from this process's."""
    return home_of(env) + path[1:] if path.startswith("~/") else path


def home_of(env: Mapping[str, str]) -> str:
    """The home directory of a child with this environment. Never relative: if the user has none,
    one that does not exist."""
    home = env.get("HOME") or os.path.expanduser("~")
    return "/nonexistent" if home == "~" else os.path.abspath(home)
