"""The git remote of a cluster: base commits and results are refs in it.

refs/clinvk/RUN/base/COMMIT             what worktrees of a run begin with
refs/clinvk/RUN/SLUG/ATTEMPT            the result of an attempt, as in the user's repository
refs/clinvk-nested/RUN/base/COMMIT      the same for a submodule
refs/clinvk-nested/RUN/SLUG/COMMIT
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from clinvk.cluster.files.remote_errors import PASSING, explained
from clinvk.config.cluster_values import is_remote_url, remote_problem, show_remote
from clinvk.errors import ConfigError
from clinvk.process.threads import Stopped, is_stopped, sleep
from clinvk.worktrees import names
from clinvk.worktrees.git import Git, GitError

T = TypeVar("T")

BASE = "base"
# Others could run a command, such as `ext::`.
PROTOCOLS = "file:git:http:https:ssh"
# A server that is silent for a minute is given up.
SSH = "ssh -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15 -o ServerAliveCountMax=4"
SILENCE = ("-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60")
WAITS = (1.0, 4.0)  # seconds before another attempt, after a failure of the network


class Remote(NamedTuple):
    """A remote, seen from one repository. It does not matter which remotes that has configured."""

    url: str
    git: Git

    def fetch(self, refspecs: Iterable[str]) -> None:
        """Raises `GitError`."""
        words = (
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
        )
        self._network("read", (*words, "--", self.url, *refspecs))

    def push(self, commit: str, ref: str) -> None:
        """Create a ref. It is no error if it exists with this commit. Raises `GitError` if it exists
        with another one."""
        # The empty value of the lease says that the ref does not exist yet.
        words = ("push", "--quiet", "--no-verify", "--recurse-submodules=no",
                 f"--force-with-lease={ref}:")  # fmt: skip
        try:
            self._network("write to", (*words, "--", self.url, f"{commit}:{ref}"))
        except GitError as error:
            if not re.search(r"stale info|rejected", error.output):
                raise
            found = self.refs(ref).get(ref)
            if found == commit:
                return
            if found is None:
                raise
            raise GitError(
                f"{show_remote(self.url)} has another commit at {ref} already: {found[:12]}",
                "another worker has delivered the result of this attempt",
                output=error.output,
            ) from error

    def delete(self, refs: Sequence[str]) -> None:
        """Raises `GitError`."""
        words = ("push", "--quiet", "--no-verify", "--", self.url)
        for start in range(0, len(refs), 500):  # of the arguments of one command
            some = refs[start : start + 500]
            self._network("write to", (*words, *(f":{ref}" for ref in some)))

    def refs(self, *patterns: str) -> dict[str, str]:
        """The commits of the refs that match. Raises `GitError`."""
        listed = self._network("read", ("ls-remote", "--quiet", "--", self.url, *patterns))
        lines = (line.split("\t") for line in listed.splitlines())
        # To git, a pattern may match the end of a name: refs/heads/refs/clinvk/… too.
        starts = tuple(pattern.partition("*")[0] for pattern in patterns)
        return {ref: commit for commit, ref in lines if ref.startswith(starts)}

    def refs_of_run(self, run: str) -> dict[str, str]:
        """All refs of a run. Raises `GitError`."""
        prefix = names.refs_of_run(run)
        return self.refs(f"{prefix}*", f"{names.NESTED_REFS}{run}/*")

    def _network(self, what: str, words: Sequence[str]) -> str:
        env = network_environment(self.git)

        def run() -> str:
            if is_stopped():  # before git is started
                raise Stopped
            done = self.git.run(*words, env=env, extra=SILENCE)
            return done.stdout.decode("utf-8", "replace")

        try:
            return _patiently(run)
        except GitError as error:
            raise explained(error, what, show_remote(self.url)) from error


def base_ref(run: str, commit: str) -> str:
    return f"{names.refs_of_run(run)}{BASE}/{commit}"


def nested_ref(run: str, slug: str, commit: str) -> str:
    return f"{names.NESTED_REFS}{run}/{slug}/{commit}"


def remote_url(setting: str, git: Git, root: str) -> str:
    """The URL for the setting `cluster.git`: a URL, a path, or the name of a remote of the repository
    at `root`. Raises `ConfigError`."""
    if is_remote_url(setting):
        return check_url(os.path.expanduser(setting) if setting.startswith("~") else setting)
    url = git.maybe("remote", "get-url", "--", setting)
    if url is None:
        raise ConfigError(
            f"{root} has no git remote {setting!r}, which cluster.git names",
            f"add it: git -C {root} remote add {setting} URL; or set cluster.git to a URL",
        )
    if not is_remote_url(url):  # a path, from the root of the working tree
        url = os.path.normpath(os.path.join(root, url))
    return check_url(url)


def check_url(url: str) -> str:
    """The URL. Raises `ConfigError` if it may not be used: it goes to all workers."""
    if found := remote_problem(url):
        raise ConfigError(f"cluster.git: {found[0]}", found[1])
    return url


def network_environment(git: Git) -> dict[str, str]:
    """What git's commands that use the network need: they never ask, and give up in the end."""
    found = {"GIT_ALLOW_PROTOCOL": PROTOCOLS, "SSH_ASKPASS_REQUIRE": "never"}
    is_set = "GIT_SSH_COMMAND" in git.env or "GIT_SSH" in git.env
    if not is_set and not git.maybe("config", "core.sshCommand"):
        found["GIT_SSH_COMMAND"] = SSH
    return found


def _patiently(work: Callable[[], T]) -> T:
    """`work()`, repeated after failures of the network that pass."""
    for wait in WAITS:
        try:
            return work()
        except GitError as error:
            if is_stopped() or not PASSING.search(error.output):
                raise
        sleep(wait)
    return work()
