"""JSON lines on disk: compact, valid UTF-8 whatever the text holds, and read in spite of a torn one.

The last line may be torn, if its writer was killed; then it says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder(enc_hook=str)
_decoder = msgspec.json.Decoder(dict[str, Any])


def encode(data: Any) -> bytes:
    """JSON on one line, in UTF-8 whatever the text holds."""
    try:
        return _encoder.encode(data)
    except UnicodeEncodeError:
        return _encoder.encode(replace_surrogates(data))


def decode_line(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None for a torn line, or one that holds something else."""
    with suppress(ValueError, RecursionError):  # msgspec's are such
        return _decoder.decode(line)
    return None


def decode_lines(data: bytes) -> list[dict[str, Any]]:
    """The objects of all lines. Torn lines are left out."""
    return [found for line in split_lines(data) if (found := decode_line(line)) is not None]


def split_lines(data: bytes) -> Iterator[bytes]:
    """The lines that are not empty. Only a newline ends one."""
    return filter(None, data.split(b"\n"))


def replace_surrogates(value: Any) -> Any:
    """The same without halves of surrogate pairs, which models and command lines may hold and
    UTF-8 does not."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {replace_surrogates(k): replace_surrogates(v) for k, v in value.items()}
    return [replace_surrogates(v) for v in value] if isinstance(value, (list, tuple)) else value
