"""JSON as it is written to disk: compact, on one line, valid UTF-8 whatever the text holds."""

from __future__ import annotations

from typing import Any

import msgspec

_encoder = msgspec.json.Encoder(enc_hook=str)


def encode(data: Any) -> bytes:
    """JSON on one line, in UTF-8 whatever the text holds."""
    try:
        return _encoder.encode(data)
    except UnicodeEncodeError:
        return _encoder.encode(replace_surrogates(data))


def replace_surrogates(value: Any) -> Any:
    """The same without halves of surrogate pairs, which models and command lines may hold and
    UTF-8 does not."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {replace_surrogates(k): replace_surrogates(v) for k, v in value.items()}
    return [replace_surrogates(v) for v in value] if isinstance(value, (list, tuple)) else value
