"""The findings of a reviewer: the schema of its answer, how many there are, and what they say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from clinvk.text.sanitize import one_line

MAX_SHOWN = 5  # findings that a message names
MAX_LENGTH = 120  # characters of each

# Every key is required and no other is allowed, since some CLIs accept nothing else.
FINDINGS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "findings": {
            "type": "array",
            "description": "The problems found; empty if there are none.",
            "items": {
                "type": "object",
                "properties": {
                    "file": {"type": "string", "description": "Path of the file."},
                    "line": {
                        "type": ["integer", "null"],
                        "description": "Line number, from 1; null for the whole file.",
                    },
                    "severity": {"type": "string", "enum": ["high", "medium", "low"]},
                    "message": {"type": "string", "description": "The problem, and how to fix it."},
                },
                "required": ["file", "line", "severity", "message"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["findings"],
    "additionalProperties": False,
}
BUILT_IN: dict[str, Any] = {"findings": FINDINGS}  # schemas that can be named instead of a file


def find_schema(name: object) -> str | None:
    """The built-in schema of this name, as JSON."""
    found = BUILT_IN.get(name) if isinstance(name, str) else None
    return json.dumps(found) if found else None


def named_schema(text: object) -> str | None:
    """The name of the built-in schema with this text."""
    return next((name for name in BUILT_IN if find_schema(name) == text), None)


def count_findings(answers: Iterable[Any]) -> int | None:
    """The number of findings in structured answers; None if none of them has a list of findings."""
    found = [own for answer in answers if (own := _findings(answer)) is not None]
    return sum(map(len, found)) if found else None


def describe_findings(answers: Iterable[Any]) -> str:
    """`a.py:3: high: it divides by zero; …`: the first ones, and how many more there are."""
    found = [finding for answer in answers for finding in _findings(answer) or ()]
    shown = [_describe(finding) for finding in found[:MAX_SHOWN]]
    more = [f"and {len(found) - MAX_SHOWN} more"] if len(found) > MAX_SHOWN else []
    return "; ".join((*shown, *more))


def _findings(answer: Any) -> list[Any] | None:
    found = answer.get("findings") if isinstance(answer, Mapping) else None
    return found if isinstance(found, list) else None


def _describe(finding: Any) -> str:
    if not isinstance(finding, Mapping):
        return _shorten(str(finding))
    file, line = finding.get("file"), finding.get("line")
    where = f"{file}:{line}" if file and line else file
    said = (where, finding.get("severity"), finding.get("message"))
    return _shorten(": ".join(str(part) for part in said if part))


def _shorten(text: str) -> str:
    text = one_line(text).strip(" .")
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"
