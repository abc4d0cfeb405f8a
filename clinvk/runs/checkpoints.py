"""Names of runs that can be resumed: `clinvk chain --checkpoint NAME`, then `--resume NAME`.

A checkpoint is a file that names a run; the answers of its finished steps are in the run.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from clinvk.disk.atomic import file_error, make_folder, remove_leftovers, replace_own
from clinvk.disk.jsonl import encode
from clinvk.disk.lockfile import hold_lock
from clinvk.disk.reading import read_file
from clinvk.errors import ClinvkError, SessionError
from clinvk.model.session import check_id
from clinvk.model.usage import rfc3339

VERSION = 1  # of such a file
LOCK_NAME = ".lock"  # held while a name is assigned


class CheckpointNotFound(SessionError, FileNotFoundError):  # noqa: N818 - reads as what it says
    """No checkpoint has that name."""


class CheckpointTaken(SessionError):  # noqa: N818 - reads as what it says
    """Another run has taken that name meanwhile."""


class Checkpoints:
    """The checkpoints below a home."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "checkpoints"

    def assign(self, name: str, run_id: str) -> None:
        """Assign the name to the run, taking it from any other run. Raises `SessionError`."""
        path = self._path(name)
        data = {"version": VERSION, "name": name, "run": run_id, "at": rfc3339(datetime.now(UTC))}
        try:
            make_folder(self.folder)
            remove_leftovers(self.folder)
            replace_own(path, encode(data) + b"\n", durable=True)
        except OSError as error:
            raise file_error("write", path, error) from error

    def assign_if_unchanged(self, name: str, run_id: str, expected_run_id: str | None) -> None:
        """`put`, if the name still belongs to the run `before`, or to none.
        Raises `CheckpointTaken`, `SessionError`."""
        path = self._path(name)
        with hold_lock(self.folder / LOCK_NAME):
            try:
                now = self._read(path)["run"]
            except CheckpointNotFound:
                now = None
            if now not in (expected_run_id, None):
                raise CheckpointTaken(
                    f"checkpoint {name!r} belongs to run {now}, which was started at the same time",
                    f"see it with: clinvk runs watch {now}; or choose another name",
                )
            self.assign(name, run_id)

    def find_run_id(self, name: str) -> str:
        """The id of the run of this name. Raises `CheckpointNotFound`, `SessionError`."""
        return str(self.read(name)["run"])

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def names_by_run(self) -> tuple[dict[str, str], list[ClinvkError]]:
        """The names of runs by run id, and the errors of names whose run cannot be read."""
        named: dict[str, str] = {}
        problems: list[ClinvkError] = []
        for name in self.names():
            try:
                named[self.find_run_id(name)] = name
            except CheckpointNotFound:  # it was deleted meanwhile
                continue
            except ClinvkError as error:
                problems.append(error)
        return named, problems

    def exists(self, name: str) -> bool:
        return self._path(name).exists()

    def delete(self, name: str) -> None:
        """Delete the name; its run is kept. Raises `CheckpointNotFound`, `SessionError`."""
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            raise _not_found(name) from None
        except OSError as error:
            raise file_error("delete", path, error) from error

    def read(self, name: str) -> dict[str, Any]:
        """`name`, `run` and `at`. Raises `CheckpointNotFound`, `SessionError`."""
        return self._read(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{check_id(name)}.json"

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found = msgspec.json.decode(read_file(path), type=dict[str, Any])
        except FileNotFoundError:
            raise _not_found(path.stem) from None
        except OSError as error:
            raise file_error("read", path, error) from error
        except ValueError as error:
            raise SessionError(f"{path}: damaged: {error}", "delete that file") from error
        if found.get("version", 0) > VERSION:
            raise SessionError(f"{path}: written by a newer clinvk", "update clinvk to use it")
        if not (isinstance(found.get("run"), str) and isinstance(found.get("at"), str)):
            raise SessionError(f"{path}: damaged: no run id", "delete that file")
        return found


def _not_found(name: str) -> CheckpointNotFound:
    return CheckpointNotFound(f"no checkpoint {name!r}", "see them all: clinvk checkpoints list")
