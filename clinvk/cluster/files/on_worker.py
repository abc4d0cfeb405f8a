"""The side of a worker: the files of a task before it runs, and its result afterwards."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from copy import copy
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from clinvk.cluster.files.cache import Cache, beginning_of
from clinvk.cluster.files.in_use import keep_in_use, name_of_worktree
from clinvk.cluster.files.remote import nested_ref
from clinvk.cluster.files.room import make_room, remove_debris
from clinvk.cluster.shared import SharedDirectories
from clinvk.errors import ClinvkError, UsageError
from clinvk.model.plan import TaskWorktree
from clinvk.model.request import Request
from clinvk.model.result import Failure, Result, WorktreeResult
from clinvk.process.marker import MARKER
from clinvk.process.threads import in_thread
from clinvk.worktrees import names
from clinvk.worktrees.create import Place, attach_worktree, discard_worktree, needed_space
from clinvk.worktrees.git import Git, GitError, stopping_git
from clinvk.worktrees.record import read_record
from clinvk.worktrees.result import save_result

Tell = Callable[[str], None]
DEFAULT_LIMIT = 20 * 1000**3  # bytes of caches and worktrees
CHECK_INTERVAL = 60.0  # seconds between looks at how large they are


class WorkerFiles:
    """Of one node. `env` is that of the programs that it starts."""

    def __init__(
        self,
        home: Path,
        env: Mapping[str, str],
        *,
        shared: SharedDirectories,
        limit: int = DEFAULT_LIMIT,
        node: str = "this worker",
    ) -> None:
        self.home = home
        self.env = env
        self.shared = shared
        self.limit = limit
        self.node = node
        self._checked = [0.0]  # when the size was, also of those that `with_marker` returns
        self._lock = threading.Lock()

    def with_marker(self, marker: str) -> WorkerFiles:
        """The same, whose git commands carry a marker: they are ended with the programs of its attempt."""
        made = copy(self)
        made.env = {**self.env, MARKER: marker}
        return made

    def problem(self, request: Request) -> str | None:
        """Why this node cannot have the files of the request; None if it may be able to."""
        task = request.worktree
        if task is not None:
            try:
                check_names(task)
            except UsageError as error:
                return error.message
        if request.own_directory or (task is not None and task.wanted.remote):
            return None
        return self.shared.problem(request)

    @asynccontextmanager
    async def attempt(self, request: Request, tell: Tell) -> AsyncIterator[Request]:
        """The request as it is run here, with its files in place as long as the block runs. Raises
        `ClinvkError` if they cannot be fetched; nothing has run then. Ask for `problem` first."""
        task = request.worktree
        if task is None or not task.wanted.remote:
            yield request
            return
        check_names(task)
        cache = Cache(self.home, task.wanted.remote, self.env)
        worktree = name_of_worktree(task.run, task.wanted.directory)
        with ExitStack() as held:
            for name in (cache.path.name, worktree):  # which waits while it is being deleted
                await in_thread(partial(held.enter_context, keep_in_use(self.home, name)))
            yield request.replace(worktree=await stopping_git(lambda: self._prepare(task, tell)))

    async def deliver(self, request: Request, result: Result, tell: Tell) -> Result:
        """The result, when what has changed is in the remote. If it cannot be brought there, the task
        has failed; its worktree stays on this node. `request` is that of `attempt`. May be cancelled."""
        task, saved = request.worktree, result.worktree
        if task is None or not task.wanted.remote or saved is None:
            return result
        try:
            await stopping_git(lambda: self._deliver(task, saved))
        except ClinvkError as error:
            return self.undelivered(request, result, tell, error)
        return result

    def undelivered(
        self, request: Request, result: Result, tell: Tell, error: ClinvkError
    ) -> Result:
        """The result if its changes cannot be delivered."""
        task, saved = request.worktree, result.worktree
        if task is None or not task.wanted.remote or saved is None:
            return result
        message = (
            f"the changes were not delivered: {error.message}; on {self.node}, they are the commit "
            f"{saved.commit[:12]} in {task.wanted.repository}"
        )
        if result.error is not None:
            tell(message)
            return replace(result, worktree=None)
        failure = Failure("error", message, error.hint)
        return replace(result, ok=False, error=failure, exit_code=error.exit_code, worktree=None)

    def _prepare(self, task: TaskWorktree, tell: Tell) -> TaskWorktree:
        try:
            here = self._fill(task)
            if self._has_space(here):
                return here
        except ClinvkError as error:
            if "No space left" not in error.message:
                raise
        tell(f"{self.node} has too little space: deleting what earlier tasks have left there")
        make_room(self.home, 0, self.env)
        return self._fill(task)

    def _has_space(self, task: TaskWorktree) -> bool:
        """Whether a new worktree fits."""
        path = names.path_of(self.home, task.run, task.wanted.directory)
        free = shutil.disk_usage(self.home).free
        return path.is_dir() or free >= needed_space(task.wanted.size or 0)

    def _fill(self, task: TaskWorktree) -> TaskWorktree:
        cache = Cache(self.home, task.wanted.remote, self.env)
        cache.fill(task)
        here = replace(task, wanted=replace(task.wanted, repository=str(cache.path)))
        place = Place(self.home, here.run, here.wanted, self.env)
        record = read_record(place.path)
        if record is not None and record.state == "ready" and place.path.is_dir():
            last = cache.delivered(here.run, here.wanted.directory) or record.commit
            if last != beginning_of(here):
                # A later attempt has run on another node. What is here is kept in a ref of the cache.
                save_result(place, attach_worktree(place, record), counts=False)
                discard_worktree(place, record)
        self._limit_size()
        return here

    def _deliver(self, task: TaskWorktree, saved: WorktreeResult) -> None:
        cache = Cache(self.home, task.wanted.remote, self.env)
        remote, slug = cache.remote, task.wanted.slug
        for repository, commit in _nested_results(cache, task):
            remote._replace(git=repository).push(commit, nested_ref(task.run, slug, commit))
        remote.push(saved.commit, saved.ref)
        cache.note_delivered(task.run, task.wanted.directory, saved.commit)

    def _limit_size(self) -> None:
        """Delete what is not needed if there is too much, now and then."""
        with self._lock:
            if self._checked[0] and time.monotonic() - self._checked[0] < CHECK_INTERVAL:
                return
            self._checked[0] = time.monotonic()
        remove_debris(self.home)
        make_room(self.home, self.limit, self.env)


def check_names(task: TaskWorktree) -> None:
    """Raise `UsageError` if a name or commit of a request could mean something else to git, or another
    place on the disk: requests come from the network."""
    wanted = task.wanted
    for name in (task.run, wanted.slug, wanted.directory):
        if not _NAME.fullmatch(name) or ".." in name:
            raise _forged(name)
    for commit in (wanted.commit, task.start or wanted.commit, task.tip or wanted.commit):
        if not _COMMIT.fullmatch(commit):
            raise _forged(commit)
    if Path(wanted.workdir).is_absolute() or ".." in Path(wanted.workdir).parts:
        raise _forged(wanted.workdir)


def _forged(text: str) -> UsageError:
    return UsageError(
        f"the request of the task is invalid: {text!r}", "update clinvk on all machines"
    )


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def _nested_results(cache: Cache, task: TaskWorktree) -> list[tuple[Git, str]]:
    """The results of the submodules and other repositories of a worktree: the repository and the
    commit of each."""
    own = names.refs_of_task(task.run, task.wanted.slug)
    found = []
    modules = [
        p.parent for p in (cache.path / "modules").rglob("HEAD") if (p.parent / "objects").is_dir()
    ]
    for git in (Git.at(path, cache.env) for path in modules):
        found += [(git, commit) for commit in _listed(git, own)]
    nested = f"{names.NESTED_REFS}{task.run}/{task.wanted.slug}/"
    found += [(cache.git, commit) for commit in _listed(cache.git, nested)]
    return found


def _listed(git: Git, prefix: str) -> list[str]:
    try:
        return git.text("for-each-ref", "--format=%(objectname)", prefix).split()
    except GitError:
        return []
