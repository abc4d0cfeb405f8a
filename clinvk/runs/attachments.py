"""What a run stores of the inputs and outputs of tools: a note in place of each image or other file,
and not more than a limit of the rest."""

from __future__ import annotations

import re
from typing import Any

MIN_LENGTH = 1024  # characters of base64; a shorter attachment is stored
MIN_BARE_LENGTH = 16_384  # the same, without anything that says what it is
MAX_OUTPUT_LENGTH = 262_144  # characters of all texts of one output

_DATA_KEYS = ("data", "blob", "base64", "bytes")
_TYPE_KEYS = ("media_type", "mimeType", "mime_type", "mediaType", "type")
_BASE64 = r"[A-Za-z0-9+/_-]"
_URL = re.compile(
    rf"data:([\w.+-]+/[\w.+-]+)?(?:;[\w.=-]+)*;base64,({_BASE64}{{{MIN_LENGTH},}}={{0,2}})"
)
# From the beginning of a run of such characters, so that each is looked at once.
_BARE = re.compile(rf"(?<!{_BASE64}){_BASE64}{{{MIN_BARE_LENGTH},}}={{0,2}}")


def shorten_output(value: Any) -> tuple[Any, int]:
    """The value as it is stored, and the number of characters that were cut at its end. Attachments,
    which are encoded in base64, are not counted."""
    shortener = _Shortener()
    return shortener.shorten(value), shortener.cut


class _Shortener:
    def __init__(self) -> None:
        self.room = MAX_OUTPUT_LENGTH
        self.cut = 0

    def shorten(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            return [self.shorten(one) for one in value]
        if isinstance(value, dict):
            return {key: self._member(key, one, value) for key, one in value.items()}
        return value

    def _member(self, key: Any, value: Any, parent: dict[Any, Any]) -> Any:
        if key in _DATA_KEYS and isinstance(value, str) and len(value) >= MIN_LENGTH:
            types = [parent[k] for k in _TYPE_KEYS if isinstance(parent.get(k), str)]
            kind = next((t for t in types if "/" in t), types[0] if types else "")
            if kind and _is_base64(value) and ("/" in kind or _is_mixed(value)):
                return _note(kind, value)
        return self.shorten(value)

    def _text(self, text: str) -> str:
        if len(text) >= MIN_LENGTH:
            text = _URL.sub(lambda m: _note(m[1] or "a file", m[2]), text)
            text = _BARE.sub(lambda m: _note("base64", m[0]) if _is_mixed(m[0]) else m[0], text)
        kept = text[: self.room]
        self.room -= len(kept)
        if left := len(text) - len(kept):
            self.cut += left
            kept += f"… [{left:,} more characters were not stored]"
        return kept


def _is_base64(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9+/_\r\n-]+={0,2}\s*", text) is not None


def _is_mixed(text: str) -> bool:
    """Whether the text looks random, rather than being one character many times."""
    return all(re.search(of, text[:MIN_LENGTH]) for of in ("[a-z]", "[A-Z]", "[0-9]"))


def _note(kind: str, data: str) -> str:
    size = len("".join(data.split()).rstrip("=")) * 3 // 4
    return f"[{kind}: {size:,} bytes, not stored]"
