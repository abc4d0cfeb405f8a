"""The status of backends, from Python.

    for backend in clinvk.probe_backends():
        print(backend.name, backend.state, backend.version, backend.login)

    checked = clinvk.check_manifest("mine.yaml", "recordings/tool-call")
    print(checked.ok, checked.problems)

This calls no model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from clinvk.api.sync import blocking
from clinvk.backend import probe
from clinvk.backend.authoring.problems import Problem, read_checked
from clinvk.backend.probe import BackendStatus
from clinvk.dispatch.dispatcher import Dispatcher, own_unless
from clinvk.dispatch.replay import Replay, find_recordings, replay
from clinvk.errors import ConfigError
from clinvk.process.threads import in_thread

if TYPE_CHECKING:
    from clinvk.cluster.nodes import NodeState


async def aprobe_backends(*names: str, dispatcher: Dispatcher | None = None) -> list[BackendStatus]:
    """The status of the backends of these names, or of all, as in `clinvk doctor`; no model is
    called. Each program is started to ask for its version, which may take up to 20 seconds. Errors
    of a backend are in its status. Raises `NotInstalledError` for an unknown backend, `ConfigError`
    if the configuration is invalid."""
    with own_unless(dispatcher) as where:
        wanted = names or where.catalog.names()
        return await probe.probe_backends(where.catalog, wanted, where.config, where.env)


probe_backends = blocking(aprobe_backends)


async def alist_workers(cluster: str, *, insecure: bool = False) -> list[NodeState]:
    """The workers of the cluster at this address, as in `clinvk workers`. Raises `ConfigError` for an
    address that cannot be used, `SessionError` if its server does not answer."""
    # An extra.
    from clinvk.cluster.address import parse
    from clinvk.cluster.nodes import read_nodes

    return await in_thread(lambda: read_nodes(parse(cluster, insecure=insecure)))


list_workers = blocking(alist_workers)


class ManifestCheck(Struct, frozen=True):
    """What is wrong with a manifest, and what it makes of recordings."""

    path: Path
    problems: list[Problem]
    recordings: list[Replay] = []

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, and it is known how each recorded run ended."""
        return not self.problems and all(one.ended for one in self.recordings)

    @property
    def exit_code(self) -> int:
        """That of `clinvk backends check`."""
        return ConfigError.exit_code if self.problems else 0 if self.ok else 1

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "ok": self.ok,
            "problems": [
                {"line": p.line, "place": p.place, "problem": p.problem} for p in self.problems
            ],
            "recordings": [one.to_json() for one in self.recordings],
        }


def check_manifest(
    path: str | os.PathLike[str], recording: str | os.PathLike[str] | None = None
) -> ManifestCheck:
    """Check a manifest, as `clinvk backends check` does, also with a recording: the CLI's output, a
    directory with `stdout`, `stderr` and `rc` (the exit code), or a directory of those. Nothing is
    started. Raises `ConfigError` if the manifest or the recording cannot be read."""
    manifest, problems = read_checked(Path(path))
    found = find_recordings(Path(recording)) if recording is not None else []
    return ManifestCheck(Path(path), problems, [replay(manifest, one) for one in found])
