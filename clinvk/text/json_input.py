"""JSON input with the same bounds as YAML in `text.yaml`."""

from __future__ import annotations

import json
from typing import Any

from clinvk.text.yaml import DEEP, DIGITS, MAX_DEPTH


class JsonError(ValueError):
    """The text is not JSON, or too large."""


def load(text: str | bytes) -> Any:
    """The data in the text. Raises `JsonError`."""
    try:
        data = json.loads(text)
    except RecursionError:
        raise JsonError(DEEP) from None
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise JsonError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except ValueError as error:
        raise JsonError(f"a number with more than {DIGITS:,} digits") from error
    if _is_deep(data):
        raise JsonError(DEEP)
    return data


def _is_deep(data: Any) -> bool:
    level = [data] if isinstance(data, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        level = [
            value
            for found in level
            for value in (found.values() if isinstance(found, dict) else found)
            if isinstance(value, (dict, list))
        ]
    return bool(level)
