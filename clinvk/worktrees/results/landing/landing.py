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
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from clinvk.disk.atomic import NO_SPACE, replace_own
from clinvk.disk.lockfile import hold_lock
from clinvk.disk.opening import open_own
from clinvk.disk.sync import sync_files
from clinvk.disk.waiting import WouldWait
from clinvk.errors import SessionError, UsageError
from clinvk.worktrees.git import Git, GitError
from clinvk.worktrees.results import taken
from clinvk.worktrees.results.landing.commits import MadeCommits
from clinvk.worktrees.results.landing.note import VERSION, Note, Recovered, read_note
from clinvk.worktrees.results.landing.placing import (
    HARD_LINKS,
    Placing,
    Step,
    missing_parents,
)
from clinvk.worktrees.results.merge import GITLINK, Change, tree_of
from clinvk.worktrees.results.target import Stat, Target, locked_error
from clinvk.worktrees.submodules import drop_worktree

LOCK_TIMEOUT = 30.0  # seconds to wait for another apply


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
        self.commits = MadeCommits(self.area)
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
            placing = self._placing(note)
            for number, step in enumerate(note.steps):
                placing.place(number, step)
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
            made=tuple(map(os.fsencode, missing_parents(root, change.path))),
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

    def _placing(self, note: Note) -> Placing:
        return Placing(Path(note.root or ""), self.area, self.moved)

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
        placing = self._placing(note)
        for number, step in reversed(list(enumerate(note.steps))):
            if not placing.put_back(number, step, keep):
                left.append(step.path)
        self._unlock_index(note)
        self._discard()
        taken.mark_ended(note.about)
        return sorted(left)

    def _move_branch_back(self, note: Note) -> None:
        """Undo the commits that were made, if there is nothing else on top of them."""
        git, old = self.target.git, str(note.old)
        made = self.commits.made()
        now = git.commit_of(str(note.ref))
        if now is None or now == old:
            return
        if now in made or self.commits.is_announced(git, now, (*made, old)):
            message = f"clinvk: undo applying {note.about.get('run', '')}"
            git.run("update-ref", "-m", message, str(note.ref), old, now)

    def recover(self) -> Recovered | None:
        """Complete or undo what a killed process left; None if there was nothing. The caller holds
        the lock. Raises `SessionError` if a command that it started is still running."""
        if self.checkout.exists():
            drop_worktree(self.target.git, self.checkout)
        note = read_note(self.note_path)
        if note is None:
            self._discard()
            return None
        self._check_child()
        if self._is_complete(note):
            self._finish(note)
            return Recovered(note.about, is_complete=True)
        left = self._undo(note)
        return Recovered(note.about, is_complete=False, left=tuple(left))

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


def _index_lock(target: Target) -> Path:
    return target.index.with_name("index.lock")


def _lock_text(note: Note) -> str:
    return f"clinvk is applying a result ({note.token}); clinvk runs apply recovers from a crash\n"
