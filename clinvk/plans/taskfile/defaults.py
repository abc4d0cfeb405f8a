"""What applies to a task file from outside of it."""

from __future__ import annotations

from msgspec import Struct

from clinvk.model.plan import Limits
from clinvk.plans.schema import TaskDefaults
from clinvk.plans.taskfile.values import Place


class Defaults(Struct, frozen=True, kw_only=True):
    """The defaults for keys that a file does not set: from the configuration and, for tasks, the
    command line."""

    max_parallel: int = 3
    max_parallel_per_backend: dict[str, int] = {}
    fail_fast: bool = False
    limits: Limits = Limits()
    task: TaskDefaults = TaskDefaults()
    flags: dict[str, str] = {}  # the flags that set keys of tasks

    def is_flag(self, path: Place) -> bool:
        """Whether the place of an error is on the command line, not in the file."""
        return bool(path) and path[0] in self.flags.values()
