"""Runs git: in a clean environment, without hooks, and with errors that say what to do.

The minimum is git 2.38 (October 2022): `merge-tree --write-tree` came with it.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Self, TypeVar

from clinvk.backend.inherited import GIT_VARIABLES
from clinvk.errors import ClinvkError, NotInstalledError
from clinvk.process.groups import unwrap_single_exception
from clinvk.process.threads import Stop, Stopped, in_thread, stop_of_thread

T = TypeVar("T")

MINIMUM = (2, 38)

# They change what git does or prints.
OTHER_VARIABLES = ("GIT_EXTERNAL_DIFF", "GIT_NAMESPACE", "GIT_TRACE", "GIT_DEFAULT_HASH")

# No hooks of the user, no daemon that watches a directory which will be deleted, no cleaning up in
# between, and no error for mixed line ends.
SETTINGS = (
    ("core.hooksPath", "/dev/null"), ("core.fsmonitor", "false"), ("core.safecrlf", "false"),
    ("gc.auto", "0"), ("maintenance.auto", "false"), ("submodule.recurse", "false"),
    ("commit.gpgSign", "false"), ("core.quotePath", "false"), ("advice.detachedHead", "false"),
)  # fmt: skip
OPTIONS = tuple(word for name, value in SETTINGS for word in ("-c", f"{name}={value}"))
# Of the commits that clinvk makes by itself: they work for users without a name in the configuration.
IDENTITY = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in (("NAME", "clinvk"), ("EMAIL", "clinvk@localhost"))
}

_HINTS = (
    (r"No space left on device|Disk quota exceeded", "free some space, and try again"),
    (r"dubious ownership", "if you trust it: git config --global --add safe.directory DIRECTORY"),
    (r"\.lock'?: File exists|Another git process", "wait until the other git command has finished"),
    (r"not a git repository", "run it in a git repository, or leave out the worktree"),
    (r"bad object|not a valid object|unable to read|missing (?:blob|tree|commit)|invalid reference",
     "an object is missing: check the repository with git fsck, or fetch it again"),
    (r"Permission denied|Read-only file system", "check the permissions of the file that git names"),
    (r"Smudge error|Error downloading object",
     "its content is in Git LFS, and not here: git lfs fetch gets that of a branch, if you can reach it"),
    (r"smudge|filter|process-filter", "install the program that filters these files, such as git-lfs"),
)  # fmt: skip
# What these lines say is the reason of what git says after them.
_FILTER_FAILED = re.compile(
    r"(Error downloading object: .+?)(?:: Smudge error.*)?|error: (external filter .+ failed)"
    r"|fatal: (.+ filter .+ failed)"
)
GENERAL_HINT = "try the same git command by hand"


# The commands that are running in this context, if someone may want to stop them.
running: ContextVar[set[subprocess.Popen[bytes]] | None] = ContextVar("running", default=None)


class GitError(ClinvkError):
    """Git has failed. `output` is all that it printed on stderr."""

    def __init__(self, message: str, hint: str | None = None, *, output: str = "") -> None:
        super().__init__(message, hint)
        self.output = output


class Git:
    """Git in one place: `Git.at(directory)`, or a worktree with its git directory."""

    def __init__(self, where: Sequence[str], env: Mapping[str, str]) -> None:
        """`where` are git's own options that name the place."""
        self.where = tuple(where)
        self.env = clean_environment(env)

    @classmethod
    def at(cls, directory: str | Path, env: Mapping[str, str] = os.environ) -> Self:
        """In this directory, which may be a working tree, a part of one, or a git directory."""
        return cls(("-C", str(directory)), env)

    @classmethod
    def of(
        cls, git_dir: str | Path, worktree: str | Path, env: Mapping[str, str] = os.environ
    ) -> Self:
        """In a worktree whose `.git` may be damaged: the git directory is given."""
        return cls(("-C", str(worktree), f"--git-dir={git_dir}", f"--work-tree={worktree}"), env)

    def run(
        self,
        *words: str,
        data: bytes | None = None,
        index: Path | None = None,
        ok: Sequence[int] = (0,),
        extra: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command. `data` goes to its stdin; `index` is the index that it uses; `extra` are
        more options of git itself. Raises `GitError` if it ends with a code that is not in `ok`."""
        child_env = dict(self.env)
        if index is not None:
            child_env["GIT_INDEX_FILE"] = str(index)
        child_env.update(env or {})
        argv = ("git", *OPTIONS, *extra, *self.where, *words)
        try:
            done = _run(argv, child_env, data or b"")
        except FileNotFoundError as error:
            raise NotInstalledError(
                "git is not installed", "install it; it is needed for worktrees"
            ) from error
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise GitError("git: too many arguments", GENERAL_HINT) from error
            raise
        if done.returncode not in ok:
            raise _failure(words, done)
        return done

    def text(self, *words: str, **options: object) -> str:
        """The output, without the white space around it. Raises `GitError`."""
        return decode(self.run(*words, **options).stdout).strip()  # type: ignore[arg-type]

    def maybe(self, *words: str) -> str | None:
        """The output; None if the command fails."""
        try:
            return self.text(*words)
        except GitError:
            return None

    def commit_of(self, revision: str) -> str | None:
        """The commit that a revision names; None if there is none."""
        return self.maybe(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
        )


def _run(
    argv: Sequence[str], env: Mapping[str, str], data: bytes
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a session of its own, which Ctrl-C in the terminal does not reach. Raises
    `OSError`."""
    pipe, held, stop = subprocess.PIPE, running.get(), stop_of_thread.get()
    was_stopped = stop is not None and stop.is_set  # then this is part of putting things back
    with subprocess.Popen(
        argv, stdin=pipe, stdout=pipe, stderr=pipe, env=env, start_new_session=True
    ) as process:
        if held is not None:
            held.add(process)
        if stop is not None and stop.is_set and not was_stopped:  # before it was among those held
            _signal(process, signal.SIGTERM)
        try:
            out, err = process.communicate(data)
        except BaseException:
            kill(process)
            raise
        finally:
            if held is not None:
                held.discard(process)
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a git command and the filters that it has started."""
    _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if process.poll() is None:
            os.killpg(process.pid, number)


async def stopping_git(work: Callable[[], T]) -> T:
    """`work()` in a thread. If this is cancelled, `work` is asked to stop, with the git command that it
    waits for and what it has started with `run_stoppable`, and waited for: it puts back what is not
    complete."""
    # 45 ms, and needed only once something runs.
    import anyio
    from anyio.lowlevel import checkpoint

    stop, held = Stop(), set[subprocess.Popen[bytes]]()
    tokens = stop_of_thread.set(stop), running.set(held)

    async def stop_if_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stop.is_set = True
            for process in list(held):  # not killed: git removes its lock files
                _signal(process, signal.SIGTERM)

    try:
        with unwrap_single_exception():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stop_if_cancelled)
                try:
                    return await in_thread(work)
                except (Stopped, ClinvkError):
                    await checkpoint()  # the cancellation, if it was the cause
                    raise
                finally:
                    tasks.cancel_scope.cancel()
    finally:
        stop_of_thread.reset(tokens[0])
        running.reset(tokens[1])
    raise AssertionError("unreachable: the block returns or raises")


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without what points at another repository; git prints its messages in English
    and asks nothing."""
    kept = {k: v for k, v in env.items() if not is_local_variable(k)}
    return kept | {"LC_ALL": "C", "LANGUAGE": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_PAGER": "cat",
                   "GIT_EDITOR": "false"}  # fmt: skip


def is_local_variable(name: str) -> bool:
    return (
        name in GIT_VARIABLES
        or name in OTHER_VARIABLES
        or re.fullmatch(r"GIT_CONFIG_(KEY|VALUE)_\d+", name) is not None
    )


def check_version(env: Mapping[str, str] = os.environ) -> None:
    """Raise `NotInstalledError` if git is missing or too old."""
    said = Git((), env).text("version")
    found = re.search(r"(\d+)\.(\d+)", said)
    if found and tuple(map(int, found.groups())) < MINIMUM:
        needed = ".".join(map(str, MINIMUM))
        raise NotInstalledError(f"worktrees need git {needed}, and this is {said}", "update git")


def decode(data: bytes) -> str:
    """Text of git's; a path may have any bytes."""
    return os.fsdecode(data)


def _failure(words: Sequence[str], done: subprocess.CompletedProcess[bytes]) -> GitError:
    output = done.stderr.decode("utf-8", "replace").strip()
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith("hint:")]
    # The first `fatal:` or `error:` says why; what follows is about the consequences.
    why = next((x for x in lines if x.startswith(("fatal:", "error:"))), lines[-1] if lines else "")
    why = re.sub(r"^(fatal|error): ", "", why) or f"it ended with code {done.returncode}"
    filters = (match for match in map(_FILTER_FAILED.fullmatch, lines) if match)
    if found := next(filters, None):
        why = next(filter(None, found.groups()))
    command = next((word for word in words if not word.startswith("-")), "")
    return GitError(f"git {command}: {why}", hint_of(output), output=output)


def hint_of(output: str) -> str:
    """What to do about an error with this text."""
    return next((hint for pattern, hint in _HINTS if re.search(pattern, output)), GENERAL_HINT)
