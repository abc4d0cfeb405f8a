"""Instructions of templates and of skills: those that stored options add to the first turn of a
session, and those that are asked for with a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

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
    from clinvk.sessions.skills import load_skill, skills_directory

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
        parts.append(load_skill([skills_directory(home)], name).text)
        origins.append(f"skill set {name}")
    if not parts or (len(parts) == 1 and own is not None):
        return "", dict(metadata)
    text = "\n\n".join(parts)
    if "system_prompt" not in manifest.options:
        settings.pop("system_prompt", None)
        return text, dict(metadata)
    settings["system_prompt"] = Setting(text, ", ".join(origins), own.spelled if own else None)
    return "", dict(metadata)


class AskedSkills(Struct, frozen=True):
    """The skills that were asked for with a prompt, as the backend gets them."""

    text: str = ""  # before the prompt
    directories: tuple[str, ...] = ()  # for a CLI that knows skills
    notices: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The options of the command."""
        return {"skill_set": list(self.directories)} if self.directories else {}


def asked_skills(
    names: Iterable[str], manifest: Manifest, home: Path, directory: str, *, native: bool
) -> AskedSkills:
    """The skills of these names. A CLI that knows skills gets those that have a front matter
    itself if `native`. Raises `ConfigError`."""
    # Only with the flag.
    from clinvk.model.fence import fence, random_word

    # Only with the flag.
    from clinvk.sessions.skills import load_skill, skill_places

    native = native and "skill_set" in manifest.options
    places, word = skill_places(home, directory), random_word()
    texts, directories, notices = [], [], []
    for name in dict.fromkeys(names):
        skill = load_skill(places, name)
        if skill.notice:
            notices.append(skill.notice)
        if native and skill.has_front_matter:
            directories.append(str(skill.path.parent))
            texts.append(
                f"Use the skill {skill.title} ({name}:{skill.title}) for the task below: read its "
                "instructions first."
            )
            notices.append(f"skill {name}: given to {manifest.name} as a skill")
        else:
            what = f"skill {name}, from {skill.path.parent}"
            texts.append(
                f"Follow these instructions for the task below.\n\n{fence(what, skill.text, word)}"
            )
            size = len(skill.text.encode("utf-8", "replace"))
            told = f"{size / 1000:.1f} KB" if size >= 1000 else f"{size} bytes"
            notices.append(f"skill {name}: added before the prompt ({told})")
    return AskedSkills("".join(f"{text}\n\n" for text in texts), tuple(directories), tuple(notices))
