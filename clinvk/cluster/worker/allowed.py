"""What the tasks of a cluster may do on a worker: `worker.allow` of its configuration, and what no task
may do anywhere. Requests come from the network, so nothing in them is taken for granted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from clinvk.backend.manifest import Manifest
from clinvk.backend.permissions import elevated
from clinvk.cluster.keys import RUN_ID
from clinvk.cluster.shared import SharedDirectories, is_below
from clinvk.config.schema import WorkerAllow
from clinvk.errors import ClinvkError
from clinvk.model.checks.check import commands_of
from clinvk.model.option_table import OPTIONS
from clinvk.model.plan import Plan
from clinvk.model.request import Request

LEVELS = ("approval", "sandbox")  # whose most is in the configuration
# What decides which programs and which libraries run, which home they have, where a CLI sends the key of the
# worker, and what clinvk knows its processes by.
RESERVED = re.compile(
    r"PATH|HOME|SHELL|ENV|IFS|CDPATH|PS4|PROMPT_COMMAND|TMPDIR|GCONV_PATH|BROWSER|EDITOR|VISUAL|PAGER"
    r"|NODE_OPTIONS|NODE_PATH|NODE_EXTRA_CA_CERTS|NPM_CONFIG_.*|PERL5.*|RUBY.*|JAVA_TOOL_OPTIONS|JDK_.*"
    r"|.*_BASE_URL|.*_API_BASE|.*_PROXY|SSL_CERT_.*|NODE_TLS_.*|.*_CA_BUNDLE"
    r"|BASH_.*|LD_.*|DYLD_.*|PYTHON.*|GIT_.*|SSH_.*|XDG_.*|CLINVK.*|UV_.*",
    re.IGNORECASE,
)
DIRECTORIES = [option.name for option in OPTIONS if option.path == "directory"]
MAX_ID = 300  # characters of the id of a session
VARIABLE_IN_PATH = re.compile(r"\$(\w+)/")


class NotAllowedError(ClinvkError):
    """A directory of a task is not where it says, once links are followed. Nothing of it has been started."""


class Allowed:
    """Of one worker."""

    def __init__(self, allow: WorkerAllow, shared: SharedDirectories) -> None:
        self.allow = allow
        self.shared = shared

    def checked(
        self, request: Request, manifest: Manifest, configured: Mapping[str, Any]
    ) -> Request:
        """The request as it may be run here: `configured` are the options that this worker sets for its
        backend. `env` is as the submitter has written it. Raises `ClinvkError` if it may not be run."""
        _check_ids(request)
        self._check_env(request.env, manifest)
        self._check_remote(request)
        self._check_commands(request)
        options = self._checked_levels(request.options, configured)
        for name in DIRECTORIES:
            self._check_directories(name, request.options.get(name), request)
        return request.replace(options=options)

    def check_plan(self, plan: Plan) -> None:
        """Raise `ClinvkError` if this worker may not drive the plan: a score is a command of the process
        that drives a run."""
        for worktree in {task.worktree for task in plan.tasks if task.worktree}:
            if worktree.remote:
                self._check_url(worktree.remote)
                continue
            # From which the driver reads what tasks have changed.
            repository = Path(worktree.repository)
            if os.path.lexists(repository) and (problem := self.shared.problem_of(repository)):
                raise ClinvkError(problem)
        scores = [task for task in plan.tasks if task.decides is not None and task.decides.score]
        if scores and not self._allows_commands:
            raise ClinvkError(f"worker.allow does not permit the score of task {scores[0].name!r}")

    def _check_env(self, env: Mapping[str, str], manifest: Manifest) -> None:
        texts = (*manifest.login.files, *manifest.login.account)
        homes = {name for text in texts for name in VARIABLE_IN_PATH.findall(text)}
        for name, value in env.items():
            if name in homes and not re.fullmatch(r"\$\{\w+\}", value):
                raise ClinvkError(
                    f"a task may set env.{name} only to a variable of the worker, such as ${{{name}}}"
                )
            known = any(fnmatchcase(name, pattern) for pattern in self.allow.env)
            if RESERVED.fullmatch(name) and not known and value != f"${{{name}}}":
                raise ClinvkError(f"a task may not set env.{name} there (worker.allow.env)")

    def _check_remote(self, request: Request) -> None:
        if request.worktree is not None and request.worktree.wanted.remote:
            self._check_url(request.worktree.wanted.remote)

    def _check_url(self, remote: str) -> None:
        patterns = self.allow.git
        if patterns and (".." in remote or not any(fnmatchcase(remote, each) for each in patterns)):
            raise ClinvkError(f"worker.allow.git does not have {remote}")

    @property
    def _allows_commands(self) -> bool:
        if self.allow.commands is not None:
            return self.allow.commands
        return self.allow.approval is None and self.allow.sandbox is None

    def _check_commands(self, request: Request) -> None:
        """What would not be kept in by any sandbox."""
        if self._allows_commands:
            return
        setup = request.worktree.wanted.setup if request.worktree else None
        for name, given in (
            ("check", commands_of(request.options.get("check"))), ("setup", setup),
            ("words after --", request.args),
        ):  # fmt: skip
            if given:
                raise ClinvkError(f"worker.allow does not permit the {name} of a task")

    def _checked_levels(
        self, options: Mapping[str, Any], configured: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The options, with the most that is allowed where a task says nothing and the CLI would permit
        more."""
        made = dict(options)
        for name in LEVELS:
            most = getattr(self.allow, name)
            if most is None:
                continue
            asked = options.get(name)
            if (
                asked is None
                and configured.get(name) is None
                and elevated({name: "default"}, {name: most})
            ):
                made[name] = most
            elif asked is not None and elevated({name: asked}, {name: most}):
                raise ClinvkError(f"worker.allow.{name} is {most}, and the task asks for {asked}")
        tools = options.get("allowed_tools")
        if (
            tools
            and self.allow.approval is not None
            and elevated({"approval": "none"}, {"approval": self.allow.approval})
        ):
            raise ClinvkError(
                f"worker.allow.approval is {self.allow.approval}, and the task has allowed_tools"
            )
        return made

    def check_in_place(self, request: Request, worktree: Path | None) -> None:
        """Raise `NotAllowedError` if a directory of the request leads out of those that tasks may use, by
        links that its repository has, or that an earlier task has left. They are there now."""
        cwd = request.cwd
        if cwd is None or request.own_directory:  # an empty one
            return
        if problem := self._problem_in_place(cwd, worktree):
            raise NotAllowedError(f"workdir: {problem}")
        for name in DIRECTORIES:
            for path in _paths(request.options.get(name)):
                for full in _meant(path, cwd):
                    if problem := self._problem_in_place(full, worktree):
                        raise NotAllowedError(f"{name}: {problem}")

    def _problem_in_place(self, folder: Path, worktree: Path | None) -> str | None:
        if worktree is not None and is_below(folder, [str(worktree)]):
            return None
        problem = self.shared.problem_of(folder)
        if problem and worktree is not None and folder.is_relative_to(worktree):
            return f"{folder.relative_to(worktree)} leads out of the worktree, to {os.path.realpath(folder)}"
        return problem

    def _check_directories(self, name: str, given: Any, request: Request) -> None:
        """Directories in options are shared ones, or are in that of the task."""
        for path in _paths(given):
            if (
                request.worktree is not None
                and not os.path.isabs(path)
                and not path.startswith("~")
            ):
                continue  # in its worktree, where `check_in_place` looks at it
            for full in _meant(path, request.cwd or Path("/")):
                if problem := self.shared.problem_of(full):
                    raise ClinvkError(f"{name}: {problem}")


def _paths(given: Any) -> list[str]:
    values: Iterable[Any] = given if isinstance(given, (list, tuple)) else [given]
    return [path for path in values if isinstance(path, str)]


def _meant(path: str, cwd: Path) -> list[Path]:
    """What a path may mean to a program in this directory."""
    literal, expanded = cwd / path, cwd / os.path.expanduser(path)
    return (
        [expanded] if literal == expanded or not os.path.lexists(literal) else [literal, expanded]
    )


def _check_ids(request: Request) -> None:
    if request.task is not None and not RUN_ID.fullmatch(request.task):
        raise ClinvkError(f"{request.task[:80]!r} is not the id of a run")
    for text in (request.session, request.chosen_id):
        if text is not None and (
            len(text) > MAX_ID or not text.isprintable() or "/" in text or text.startswith(".")
        ):
            raise ClinvkError(f"{text[:80]!r} is not the id of a session")
