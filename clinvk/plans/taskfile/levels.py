"""The keys of a task that are set for all tasks: on the command line, in `defaults`, or in the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from clinvk.plans.schema import ALTERNATIVES, FILE_LEVEL, OPTIONS, SHARED, TaskFile
from clinvk.plans.taskfile.defaults import Defaults
from clinvk.plans.taskfile.values import Place
from clinvk.text.typed import ShapeError, format_path


class Levels:
    """The levels above a task, of which each takes precedence over the one before: the file's
    keys, those in its `defaults`, and the command line."""

    def __init__(self, source: str, defaults: Defaults, whole: TaskFile) -> None:
        self._source = source
        self._defaults = defaults
        self.flags = defaults.task.set_keys()  # the keys that the command line sets
        self._of_file = {k: v for k in FILE_LEVEL if (v := getattr(whole, k)) is not None}
        self._of_all = {**self._of_file, **whole.defaults}

    def merge(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of a task with those that it inherits."""
        return _merge(drop_shared(self._of_all), self.flags, entry)

    def droppable(self, inherited: Iterable[str]) -> dict[str, str]:
        """The options among these keys, which are set for all tasks, and where."""
        return {OPTIONS[k].name: self._place_name(k) for k in inherited if k in OPTIONS}

    def flag_place(self, key: str) -> Place:
        """The flag that sets a key of tasks."""
        return (self._defaults.flags.get(key) or key,)

    def place(self, key: str, entry: Any) -> Place | None:
        """The place where a key is set for all tasks; None if the task sets it."""
        own = entry if isinstance(entry, Mapping) else {"prompt": entry}
        if key in own or ALTERNATIVES.get(key) in own:
            return None
        if key in self.flags:
            return self.flag_place(key)
        if key in self._of_file and self._of_all[key] is self._of_file[key]:
            return (key,)
        return ("defaults", key) if key in self._of_all else None

    def _place_name(self, key: str) -> str:
        """The same, for messages."""
        found = self.place(key, {})
        if found is None or self._defaults.is_flag(found):
            return format_path(found or ())
        return f"{self._source}: {format_path(found)}"

    @contextmanager
    def relocate_errors(self, entry: Any, path: Place) -> Iterator[None]:
        """Report an error in an inherited key at the place where it was set."""
        try:
            yield
        except ShapeError as error:
            rest = error.path[len(path) :]
            elsewhere = self.place(str(rest[0]), entry) if rest else None
            if elsewhere is None:
                raise
            raise ShapeError((*elsewhere, *rest[1:]), error.problem, error.hint) from error


def drop_shared(data: Any) -> Any:
    """The data without the keys that only hold what anchors share."""
    if not isinstance(data, Mapping):
        return data
    return {k: v for k, v in data.items() if not (isinstance(k, str) and k.startswith(SHARED))}


def _merge(*levels: Mapping[str, Any]) -> dict[str, Any]:
    """The levels merged; of two keys with the same meaning, the later level's is kept."""
    merged: dict[str, Any] = {}
    for level in levels:
        others = [ALTERNATIVES[key] for key in level if key in ALTERNATIVES]
        worktree = _merge_worktree(merged.get("worktree"), level.get("worktree"))
        merged = {k: v for k, v in merged.items() if k not in others} | dict(level)
        if worktree is not None:
            merged["worktree"] = worktree
    return merged


def _merge_worktree(before: Any, own: Any) -> Any:
    """The keys of a worktree are added to those of the level before; `true` changes none."""
    if own is None:
        return before
    if not before or own is False or not (own is True or isinstance(own, Mapping)):
        return own
    return {**(before if isinstance(before, Mapping) else {}), **(own if own is not True else {})}
