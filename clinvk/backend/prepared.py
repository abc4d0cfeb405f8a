"""The built-in manifests as JSON, checked before they are shipped.

Parsing and checking one of them takes 20 ms, most of that for PyYAML. `prepared.json` holds their
structs and the checksum of each file: one that was changed since then is parsed. `make generated`
writes it.
"""

from __future__ import annotations

import binascii
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from clinvk.backend import manifest as structs
from clinvk.backend.manifest import Manifest
from clinvk.disk.reading import read_file

PREPARED = Path(__file__).with_suffix(".json")
KIND = "$"  # the key with the name of a struct; no key of a manifest


class _Entry(Struct, frozen=True):
    checksum: int
    manifest: msgspec.Raw


def load_prepared(name: str, text: bytes, source: Path) -> Manifest | None:
    """The built-in manifest of this name, if its file contains `text` and was prepared."""
    with suppress(OSError, msgspec.MsgspecError):
        entry = msgspec.json.decode(read_file(PREPARED), type=dict[str, _Entry]).get(name)
        if entry is not None and entry.checksum == binascii.crc32(text):
            data = msgspec.json.decode(entry.manifest)
            manifest: Manifest = _decode({**data, "source": str(source)})
            return manifest
    return None


def prepare(manifests: dict[str, tuple[bytes, Manifest]]) -> bytes:
    """What the file has to contain, given the text of each manifest and what it means."""
    entries = {
        name: {"checksum": binascii.crc32(text), "manifest": _encode(manifest)}
        for name, (text, manifest) in manifests.items()
    }
    return msgspec.json.format(msgspec.json.encode(entries), indent=1) + b"\n"


def _encode(value: Any) -> Any:
    """Structs as mappings with their names, without what has its default."""
    if isinstance(value, Struct):
        fields = {f.name: getattr(value, f.name) for f in msgspec.structs.fields(value)}
        fields.pop("source", None)  # the path of the file, which is another one everywhere
        least = {
            f.name: f.default_factory() if callable(f.default_factory) else f.default
            for f in msgspec.structs.fields(value)
        }
        kept = {k: _encode(v) for k, v in fields.items() if v != least[k]}
        return {KIND: type(value).__name__, **kept}
    if isinstance(value, dict):
        return {key: _encode(part) for key, part in value.items()}
    return [_encode(part) for part in value] if isinstance(value, list) else value


def _decode(value: Any) -> Any:
    """The value that was encoded. msgspec could make structs by itself, but getting to know their
    types takes 3 ms."""
    if isinstance(value, dict):
        fields = {key: _decode(part) for key, part in value.items()}
        kind = fields.pop(KIND, None)
        return fields if kind is None else getattr(structs, kind)(**fields)
    return [_decode(part) for part in value] if isinstance(value, list) else value
