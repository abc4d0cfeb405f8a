"""The wording of states, changes of tasks, and failures."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from clinvk.model.events import Denied, Round
from clinvk.model.result import Result, WorktreeResult, describe_failure
from clinvk.terminal.printer import Printer
from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    from clinvk.dispatch.turn_plan import TurnPlan
    from clinvk.model.progress import Change

ALLOW_HINT = (
    "allow edits with --approval auto, one tool with --allowed-tools, or everything with "
    "--approval none"
)


def describe_change(change: Change) -> str | None:
    """A line for a change of a task that is worth reporting; otherwise empty."""
    o = change.outcome
    if change.kind == "retry" and o and change.until:
        why = o.error.message if o.error else ""
        return f"{one_line(o.name)}: {one_line(why)[:120]}; retrying at {format_time(change.until, '%H:%M:%S')}"
    if change.kind == "limit" and o and change.until:
        then = (
            change.instead
            or f"no tasks will start on it until {format_time(change.until, '%H:%M:%S')}"
        )
        return f"{o.backend}: rate limit reached; {then}"
    if change.kind == "notice" and o:
        return f"{one_line(o.name)}: {one_line(change.message)}"
    if change.kind == "event" and o and change.event and change.event.type == "notice":
        return f"{one_line(o.name)}: {one_line(getattr(change.event, 'message', ''))[:200]}"
    if change.kind == "event" and o and isinstance(change.event, Round):
        return f"{one_line(o.name)}: {one_line(describe_round(change.event))[:200]}"
    return None


def describe_round(event: Round) -> str:
    """Why a further turn begins, and which one."""
    said = f"round {event.round} of at most {event.rounds}"
    return f"{event.message}; {said}" if event.message else said


def denial_hint(event: Denied, plan: TurnPlan) -> str | None:
    """Why a tool was denied, or how to allow it, unless the failure at the end says so."""
    if event.hint and not plan.request.fail_on_denied:
        return event.hint
    if "approval" in plan.settings or plan.request.fail_on_denied:
        return event.reason
    return ALLOW_HINT


def describe_changes(found: WorktreeResult, *, ok: bool = True) -> str:
    """What has changed in a worktree, and what can be done about it. A task that has failed has to be
    named to be applied; without `ok`, it has, and before a further turn it may have."""
    if not found.is_changed:
        return f"no file was changed in the worktree {found.path}"
    files = f"{found.files} file{'s' * (found.files != 1)} changed"
    counts = f"+{found.insertions:,} -{found.deletions:,}"
    run = found.run
    task = "" if ok and found.ref.endswith("/1") else f" {found.slug}"
    return (
        f"{files} ({counts}) in a worktree; see what: clinvk runs diff {run}; "
        f"apply it here: clinvk runs apply {run}{task}; drop it: clinvk runs drop {run}"
    )


def print_failure(result: Result, printer: Printer, *, resumes: bool = True) -> None:
    """Print the failure in a sentence, and how to continue; with `resumes`, the command for it."""
    error = result.error
    assert error is not None  # noqa: S101 - asked only then
    hint = error.hint
    if error.retry_at is not None:
        when = error.retry_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        hint = f"the rate limit ends at {when}" + (f"; {hint}" if hint else "")
    if (
        resumes
        and error.kind in ("timeout", "cancelled", "incomplete")
        and result.session_id
        and result.native_id
    ):
        go_on = f'resume with: clinvk resume {result.session_id} "..."'
        hint = f"{hint}; {go_on}" if hint else go_on
    printer.error(describe_failure(result.backend, error.message), hint)


def format_time(moment: datetime | None, form: str = "%H:%M") -> str:
    """A time of day here; of another day, with its date."""
    if moment is None:
        return "?"
    local = moment.astimezone()
    is_today = local.date() == datetime.now().astimezone().date()
    return local.strftime(form if is_today else "%d %b %H:%M")
