"""What the last turn of a conversation has changed in the directory, from git."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from clinvk.errors import ClinvkError, UsageError

if TYPE_CHECKING:
    from clinvk.repl.project.trees import Trees

PATIENCE = 30.0  # seconds that a tree may take, if it is asked for
LEAD = 10.0  # seconds that a turn waits for the tree before it


class TurnChanges:
    """The trees before and after the last turn. They are made in threads. The turn waits for the one
    before it, up to a limit; nothing waits for the other but `diff`."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._directory: str | None = None
        self._trees: Trees | None = None
        self._before: _Task | None = None
        self._after: _Task | None = None
        self._last_task: _Task | None = None  # of all: they must not overlap
        self._before_in: str | None = None  # the directory of `before`
        self._begun_in: str | None = None  # the same, of a turn that has not ended
        self._previous: tuple[_Task | None, _Task | None, str | None] = (None, None, None)

    def begin(self, directory: str) -> None:
        """A turn begins in this directory: it is what `wait` waits for. Does nothing if that is known."""
        if directory == self._begun_in:
            return
        self._previous = self._before, self._after, self._before_in
        self._begun_in = self._before_in = directory
        self._before, self._after = self._add(lambda: self._take(directory)), None

    def wait(self) -> None:
        """Until the tree before the turn is made: from then on, changes are those of the turn."""
        if self._before is not None:
            self._before.wait(LEAD)

    def end(self) -> None:
        """It has ended."""
        self._begun_in = None
        if self._before is not None and self._after is None:
            self._after = self._add(lambda: self._take(None))

    def abandon(self) -> None:
        """It was not started: the last turn is the one before it."""
        if self._begun_in is not None and self._begun_in == self._previous[2]:
            self._before, self._after, _ = self._previous
        self.end()

    def forget(self) -> None:
        """There is no last turn any more."""
        if self._before is not None:
            self._before = self._after = self._add(_no_turn)

    def diff(self, *options: str, paths: tuple[str, ...] = ()) -> str:
        """What `git diff` prints about the last turn. Raises `ClinvkError`."""
        if self._before is None or self._after is None:
            return _no_turn()
        before, after = self._before.result(), self._after.result()
        assert self._trees is not None  # noqa: S101 - they have made the two
        return self._trees.diff(before, after, *options, paths=paths)

    def files(self) -> list[str]:
        """The changed files, as seen from the directory. Raises `ClinvkError`."""
        names = self.diff("--name-only", "-z").split("\0")
        trees = self._trees
        return [trees.seen_from_directory(name) for name in names if name] if trees else []

    def _add(self, function: Callable[[], str]) -> _Task:
        self._last_task = _Task(function, self._last_task)
        return self._last_task

    def close(self) -> None:
        if self._trees is not None:
            self._trees.close()

    def _take(self, directory: str | None) -> str:
        # Only once a turn runs: it is a part of the start.
        from clinvk.repl.project.trees import Trees

        if directory is not None and directory != self._directory:
            self.close()
            self._trees, self._directory = None, directory
        if self._trees is None:
            self._trees = Trees(self._directory or ".", self._env)
        return self._trees.take()


def _no_turn() -> str:
    raise UsageError(
        "no turn was run at this prompt yet, so there are no changes to show",
        "to see all changes: !git diff",
    )


class _Task:
    """A function that is called in a thread, after another task has ended."""

    def __init__(self, function: Callable[[], str], before: _Task | None) -> None:
        self._function = function
        self._others = before
        self._value = ""
        self._error: Exception | None = None
        # Not waited for at the end of the process.
        self._thread = threading.Thread(target=self._run, name="changes", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        if self._others is not None:
            self._others._thread.join()  # noqa: SLF001 - of the same kind
            self._others = None
        try:
            self._value = self._function()
        except Exception as error:  # noqa: BLE001 - raised where the result is read
            self._error = error

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)

    def result(self) -> str:
        """Raises what the function raised, and `ClinvkError` if it takes too long."""
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise ClinvkError("git is still looking for changes", "try again later")
        if self._error is not None:
            raise self._error
        return self._value
