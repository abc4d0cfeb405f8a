"""Deletes what deleted runs, and dropped results, have left in the remotes of clusters.

    ~/.clinvk/cluster/pushed/RUN    the remote and the cluster of a run of this machine that was pushed

A run that its cluster does not know any more was deleted there. Another cluster at the same address, or one
whose server has lost its data, knows nothing about that.
The note stays until the refs are deleted, so that a remote that cannot be reached is tried again.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from clinvk.cluster.files.remote import Remote, check_url
from clinvk.config.cluster_values import show_remote
from clinvk.disk.atomic import make_folder, replace_own
from clinvk.disk.reading import read_file
from clinvk.errors import ClinvkError
from clinvk.model.plan import Worktree
from clinvk.runs.folder import RunStore
from clinvk.runs.log import RunLog, Runs
from clinvk.worktrees import names
from clinvk.worktrees.cleaning import release_run
from clinvk.worktrees.git import Git

Tell = Callable[[str], None]
BEING_SUBMITTED = 3600.0  # seconds: a run is pushed before it is recorded
AGAIN = "clinvk runs clean --cluster URL tries again"


class Pushed(Struct, frozen=True):
    """Where a run was pushed to."""

    remote: str  # a URL
    cluster: str = ""  # what identifies it: see `identify`; "" is none that can be asked


def note_pushed(home: Path, run: str, remote: str, cluster: str) -> None:
    """Only cleaning up needs it, so a disk that is full or read-only is no error."""
    path = _folder(home) / run
    known = _read(path)
    new = Pushed(remote, cluster)
    if new not in known:
        with suppress(ClinvkError, OSError):
            make_folder(path.parent)
            replace_own(path, msgspec.json.encode([*known, new]), durable=False)


class Forgetter:
    """Deletes refs. A remote that cannot be reached is reported, and asked once."""

    def __init__(self, home: Path, env: Mapping[str, str], tell: Tell) -> None:
        self.home = home
        self.env = env
        self.tell = tell
        self._unreachable: set[str] = set()

    def release(self, folder: RunLog, *, dry_run: bool = False) -> Callable[[], object] | None:
        """Delete what a run that is to be deleted has on this machine, and return what is to be called
        once it is. With `dry_run`, only look. Raises `SessionError` if it has to be kept."""
        found = list(_worktrees_of(folder))
        release_run(folder, self.env, dry_run=dry_run)
        return (lambda: self.forget(folder.id, found)) if found else None

    def forget(self, run: str, worktrees: Iterable[Worktree]) -> bool:
        """Delete all refs of a run; False if that has failed for a remote. Blocks."""
        prefix = names.refs_of_run(run)
        done = [
            self._delete(wanted.remote, wanted.repository, [prefix], f"run {run}")
            for wanted in {w.remote: w for w in worktrees}.values()
        ]
        note = _folder(self.home) / run
        if all(done):
            note.unlink(missing_ok=True)
        else:
            with suppress(
                OSError
            ):  # it is being submitted no more, so the next one may try at once
                os.utime(note, (0, 0))
        return all(done)

    def forget_tasks(self, run: str, worktrees: Iterable[Worktree]) -> None:
        """Delete the results of tasks. Blocks."""
        by_remote: dict[str, list[Worktree]] = {}
        for wanted in worktrees:
            if wanted.remote:
                by_remote.setdefault(wanted.remote, []).append(wanted)
        for remote, some in by_remote.items():
            prefixes = [names.refs_of_task(run, wanted.slug) for wanted in some]
            self._delete(remote, some[0].repository, prefixes, f"run {run}")

    def forget_unrecorded(
        self, cluster: str, is_recorded: Callable[[str], bool], *, dry_run: bool = False
    ) -> list[str]:
        """Delete the refs of runs that were pushed from this machine for this cluster, and are recorded
        nowhere any more; their ids. Blocks."""
        found = []
        with suppress(FileNotFoundError):
            for path in sorted(_folder(self.home).iterdir()):
                pushed = _read(path)
                if is_recorded(path.name) or not any(
                    p.cluster == cluster for p in pushed if cluster
                ):
                    continue
                if time.time() - path.stat().st_mtime < BEING_SUBMITTED:
                    continue
                if dry_run or self.forget(path.name, [Worktree(remote=p.remote) for p in pushed]):
                    found.append(path.name)
        return found

    def _delete(self, url: str, repository: str, prefixes: list[str], what: str) -> bool:
        if url in self._unreachable:
            return False
        patterns = [
            f"{start}{prefix.removeprefix(names.REFS)}*"
            for prefix in prefixes
            for start in (names.REFS, names.NESTED_REFS)
        ]
        try:
            with _some_repository(repository, self.env) as git:
                remote = Remote(check_url(url), git)
                if refs := list(remote.refs(*patterns)):
                    remote.delete(refs)
        except ClinvkError as error:
            self._unreachable.add(url)
            self.tell(
                f"the results of {what} are still in {show_remote(url)}: {error.message}; {AGAIN}"
            )
            return False
        return True


def forget_unrecorded(
    forgetter: Forgetter, url: str, runs: Runs, *, insecure: bool, dry_run: bool
) -> list[str]:
    """The same for the cluster at this address, with the `runs` that are recorded there. Raises
    `ClinvkError`."""
    # Only with a cluster.
    from clinvk.cluster.address import connect_to, parse
    from clinvk.cluster.server import identify

    address = parse(url, insecure=insecure)
    with connect_to(address) as client:
        identity = identify(client, address)
    known = {*runs.ids(), *RunStore(forgetter.home).ids()}
    return forgetter.forget_unrecorded(identity, known.__contains__, dry_run=dry_run)


def _worktrees_of(folder: RunLog) -> Iterator[Worktree]:
    """Those of a run whose files are in a remote; none of a damaged one."""
    with suppress(ClinvkError):
        for task in folder.plan().tasks:
            if task.worktree is not None and task.worktree.remote:
                yield task.worktree


@contextmanager
def _some_repository(path: str, env: Mapping[str, str]) -> Iterator[Git]:
    """The user's repository, whose configuration may say how a remote is reached; where it is gone, a
    new one."""
    if path and Path(path).is_dir():
        yield Git.at(path, env)
        return
    with tempfile.TemporaryDirectory(prefix="clinvk-") as folder:
        git = Git.at(folder, env)
        git.run("init", "--quiet", "--bare", folder)
        yield git


def _read(path: Path) -> list[Pushed]:
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(read_file(path), type=list[Pushed])
    return []


def _folder(home: Path) -> Path:
    return home / "cluster" / "pushed"
