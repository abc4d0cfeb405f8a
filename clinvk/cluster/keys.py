"""The names of all keys in Redis. Those of one cluster begin with `clinvk:{NAME}:`."""

from __future__ import annotations

from msgspec import Struct

DEFAULT_NAME = "default"  # of a cluster whose URL names none


class Keys(Struct, frozen=True):
    """The keys below a prefix."""

    prefix: str

    @classmethod
    def of(cls, name: str = DEFAULT_NAME) -> Keys:
        return cls(f"clinvk:{name}:")

    # The records of runs.

    def runs(self) -> str:
        """The ids of all runs that are recorded here, by their age."""
        return f"{self.prefix}runs"

    def due(self) -> str:
        """Detached runs that have not ended, by the time at which they need another driver."""
        return f"{self.prefix}due"

    def run_log(self, run: str) -> str:
        """The plan of a run, and when it was created and changed."""
        return f"{self.run_logs()}{run}"

    def run_logs(self) -> str:
        """What the keys of all such plans begin with."""
        return f"{self.prefix}log:"

    def driver(self, run: str) -> str:
        """The lease of the process that drives a run."""
        return f"{self.prefix}driver:{run}"

    def journal(self, run: str) -> str:
        return f"{self.prefix}journal:{run}"

    def events(self, run: str) -> str:
        """The events of all tasks of a run."""
        return f"{self.prefix}events:{run}"

    def event_index(self, run: str) -> str:
        """Where the events of each task of a run are."""
        return f"{self.prefix}index:{run}"
