"""A manifest as it is in its file, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from clinvk.backend.manifest import Manifest, OptionEffect
from clinvk.backend.reading.checks import check_manifest, check_values
from clinvk.errors import ConfigError
from clinvk.model.option_table import CHOICES
from clinvk.text import yaml
from clinvk.text.typed import ShapeError, build_struct


def parse_manifest(text: str | bytes, source: Path) -> Manifest:
    """The manifest in `text`. Raises `ConfigError` that names manifest, place and reason."""
    try:
        data = yaml.load(text)
    except yaml.YamlError as error:
        raise ConfigError(f"{source}: {error}") from error
    name = data.get("name") if isinstance(data, dict) else None
    try:
        known = {**data, "source": str(source)} if isinstance(data, dict) else data
        manifest = build_struct(Manifest, known)
        options = dict(option_effects(manifest.options))
    except ShapeError as error:
        raise ConfigError(f"{name or source.stem}: {error}", f"the file is {source}") from error
    check_manifest(manifest)
    check_values(manifest, data)
    return replace(manifest, options=options)


def option_effects(
    options: Mapping[str, Any], where: tuple[str | int, ...] = ()
) -> Iterator[tuple[str, Any]]:
    """The effect of each option; those with fixed values have one per value."""
    for name, value in options.items():
        path = (*where, "options", name)
        if name in CHOICES:
            if not isinstance(value, Mapping):
                raise ShapeError(path, f"expected some of: {', '.join(CHOICES[name])}")
            for choice in value:
                if choice not in CHOICES[name]:
                    raise ShapeError((*path, choice), f"not one of: {', '.join(CHOICES[name])}")
            yield name, {k: _effect(v, (*path, k)) for k, v in value.items()}
        else:
            yield name, _effect(value, path)


def _effect(value: Any, path: tuple[str | int, ...]) -> OptionEffect:
    return build_struct(OptionEffect, {"argv": value} if isinstance(value, list) else value, path)
