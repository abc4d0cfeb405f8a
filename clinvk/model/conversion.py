"""Objects made of decoded JSON, in any thread."""

from __future__ import annotations

from threading import Lock
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_ready: set[type] = set()
_lock = Lock()


def convert(data: Any, cls: type[T]) -> T:
    """What `msgspec.convert` makes of it; raises `msgspec.ValidationError`.

    The first conversion to a class sets up what msgspec knows of its fields. Another thread that uses
    it before it is complete crashes the process (seen with msgspec 0.22), so it is made by one
    thread at a time.
    """
    if cls in _ready:
        return msgspec.convert(data, cls)
    with _lock:
        made = msgspec.convert(data, cls)
        _ready.add(cls)
        return made


def json_decoder(cls: type[T]) -> msgspec.json.Decoder[T]:
    """A decoder of `cls`, made by one thread at a time, for the same reason."""
    with _lock:
        return msgspec.json.Decoder(cls)
