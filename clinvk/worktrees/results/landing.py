"""Changes to a working tree, its index and its branch: all of them or none, whatever happens.

In the git directory of the working tree, while results are applied:

    clinvk/apply.lock   held by the process that applies them
    clinvk/child.lock   held by a git command that it started, and by what that started (hooks)
    clinvk/apply.json   what will be changed, on disk before anything is
    clinvk/apply/       new/ the new files · old/ the replaced ones, at their numbers in apply.json ·
                        index, the new one

The new files are written in `new` first; so there is room for them, and git has run its filters.
Then each replaces the old one in one step, after that was linked into `old`. The index is the last:
until it has been replaced, the next command puts everything back; after that, it only tidies up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from clinvk.disk.atomic import NO_SPACE, file_error, replace_own
from clinvk.disk.lockfile import hold_lock
from clinvk.disk.opening import open_own
from clinvk.disk.reading import ANY, read_file
from clinvk.disk.sync import sync_files
from clinvk.disk.waiting import WouldWait
from clinvk.errors import SessionError, UsageError
from clinvk.worktrees.git import Git, GitError
from clinvk.worktrees.results import taken
from clinvk.worktrees.results.merge import GITLINK, Change, tree_of
from clinvk.worktrees.results.target import Stat, Target, locked_error
from clinvk.worktrees.submodules import drop_worktree

VERSION = 1
LOCK_TIMEOUT = 30.0  # seconds to wait for another apply
HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)  # raised where there are none


class Step(Struct, frozen=True, omit_defaults=True):
    """A file that is changed."""

    name: bytes  # its path: git allows any bytes, JSON only text
    before: Stat | None = None  # the file that was there
    after: Stat | None = None  # the file that will be there
    made: tuple[bytes, ...] = ()  # directories that are made for it
    was_submodule: bool = False
    is_submodule: bool = False  # which has an empty directory until it is checked out

    @property
    def path(self) -> str:
        return os.fsdecode(self.name)


class Note(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is applied, for a process that finds it unfinished."""

    version: int
    token: str
    about: dict[str, Any]  # what is recorded in the run at the end
    root: str | None
    ref: str | None  # the branch that is changed
    old: str | None  # its commit before
    new: str | None = None  # its commit afterwards, if that is known already
    steps: tuple[Step, ...] = ()


class Recovered(Struct, frozen=True):
    """What became of an apply that was killed."""

    about: dict[str, Any]
    is_complete: bool  # otherwise it was undone
    left: tuple[str, ...] = ()  # files that were changed meanwhile, and left as they are

    @property
    def message(self) -> str:
        run = self.about.get("run", "")
        what = "it was complete" if self.is_complete else "its changes were undone"
        left = f"; changed meanwhile, and left as they are: {', '.join(self.left)}"
        return f"applying run {run} had been interrupted: {what}{left if self.left else ''}"


class Landing:
    """The place where results are being applied; `hold` opens it."""

    def __init__(self, target: Target, record: Callable[[dict[str, Any]], None]) -> None:
        """`record` records in the run what was applied; it may be called twice with the same."""
        self.target = target
        self.record = record
        self.folder = target.git_dir / "clinvk"
        self.area = self.folder / "apply"
        self.note_path = self.folder / "apply.json"
        self.child_lock = self.folder / "child.lock"
        self.check_note = self.folder / "check.json"  # the check that is running
        self.checkout = self.folder / "checkout"  # for checks of a new branch
        self._copied: Stat | None = None  # the index that was copied
        self._about: dict[str, Any] | None = None
        self.moved: dict[Path, list[str]] = {}  # files that were changed meanwhile: where they are

    # Changing files and the index.

    def land(
        self,
        start: str,
        tree: str,
        changes: Sequence[Change],
        before: dict[str, Stat | None],
        about: dict[str, Any],
        then: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Change the files and the index from the tree `start` to `tree`. Once the files are
        changed, `then` is called, and may move the branch: it returns the commit that HEAD is then.
        If anything raises, everything is as before."""
        self.change_about(None)
        try:
            self._write_new_files(start, tree)
            note = self._note(changes, before, about)
            self._write_note(note)
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError) and not isinstance(error, SessionError):
                raise _disk_error(self.target, error) from error
            raise
        try:
            self._lock_index(note)
            for number, step in enumerate(note.steps):
                self._place(number, step)
            head = then()
            if head is not None:
                self._follow_hooks(tree, head)
            self._refresh_index()
            self._check_head(head or note.old)
            if self._about is not None:
                note = replace(note, about=self._about)
                self._write_note(note)
            os.replace(self.area / "index", self.target.index)
        except BaseException as error:
            self._undo(note, keep=self.folder / f"kept-{note.token}")
            if isinstance(error, OSError) and not isinstance(error, SessionError):
                raise _disk_error(self.target, error) from error
            raise
        self._finish(note)

    def change_about(self, about: dict[str, Any] | None) -> None:
        """Change what will be recorded, if that is known only after the commits were made."""
        self._about = about

    def create_branch(self, ref: str, commit: str, about: dict[str, Any]) -> None:
        """Create a branch. Raises `UsageError` if it exists."""
        note = Note(
            version=VERSION, token=os.urandom(8).hex(), about=about, root=None, ref=ref, old=None,
            new=commit,
        )  # fmt: skip
        self._write_note(note)
        try:
            self.target.git.run(
                "update-ref",
                "-m",
                f"clinvk: {about.get('run', '')}",
                ref,
                commit,
                "0" * len(commit),
            )
        except BaseException:
            self.note_path.unlink(missing_ok=True)
            taken.mark_ended(about)
            raise
        self._finish(note)

    def _write_new_files(self, start: str, tree: str) -> None:
        """Let git write the new index, and the files that change into an empty directory. It also
        follows the rules of a sparse checkout."""
        new = self.area / "new"
        self._discard()
        new.mkdir(parents=True)
        (self.area / "old").mkdir()
        self._copied = Stat.of(self.target.index)
        with suppress(FileNotFoundError):
            shutil.copy2(self.target.index, self.area / "index")
        git = Git.of(self.target.git_dir, new)
        words = ("read-tree", "-m", "-u", "--no-recurse-submodules", start, tree)
        git.run(*words, index=self.area / "index")

    def _note(
        self, changes: Sequence[Change], before: dict[str, Stat | None], about: dict[str, Any]
    ) -> Note:
        root = self.target.root
        assert root is not None  # noqa: S101 - `check_ready` comes first
        leaving = [c for c in changes if c.new is None]
        arriving = [c for c in changes if c.new is not None]
        steps = [self._step(root, change, before) for change in [*leaving, *arriving]]
        new = self.area / "new"
        files = [str(new / s.path) for s in steps if s.after and not (new / s.path).is_symlink()]
        sync_files(files)
        target = self.target
        return Note(
            version=VERSION, token=os.urandom(8).hex(), about=about, root=str(root),
            ref=target.branch or "HEAD", old=target.head, steps=tuple(steps),
        )  # fmt: skip

    def _step(self, root: Path, change: Change, before: dict[str, Stat | None]) -> Step:
        is_file = change.new is not None and change.new.mode != GITLINK
        return Step(
            name=os.fsencode(change.path),
            before=before[change.path],
            # A sparse checkout leaves it out.
            after=Stat.of(self.area / "new" / change.path) if is_file else None,
            made=tuple(map(os.fsencode, _missing_parents(root, change.path))),
            was_submodule=change.old is not None and change.old.mode == GITLINK,
            is_submodule=change.new is not None and change.new.mode == GITLINK,
        )

    def _lock_index(self, note: Note) -> None:
        """Lock the index as git does. The lock says whose it is, from its beginning."""
        lock = self.area / "lock"
        lock.write_text(_lock_text(note))
        try:
            os.link(lock, _index_lock(self.target))
        except FileExistsError:
            raise locked_error(self.target) from None
        except OSError as error:
            if error.errno not in HARD_LINKS:
                raise
            fd = os.open(_index_lock(self.target), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(_lock_text(note))
        if Stat.of(self.target.index) != self._copied:
            raise SessionError(
                f"the index of {self.target.root} has changed meanwhile; nothing was applied",
                "try again",
            )
        self._check_head(note.old)

    def _check_head(self, expected: str | None) -> None:
        now = self.target.git.commit_of("HEAD")
        branch = self.target.git.maybe("symbolic-ref", "--quiet", "HEAD")
        if (now, branch) != (expected, self.target.branch):
            raise moved_error(self.target)

    def _place(self, number: int, step: Step) -> None:
        """Change one file."""
        root = self.target.root
        assert root is not None  # noqa: S101 - `check_ready` comes first
        path, old, new = (
            root / step.path,
            self.area / "old" / str(number),
            self.area / "new" / step.path,
        )
        if step.before is not None:
            _link(path, old)
            if Stat.of(old) != step.before:
                raise changed_error(root, step.path)
            if step.after is None:
                path.unlink(missing_ok=True)
        elif step.was_submodule and not step.is_submodule:
            with suppress(OSError):  # git also leaves one with files
                path.rmdir()
        if step.is_submodule:
            _make_parents(root, f"{step.path}/")
        elif step.after is None:
            _remove_empty_parents(root, step.path)
        else:
            _make_parents(root, step.path)
            if step.before is None:
                _move_to_free_place(new, path)
            else:
                os.replace(new, path)

    def _follow_hooks(self, tree: str, head: str) -> None:
        """Hooks may have changed what was committed."""
        if tree_of(self.target.git, head) != tree:
            with suppress(GitError):  # also files that are staged: those stay as they are
                words = ("read-tree", "-i", "-m", tree, head)
                self.target.files().run(*words, index=self.area / "index")

    def _refresh_index(self) -> None:
        words = ("update-index", "-q", "--refresh", "--ignore-submodules")
        self.target.files().run(*words, index=self.area / "index", ok=(0, 1))

    # The end, and the way back.

    def _finish(self, note: Note) -> None:
        self._unlock_index(note)
        self.record(note.about | {"token": note.token})
        self._discard()
        taken.mark_ended(note.about)

    def _undo(self, note: Note, *, keep: Path | None = None) -> list[str]:
        """Put everything back; return the files that were changed meanwhile. They are left as they
        are, or moved to the directory `keep` if they were changed during this process: hooks and
        checks change files, too."""
        left: list[str] = []
        if note.ref and note.root:
            self._move_branch_back(note)
        for number, step in reversed(list(enumerate(note.steps))):
            if not self._put_back(number, step, keep):
                left.append(step.path)
        self._unlock_index(note)
        self._discard()
        taken.mark_ended(note.about)
        return sorted(left)

    def _move_branch_back(self, note: Note) -> None:
        """Undo the commits that were made, if there is nothing else on top of them."""
        git, old = self.target.git, str(note.old)
        commits = self._commits()
        now = git.commit_of(str(note.ref))
        if now is None or now == old:
            return
        if now in commits or self.is_announced(now, (*commits, old)):
            message = f"clinvk: undo applying {note.about.get('run', '')}"
            git.run("update-ref", "-m", message, str(note.ref), old, now)

    def _put_back(self, number: int, step: Step, keep: Path | None) -> bool:
        """Undo one step; return whether the file is as it was before."""
        root = self.target.root
        assert root is not None  # noqa: S101 - there would be no steps
        path, old = root / step.path, self.area / "old" / str(number)
        now = Stat.of(path)
        is_placed = step.before is None or (os.path.lexists(old) and now != step.before)
        if is_placed and now not in (None, step.before, step.after):
            if keep is None or step.after is None:
                return False
            _move_away(path, keep / step.path)
            self.moved.setdefault(keep, []).append(step.path)
        if step.before is None:
            if step.after is not None and now is not None:
                path.unlink(missing_ok=True)
        elif is_placed:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(old, path)
        if step.is_submodule and not step.was_submodule:
            with suppress(OSError):
                path.rmdir()
        for folder in reversed(step.made):
            with suppress(OSError):
                (root / os.fsdecode(folder)).rmdir()
        if step.was_submodule and not step.is_submodule:
            path.mkdir(parents=True, exist_ok=True)
        return True

    def recover(self) -> Recovered | None:
        """Complete or undo what a killed process left; None if there was nothing. The caller holds
        the lock. Raises `SessionError` if a command that it started is still running."""
        if self.checkout.exists():
            drop_worktree(self.target.git, self.checkout)
        note = self.interrupted()
        if note is None:
            self._discard()
            return None
        self._check_child()
        if self._is_complete(note):
            self._finish(note)
            return Recovered(note.about, is_complete=True)
        left = self._undo(note)
        return Recovered(note.about, is_complete=False, left=tuple(left))

    def interrupted(self) -> Note | None:
        """The note of an apply that has not ended."""
        try:
            data = read_file(self.note_path, limit=ANY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise file_error("read", self.note_path, error) from error
        try:
            note = msgspec.json.decode(data, type=Note)
        except msgspec.DecodeError as error:
            raise SessionError(
                f"{self.note_path} is damaged: {error}",
                "check the files with git status, then delete it",
            ) from error
        if note.version > VERSION:
            raise SessionError(f"{self.note_path} was written by a newer clinvk", "update clinvk")
        return note

    def _is_complete(self, note: Note) -> bool:
        if note.root is None:
            return self.target.git.commit_of(str(note.ref)) == note.new
        return not (self.area / "index").exists()

    def _check_child(self) -> None:
        """A git command outlives its clinvk: hooks may take long."""
        try:
            with hold_lock(self.child_lock, timeout=LOCK_TIMEOUT):
                return
        except WouldWait:
            raise SessionError(
                f"a git command of an interrupted apply is still running in {self.target.root}",
                f"wait until it has finished, or end it: fuser {self.child_lock}",
            ) from None

    # Commits.

    @contextmanager
    def child_locked(self) -> Iterator[int]:
        """A lock for a command to inherit, as an open file."""
        fd = open_own(self.child_lock, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield fd
        finally:
            os.close(fd)

    def announce_commit(self, parent: str, date: str) -> None:
        """Record how to recognize the next commit, before it is made."""
        self._append("announced", f"{parent} {date}")

    def note_commit(self, commit: str) -> None:
        self._append("commits", commit)

    def _append(self, name: str, line: str) -> None:
        with (self.area / name).open("a") as file:
            file.write(f"{line}\n")

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.area / name).read_text().splitlines()
        except FileNotFoundError:
            return []

    def _commits(self) -> list[str]:
        return self._lines("commits")

    def is_announced(self, commit: str, parents: Sequence[str]) -> bool:
        """Whether it is the commit that was being made, on one of these parents. A hook may have
        amended it."""
        announced = self._lines("announced")
        said = self.target.git.text("show", "-s", "--format=%P %ct", commit)
        return bool(announced) and said == announced[-1] and said.split(" ")[0] in parents

    # Files of its own.

    def _write_note(self, note: Note) -> None:
        taken.mark_begun(note.about, self.target.description, self.note_path)
        try:
            self.folder.mkdir(exist_ok=True)
            replace_own(self.note_path, msgspec.json.encode(note), durable=True)
        except OSError as error:
            raise _disk_error(self.target, error) from error

    def _unlock_index(self, note: Note) -> None:
        lock = _index_lock(self.target)
        with suppress(OSError):
            if lock.read_text() == _lock_text(note):
                lock.unlink()

    def _discard(self) -> None:
        self.note_path.unlink(missing_ok=True)
        for path in self.folder.glob(
            f".{self.note_path.name}.*"
        ):  # half written by a killed process
            path.unlink(missing_ok=True)
        shutil.rmtree(self.area, ignore_errors=True)


@contextmanager
def hold(target: Target, record: Callable[[dict[str, Any]], None]) -> Iterator[Landing]:
    """The place, for one process at a time. Raises `SessionError` if another one has held it for
    too long."""
    landing = Landing(target, record)
    try:
        landing.folder.mkdir(exist_ok=True)
    except OSError as error:
        raise _disk_error(target, error) from error
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(landing.folder / taken.LOCK, timeout=LOCK_TIMEOUT))
        except WouldWait:
            raise SessionError(
                f"results are being applied to {target.description} by another process",
                "try again when it has finished",
            ) from None
        yield landing


def _disk_error(target: Target, error: OSError) -> SessionError:
    where = f": {error.filename}" if error.filename else ""
    hint = "make room on that disk" if error.errno in NO_SPACE else "check its permissions"
    return SessionError(
        f"nothing was applied to {target.description}: {error.strerror}{where}", hint
    )


def moved_error(target: Target) -> UsageError:
    return UsageError(
        f"HEAD of {target.root} has moved meanwhile; nothing was applied", "try again"
    )


def changed_error(root: Path, path: str) -> UsageError:
    return UsageError(f"{path} was changed meanwhile; nothing was applied to {root}", "try again")


def _index_lock(target: Target) -> Path:
    return target.index.with_name("index.lock")


def _lock_text(note: Note) -> str:
    return f"clinvk is applying a result ({note.token}); clinvk runs apply recovers from a crash\n"


def _missing_parents(root: Path, path: str) -> tuple[str, ...]:
    parents = [path[:i] for i, c in enumerate(path) if c == "/"]
    return tuple(p for p in parents if (root / p).is_symlink() or not (root / p).is_dir())


def _make_parents(root: Path, path: str) -> None:
    """Make the directories of the file. Raises `UsageError` if a link leads out of the tree."""
    at = root
    for part in path.split("/")[:-1]:
        at = at / part
        with suppress(FileExistsError):
            at.mkdir()
        if at.is_symlink() or not at.is_dir():
            raise changed_error(root, os.path.relpath(at, root))


def _remove_empty_parents(root: Path, path: str) -> None:
    """As git does. The current directory is kept."""
    here = _current_directory()
    for parent in (root / path).parents:
        if parent in (root, here):
            return
        try:
            parent.rmdir()
        except OSError:
            return


def _current_directory() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def _move_away(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, to)


def _link(path: Path, old: Path) -> None:
    """Keep the file under a second name."""
    try:
        os.link(path, old, follow_symlinks=False)
    except OSError as error:
        if error.errno not in HARD_LINKS:
            raise
        os.rename(path, old)


def _move_to_free_place(new: Path, path: Path) -> None:
    """Raises `FileExistsError` if there is a file by now."""
    try:
        os.link(new, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in HARD_LINKS:
            raise
        os.rename(new, path)
    else:
        new.unlink()
