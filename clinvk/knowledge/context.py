"""What the options of a turn add to its prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from clinvk.knowledge.fast import fast_context_part
from clinvk.knowledge.memory import memory_part
from clinvk.knowledge.part import Part, put_before


class Context(Struct, frozen=True):
    """What comes before a prompt. It may be empty."""

    parts: list[Part]

    @property
    def notices(self) -> list[str]:
        """What was added, and how much, for the user."""
        return [part.notice for part in self.parts]

    def put_before(self, prompt: str) -> str:
        return put_before(self.parts, prompt)


def find_context(wanted: Mapping[str, Any], home: Path, directory: str) -> Context:
    """What these options add to a prompt in this directory (a real path). Raises `ClinvkError`."""
    parts = []
    if wanted.get("memory"):
        parts.append(memory_part(home, directory))
    parts += [
        fast_context_part(os.path.join(directory, path), directory)
        for path in wanted.get("fast_context") or ()
    ]
    return Context(parts)
