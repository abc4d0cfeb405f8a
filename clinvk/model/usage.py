"""Tokens and times, as stored in records and results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct


class Usage(Struct, frozen=True):
    """Tokens of one turn. `input` includes cache reads and writes. A figure that the CLI does not
    report is None; in a sum it counts as 0."""

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None

    @property
    def total(self) -> int | None:
        """Input and output; None if one of them is unknown."""
        return None if self.input is None or self.output is None else self.input + self.output

    @property
    def counted(self) -> int:
        """Input and output, as far as they are known."""
        return (self.input or 0) + (self.output or 0)

    @property
    def is_unknown(self) -> bool:
        """Whether no figure is known."""
        return self == _UNKNOWN

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(_sum(a, b) for a, b in self._pairs(other)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(None if a is None or b is None else a - b for a, b in self._pairs(other)))

    def _pairs(self, other: Usage) -> Iterator[tuple[int | None, int | None]]:
        return ((getattr(self, name), getattr(other, name)) for name in self.__struct_fields__)

    def to_json(self) -> dict[str, int | None]:
        figures = {name: getattr(self, name) for name in self.__struct_fields__}
        return figures | {"total": self.total}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Usage:
        """A count; invalid values count as unknown, so that a newer CLI does not break this."""
        return cls(**{name: token_count(data.get(name)) for name in cls.__struct_fields__})


_UNKNOWN = Usage()


def _sum(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else a + b


def token_count(value: Any) -> int | None:
    """The figure; None for what cannot be a count, such as one below 0, or one so large that sums
    of it could not be stored."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e15
    return int(value) if good else None


def to_cost(value: Any) -> float | None:
    """US dollars; None for what cannot be an amount."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e15
    return float(value) if good else None


def sum_costs(costs: Sequence[float | None]) -> float | None:
    """The sum; None if one of them is unknown, or there are none."""
    known = [cost for cost in costs if cost is not None]
    return sum(known) if costs and len(known) == len(costs) else None


def format_count(figure: int | None, unknown: str = "-") -> str:
    """A number for readers: `1,234`."""
    return unknown if figure is None else f"{figure:,}"


def rfc3339(moment: datetime) -> str:
    """`2026-03-01T12:00:00.123Z`; times are kept in UTC."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
