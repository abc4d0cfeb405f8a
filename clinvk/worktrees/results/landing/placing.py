"""Changing the files of a working tree one by one, and putting them back."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from clinvk.errors import UsageError
from clinvk.worktrees.results.target import Stat

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


class Placing:
    """The files below `root`. In the directory `area`, `new` has the new ones, and `old` gets those
    that they replace."""

    def __init__(self, root: Path, area: Path, moved: dict[Path, list[str]]) -> None:
        """`moved` gets the files that were changed meanwhile, with the directory where they are."""
        self.root = root
        self.area = area
        self.moved = moved

    def place(self, number: int, step: Step) -> None:
        """Change one file."""
        root, area = self.root, self.area
        path, old, new = root / step.path, area / "old" / str(number), area / "new" / step.path
        if step.before is not None:
            _link_or_move(path, old)
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
                # There may be a file by now.
                if _link_or_move(new, path):
                    new.unlink()
            else:
                os.replace(new, path)

    def put_back(self, number: int, step: Step, keep: Path | None) -> bool:
        """Undo one step; return whether the file is as it was before. A file that was changed
        meanwhile is left as it is, or moved to the directory `keep`."""
        root = self.root
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


def changed_error(root: Path, path: str) -> UsageError:
    return UsageError(f"{path} was changed meanwhile; nothing was applied to {root}", "try again")


def missing_parents(root: Path, path: str) -> tuple[str, ...]:
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


def _link_or_move(path: Path, to: Path) -> bool:
    """Give the file a second name, or only that one where there are no links; whether it has both.
    Raises `FileExistsError` for a second name that is taken."""
    try:
        os.link(path, to, follow_symlinks=False)
    except OSError as error:
        if error.errno not in HARD_LINKS:
            raise
        os.rename(path, to)
        return False
    return True
