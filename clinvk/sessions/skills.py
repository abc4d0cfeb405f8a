"""Skills: instructions in files, each in a directory of its own with that name."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from msgspec import Struct

from clinvk.disk.reading import read_file
from clinvk.errors import ConfigError
from clinvk.text import yaml

LARGEST = 200_000  # bytes of one skill
FILE = "SKILL.md"
SHARED = (".agents/skills", ".claude/skills")  # of a project, or of a user: CLIs read them, too
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FRONT_MATTER = re.compile(
    r"---[ \t]*\r?\n(?P<data>.*?)^---[ \t]*(\r?\n|\Z)", re.DOTALL | re.MULTILINE
)
_BEGIN = re.compile(r"---[ \t]*(\r?\n|\Z)")
SKELETON = """\
---
name: {name}
description: {description}
---

# {name}

Say here what to do, step by step.
"""


class Skill(Struct, frozen=True):
    name: str
    text: str  # without its front matter
    description: str
    path: Path
    has_front_matter: bool = True  # CLIs that know skills need it
    title: str = ""  # the name in the front matter

    @property
    def notice(self) -> str | None:
        """What is wrong with it, though it can be used."""
        if self.has_front_matter:
            return None
        return (
            f"{self.path}: line 1: there is no front matter, so the CLI gets the text, not the "
            "skill"
        )


def skills_directory(home: Path) -> Path:
    return home / "skills"


def skill_places(home: Path, directory: str) -> list[Path]:
    """The directories of skills, those that override others first: clinvk's own, then those that
    CLIs have for the project of a directory, and for the user."""
    project = [Path(directory), *Path(directory).parents]
    top = next((n for n, path in enumerate(project) if os.path.lexists(path / ".git")), 0)
    user = Path(os.path.expanduser("~"))
    above = [*project[: top + 1], *([user] if user.is_absolute() else [])]
    return list(
        dict.fromkeys([skills_directory(home), *(p / sub for p in above for sub in SHARED)])
    )


def skill_names(places: list[Path]) -> list[str]:
    return sorted({path.parent.name for place in places for path in _files(place)})


def load_skill(places: list[Path], name: str) -> Skill:
    """The skill of that name. Raises `ConfigError` if it does not exist or is invalid."""
    path = next((p for place in places for p in _files(place) if p.parent.name == name), None)
    if path is None:
        known = ", ".join(skill_names(places)) or "none"
        raise ConfigError(
            f"unknown skill set {name[:100]!r}",
            f"known: {known}; add one with: clinvk skills new NAME",
        )
    try:
        text = read_file(path, limit=LARGEST).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error
    found = _FRONT_MATTER.match(text)
    if found is None and _BEGIN.match(text):
        raise ConfigError(
            f"{path}: line 1: the front matter has no end", "end it with a line of ---"
        )
    data = _read_front_matter(found["data"], path) if found else {}
    body = (text[found.end() :] if found else text).strip()
    if not body:
        line = text.count("\n") + 1
        raise ConfigError(
            f"{path}: line {line}: it has no instructions", "write them below the front matter"
        )
    if "\0" in body:
        line = text[: text.index("\0")].count("\n") + 1
        raise ConfigError(f"{path}: line {line}: it has a NUL character", "remove it")
    title, description = (
        " ".join(str(data.get(key) or "").split()) for key in ("name", "description")
    )
    return Skill(name, body, description, path, found is not None, title or name)


def _files(place: Path) -> list[Path]:
    try:
        return [p for p in sorted(place.glob(f"*/{FILE}")) if _NAME.fullmatch(p.parent.name)]
    except OSError:
        return []


def new_skill(home: Path, name: str, description: str) -> Path:
    """Write a skill to be filled in; return its path. Raises `ConfigError`."""
    # Only where something is written.
    from clinvk.disk.atomic import make_folder, replace_file

    if not _NAME.fullmatch(name):
        raise ConfigError(f"invalid name {name[:100]!r}", "use letters, digits, '.', '_' and '-'")
    path = skills_directory(home) / name / FILE
    if os.path.lexists(path):
        raise ConfigError(f"{path} already exists", "edit that file, or choose another name")
    quoted = json.dumps(" ".join(description.split()), ensure_ascii=False)  # as YAML
    try:
        make_folder(path.parent)
        replace_file(path, SKELETON.format(name=name, description=quoted).encode(), durable=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return path


def _read_front_matter(front_matter: str, path: Path) -> dict[str, Any]:
    """Its keys; those that are not ours are for other programs."""
    try:
        data = yaml.load(f"\n{front_matter}")  # its lines are counted from the ---
    except yaml.YamlError as error:
        raise ConfigError(f"{path}: {error}", "fix the front matter, or leave it out") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: line 2: the front matter has no keys", "fix it, or leave it out"
        )
    return data
