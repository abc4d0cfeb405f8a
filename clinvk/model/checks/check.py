"""What a check of a turn's work found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from clinvk.model.conversion import convert
from clinvk.text.values import nul_problem, text_problem

# `could_not_run`: its command does not exist or cannot be executed. `unchanged`: it passed, but the
# turns changed no file. `none`: there was no command; only protected files were looked at.
CHECK_STATES = ("passed", "failed", "could_not_run", "unchanged", "none")
NOT_RUN_CODES = (126, 127)  # of a shell: not executable, not found
OUTPUT_KEPT = 16 * 1024  # bytes of a check's output in its result, the last ones


class CheckResult(Struct, frozen=True, kw_only=True):
    """The last check of a turn's work. `message` says why it is not `passed`."""

    state: str
    command: str | None = None  # the one that failed, otherwise all of them
    exit_code: int | None = None  # None if it was ended, or could not be started
    seconds: float = 0.0
    output: str = ""  # the end of it
    message: str | None = None
    protected: tuple[str, ...] = ()  # protected files that were changed, and how
    rounds: int = 0  # further turns that were needed, or tried
    stopped: str | None = None  # why no further one was tried

    @property
    def ok(self) -> bool:
        return self.state in ("passed", "unchanged", "none")

    def to_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "command": self.command,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 3),
            "output": self.output,
            "message": self.message,
            "protected": list(self.protected),
            "rounds": self.rounds,
            "stopped": self.stopped,
        }


def check_from_json(data: Any) -> CheckResult | None:
    """The check that `to_json` wrote; None for None. Raises `ValueError`."""
    return convert(data, CheckResult) if isinstance(data, Mapping) else None


def describe_check(check: CheckResult) -> str:
    """One line: `check passed: make test (1.2 s)`."""
    took = f" ({check.seconds:.1f} s)" if check.command else ""
    what = f": {check.command}" if check.command else ""
    match check.state:
        case "passed":
            return f"check passed{what}{took}"
        case "unchanged":
            return f"check passed, but no file was changed{what}{took}"
        case "none":
            return "no protected file was changed"
    return f"{check.message or 'check failed'}{took}"


def check_problem(name: str, value: Any) -> str | None:
    """Why this cannot be the value of the option `check` or `protect`; None if it can."""
    if not isinstance(value, (str, list, tuple)):
        return f"{value!r} is not text"
    commands: tuple[Any, ...] = commands_of(value)
    if name == "check" and not commands:
        return "it is empty"
    for text in commands:
        if not isinstance(text, str):
            return f"{text!r} is not text"
        problem = text_problem(text) if name == "check" else _glob_problem(text)
        if problem is None and not text.strip():
            problem = "it is empty"
        if problem:
            return f"{text[:40]!r}: {problem}"
    return None


def _glob_problem(pattern: str) -> str | None:
    if not pattern.strip() or pattern.strip("/") in ("", "."):
        return "it is empty"
    if pattern.startswith(("/", "~")):
        return "it is not relative to the directory of the task"
    if ".." in pattern.split("/"):
        return "it leads out of the directory of the task"
    return nul_problem(pattern)


def commands_of(check: str | Iterable[str] | None) -> tuple[str, ...]:
    """The commands of an option `check`: one, or several in order."""
    if check is None:
        return ()
    return (check,) if isinstance(check, str) else tuple(check)
