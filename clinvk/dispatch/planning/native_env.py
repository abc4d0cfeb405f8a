"""The variables that decide where a CLI keeps its sessions, such as `CLAUDE_CONFIG_DIR`: they are
stored with a native session, which only exists there."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from clinvk.backend.manifest import Manifest
from clinvk.model.session import Session
from clinvk.text.redact import redact, replace_secrets


def env_to_store(
    manifest: Manifest, env: Mapping[str, str], given: Container[str], secrets: tuple[str, ...]
) -> dict[str, str]:
    """The variables to store with the native session: no secret. HOME is one of them only if it was
    given for this CLI."""
    names = _names(manifest, with_home="HOME" in given)
    values = {name: value for name in names if (value := env.get(name))}
    return {k: v for k, v in values.items() if redact(replace_secrets(v, secrets)) == v}


def stored_env(
    manifest: Manifest,
    session: Session,
    env: Mapping[str, str],
    given: Container[str],
    *,
    trusted: bool,
) -> tuple[dict[str, str], list[str]]:
    """The variables of the native session that differ from `env`, and notices. Those that are
    `given` for this turn take precedence. What others could have written is not used: a CLI may run
    programs that its directory names."""
    found = {
        name: value
        for name, value in session.native_env.get(manifest.name, {}).items()
        if name in _names(manifest, with_home=True) and name not in given
        and env.get(name) != value
    }  # fmt: skip
    if not found:
        return {}, []
    said = ", ".join(f"{name}={value}" for name, value in found.items())
    if trusted:
        return found, [f"{said}, as when session {session.id} was last used"]
    who = f"session {session.id} was used with {said}, which others could have written"
    return {}, [f"{who}, so it is ignored; set it in the environment if you trust it"]


def _names(manifest: Manifest, *, with_home: bool) -> Iterable[str]:
    names = manifest.session_env
    return (*names, "HOME") if names and with_home else names
