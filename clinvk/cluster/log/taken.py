"""What became of the results of a run: on the server, for everybody, and on the machine where it was
recorded, which may have been cut off from the server just then.

taken:RUN                             all of it, by the time when the server got to know
~/.clinvk/cluster/results/RUN/        what was recorded here, as in the directory of a run of this machine
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import cast

from clinvk.cluster.log import scripts
from clinvk.cluster.log.server import LogServer
from clinvk.disk.atomic import file_error, make_folder
from clinvk.disk.reading import ANY, read_file
from clinvk.disk.trees import remove_tree
from clinvk.runs.folder import TAKEN_NAME

MOST = 1000  # runs of which something is kept here


def folder_of(home: Path) -> Path:
    """Where what is recorded here is, by the ids of the runs."""
    return home / "cluster" / "results"


class TakenLog:
    """Of one run."""

    def __init__(self, server: LogServer, run: str, home: Path) -> None:
        self.server = server
        self.path = folder_of(home) / run
        self._keys = [server.keys.run_log(run), server.keys.taken(run)]

    def lines(self) -> list[bytes]:
        """All lines, oldest first. Raises `SessionError`."""
        known = self._known()
        return [*known, *self._only_here(known)]

    def push(self) -> None:
        """Let the server know what is only recorded here. Raises `SessionError`."""
        if (found := self._here()) and (new := self._only_here(self._known(), found)):
            self.server.run(scripts.TAKE, self._keys, new)

    def make_folder(self) -> None:
        """Raises `SessionError`."""
        try:
            make_folder(self.path)
            known = sorted(self.path.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        except OSError as error:
            raise file_error("write", self.path, error) from error
        for path in known[:-MOST]:
            with suppress(OSError):
                remove_tree(path)

    def delete_folder(self) -> None:
        with suppress(OSError):
            remove_tree(self.path)

    def _known(self) -> list[bytes]:
        with self.server.errors():
            return cast("list[bytes]", self.server.client.zrange(self._keys[1], 0, -1))

    def _here(self) -> list[bytes]:
        path = self.path / TAKEN_NAME
        try:
            return [line for line in read_file(path, limit=ANY).splitlines() if line]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise file_error("read", path, error) from error

    def _only_here(self, known: list[bytes], here: list[bytes] | None = None) -> list[bytes]:
        there = set(known)
        return [line for line in (self._here() if here is None else here) if line not in there]
