"""Values of a file as a plan has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from clinvk.plans.schema import Scalar
from clinvk.text import duration
from clinvk.text.typed import ShapeError

Place = tuple[str | int, ...]  # of an error in a file


def to_text(value: Scalar) -> str:
    """The value in YAML syntax."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def to_list(value: str | list[str] | None) -> list[str]:
    """A list, also of a single value."""
    return [value] if isinstance(value, str) else list(value or ())


def to_json_data(value: Any, path: Place) -> Any:
    """The data in JSON types: YAML also has dates. Raises `ShapeError`."""
    try:
        return to_builtins(value, str_keys=True)
    except (TypeError, ValueError) as error:
        raise ShapeError(path, f"it cannot be stored as JSON: {error}") from error


def parse_seconds(value: Scalar | None, path: Place) -> float | None:
    """The duration in seconds; None if it is 0, or not set. Raises `ShapeError`."""
    if value is None or (value in (0, "0") and not isinstance(value, bool)):
        return None
    try:
        return duration.parse_duration(value)
    except ValueError as error:
        raise ShapeError(path, str(error)) from error


def absolute_path(folder: str) -> str:
    """The directory as an absolute path, wherever the run is resumed from."""
    return os.path.abspath(Path(folder).expanduser())
