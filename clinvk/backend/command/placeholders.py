"""The placeholders in the words of a manifest, and what takes their place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clinvk.text.values import sound

PLACEHOLDER = re.compile(r"\$(?:file|json|native_id|new_id|prompt|scratch|state|value)(?!\w)")


def uses(words: Iterable[str], placeholder: str) -> bool:
    """Whether one of the words contains the placeholder."""
    return any(placeholder in word and placeholder in PLACEHOLDER.findall(word) for word in words)


class TemplateFiller:
    """Replaces placeholders in the words of a manifest; collects the private files that it
    names."""

    def __init__(self, temp_dir: Path) -> None:
        self.temp_dir = temp_dir
        self.files: list[tuple[Path, str]] = []
        self.used = False
        self.own: dict[str, str | None] = {}  # values that do not depend on the place

    def fill_words(self, template: list[str], value: Any) -> list[str]:
        """The words for one option; a list repeats them for each of its elements."""
        values = value if isinstance(value, (list, tuple)) else [value]
        return [self.fill_word(word, one) for one in values for word in template]

    def fill_word(self, template: str, value: Any) -> str:
        """A word of an option with this value."""
        if "$" not in template:
            return template
        text = sound(value) if isinstance(value, str) else json.dumps(value)
        words = {"$value": text, "$json": json.dumps(text)}
        if uses([template], "$file"):
            self.used = True
            path = self.temp_dir / f"{len(self.files)}.txt"
            self.files.append((path, text))
            words["$file"] = str(path)
        return self.fill(template, words)

    def fill(self, template: str, words: Mapping[str, str | None]) -> str:
        """The word with these placeholders replaced, and `$scratch`."""
        if uses([template], "$scratch"):
            self.used = True
            words = {**words, "$scratch": str(self.temp_dir)}
        words = {**words, **self.own}
        # In one pass: a value may contain such placeholders itself.
        return PLACEHOLDER.sub(lambda m: words.get(m.group()) or "", template)
