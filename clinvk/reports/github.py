"""A run in a step of GitHub Actions: annotations, and a summary of the job."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TextIO

from clinvk.errors import UsageError
from clinvk.model.outcome import Outcome, RunResult, state_label
from clinvk.reports import words
from clinvk.text.sanitize import one_line, sanitize

MAX_ANNOTATIONS = 10  # annotations of a kind that GitHub shows for a step
MAX_CHECK_OUTPUT = 2_000  # characters of the output of a check that failed, the last ones
MAX_SUMMARY_SIZE = 1024 * 1024  # bytes of a step's summary; of a larger one, GitHub shows nothing
SUMMARY_RESERVE = 1024
MIN_SUMMARY_SIZE = 16 * 1024
LEVELS = {
    "failed": "error",
    "indeterminate": "warning",
    "waiting": "warning",
    "skipped": "warning",
}


def publish_to_github(result: RunResult, env: Mapping[str, str], to: TextIO | None = None) -> None:
    """Print annotations, by default to stdout (GitHub also reads stderr), and add the report to the
    job's summary. Raises `UsageError` if that cannot be written."""
    stream = to or sys.stdout
    stream.writelines(f"{line}\n" for line in workflow_commands(result))
    stream.flush()
    if path := env.get("GITHUB_STEP_SUMMARY"):
        _write_summary(Path(path), result)


def workflow_commands(result: RunResult) -> Iterable[str]:
    """Workflow commands: one per task, and one for all that GitHub would not show."""
    for level in ("error", "warning"):
        told = [o for o in result.answers if LEVELS.get(o.state) == level and not o.is_not_needed]
        for outcome in told[:MAX_ANNOTATIONS]:
            yield _command(level, _title(outcome), _message(outcome))
        if left := told[MAX_ANNOTATIONS:]:
            # A notice, since an eleventh annotation of the same kind would not be shown either.
            yield _command("notice", f"{len(left):,} more tasks", _more_note(left, result))


def _more_note(left: list[Outcome], result: RunResult) -> str:
    counts = {state: sum(o.state == state for o in left) for state in LEVELS}
    said = ", ".join(f"{n:,} {state}" for state, n in counts.items() if n)
    where = f"; see them all: clinvk runs show {result.id}{result.where}" if result.id else ""
    return f"not listed here: {said}{where}"


def _title(outcome: Outcome) -> str:
    on = f" on {one_line(outcome.backend)}" if outcome.backend and outcome.attempts else ""
    return f"{words.name(outcome)}: {state_label(outcome)}{on}"


def _message(outcome: Outcome) -> str:
    why = words.failure(outcome)
    output = words.check_output(outcome)[-MAX_CHECK_OUTPUT:]
    return sanitize("\n".join(filter(None, (why.message, why.hint, output))))


def _command(level: str, title: str, message: str) -> str:
    return f"::{level} title={_escape_property(title)}::{_escape_data(message)}"


def _escape_data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape_data(text).replace(":", "%3A").replace(",", "%2C")


def _write_summary(path: Path, result: RunResult) -> None:
    # Only this format needs it.
    from clinvk.reports import markdown

    try:
        taken = path.stat().st_size if path.exists() else 0  # by earlier commands of this step
        if (room := MAX_SUMMARY_SIZE - SUMMARY_RESERVE - taken) < MIN_SUMMARY_SIZE:
            raise UsageError(
                f"this step's summary {path} is full",
                "write the report to a file of its own: --report report.md",
            )
        text = markdown.render(result, room)
        with path.open("ab") as file:
            file.write(f"\n{text}\n".encode("utf-8", "replace"))
    except OSError as error:
        raise UsageError(
            f"cannot write the summary {path}: {error.strerror}",
            "set GITHUB_STEP_SUMMARY to a writable file",
        ) from error
