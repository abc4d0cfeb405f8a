"""The stored notes of a directory, for a prompt."""

from __future__ import annotations

from pathlib import Path

from clinvk.knowledge.notes import Notes
from clinvk.knowledge.part import Part, Piece, kilobytes, plural, size_of

MAX_BYTES = 50_000  # of notes in a prompt, newest first


def memory_part(home: Path, directory: str) -> Part:
    """The newest notes of the directory, oldest first. Raises `SessionError`."""
    known = Notes(home).of(directory)
    chosen: list[str] = []
    size = 0
    for note in reversed(known):
        text = f"[{note.created_at:%Y-%m-%d}] {note.text}"
        if size + size_of(text) > MAX_BYTES:
            break
        size += size_of(text) + 1
        chosen.insert(0, text)
    if not chosen:
        return Part([], f"no notes are stored for {directory}; add one: clinvk memory add TEXT")
    count = plural(len(known), "note")
    if len(chosen) < len(known):
        count = f"the last {len(chosen):,} of {count}"
    told = f"memory: {count} added before the prompt ({kilobytes(size)})"
    return Part([Piece("notes of the user about this directory", "\n".join(chosen))], told)
