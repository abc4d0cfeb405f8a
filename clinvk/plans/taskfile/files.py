"""The files and directories that tasks name."""

from __future__ import annotations

import os
from pathlib import Path

from clinvk.disk.empty import EMPTY
from clinvk.disk.reading import NOT_REGULAR, directory_problem, is_own_stream, read_file, read_named
from clinvk.plans.taskfile.values import Place
from clinvk.text.typed import ShapeError


class NamedFiles:
    """Files are read once, though many tasks may name them. All methods raise `ShapeError`."""

    def __init__(self) -> None:
        self._cwd = _current_directory()
        self._texts: dict[str, str] = {}

    def text(self, name: str, path: Place) -> str:
        if name not in self._texts:
            try:
                read = read_named if is_own_stream(name) else read_file
                self._texts[name] = read(Path(name).expanduser()).decode("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
                if why == NOT_REGULAR:
                    why = f"{why}; name a regular file or /dev/stdin"
                raise ShapeError(path, f"{name}: {why}") from error
        return self._texts[name]

    def directory(self, name: str, path: Place) -> str:
        """The directory as an absolute path."""
        folder = os.path.realpath(self._cwd / Path(name).expanduser())
        if problem := directory_problem(folder):
            raise ShapeError(path, f"{name}: {problem}")
        return folder

    def workdir(self, name: str | None, path: Place) -> str | None:
        """The directory of a task: None if it names none, "none" if it has an empty one."""
        if name is None or name == EMPTY:
            return name
        return self.directory(name, path)


def _current_directory() -> Path:
    """Absolute, unless it has been deleted: then only relative paths are errors."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path()
