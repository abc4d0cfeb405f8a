"""Tokens and times, as stored in records and results."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct


class Usage(Struct, frozen=True):
    """Tokens of one turn. `input` includes cache reads and writes."""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            *(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__)
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            *(getattr(self, name) - getattr(other, name) for name in self.__struct_fields__)
        )

    def to_json(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__struct_fields__} | {
            "total": self.total
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Usage:
        """A count; invalid values count as unknown, so that a newer CLI does not break this."""
        return cls(**{name: _token_count(data.get(name)) for name in cls.__struct_fields__})


def _token_count(value: Any) -> int:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15
    return int(value) if good else 0


def rfc3339(moment: datetime) -> str:
    """`2026-03-01T12:00:00.123Z`; times are kept in UTC."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
