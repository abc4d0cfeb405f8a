"""A manifest as it applies to one version of the CLI, or to the CLI's own screen."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from msgspec import to_builtins
from msgspec.structs import replace

from clinvk.backend.manifest import Manifest, PromptSpec, Same, VersionChange, manifest_error
from clinvk.backend.reading.checks import check_manifest
from clinvk.backend.reading.parse import option_effects
from clinvk.model.option_table import CHOICES
from clinvk.text.typed import ShapeError, build_struct


def for_version(manifest: Manifest, version: str) -> Manifest:
    """The manifest as it applies to this version of the CLI. Raises `ConfigError`."""
    for i, change in enumerate(manifest.by_version):
        if change.applies_to(version):
            manifest = for_change(manifest, change, i, version)
    return manifest


def for_change(
    manifest: Manifest, change: VersionChange, number: int = 0, version: str = ""
) -> Manifest:
    """The manifest with one of its changes, whose number is for messages. Raises
    `ConfigError`."""
    path = ("by_version", number)
    since = f"since {change.below}" if change.below else f"before {change.since}"
    reason = f"{manifest.name} has it {since}, and this is {version}"
    options, missing = _changed_options(manifest, change.options, reason, path)
    try:
        prompt = prompt_after(manifest, change, (*path, "prompt"))
    except ShapeError as error:
        raise manifest_error(manifest, str(error)) from error
    argv = {k: v for k, v in {**manifest.argv, **change.argv}.items() if v is not None}
    env = {**manifest.env, **change.env}
    changed = replace(
        manifest, argv=argv, env=env, options=options, prompt=prompt, missing=missing,
        ephemeral=change.ephemeral or manifest.ephemeral,
        new_id_on_resume=(
            manifest.new_id_on_resume if change.new_id_on_resume is None else change.new_id_on_resume
        ),
        sums_per_run=(
            manifest.sums_per_run if change.sums_per_run is None else change.sums_per_run
        ),
    )  # fmt: skip
    check_manifest(changed)
    return changed


def prompt_after(
    manifest: Manifest, change: VersionChange, path: tuple[str | int, ...] = ()
) -> PromptSpec:
    """How prompts are passed with this change. Raises `ShapeError`, which cannot happen for a
    manifest that was read from a file."""
    if not change.prompt:
        return manifest.prompt
    return _prompt_after(Same(manifest.prompt), Same(change), path)


@lru_cache(64)  # each prompt asks
def _prompt_after(prompt: Same, change: Same, path: tuple[str | int, ...]) -> PromptSpec:
    return build_struct(PromptSpec, {**to_builtins(prompt.it), **change.it.prompt}, path)


def for_screen(manifest: Manifest) -> Manifest:
    """The manifest as it applies to the CLI's own screen: `run` starts it, and `resume` opens it on
    a session. Unchanged without `interactive`. Raises `ConfigError`."""
    screen = manifest.interactive
    if screen is None:
        return manifest
    options, missing = _changed_options(
        manifest, screen.options, "its own screen lacks it", ("interactive",)
    )
    argv = {"run": screen.start or [], "resume": screen.resume}
    return replace(
        manifest, argv={k: v for k, v in argv.items() if v is not None}, options=options,
        missing=missing, by_version=[replace(c, argv={}) for c in manifest.by_version],
    )  # fmt: skip


def _changed_options(
    manifest: Manifest,
    changes: Mapping[str, Any],
    reason: str,
    path: tuple[str | int, ...],
) -> tuple[dict[str, Any], dict[str, str]]:
    """The options with these changes, and the ones that are then missing, each with the reason.
    Raises `ConfigError`."""
    options, missing = dict(manifest.options), dict(manifest.missing)
    try:
        for name, value in changes.items():
            if name in CHOICES and isinstance(value, Mapping):
                mine = {k: v for k, v in value.items() if v is not None}
                lost = [k for k, v in value.items() if v is None]
                new = dict(option_effects({name: mine}, path))[name]
                kept = {k: v for k, v in options.get(name, {}).items() if k not in lost}
                options[name] = kept | new
                missing |= {f"{name}.{k}": reason for k in lost}
            elif value is None:
                options.pop(name, None)
                missing[name] = reason
            else:
                options[name] = dict(option_effects({name: value}, path))[name]
    except ShapeError as error:
        raise manifest_error(manifest, str(error)) from error
    return options, missing
