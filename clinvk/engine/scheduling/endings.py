"""How a task stands after an attempt, or without one: each function returns its new outcome."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.structs import replace

from clinvk.engine.scheduling.backoff import Pause
from clinvk.model.outcome import Outcome, add_usage
from clinvk.model.result import Failure, Result

# Why a task that depends on one in this state is skipped.
_UNMET = {
    "failed": "failed",
    "skipped": "was skipped",
    "cancelled": "was cancelled",
    "indeterminate": "was interrupted",
}


def with_result(before: Outcome, result: Result, *, ephemeral: bool) -> Outcome:
    """After an attempt with this result. `ephemeral`: the session of a turn is not stored."""
    session_id = None if ephemeral else result.session_id or before.session_id
    outcome = replace(
        add_usage(before, result.usage, result.cost),
        state="done" if result.ok else "failed",
        model=result.model,
        session_id=session_id,
        output=result.text,
        structured=result.structured,
        error=result.error,
        check=result.check,
        seconds=result.seconds,
        exit_code=result.exit_code,
        ended_at=datetime.now(UTC),
        worktree=result.worktree or before.worktree,
    )
    if result.decision is None:
        return outcome
    return replace(
        outcome, decision=result.decision, backend=result.backend or None,
        session_id=result.session_id, worktree=result.worktree,
    )  # fmt: skip


def failed(before: Outcome, result: Result) -> Outcome:
    """After an attempt that an unexpected exception has ended."""
    return replace(
        before, state="failed", error=result.error, exit_code=result.exit_code,
        ended_at=datetime.now(UTC),
    )  # fmt: skip


def cancelled(before: Outcome, reason: str) -> Outcome:
    """After an attempt that was cancelled."""
    failure = Failure("cancelled", reason)
    return replace(
        before, state="cancelled", error=failure, exit_code=7, ended_at=datetime.now(UTC)
    )


def skipped(before: Outcome, need: Outcome) -> Outcome:
    """Not run, since what it needs has not succeeded."""
    why = _UNMET.get(need.state, "did not succeed")
    failure = Failure("skipped", f"skipped: depends on {need.name!r}, which {why}")
    return replace(before, state="skipped", error=failure, ended_at=datetime.now(UTC))


def not_started(before: Outcome, end_reason: str | None) -> Outcome:
    """Not run, since the run has stopped."""
    said = f"not started: {end_reason}"
    if before.error is not None:
        said = f"not retried: {end_reason}; it had failed: {before.error.message}"
    return replace(before, state="cancelled", error=Failure("not_started", said))


def waiting(before: Outcome, backend: str, pause: Pause | None) -> Outcome:
    """Not run, since its backend is at a rate limit that is not waited for; without `pause`, that of
    a task that it needs is."""
    what = f"{backend} is waiting" if pause else "a task that it needs is waiting"
    ends_at = pause.ends_at if pause else None
    failure = Failure("limit", f"{what} for a rate limit to end", None, ends_at)
    return replace(before, state="waiting", error=failure)
