"""Native sessions of a CLI that names them in no event.

It may leave the id on stderr or in a file. Or it keeps one conversation in a file that it is given:
then clinvk keeps that file, in a directory whose name is the native id. Since that is random and
clinvk's own, a changed record of a session cannot make it read or delete anything else.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from clinvk.backend.manifest import Manifest
from clinvk.backend.patterns import Patterns
from clinvk.errors import ClinvkError, SessionError

LONGEST_FILE = 64 * 1024  # bytes of a file that are searched for an id

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def find_native_id(manifest: Manifest, stderr: str, temp_dir: Path | None) -> str | None:
    """The id that the CLI has left on stderr or in a file. Raises `ConfigError` for a pattern that
    takes too long."""
    where = manifest.native_id_in
    if where is None:
        return None
    patterns = Patterns(manifest.source)
    if where.stderr is not None:
        return patterns.find(where.stderr, stderr)
    if where.file is None or temp_dir is None:
        return None
    try:
        with open(temp_dir / where.file.removeprefix("$scratch/"), "rb") as file:
            text = file.read(LONGEST_FILE).decode("utf-8", "replace")
    except OSError:
        return None
    return (patterns.find(where.match, text) if where.match else text.strip()) or None


def state_path(home: Path, manifest: Manifest, native_id: str) -> Path:
    """The path of a session's file. Raises `SessionError` for an id that clinvk did not make."""
    if not _ID.fullmatch(native_id):
        raise SessionError(f"{native_id!r} is not a session id of {manifest.name}")
    return home / "state" / manifest.name / native_id / (manifest.state or "")


def has_state(path: Path) -> bool:
    """Whether there is a conversation: a file, or a directory, that is not empty."""
    try:
        return any(path.iterdir()) if path.is_dir() else path.stat().st_size > 0
    except OSError:
        return False


def check_state(path: Path) -> None:
    """Raise `SessionError` if the conversation is gone: the CLI would silently start a new one."""
    if not has_state(path):
        raise SessionError(
            f"the CLI's conversation of this session is gone: {path} does not exist or is empty",
            "start over from the transcript with --replay",
        )


def make_place(state: Path) -> None:
    """Create the private directory of a session's file. Raises `ClinvkError`."""
    try:
        state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ClinvkError(f"{state.parent}: {error.strerror}") from error


def has_any_state(home: Path) -> bool:
    """Whether clinvk keeps a conversation for any session."""
    return (home / "state").is_dir()


def remove_state(home: Path, backend: str, native_id: str) -> None:
    """Delete the conversation that clinvk keeps under this native id, if it keeps one."""
    if _ID.fullmatch(native_id) and "/" not in backend and not backend.startswith("."):
        _remove(home / "state" / backend / native_id)


def _remove(place: Path) -> None:
    import shutil  # few sessions have such a file

    shutil.rmtree(place, ignore_errors=True)
    with suppress(OSError):  # others are in it
        place.parent.rmdir()
