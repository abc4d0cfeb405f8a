"""Skills: instructions in files, each in a directory of its own with that name."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

from clinvk.disk.reading import read_file
from clinvk.errors import ConfigError
from clinvk.text import yaml

LARGEST = 200_000  # bytes of one skill
FILE = "SKILL.md"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FRONT_MATTER = re.compile(
    r"---[ \t]*\r?\n(?P<data>.*?)^---[ \t]*(\r?\n|\Z)", re.DOTALL | re.MULTILINE
)


class Skill(Struct, frozen=True):
    name: str
    text: str  # without its front matter
    description: str
    path: Path


def skills_directory(home: Path) -> Path:
    return home / "skills"


def skill_names(home: Path) -> list[str]:
    found = skills_directory(home).glob(f"*/{FILE}")
    return sorted(path.parent.name for path in found if _NAME.fullmatch(path.parent.name))


def load_skill(home: Path, name: str) -> Skill:
    """The skill of that name. Raises `ConfigError` if it does not exist or is invalid."""
    folder = skills_directory(home)
    if not _NAME.fullmatch(name) or name not in (names := skill_names(home)):
        known = ", ".join(skill_names(home)) or "none"
        raise ConfigError(
            f"unknown skill set {name[:100]!r}", f"known: {known}; add one as {folder}/NAME/{FILE}"
        )
    path = folder / names[names.index(name)] / FILE
    try:
        text = read_file(path, limit=LARGEST).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error
    found = _FRONT_MATTER.match(text)
    description = _description(found["data"], path) if found else ""
    body = (text[found.end() :] if found else text).strip()
    if not body:
        raise ConfigError(f"{path}: it has no instructions", "write them into the file")
    if "\0" in body:
        raise ConfigError(f"{path}: it has a NUL character", "remove it")
    return Skill(name, body, description, path)


def _description(front_matter: str, path: Path) -> str:
    """Other keys of the front matter are for other programs."""
    try:
        data = yaml.load(front_matter)
    except yaml.YamlError as error:
        raise ConfigError(f"{path}: front matter: {error}", "fix it, or leave it out") from error
    if data is None:
        return ""
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: the front matter has no keys", "fix it, or leave it out")
    return " ".join(str(data.get("description") or "").split())
