"""What the options of a turn do to a command, and which of them a backend supports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clinvk.backend.manifest import Manifest, OptionEffect
from clinvk.backend.permissions import PLANNING, planning_problem
from clinvk.model.option_table import CHOICES, OPTIONS, OWN_OPTIONS

EVERYWHERE = tuple(option.name for option in OPTIONS if option.everywhere or option.own)

BESIDE = (*EVERYWHERE, PLANNING)  # options that a manifest may lack


def explain_unsupported(
    manifest: Manifest, name: str, value: Any, spelled: str | None = None
) -> str | None:
    """Why the backend cannot do `name: value`, or None if it can. `spelled` is the flag that the
    user typed for it."""
    if name in CHOICES:
        if value not in CHOICES[name]:
            return f"{spelled or name}: {value!r} is not one of: {', '.join(CHOICES[name])}"
        if value == "default" or value in manifest.options.get(name, ()):
            return None
        can = ["default", *manifest.options.get(name, ())]
        what = f"{spelled} {value}" if spelled else f"{name} {value!r}"
        if reason := manifest.missing.get(f"{name}.{value}") or manifest.missing.get(name):
            return f"{manifest.name} cannot enforce {what}: {reason}"
        return f"{manifest.name} cannot enforce {what} (supported: {', '.join(can)})"
    if name in EVERYWHERE or name in OWN_OPTIONS:
        return None
    if name == PLANNING:
        return planning_problem(manifest, spelled) if value else None
    if name not in manifest.options and name in manifest.missing:
        return f"{manifest.name} does not support {spelled or name}: {manifest.missing[name]}"
    if name not in manifest.options:
        if spelled:
            return f"{manifest.name} does not support {spelled}"
        return f"{manifest.name} has no option {name!r}"
    return None


def option_effects(
    manifest: Manifest, options: Mapping[str, Any]
) -> list[tuple[OptionEffect, Any]]:
    """The effect and value of each option, in the manifest's order, including implied ones."""
    return list(named_effects(manifest, options).values())


def named_effects(
    manifest: Manifest, options: Mapping[str, Any]
) -> dict[str, tuple[OptionEffect, Any]]:
    """`option_effects` by the names of the options."""
    given = {k: v for k, v in options.items() if v is not None and v not in ([], (), "default")}
    given = {k: v for k, v in given.items() if k in manifest.options or k not in BESIDE}
    for name, value in list(given.items()):
        effect = _effect(manifest, name, value)
        for implied, choice in effect.implies.items():
            given.setdefault(implied, choice)
    return {
        name: (_effect(manifest, name, given[name]), given[name])
        for name in manifest.options
        if name in given
    }


def _effect(manifest: Manifest, name: str, value: Any) -> OptionEffect:
    effect = manifest.options[name]
    return effect[value] if name in CHOICES else effect  # type: ignore[no-any-return]
