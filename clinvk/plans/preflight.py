"""Checks of a plan before anything in it runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from clinvk.backend.command.effects import explain_unsupported
from clinvk.backend.command_line import KEEPS_HINT, check_arguments
from clinvk.backend.manifest import EventRule, Manifest
from clinvk.backend.permissions import PERMITTING, REPLACED, planning_conflict, spell_value
from clinvk.backend.selection import BackendSelector
from clinvk.errors import ClinvkError, ConfigError
from clinvk.model.option_table import FLAGS, STRICT
from clinvk.model.plan import Plan, Rules, Task
from clinvk.plans.exclusive import check_directories
from clinvk.text.redact import redact
from clinvk.text.typed import quoted

VARIABLE = re.compile(r"\$\{(\w+)\}")
# For each cap of a budget, what a manifest's rules set if the CLI reports it.
FIGURES = {"cost": ("cost", "cost_total", "cost_first"), "tokens": ("usage", "usage_total")}
NO_BACKEND = "-"  # of a task that needs none, or whose backend cannot be used
MIN_SECRET_LENGTH = 6  # characters of a variable that counts as a secret, unlike "1" and "true"


class Preflight(Struct, frozen=True, kw_only=True):
    """What a task needs from its environment."""

    backend: str
    env: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    options: dict[str, Any] = {}


class PreflightReport(Struct, frozen=True):
    """What each task of a plan needs, the notices, and the tasks that cannot be run."""

    tasks: list[Preflight]
    notices: list[str]
    problems: dict[int, ClinvkError] = {}

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(secret for ask in self.tasks for secret in ask.secrets))


def check_plan(plan: Plan, chooser: BackendSelector) -> PreflightReport:
    """Look up what each task needs. Raises `ClinvkError` for the first that cannot be run."""
    checked = survey_plan(plan, chooser)
    if checked.problems:
        raise next(iter(checked.problems.values()))
    if notice := _same_names_notice(plan):
        checked.notices.append(notice)
    return checked


def _same_names_notice(plan: Plan) -> str | None:
    counts = Counter(task.name for task in plan.tasks)
    name, count = counts.most_common(1)[0] if counts else ("", 0)
    if count < 2:
        return None
    kind = "steps" if plan.kind == "chain" else "tasks"
    others = sum(n > 1 for n in counts.values()) - 1
    more = f"; {others} more name{'s' * (others != 1)} not unique" if others else ""
    return f"{count} {kind} have the same name: {quoted(name)}{more}"


def survey_plan(plan: Plan, chooser: BackendSelector) -> PreflightReport:
    """Look up what each task needs. An error names the task that cannot be run: its backend is not
    installed, it lacks an option, or a variable is not set. Raises `ConfigError` for rules that
    cannot be enforced."""
    checker = _Checker(chooser, plan)
    asks, problems = [], {}
    for i, task in enumerate(plan.tasks):
        try:
            asks.append(checker.check_task(task))
        except ClinvkError as error:
            where = (
                f"{task.description}: "
                if task.place and not isinstance(error, _SharedOptionError)
                else ""
            )
            kind = ConfigError if isinstance(error, _SharedOptionError) else type(error)
            problems[i] = kind(f"{where}{error.message}", error.hint)
            asks.append(Preflight(backend=task.backend or NO_BACKEND))
    checker.check_rules(every_task=not problems)
    return PreflightReport(asks, checker.notices, problems)


class _SharedOptionError(ConfigError):
    """A key that was set for all tasks is invalid: the error is there, not in a task."""


class _Checker:
    def __init__(self, chooser: BackendSelector, plan: Plan) -> None:
        self.chooser = chooser
        self.plan = plan
        self.notices: list[str] = []
        self._manifests: dict[str | None, Manifest] = {}
        self._checked_tasks: dict[Any, Preflight] = {}  # tasks with the same needs share one

    def check_task(self, task: Task) -> Preflight:
        if task.decides is not None:
            return self._check_decision(task)
        if task.continues is not None and self.plan.rules.ephemeral:
            if task.continues == task.repeats:
                raise ConfigError(
                    "an ephemeral run has no session that it could keep from round to round",
                    "leave out ephemeral; or write keep_session: [] in `repeat`",
                )
            raise ConfigError(
                "an ephemeral run has no session to pass on",
                "leave out pass_session, or ephemeral",
            )
        options = (task.backend, tuple((k, repr(v)) for k, v in sorted(task.options.items())))
        key = (options, (*task.droppable.items(),), task.lenient, tuple(sorted(task.env.items())))
        if key not in self._checked_tasks:
            manifest = self._manifest(task.backend)
            if self.plan.rules.ephemeral and manifest.ephemeral is None:
                raise ConfigError(
                    f"{manifest.name} cannot run without saving a session", KEEPS_HINT
                )
            env, secrets = self._resolve_env(task.env)
            self._checked_tasks[key] = Preflight(
                backend=manifest.name,
                env=env,
                secrets=secrets,
                options=self._options(task, manifest),
            )
        return self._checked_tasks[key]

    def _check_decision(self, task: Task) -> Preflight:
        """A task that chooses between candidates needs no backend, unless a judge helps."""
        env, secrets = self._resolve_env(task.env)
        if task.backend is None:
            return Preflight(backend=NO_BACKEND, env=env, secrets=secrets)
        manifest = self._manifest(task.backend)
        options = self._options(task, manifest)
        # It reads untrusted text, and has nothing to change.
        if explain_unsupported(manifest, "sandbox", "read-only") is None:
            options["sandbox"] = "read-only"
        return Preflight(backend=manifest.name, env=env, secrets=secrets, options=options)

    def check_rules(self, *, every_task: bool) -> None:
        """Raise `ConfigError` for a rule that cannot be enforced; unless `every_task` can run, only
        for rules that do not depend on the tasks."""
        rules = self.plan.rules
        compared = {task.backend for task in self.plan.tasks if self.plan.kind == "compare"}
        if twice := [name for name in rules.limits.to if name in compared]:
            raise ConfigError(
                f"on_limit: {twice[0]} is compared itself, so it cannot answer in place of another",
                "use wait or fail, or a backend that is not compared",
            )
        for name, count in rules.max_parallel_per_backend.items():
            if count < 1:
                raise ConfigError(
                    f"max_parallel_per_backend: {name}: {count} is too small", "the minimum is 1"
                )
        check_directories(self.plan)
        if every_task:
            self._check_known_backends(rules)
            self._check_switch(rules)
            self._check_is_reported("cost", rules.budget.cost, "tokens")
            self._check_is_reported("tokens", rules.budget.tokens, "cost")

    def _check_known_backends(self, rules: Rules) -> None:
        for name in rules.max_parallel_per_backend:
            if self.chooser.catalog.find(name) is None:
                known = ", ".join(self.chooser.catalog.names())
                raise ConfigError(
                    f"max_parallel_per_backend: unknown backend {name!r}", f"known: {known}"
                )

    def _check_switch(self, rules: Rules) -> None:
        """Raise `ClinvkError` if a backend that takes over at a limit could not."""
        used = {ask.backend for ask in self._checked_tasks.values()}
        if rules.limits.to and used == {*rules.limits.to}:
            raise ConfigError(
                f"on_limit: {', '.join(sorted(used))} cannot be switched to itself",
                "name another backend",
            )
        for name in rules.limits.to:
            try:
                manifest = self._manifest(name)
                if rules.ephemeral and manifest.ephemeral is None:
                    raise ConfigError(f"{name} cannot run without saving a session", KEEPS_HINT)
            except ClinvkError as error:
                raise type(error)(f"on_limit: {error.message}", error.hint) from error

    def _check_is_reported(self, what: str, cap: float | None, other: str) -> None:
        """Raise `ConfigError` for a cap on what some backend does not report."""
        for manifest in self._manifests.values() if cap is not None else ():
            if not any(figure in rule.set for rule in _rules(manifest) for figure in FIGURES[what]):
                raise ConfigError(
                    f"budget.{what}: {manifest.name} does not report it, so the cap cannot be "
                    "enforced",
                    f"leave {manifest.name} out, or use budget.{other}",
                )

    def _manifest(self, name: str | None) -> Manifest:
        if name not in self._manifests:
            choice = self.chooser.select(name)
            self.notices += choice.notices
            self._manifests[name] = choice.manifest
        return self._manifests[name]

    def _options(self, task: Task, manifest: Manifest) -> dict[str, Any]:
        """The requested options. Options that may be dropped are, if the backend lacks them; others
        are an error here, before anything else runs."""
        kept = {}
        conflict = planning_conflict(task.options)
        if conflict is not None and not _is_overridden(task, conflict):
            raise ConfigError(
                f"planning and {conflict} {spell_value(task.options[conflict])} contradict each other: a "
                "plan changes nothing",
                "leave out one of them",
            )
        for name, value in task.options.items():
            if conflict is not None and name in (*PERMITTING, *REPLACED):
                continue  # it is set for all tasks
            problem = explain_unsupported(manifest, name, value)
            if problem is None:
                kept[name] = value
            elif name not in STRICT and (task.lenient or name in task.droppable):
                flag = FLAGS.get(name)
                typed = flag if flag and task.droppable.get(name) == flag else None
                said = f"{explain_unsupported(manifest, name, value, typed)}; dropped"
                if said not in self.notices:
                    self.notices.append(said)
            else:
                raise self._unsupported_error(problem, manifest, name, task.droppable.get(name))
        self._check_rounds(task, manifest)
        check_arguments(manifest, kept)
        return kept

    def _check_rounds(self, task: Task, manifest: Manifest) -> None:
        """Raise `ConfigError` for rounds of a task whose session cannot be continued."""
        if not task.options.get("rounds"):
            return
        if self.plan.rules.ephemeral:
            raise ConfigError(
                "rounds: an ephemeral run has no session to continue",
                "leave out rounds, or ephemeral",
            )
        if not manifest.resumes:
            raise ConfigError(
                f"rounds: {manifest.name} cannot continue a conversation",
                "leave out rounds, or choose another backend",
            )

    def _unsupported_error(
        self, problem: str, manifest: Manifest, name: str, of_all: str | None
    ) -> ConfigError:
        """The error of an option that the backend lacks; `of_all` is the place where it was set, if
        not in the task."""
        hint = f"see what it supports: clinvk backends show {manifest.name}"
        if not of_all:
            return ConfigError(problem, hint)
        return _SharedOptionError(
            f"{of_all}: {problem}", f"{hint}; a task can override it with {name}: default"
        )

    def _resolve_env(self, written: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
        """The variables with `${NAME}` replaced, and the values that were found, which are never
        stored."""
        env, secrets = {}, []
        for key, value in written.items():
            said = f"{key}={value}"
            if redact(value) != value or redact(said) != said:
                raise ConfigError(
                    f"env.{key}: it looks like a secret, and plans are stored on disk",
                    f"export it, and write {key}: ${{{key}}}",
                )
            for name in VARIABLE.findall(value):
                found = self.chooser.env.get(name)
                if found is None and self.chooser.is_remote:
                    continue
                if found is None:
                    raise ConfigError(
                        f"env.{key}: ${name} is not set", f"set it first: export {name}=…"
                    )
                if len(found) >= MIN_SECRET_LENGTH:
                    secrets.append(found)
            env[key] = (
                value  # looked up there
                if self.chooser.is_remote
                else VARIABLE.sub(lambda m: self.chooser.env[m.group(1)], value)
            )
        return env, tuple(secrets)


def _is_overridden(task: Task, conflict: str) -> bool:
    """Whether this option was set for all tasks, and planning closer to the task."""
    of_all, planning = task.droppable.get(conflict), task.droppable.get("planning")
    if of_all is None or planning is None:
        return of_all is not None
    return planning.startswith("--") and not of_all.startswith("--")


def _rules(manifest: Manifest) -> Iterator[EventRule]:
    pending = list(manifest.events)
    while pending:
        rule = pending.pop()
        pending += rule.events
        yield rule
