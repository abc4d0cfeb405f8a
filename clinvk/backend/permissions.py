"""What options permit a model: those of a session that permit more than the user does, since other
users who can write a store must not decide what it may do on this machine; and a turn that makes a
plan, which permits nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from clinvk.backend.manifest import Manifest
from clinvk.model.option_table import FLAGS, OPTIONS

# Values by what they permit, the least first. Unknown values permit the most.
ORDER = {option.name: option.ranked for option in OPTIONS if option.ranked}
LISTS = [option.name for option in OPTIONS if option.repeatable]  # each element permits more
HARMLESS = [option.name for option in OPTIONS if option.harmless]

PLANNING = "planning"
# Of a turn that makes a plan: the values that contradict it, and the options that it replaces.
PERMITTING = {"approval": ("auto", "none"), "sandbox": ("workspace", "full")}
REPLACED = ("approval", "allowed_tools")

INSTRUCTION = (
    "Make a plan for the task below, and change nothing: create, edit and delete no files, and "
    "run no commands that change anything. Your answer is the plan itself: the steps, the files "
    "that each of them concerns, and how to check the result.\n\n"
)


def elevated(options: Mapping[str, Any], granted: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a session's options that permits more than `granted`, the options that apply
    without the session."""
    found = {}
    for name, value in options.items():
        if name in ORDER:
            if _rank(name, value) > _rank(name, granted.get(name)):
                found[name] = value
        elif name in LISTS:
            known = _items(granted.get(name))
            if more := [item for item in _items(value) if item not in known]:
                found[name] = more
        elif name not in HARMLESS and value is not None and value != granted.get(name):
            found[name] = value  # clinvk stores no other options, so another program wrote it
    return found


def only_permissions(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that can permit something."""
    return {name: value for name, value in options.items() if name not in HARMLESS}


def without(name: str, value: Any, more: Mapping[str, Any]) -> Any:
    """An option without its elevated part; None if nothing remains."""
    if name not in more:
        return value
    if name not in LISTS:
        return None
    return [item for item in _items(value) if item not in more[name]] or None


def describe(more: Mapping[str, Any]) -> str:
    """Such as "approval none, sandbox full, add_dir /etc"."""
    return ", ".join(f"{name} {spell_value(v)}" for name, v in more.items())


def flags(more: Mapping[str, Any]) -> str:
    """The flags that grant it, as they are typed."""
    words = []
    for name, value in more.items():
        for item in _items(value):
            if name in LISTS or name in ORDER:
                words += [FLAGS[name], str(item)]
            else:
                words += ["--option", f"{name}={item}"]
    return shlex.join(words)


def has_plan_mode(manifest: Manifest) -> bool:
    return PLANNING in manifest.options


def planning_problem(manifest: Manifest, spelled: str | None = None) -> str | None:
    """Why the backend cannot be kept from changing something; None if it can."""
    if has_plan_mode(manifest) or "read-only" in manifest.options.get("sandbox", ()):
        return None
    return (
        f"{manifest.name} does not support {spelled or PLANNING}: it has no plan mode, and no "
        "read-only sandbox"
    )


def planning_conflict(options: Mapping[str, Any]) -> str | None:
    """The option that contradicts a plan that changes nothing."""
    if not options.get(PLANNING):
        return None
    for name, values in PERMITTING.items():
        if options.get(name) in values:
            return name
    return "allowed_tools" if options.get("allowed_tools") else None


def spell_value(value: Any) -> str:
    """The value of an option in a message."""
    return " ".join(map(str, _items(value)))


def _rank(name: str, value: Any) -> int:
    order = ORDER[name]
    if value is None:
        value = "default"
    return order.index(value) if value in order else len(order)


def _items(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
