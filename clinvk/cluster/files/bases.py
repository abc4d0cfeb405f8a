"""What the worktrees of a detached run begin with, brought to where workers find it before the run is
recorded."""

from __future__ import annotations

from contextlib import suppress

from msgspec.structs import replace

from clinvk.cluster.files.exchange import Exchange
from clinvk.cluster.files.remote import BASE, Remote
from clinvk.errors import ClinvkError
from clinvk.model.plan import Plan, Worktree
from clinvk.worktrees import names
from clinvk.worktrees.git import Git
from clinvk.worktrees.prepare import keep_starts


class Bases:
    """Of one run. Its methods block."""

    def __init__(self, plan: Plan, exchange: Exchange) -> None:
        self.plan = plan
        self.exchange = exchange
        self._run = ""

    def publish(self, run: str) -> None:
        """Push the bases of tasks whose files come by git; keep those of others in refs. Raises
        `ClinvkError`."""
        self._run = run
        for wanted in self._distinct():
            self.exchange.publish_base(run, wanted)
        shared = [t for t in self.plan.tasks if t.worktree is None or not t.worktree.remote]
        keep_starts(replace(self.plan, tasks=tuple(shared)), run, self.exchange.env)

    def withdraw(self) -> None:
        """Delete them from the remote, if the run was not recorded."""
        for wanted in self._distinct() if self._run else ():
            git = Git.at(wanted.repository, self.exchange.env)
            remote = Remote(wanted.remote, git)
            with suppress(ClinvkError):  # they are small, and the first error is reported
                nested = f"{names.NESTED_REFS}{self._run}/{BASE}/*"
                found = remote.refs(f"{names.refs_of_run(self._run)}{BASE}/*", nested)
                remote.delete(list(found))

    def _distinct(self) -> list[Worktree]:
        wanted = [t.worktree for t in self.plan.tasks if t.worktree and t.worktree.remote]
        return list({(w.remote, w.repository, w.commit): w for w in wanted}.values())
