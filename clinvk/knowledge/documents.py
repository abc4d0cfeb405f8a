"""The passages of the documents below a directory that match a prompt best."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from clinvk.knowledge.files import FoundFile, Skipped, check_root, find_files, read_text
from clinvk.knowledge.found import CANDIDATES, choose
from clinvk.knowledge.index import Document, Match, Progress, no_progress, open_index
from clinvk.knowledge.part import Part, kilobytes, plural
from clinvk.knowledge.passages import Passage, split_passages
from clinvk.knowledge.query import match_of
from clinvk.text.sanitize import one_line

MAX_DOCUMENT = 1_000_000  # bytes of one document


def documents_part(
    home: Path,
    path: str,
    directory: str,
    prompt: str,
    progress: Progress = no_progress,
    *,
    writes: bool = True,
) -> Part:
    """The passages below `path`; names are relative to `directory` if they are below it. Unless
    it `writes`, the index is not changed. Raises `ClinvkError`."""
    root = check_root(path, "--knowledge")
    match = match_of(prompt)
    if match is None:
        return Part([], "knowledge: the prompt has no words to search for")
    skipped = Skipped()
    files = {_name(file): file for file in find_files(root, skipped)}

    def read(document: Document) -> Iterator[Passage]:
        found = read_text(files[document.name].path, MAX_DOCUMENT, skipped)
        return split_passages(found[0], document.name) if found else iter(())

    with open_index(index_path(home, root), writes=writes) as index:
        documents = [Document(name, f"{file.mtime} {file.size}") for name, file in files.items()]
        count = index.update(documents, read, progress)
        matches = index.search(match, CANDIDATES)
    prefix = os.path.relpath(root, directory) if _is_below(root, directory) else root
    pieces, used, size = choose(matches, lambda found: _describe(found, prefix))
    read_now = "" if count == len(files) else f", {count:,} of them new or changed"
    searched = f"{plural(len(files), 'document')} below {root}{read_now}"
    more = f"; skipped: {skipped}" if str(skipped) else ""
    if not pieces:
        return Part([], f"knowledge: nothing in {searched} matches the prompt{more}")
    return Part(
        pieces,
        f"knowledge: {plural(len(pieces), 'passage')} of {plural(used, 'document')} added before the "
        f"prompt ({kilobytes(size)}); searched {searched}{more}",
    )


def index_path(home: Path, root: str) -> Path:
    return home / "knowledge" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.db"


def _name(file: FoundFile) -> str:
    return os.fsencode(file.name).decode("utf-8", "replace")


def _is_below(root: str, directory: str) -> bool:
    return f"{root}/".startswith(f"{directory.rstrip('/')}/")


def _describe(match: Match, prefix: str) -> str:
    name = os.path.normpath(os.path.join(prefix, match.name))
    heading = f", {match.passage.heading}" if match.passage.heading else ""
    return one_line(f"{name}, from line {match.passage.line}{heading}")
