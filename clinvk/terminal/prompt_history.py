"""The history of typed prompts, one JSON string per line, readable only by its user."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from clinvk.config.schema import Loaded
from clinvk.disk.atomic import append_file, replace_own
from clinvk.disk.reading import open_regular
from clinvk.text.redact import redact

NAME = "history.jsonl"
MOST = 1 << 20  # bytes; beyond that, the older half is dropped
LONGEST = 1 << 16  # characters of a prompt that is kept


class PromptHistory:
    """Failures to read or write it are ignored: a prompt without a history is still a prompt."""

    def __init__(self, path: Path | None, *, redacting: bool = True) -> None:
        self.path = path  # None stores nothing
        self.redacting = redacting

    @classmethod
    def of(cls, loaded: Loaded, *, dry_run: bool = False) -> PromptHistory:
        """The history that the configuration allows: none if messages are not stored."""
        session = loaded.config.session
        wanted = session.store_messages and not dry_run
        return cls(loaded.home / NAME if wanted else None, redacting=session.redact)

    def prompts(self) -> list[str]:
        """The prompts, oldest first; each once, at its last use."""
        found: dict[str, None] = {}
        for line in self._lines():
            with suppress(ValueError):
                if isinstance(prompt := json.loads(line), str):
                    found.pop(prompt, None)
                    found[prompt] = None
        return list(found)

    def add(self, prompt: str) -> None:
        """Store the prompt, unless it contains what looks like a key."""
        if self.path is None or len(prompt) > LONGEST:
            return
        if self.redacting and redact(prompt) != prompt:
            return
        with suppress(OSError):
            line = json.dumps(prompt).encode() + b"\n"  # ASCII: any lone surrogate survives
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._size() + len(line) > MOST:
                kept = b"".join(self._lines())[-MOST // 2 :]
                replace_own(self.path, kept[kept.find(b"\n") + 1 :] + line, durable=False)
                return
            append_file(self.path, line, durable=False)

    def for_editor(self) -> Any:
        """A read-only history for prompt_toolkit: `add` decides what is written."""
        # Slow, and only needed to edit a prompt.
        from prompt_toolkit.history import History

        prompts = self.prompts()

        class Editor(History):
            def load_history_strings(self) -> Iterable[str]:
                return reversed(prompts)

            def store_string(self, string: str) -> None:
                pass

        return Editor()

    def _size(self) -> int:
        with suppress(OSError):
            if self.path is not None:
                return self.path.lstat().st_size
        return 0

    def _lines(self) -> list[bytes]:
        with suppress(OSError):
            if self.path is not None:
                with open_regular(self.path, follow=False) as file:
                    return file.read(2 * MOST).splitlines(keepends=True)
        return []
