"""Completion at the prompt: slash commands and their arguments, command lines, and @files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from clinvk.errors import ClinvkError
from clinvk.repl.command_lines import Offer
from clinvk.repl.sitting import Sitting

MOST = 100  # offers
SKIPPED = {".git", "node_modules", "__pycache__", ".venv"}  # directories that are not offered


class PromptCompleter(Completer):
    def __init__(self, sitting: Sitting) -> None:
        self._sitting = sitting

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        before = document.text_before_cursor
        with suppress(ClinvkError, OSError):
            for value, meaning, length in self._offers(
                before, asked=complete_event.completion_requested
            ):
                yield Completion(value, -length, display_meta=meaning)

    def _offers(self, before: str, *, asked: bool) -> Iterable[tuple[str, str, int]]:
        """Words that complete the text, what they mean, and how much of the text they replace."""
        *words, last = before.split(" ")
        if last.startswith("@"):
            directory = self._sitting.conversation.directory
            for path in complete_path(last[1:], directory):
                yield f"@{path}", "", len(last)
            return
        if "\n" in before:
            return
        if before.startswith("/"):
            yield from _starting(self._slash_offers(words), last)
            return
        if asked and words and not before[0].isspace():
            found = self._sitting.lines.complete([w for w in words if w], last)
            yield from _starting(found, last)
        elif asked and last:
            yield from _starting(((name, "") for name in self._sitting.lines.names()), last)

    def _slash_offers(self, words: list[str]) -> Iterable[Offer]:
        table = self._sitting.table
        if not words:
            return [(f"/{c.name}", c.help) for c in table.commands]
        command = table.find(words[0].removeprefix("/"))
        return command.complete(self._sitting, [w for w in words[1:] if w])


def _starting(offers: Iterable[Offer], word: str) -> Iterable[tuple[str, str, int]]:
    count = 0
    for value, meaning in offers:
        if value.startswith(word) and value != word and count < MOST:
            count += 1
            yield value, meaning, len(word)


def complete_path(beginning: str, directory: str) -> list[str]:
    """The files and directories that begin so, as seen from the directory, directories with a
    slash; hidden ones only if that is typed."""
    folder, name = os.path.split(beginning)
    found = []
    with os.scandir(os.path.join(directory, os.path.expanduser(folder))) as entries:
        for entry in entries:
            if not entry.name.startswith(name) or entry.name in SKIPPED:
                continue
            if entry.name.startswith(".") and not name.startswith("."):
                continue
            with suppress(OSError):
                end = "/" if entry.is_dir() else ""
                found.append(os.path.join(folder, entry.name) + end)
    return sorted(found)[:MOST]
