"""What stored options add to the first turn of a session: the instructions of a template and of
skills."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clinvk.backend.manifest import Manifest
from clinvk.backend.options import Setting
from clinvk.config.stored_options import StoredOptions


def template_options(stored: StoredOptions, home: Path) -> dict[str, Any]:
    """The options that the stored template suggests. Raises `ConfigError`."""
    if stored.template is None:
        return {}
    # Only if there are stored options.
    from clinvk.sessions.templates import load_template

    return load_template(home, stored.template).suggested_parameters


def begin_with(
    stored: StoredOptions, settings: dict[str, Setting], manifest: Manifest, home: Path
) -> tuple[str, dict[str, Any]]:
    """Add the instructions to the system prompt in `settings`. Returns the text that precedes the
    prompt instead, if the backend has no system prompt, and the metadata of the session. Raises
    `ConfigError` for a template or a skill that does not exist."""
    # Only if there are stored options.
    from clinvk.sessions.skills import load_skill

    # Only if there are stored options.
    from clinvk.sessions.templates import load_template

    parts: list[str] = []
    origins: list[str] = []
    metadata: Mapping[str, Any] = {}
    own = settings.get("system_prompt")
    if stored.template is not None:
        template = load_template(home, stored.template)
        metadata = template.default_metadata
        if template.system_message and (
            own is None or own.origin not in ("command line", "template")
        ):
            parts.append(template.system_message.strip())
            origins.append(f"template {stored.template}")
            own = None  # that of the configuration
    if own is not None:
        parts.append(str(own.value))
        origins.append(own.origin)
    for name in stored.skills:
        parts.append(load_skill(home, name).text)
        origins.append(f"skill set {name}")
    if not parts or (len(parts) == 1 and own is not None):
        return "", dict(metadata)
    text = "\n\n".join(parts)
    if "system_prompt" not in manifest.options:
        settings.pop("system_prompt", None)
        return text, dict(metadata)
    settings["system_prompt"] = Setting(text, ", ".join(origins), own.spelled if own else None)
    return "", dict(metadata)
