"""Creates the worktree of a task, or finds the one that an earlier attempt has left."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec.structs import replace

from clinvk.disk.atomic import file_error, make_folder
from clinvk.disk.lockfile import hold_lock
from clinvk.disk.sizes import format_size
from clinvk.disk.trees import remove_tree
from clinvk.errors import ClinvkError
from clinvk.model.plan import Worktree
from clinvk.worktrees import names
from clinvk.worktrees.copying import copy_ignored
from clinvk.worktrees.git import Git, GitError
from clinvk.worktrees.index import make_index_newer
from clinvk.worktrees.record import Record, delete_record, read_record, write_record
from clinvk.worktrees.submodules import (
    add_worktree,
    checkout_submodules,
    drop_worktree,
    fill_worktree,
)

Tell = Callable[[str], None]
LARGE = 100_000_000  # bytes of files that are worth a second
SPARE = 1024 * 1024  # bytes that have to stay free besides the files
MAKE_ROOM = "free some space, e.g. with: clinvk runs clean; or set CLINVK_HOME to a larger disk"


class Place:
    """Where the worktree of a task is, and in which repository."""

    def __init__(self, home: Path, run: str, wanted: Worktree, env: Mapping[str, str]) -> None:
        self.home = home
        self.run = run
        self.wanted = wanted
        self.env = env
        self.path = names.path_of(home, run, wanted.directory)
        self.repository = Path(wanted.repository)

    @property
    def git(self) -> Git:
        """Git in the repository that all worktrees share."""
        return Git.at(self.repository, self.env)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while a worktree is added to the repository, or removed: git's own locks fail if two
        processes do that at once. Raises `SessionError`."""
        with lock_repository(self.home, self.repository):
            yield


@contextmanager
def lock_repository(home: Path, repository: Path) -> Iterator[None]:
    name = hashlib.sha256(os.fsencode(repository)).hexdigest()[:16]
    with hold_lock(names.folder_of(home) / f".{name}.lock"):
        yield


def create_worktree(
    place: Place, tell: Tell, *, copied: tuple[str, ...] = (), start: str | None = None
) -> Record:
    """The worktree of a task, created now unless an earlier attempt has left it. A new one is still
    `creating`: call `finish_worktree` once it is set up. `copied` are more patterns of ignored files
    that it gets. It begins with the commit `start`; None: with the recorded one. Raises `ClinvkError`;
    nothing is left behind then."""
    found = read_record(place.path)
    if found is not None and found.state == "ready" and place.path.is_dir():
        return attach_worktree(place, found)
    start = start or place.wanted.commit
    if found is not None and found.state == "ready":
        tell(f"its worktree {place.path} no longer exists; a new one begins with its last result")
    if found is not None or place.path.exists():
        discard_worktree(place, found)
    return _create(place, start, tell, copied)


def last_commit(place: Place) -> str | None:
    """The commit of the last attempt; None if there is none."""
    words = ("for-each-ref", "--format=%(refname) %(objectname)")
    refs = place.git.text(*words, names.refs_of_task(place.run, place.wanted.slug)).splitlines()
    numbered = [(int(ref.rpartition("/")[2]), commit) for ref, commit in map(str.split, refs)]
    return max(numbered)[1] if numbered else None


def _create(place: Place, start: str, tell: Tell, copied: tuple[str, ...]) -> Record:
    path, wanted = place.path, place.wanted
    if not place.repository.is_dir():
        raise _repository_gone(place)
    if place.git.commit_of(start) is None:
        raise ClinvkError(
            f"the commit {start[:12]}, with which the worktree begins, is no longer in {place.repository}",
            "fetch it again, or start a new run",
        )
    _check_outside(place)
    try:
        make_folder(path.parent)
    except OSError as error:
        raise file_error("write", path.parent, error) from error
    _check_space(path.parent, wanted.size)
    record = Record(
        state="creating", path=str(path), repository=str(place.repository), commit=start
    )
    try:
        with place.lock():
            write_record(path, record)
            add_worktree(place.git, path, start)
        admin = str(_linked_admin(path))
        fill_worktree(path, place.env)
        if (wanted.size or 0) >= LARGE:
            make_index_newer(Path(admin, "index"))
        root = None if wanted.remote else Path(wanted.root)
        submodules = checkout_submodules(path, root, place.repository, place.env, tell)
        if root is not None:
            copy_ignored(root, path, (*wanted.copy, *copied), place.env)
        (path / wanted.workdir).mkdir(parents=True, exist_ok=True)
    except BaseException as error:
        is_full = isinstance(error, GitError) and shutil.disk_usage(path.parent).free < SPARE
        with suppress(ClinvkError, OSError):
            discard_worktree(place, record)
        if is_full:  # which git does not always say
            raise GitError(f"No space left in {path.parent}: {error}", MAKE_ROOM) from error
        if isinstance(error, OSError):
            raise file_error("write", path, error) from error
        raise
    record = replace(record, admin=admin, submodules=submodules)
    write_record(path, record)
    return record


def finish_worktree(place: Place, record: Record) -> Record:
    """From now on it may contain work. Raises `SessionError`."""
    if record.state == "ready":
        return record
    record = replace(record, state="ready")
    write_record(place.path, record)
    return record


def attach_worktree(place: Place, record: Record) -> Record:
    """The record of a worktree that may have been moved, with its repository or its home. Raises
    `ClinvkError` if it no longer belongs to a repository."""
    linked = _linked_admin(place.path)
    if linked is not None and linked.is_dir():
        # A repository that was moved, and repaired with git, is found here.
        common = _read_line(linked / "commondir") or ""
        place.repository = Path(os.path.realpath(linked / common))
        record = _updated(place, record, str(linked))
    elif not place.repository.is_dir():
        raise _repository_gone(place)
    if not Path(record.admin).is_dir():
        record = _updated(place, record, _register_again(place, record))
    file = place.path / ".git"
    if linked is None and not file.is_dir():
        file.unlink(missing_ok=True)
        file.write_text(f"gitdir: {record.admin}\n", "utf-8", "surrogateescape")
    if _read_line(Path(record.admin) / "gitdir") != str(file):
        with place.lock():
            place.git.run("worktree", "repair", str(place.path))
            for submodule in record.submodules:
                Git.at(submodule.repository, place.env).run(
                    "worktree", "repair", str(place.path / submodule.path), ok=(0, 1, 128)
                )
    return record


def _updated(place: Place, record: Record, admin: str) -> Record:
    new = replace(record, admin=admin, repository=str(place.repository), path=str(place.path))
    if new != record:
        write_record(place.path, new)
    return new


def _register_again(place: Place, record: Record) -> str:
    """Make git know a worktree that it has forgotten, since its directory was elsewhere for months.
    Its files stay as they are. Returns its new git directory."""
    other = place.path.with_name(f"{place.path.name}.new")
    start = last_commit(place) or record.commit
    with place.lock():
        add_worktree(place.git, other, start)
        admin = Git.at(other, place.env).text("rev-parse", "--absolute-git-dir")
        os.replace(other / ".git", place.path / ".git")
        remove_tree(other)
        place.git.run("worktree", "repair", str(place.path))
    Git.at(place.path, place.env).run("reset", "--mixed", "--quiet", ok=(0, 1))
    return admin


def discard_worktree(place: Place, record: Record | None) -> None:
    """Remove a worktree without a look at what it contains: one that was never used, or all of which
    is in refs. Raises `ClinvkError`."""
    for submodule in reversed(record.submodules if record else ()):
        repository = Path(submodule.repository)
        if repository.is_dir():
            drop_worktree(Git.at(repository, place.env), place.path / submodule.path)
    with place.lock():
        if place.repository.is_dir():
            drop_worktree(place.git, place.path)
        elif place.path.exists():
            remove_tree(place.path)
        delete_record(place.path)


def _check_outside(place: Place) -> None:
    """Raise `ClinvkError` if the worktree would be part of the user's own files."""
    if place.wanted.remote or not place.path.is_relative_to(place.wanted.root):
        return
    ignored = Git.at(place.wanted.root, place.env).run(
        "check-ignore", "--quiet", str(place.path), ok=(0, 1)
    )
    if ignored.returncode:
        raise ClinvkError(
            f"the worktree {place.path} would be inside the working tree {place.wanted.root}",
            "set CLINVK_HOME to another directory, or add it to .gitignore",
        )


def needed_space(size: int) -> int:
    """The bytes that have to be free for a worktree with files of this size."""
    return size + size // 20 + SPARE


def _check_space(folder: Path, size: int | None) -> None:
    if size is None:
        return
    free = shutil.disk_usage(folder).free
    needed = needed_space(size)
    if free < needed:
        raise ClinvkError(
            f"a worktree needs {format_size(needed)}, and {folder} has {format_size(free)} left",
            MAKE_ROOM,
        )


def _repository_gone(place: Place) -> GitError:
    return GitError(
        f"the repository {place.repository} of the worktree no longer exists",
        f"move it back; or, in its new place: git worktree repair {place.path}",
    )


def _linked_admin(path: Path) -> Path | None:
    """The git directory that the file `.git` of a worktree names; None if it is damaged."""
    line = _read_line(path / ".git")
    if line is None or not line.startswith("gitdir: "):
        return None
    return Path(line.removeprefix("gitdir: "))


def _read_line(path: Path) -> str | None:
    try:
        return os.fsdecode(path.read_bytes()).rstrip("\n")
    except OSError:
        return None
