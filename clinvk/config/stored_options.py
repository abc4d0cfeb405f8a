"""The options that the user has stored for later prompts: for all of them, and for single sessions.

They are in one file, which exists only if there are any: a prompt pays for one attempt to open it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from clinvk.disk.reading import read_file
from clinvk.errors import ConfigError
from clinvk.model.option_table import OPTIONS
from clinvk.model.option_values import value_problem

VERSION = 1
LARGEST = 1_000_000  # bytes
HINT = "to start over without stored options, delete that file"

# An approval or a sandbox is a setting of the configuration, where each has its place.
STORABLE = tuple(option.name for option in OPTIONS if option.keepable)


class StoredOptions(Struct, frozen=True):
    """The options of the user, or of a session. `skills` and `template` are for new sessions."""

    options: dict[str, Any] = {}
    skills: tuple[str, ...] = ()
    template: str | None = None

    def __bool__(self) -> bool:
        return bool(self.options or self.skills or self.template)

    def to_json(self) -> dict[str, Any]:
        return {"options": self.options, "skill_sets": list(self.skills), "template": self.template}


NOTHING_STORED = StoredOptions()


class OptionsFile(Struct, frozen=True):
    user: StoredOptions = NOTHING_STORED
    sessions: dict[str, StoredOptions] = {}

    def of(self, session_id: str | None) -> StoredOptions:
        """Those of a session, or those of the user."""
        if session_id is None:
            return self.user
        return self.sessions.get(session_id, NOTHING_STORED)


def options_path(home: Path) -> Path:
    return home / "options.json"


def read_options_file(home: Path) -> OptionsFile:
    """All stored options. Raises `ConfigError` for a damaged file."""
    path = options_path(home)
    try:
        data = read_file(path, limit=LARGEST)
    except FileNotFoundError:
        return OptionsFile()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", HINT) from error
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}", HINT) from error
    if not isinstance(found, dict) or not isinstance(found.get("version"), int):
        raise ConfigError(f"{path}: not a file of stored options", HINT)
    if found["version"] > VERSION:
        raise ConfigError(f"{path} was written by a newer clinvk", "update clinvk to use it")
    sessions = found.get("sessions") or {}
    if not isinstance(sessions, dict):
        raise ConfigError(f"{path}: sessions: not an object", HINT)
    return OptionsFile(
        _parse(found.get("user") or {}, f"{path}: user"),
        {str(k): _parse(v, f"{path}: sessions.{k}") for k, v in sessions.items()},
    )


def change_stored_options(
    home: Path, session_id: str | None, change: Callable[[StoredOptions], StoredOptions]
) -> StoredOptions:
    """Change the options of the user, or of a session, and return them. Others who change some
    at the same time wait. Raises `ConfigError`, `SessionError`."""
    # Only where something is written.
    from clinvk.disk.atomic import file_error, make_folder, replace_file

    # Only where something is written.
    from clinvk.disk.lockfile import hold_lock

    path = options_path(home)
    try:
        make_folder(home)
    except OSError as error:
        raise file_error("create", home, error) from error
    with hold_lock(home / "options.lock"):
        known = read_options_file(home)
        new = change(known.of(session_id))
        if session_id is None:
            known = replace(known, user=new)
        else:
            known = replace(known, sessions=known.sessions | {session_id: new})
        try:
            if data := _to_json(known):
                text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
                replace_file(path, text.encode("utf-8", "replace"), durable=True)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise file_error("write", path, error) from error
    return new


def forget_sessions(home: Path, ids: Iterable[str]) -> None:
    """Forget the options of sessions that were deleted: others may get their names."""
    if not options_path(home).exists():
        return
    with suppress(ConfigError):  # a damaged file is reported where it is used
        known = read_options_file(home).sessions.keys()
        for session_id in known & set(ids):
            change_stored_options(home, session_id, lambda _: StoredOptions())


def flat(stored: StoredOptions) -> dict[str, Any]:
    """Options, skills and template by name, for display."""
    more = {"skill_set": ", ".join(stored.skills), "template": stored.template}
    return {**stored.options, **{name: value for name, value in more.items() if value}}


def _to_json(known: OptionsFile) -> dict[str, Any] | None:
    sessions = {k: v.to_json() for k, v in known.sessions.items() if v}
    if not known.user and not sessions:
        return None
    return {"version": VERSION, "user": known.user.to_json(), "sessions": sessions}


def _parse(data: Any, where: str) -> StoredOptions:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: not an object", HINT)
    options, skills = data.get("options") or {}, data.get("skill_sets") or []
    template = data.get("template")
    if not isinstance(options, dict):
        raise ConfigError(f"{where}.options: not an object", HINT)
    if not isinstance(skills, list) or not all(isinstance(name, str) for name in skills):
        raise ConfigError(f"{where}.skill_sets: not a list of names", HINT)
    if template is not None and not isinstance(template, str):
        raise ConfigError(f"{where}.template: not a name", HINT)
    for name, value in options.items():
        problem = value_problem(name, value)
        if name in NOT_STORABLE:
            problem = "it is no option that can be stored here"
        elif name not in NUMBERS and not isinstance(value, (str, bool)):
            problem = "not text"
        if problem:
            raise ConfigError(f"{where}.options.{name}: {problem}", HINT)
    return StoredOptions(options, tuple(skills), template)


NOT_STORABLE = tuple(option.name for option in OPTIONS if not option.keepable)
NUMBERS = tuple(option.name for option in OPTIONS if option.type in (int, float))
