"""The settings of a turn: the value of each option and its origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from clinvk.backend.command.effects import explain_unsupported
from clinvk.backend.manifest import Manifest
from clinvk.backend.permissions import (
    PLANNING,
    REPLACED,
    has_plan_mode,
    planning_conflict,
    spell_value,
)
from clinvk.config.schema import Loaded
from clinvk.config.stored_options import read_options_file
from clinvk.errors import UsageError
from clinvk.model.option_table import (
    CHOICES,
    FLAGS,
    OPTIONS,
    OWN_OPTIONS,
    STRICT,
    options_in,
)
from clinvk.model.request import Request
from clinvk.model.session import Session

# A session keeps these from its first turn, so that later turns run the same way.
STORED_OPTIONS = tuple(option.name for option in OPTIONS if option.stored)

# … except these, if it is handed over: another backend has other names for them.
BACKEND_SPECIFIC = tuple(option.name for option in OPTIONS if option.backend_specific)


STORED = "stored options"  # the origin of a setting


class Setting(Struct, frozen=True):
    value: Any
    origin: str  # "command line", "session", "stored options", a file, or "$VARIABLE"
    spelled: str | None = None  # what the user typed, such as "--max-turns"


def resolve_settings(
    request: Request,
    session: Session | None,
    loaded: Loaded,
    backend: str,
    template_options: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Setting]:
    """Every setting that is not its default: command line over options stored for the session over
    those of the user over the session's own over its template over environment over file."""
    settings = dict(_configured(loaded, backend))
    settings |= {k: Setting(v, "template") for k, v in template_options.items()}
    if session is not None:
        own = session.began_with in (None, backend)
        settings |= {
            k: Setting(v, "session")
            for k, v in session.options.items()
            if (own or k not in BACKEND_SPECIFIC) and k not in OWN_OPTIONS
        }
    if request.stored_options:
        settings |= _stored(loaded.home, session, handed_over=request.to is not None)
    settings |= {
        name: Setting(value, "command line", request.spelled.get(name))
        for name, value in request.options.items()
        if value is not None
    }
    return settings


def _stored(home: Path, session: Session | None, *, handed_over: bool) -> dict[str, Setting]:
    """The options that the user has stored, those of the session last."""
    known = read_options_file(home)
    found = {k: Setting(v, STORED) for k, v in known.user.options.items()}
    if session is not None:
        options = known.of(session.id).options
        found |= {k: Setting(v, f"{STORED} of session {session.id}") for k, v in options.items()}
    if handed_over:  # they were stored for another backend
        found = {k: s for k, s in found.items() if k not in BACKEND_SPECIFIC}
    return found


def supported_settings(
    settings: Mapping[str, Setting],
    manifest: Manifest,
    *,
    lenient: bool,
    first_turn_options: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Setting], list[str]]:
    """The settings that the backend can enforce, and a notice for each that it cannot.

    `first_turn_options` are those that the native session was started with; None for a new one.

    Raises `UsageError` for one that was given on the command line, unless `lenient`, and for an
    approval or a sandbox in any case: running without those is never intended.
    """
    kept: dict[str, Setting] = {}
    notices: list[str] = []
    for name, setting in settings.items():
        problem = explain_unsupported(manifest, name, setting.value, setting.spelled)
        is_late = first_turn_options is not None and _is_first_turn_only(manifest, name)
        if problem is None and is_late:
            if setting.value == (first_turn_options or {}).get(name):
                continue  # the CLI has it already
            problem = f"{manifest.name} takes {setting.spelled or name} only in the first turn of a session"
        if problem is None:
            kept[name] = setting
            continue
        origin = f"(from the {_describe_origin(setting)})"
        if name in STRICT:
            hint = _alternative_hint(manifest, name, setting.value)
            raise UsageError(f"{problem} {origin}", hint)
        if not lenient and setting.origin == "command line":
            raise UsageError(
                f"{problem} {origin}",
                "choose another backend with -b, leave the option out, or drop it with --lenient",
            )
        notices.append(f"{problem}; dropped {origin}")
    return kept, notices


def _is_first_turn_only(manifest: Manifest, name: str) -> bool:
    effects = None if name in CHOICES else manifest.options.get(name)
    return effects is not None and bool(effects.once)


def stored_options(settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The settings that a new session stores."""
    return {
        name: settings[name].value
        for name in STORED_OPTIONS
        if name in settings and settings[name].origin != PLANNING
    }


def settle_planning(settings: dict[str, Setting], manifest: Manifest) -> bool:
    """Whether the turn makes a plan. Then it permits nothing, whatever sessions and configuration
    say. Raises `UsageError` if the command line says it, too."""
    planning = settings.get(PLANNING)
    if planning is None or not planning.value:
        settings.pop(PLANNING, None)
        return False
    typed = {n: s.value for n, s in settings.items() if s.origin == "command line"}
    if (other := planning_conflict({**typed, PLANNING: True})) is not None:
        spelled = planning.spelled or PLANNING
        raise UsageError(
            f"{spelled} and {settings[other].spelled or other} {spell_value(typed[other])} cannot be "
            "used together: a plan changes nothing",
            "leave out one of them",
        )
    for name in REPLACED:
        settings.pop(name, None)
    if not has_plan_mode(manifest):
        settings["sandbox"] = Setting("read-only", PLANNING)
    elif "sandbox" in settings and settings["sandbox"].value != "read-only":
        del settings["sandbox"]
    return True


def _configured(loaded: Loaded, backend: str) -> list[tuple[str, Setting]]:
    """The settings from file and environment; those of one backend override those of all."""
    found = []
    for section, owner, path in (
        ("unified_flags", loaded.config.unified_flags, "unified_flags"),
        ("backends", loaded.backend(backend), f"backends.{backend}"),
    ):
        for option in options_in(section):
            value = getattr(owner, option.config_key)
            if value not in (None, [], "default"):
                origin = loaded.origin(f"{path}.{option.config_key}")
                found.append((option.name, Setting(value, origin)))
    return found


def _alternative_hint(manifest: Manifest, name: str, value: Any) -> str | None:
    """What to do about an approval or a sandbox that cannot be enforced."""
    if name not in CHOICES:
        return f"choose another backend with -b, or leave {FLAGS[name]} out"
    if value not in CHOICES[name]:
        return None
    return f"choose another {FLAGS[name]}, or another backend with -b; see: clinvk backends show {manifest.name}"


def _describe_origin(setting: Setting) -> str:
    if setting.origin.startswith("$"):
        return f"environment, {setting.origin}"
    named = ("command line", "session", STORED, "template", "skill set", PLANNING)
    return setting.origin if setting.origin.startswith(named) else "config file"
