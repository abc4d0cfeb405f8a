"""JSON lines on disk: compact, always valid UTF-8, and readable despite a torn line.

The last line may be torn, if its writer was killed; then it is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder(enc_hook=str)
_decoder = msgspec.json.Decoder(dict[str, Any])


def encode(data: Any) -> bytes:
    """JSON on one line, always valid UTF-8."""
    try:
        return _encoder.encode(data)
    except UnicodeEncodeError:
        return _encoder.encode(replace_surrogates(data))


def decode_line(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None for a torn line, or one that is not an object."""
    with suppress(ValueError, RecursionError):  # the errors of msgspec derive from it
        return _decoder.decode(line)
    return None


def decode_lines(data: bytes) -> list[dict[str, Any]]:
    """The objects of all lines. Torn lines are skipped."""
    return [found for line in split_lines(data) if (found := decode_line(line)) is not None]


def split_lines(data: bytes) -> Iterator[bytes]:
    """The non-empty lines. Only a newline ends one."""
    return filter(None, data.split(b"\n"))


def replace_surrogates(value: Any) -> Any:
    """The data without lone surrogates, which models and command lines may produce and UTF-8 cannot
    encode."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {replace_surrogates(k): replace_surrogates(v) for k, v in value.items()}
    return [replace_surrogates(v) for v in value] if isinstance(value, (list, tuple)) else value
