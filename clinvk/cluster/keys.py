"""The names of all keys in Redis. Those of one cluster begin with `clinvk:{NAME}:`."""

from __future__ import annotations

from msgspec import Struct

DEFAULT_NAME = "default"  # of a cluster whose URL names none


class Keys(Struct, frozen=True):
    """The keys below a prefix."""

    prefix: str

    @classmethod
    def of(cls, name: str = DEFAULT_NAME) -> Keys:
        return cls(f"clinvk:{name}:")
