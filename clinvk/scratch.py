"""The private files of one run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from clinvk.command import Command
from clinvk.errors import ClinvkError


def name(env: Mapping[str, str]) -> Path:
    """A path that nobody can have taken; the folder is made only if a run needs it."""
    return Path(env.get("TMPDIR") or "/tmp") / f"clinvk-{os.urandom(8).hex()}"  # noqa: S108


@contextmanager
def files(command: Command) -> Iterator[None]:
    """The files are there, in a folder that goes when the block ends. Raises `ClinvkError`."""
    if command.scratch is None:
        yield
        return
    import shutil

    try:
        command.scratch.mkdir(mode=0o700)
        for path, text in command.files:
            path.touch(mode=0o600)
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        shutil.rmtree(command.scratch, ignore_errors=True)
        raise ClinvkError(
            f"{command.scratch}: {error.strerror}", "set TMPDIR to a folder that can be written"
        ) from error
    try:
        yield
    finally:
        shutil.rmtree(command.scratch, ignore_errors=True)
