"""The parts of a YAML text that stay as they are written: a tree, whose leaves say how.

`{"tasks": {"[]": {"prompt": PROSE, "env": {"*": TEXT}}}}`: `[]` is each item of a list, `*` each key of
a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Leaf = Literal["prose", "text", "json"]
Rules = Mapping[str, Any]

PROSE: Leaf = "prose"  # a text; a comment must not end it
TEXT: Leaf = "text"  # the same, and numbers, truth values and dates are text, as they are written
JSON: Leaf = "json"  # the same at any depth, but for what JSON would write in the same way
