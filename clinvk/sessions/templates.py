"""Templates of new sessions: instructions, metadata, options. Some are built in; a user's are
files, `~/.clinvk/templates/<name>.yaml`, and replace a built-in one of the same name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from clinvk.disk.reading import read_file
from clinvk.errors import ConfigError, SessionError
from clinvk.model.session import check_id
from clinvk.text import yaml as yamls
from clinvk.text.typed import ShapeError, build_struct
from clinvk.text.yaml.rules import PROSE, Rules


class Template(Struct, frozen=True):
    description: str = ""
    system_message: str | None = None  # the session's first message
    default_metadata: dict[str, Any] = {}
    suggested_parameters: dict[str, Any] = {}  # the session's options: model, sandbox, …


PLACEHOLDER = "Say here what the backend is to do in every session."
_WRITTEN: Rules = {
    "description": PROSE,
    "system_message": PROSE,
    "suggested_parameters": {"system_prompt": PROSE},
}

BUILT_IN = {
    "coding": Template(
        description="Write and change code.",
        system_message=(
            "You are a careful software engineer. Read the code that is there before you change "
            "it, keep to its style, and make the smallest change that does the job. Say which "
            "files you touched and how you checked that it works."
        ),
        default_metadata={"purpose": "coding"},
    ),
    "analysis": Template(
        description="Analyze something, and state how certain the findings are.",
        system_message=(
            "You are an analyst. Separate observations from conclusions, name the "
            "evidence for each finding, and say what is uncertain. Start with the answer, then "
            "show how you got there."
        ),
        default_metadata={"purpose": "analysis"},
    ),
    "creative": Template(
        description="Write texts and develop ideas.",
        system_message=(
            "You are a writer with ideas of your own. Offer several directions that differ from "
            "one another, prefer the concrete to the general, and ask about audience and tone "
            "where they matter."
        ),
        default_metadata={"purpose": "creative"},
    ),
}


def template_directory(home: Path) -> Path:
    return home / "templates"


def template_names(home: Path) -> list[str]:
    """The names of all templates, built-in ones first."""
    theirs = sorted(
        p.stem for p in template_directory(home).glob("*.yaml") if not p.name.startswith(".")
    )
    return [*BUILT_IN, *(name for name in theirs if name not in BUILT_IN)]


def template_source(home: Path, name: str) -> str:
    """The source of the template: a file, or `built in`."""
    path = template_directory(home) / f"{name}.yaml"
    return str(path) if os.path.lexists(path) else "built in"


def load_template(home: Path, name: str) -> Template:
    """The template of that name. Raises `ConfigError` if it does not exist or is invalid."""
    if name not in template_names(home):
        raise ConfigError(
            f"unknown template {name[:100]!r}",
            f"known: {', '.join(template_names(home))}; add one as {template_directory(home)}/NAME.yaml",
        )
    path = template_directory(home) / f"{name}.yaml"
    return _read_template(path) if os.path.lexists(path) else BUILT_IN[name]


def save_template(home: Path, name: str, data: Mapping[str, Any]) -> Template:
    """Store a template for later sessions. Raises `ConfigError` for an invalid template, and
    `SessionError` for a name that is not valid as a file name."""
    import yaml  # 10 ms: only to write a file

    # Only where something is written.
    from clinvk.disk.atomic import make_folder, replace_file

    check_id(name)
    template = _parse_template(dict(data), name, f"template {name}")
    text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True)
    path = template_directory(home) / f"{name}.yaml"
    try:
        make_folder(path.parent)
        replace_file(path, text.encode(), durable=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return template


def _read_template(path: Path) -> Template:
    try:
        text = read_file(path)
        data = yamls.load(text, _WRITTEN)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}", "fix or delete that file") from error
    return _parse_template(
        {} if data is None else data, path.stem, str(path), text.decode("utf-8", "replace")
    )


def _parse_template(data: Any, name: str, where: str, text: str = "") -> Template:
    """`name` may be in the data, too, since templates are passed around as files. Errors have the
    line of the `text`, if there is one."""
    if isinstance(data, dict) and "name" in data:
        if data["name"] != name:
            raise ConfigError(
                f"{where}{_line(text, ('name',))}: name: {str(data['name'])[:100]!r} is not its name",
                f"use {name}, or leave it out",
            )
        data = {key: value for key, value in data.items() if key != "name"}
    try:
        return build_struct(Template, data)
    except ShapeError as error:
        known = ", ".join(Template.__struct_fields__)
        raise ConfigError(
            f"{where}{_line(text, error.path)}: {error}", f"a template has: {known}; and its name"
        ) from error


def _line(text: str, path: tuple[str | int, ...]) -> str:
    line = yamls.line_of(text, path) if text else None
    return f": line {line}" if line else ""


def new_template(home: Path, name: str, source: str | None, description: str) -> Path:
    """Write a template to be filled in, or a copy of the one that is named `source`; return its
    path. Raises `ConfigError`."""
    try:
        check_id(name)
    except SessionError as error:
        raise ConfigError(f"invalid name {name[:100]!r}", error.hint) from error
    begun = load_template(home, source) if source else Template(system_message=PLACEHOLDER)
    path = template_directory(home) / f"{name}.yaml"
    if os.path.lexists(path):
        raise ConfigError(f"{path} already exists", "edit that file, or choose another name")
    data = {
        "description": description or begun.description or "What it is for.",
        "system_message": begun.system_message or PLACEHOLDER,
        "default_metadata": dict(begun.default_metadata),
        "suggested_parameters": dict(begun.suggested_parameters),
    }
    save_template(home, name, data)
    return path
