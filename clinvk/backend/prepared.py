"""The built-in manifests as JSON, checked before they are shipped.

Parsing and checking one of them takes 20 ms, most of that for PyYAML. `prepared.json` holds their data
and the checksum of each file: one that was changed since then is parsed. `make generated` writes it.
"""

from __future__ import annotations

import binascii
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from clinvk.backend.manifest import Manifest, OptionEffect
from clinvk.disk.reading import read_file
from clinvk.model.option_table import CHOICES

PREPARED = Path(__file__).with_suffix(".json")


class _Entry(Struct, frozen=True):
    checksum: int
    manifest: msgspec.Raw


def load_prepared(name: str, text: bytes, source: Path) -> Manifest | None:
    """The built-in manifest of this name, if its file contains `text` and was prepared."""
    with suppress(OSError, msgspec.MsgspecError):
        entry = msgspec.json.decode(read_file(PREPARED), type=dict[str, _Entry]).get(name)
        if entry is not None and entry.checksum == binascii.crc32(text):
            manifest = msgspec.json.decode(entry.manifest, type=Manifest)
            options = {key: _effect_of(key, value) for key, value in manifest.options.items()}
            return msgspec.structs.replace(manifest, options=options, source=str(source))
    return None


def prepare(texts: dict[str, bytes], parsed: dict[str, Any]) -> bytes:
    """What the file has to contain, given the text of each manifest, by its name, and the data in
    it."""
    entries = {
        name: {"checksum": binascii.crc32(text), "manifest": parsed[name]}
        for name, text in texts.items()
    }
    return msgspec.json.format(msgspec.json.encode(entries), indent=1) + b"\n"


def _effect_of(name: str, value: Any) -> Any:
    if name in CHOICES:
        return {choice: _effect(part) for choice, part in value.items()}
    return _effect(value)


def _effect(value: Any) -> OptionEffect:
    return msgspec.convert({"argv": value} if isinstance(value, list) else value, OptionEffect)
