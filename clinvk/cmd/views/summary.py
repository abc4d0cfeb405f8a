"""The result of a run of many tasks as text: the answers, a table, how to continue."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clinvk.model import figures
from clinvk.model.outcome import MARKS, Outcome, RunResult, state_label
from clinvk.model.result import EXIT_CODES
from clinvk.terminal import printer as show
from clinvk.terminal.printer import Printer
from clinvk.text.sanitize import one_line
from clinvk.text.width import truncate

if TYPE_CHECKING:
    from clinvk.model.plan import Plan

HEADERS = ["TASK", "BACKEND", "STATE", "TIME", "TOKENS", "COST", "SESSION", "NODE"]
NUMERIC_COLUMNS = ("TIME", "TOKENS", "COST")
# The first to go on a narrow terminal. The session is needed to continue with an answer.
DROPPED_FIRST = ("COST", "TOKENS", "BACKEND", "TIME", "NODE", "SESSION")
MAX_ROWS = 60  # rows on a terminal
MIN_NAME_WIDTH = 10  # cells of a task's name above its answer
MAX_TASKS_NAMED = 5  # tasks that one reason names
MAX_REASON_LENGTH = 400  # characters of it


@contextmanager
def without_workflow_commands() -> Iterator[None]:
    """Keep GitHub Actions from obeying commands such as `::add-mask::…` in the answers that are
    printed inside."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        yield
        return
    word = os.urandom(16).hex()
    print(f"::stop-commands::{word}")
    try:
        yield
    finally:
        print(f"::{word}::")


def print_answer(outcome: Outcome) -> None:
    if not outcome.output.strip():
        return
    printer = show.for_output()
    part = "" if outcome.ok else f" · {_describe_partial(outcome.state)}"
    print(printer.paint(_heading(one_line(outcome.name), f" · {outcome.backend}{part}"), show.BOLD))
    show.print_markdown(outcome.output)
    print()


def _heading(name: str, rest: str) -> str:
    """A line above an answer; on a terminal, one line, whatever the name."""
    if sys.stdout.isatty():
        name = truncate(name, max(MIN_NAME_WIDTH, show.terminal_width() - len(rest) - 6))
    return f"── {name}{rest} ──"


def _describe_partial(state: str) -> str:
    return "interrupted, incomplete" if state in ("cancelled", "indeterminate") else state


def print_summary(
    result: RunResult,
    new: set[int] | None = None,
    waiting: Mapping[int, str] | None = None,
) -> None:
    """Print a table, the reasons for what did not succeed, and a line of totals. With `new`, tasks
    that were done before are only counted. `waiting` says why tasks wait for a worker."""
    known = [o for o in result.results if new is not None and o.ok and o.index not in new]
    if len(known) == len(result.results):
        show.print_wrapped(summary_line(result))
        return
    listed, before = result.listed, {o.index for o in known}
    is_full = len(listed) > MAX_ROWS and sys.stdout.isatty()
    shown = [o for o in listed if o.index not in before and not (is_full and _is_minor(o))]
    rows = [outcome_row(outcome) for outcome in shown]
    said = [i for i in range(len(HEADERS)) if i < 4 or any(r[i] not in ("-", "") for r in rows)]
    left_out = show.print_table(
        [HEADERS[i] for i in said], [[r[i] for i in said] for r in rows],
        right=NUMERIC_COLUMNS, shrinks=["TASK"], spared=DROPPED_FIRST, state="STATE",
    )  # fmt: skip
    print_sessions_hint(result, left_out)
    if hidden := len(listed) - len(shown) - len(known):
        show.print_wrapped(f"… and {hidden} more, done or not started; see all with --json")
    if known:
        show.print_wrapped(
            f"… and {len(known)} done before; see all with: clinvk runs show {result.id}{result.where}"
        )
    _print_reasons(result, waiting or {})
    if any(outcome.decision for outcome in result.results):
        # Only for tasks with candidates.
        from clinvk.cmd.views import decisions

        decisions.print_decisions(result)
    print()
    show.print_wrapped(summary_line(result))


def print_sessions_hint(result: RunResult, left_out: set[str]) -> None:
    """How to see the session of a task, if the table had no room for it."""
    if "SESSION" in left_out and result.id:
        show.print_wrapped(f"sessions: clinvk runs show {result.id} TASK{result.where}")


def _is_minor(outcome: Outcome) -> bool:
    """Whether the task can be left out on a screen too small for all of them."""
    return outcome.is_settled or (outcome.error is not None and outcome.error.kind == "not_started")


def _print_reasons(result: RunResult, waiting: Mapping[int, str]) -> None:
    """Each reason once, with the tasks it applies to."""
    met: dict[tuple[str, str], list[str]] = {}
    for outcome in result.listed:
        if not outcome.ok and outcome.error is not None:
            why = one_line(outcome.error.message)
            if outcome.state == "queued" and outcome.error.retry_at is not None:
                until = outcome.error.retry_at.astimezone().strftime("%H:%M:%S")
                why = f"waiting for a rate limit until {until}: {why}"
            met.setdefault((outcome.state, why), []).append(show.shorten(outcome.name, 40))
        elif outcome.index in waiting:
            why = f"waiting: {one_line(waiting[outcome.index])}"
            met.setdefault(("queued", why), []).append(show.shorten(outcome.name, 40))
    if met:
        print()
    for (state, why), names in met.items():
        more = f" and {len(names) - MAX_TASKS_NAMED} more" if len(names) > MAX_TASKS_NAMED else ""
        mark = MARKS["waiting" if state == "queued" else state]
        shown = ", ".join(names[:MAX_TASKS_NAMED])
        show.print_wrapped(f"{mark} {shown}{more}: {show.shorten(why, MAX_REASON_LENGTH)}")


def outcome_row(outcome: Outcome) -> list[str]:
    tries = f" ({outcome.attempts} attempts)" if outcome.attempts > 1 else ""
    return [
        one_line(outcome.name),
        outcome.backend or "-",
        state_label(outcome) + tries,
        figures.time_taken(outcome, "-"),
        figures.tokens(outcome, "-"),
        figures.cost(outcome, "-"),
        outcome.session_id or "-" if outcome.attempts else "-",
        one_line(outcome.node or "-"),
    ]


def summary_line(result: RunResult) -> str:
    """`40 tasks: 38 done, 2 failed · 3m 20s · 120,400 tokens · $1.2300 · run r12ab34`"""
    return figures.summary(result) + (f" · run {result.id}" if result.id else "")


def next_step(
    result: RunResult, plan: Plan, checkpoint: str | None = None, cluster: str | None = None
) -> str | None:
    """How to continue, if the run has not done all of its tasks. `cluster` are the flags that name the
    cluster whose workers run them; None: they run on this machine."""
    if result.id is None:
        return None
    flags = cluster or ""
    resume = f"clinvk runs resume {result.id}{flags}"
    if checkpoint is not None:
        resume = f"clinvk chain --resume {checkpoint}{flags}"
    states = result.counts
    limited = states.get("waiting") or result.exit_code == EXIT_CODES["limit"]
    cut_off = [o for o in result.results if _is_interrupted(o)]
    running = sum(o.state == "indeterminate" and o.ended_at is None for o in cut_off)
    if running and cluster is not None and result.state == "interrupted":
        which = f"{running} tasks" if running > 1 else "1 task"
        return f"{which} may still run on the workers; get the results, and run the rest, with: {resume}"
    unsure = sum(not plan.tasks[o.index].idempotent for o in cut_off)
    again = len(cut_off) > unsure
    # A task that chooses between candidates is run again with them.
    unstarted = any(
        o.state == "cancelled" and o not in cut_off and plan.tasks[o.index].decides is None
        for o in result.results
    )
    if limited or again or unstarted:
        return f"resume with: {resume}{_budget_hint(result)}{_repeat_hint(unsure, again=again)}"
    if unsure:
        who, whose, them = (
            (f"{unsure} tasks were", "their", "them") if unsure > 1 else ("1 task was", "its", "it")
        )
        return (
            f"{who} interrupted and may have done part of {whose} work; run {them} again with: "
            f"{resume} --rerun-indeterminate"
        )
    if states.get("failed") and checkpoint is not None:
        return f"fix the cause, then continue with: {resume}"
    if states.get("failed"):
        return f"retry what failed with: clinvk runs retry {result.id}{flags}"
    return None


def _is_interrupted(outcome: Outcome) -> bool:
    """Whether how far it got is unknown."""
    if outcome.state == "cancelled":
        return outcome.error is not None and outcome.error.kind != "not_started"
    return outcome.state == "indeterminate"


def _repeat_hint(unsure: int, *, again: bool) -> str:
    """How to repeat the interrupted tasks that are not repeated anyway; `again` if some are."""
    if not unsure:
        return ""
    tasks = f"the {unsure} interrupted tasks" if unsure > 1 else "the interrupted task"
    which = f" that {'are' if unsure > 1 else 'is'} not idempotent" if again else ""
    return f" (add --rerun-indeterminate to repeat {tasks}{which})"


def _budget_hint(result: RunResult) -> str:
    """What a run whose budget is spent needs to continue."""
    spent = result.why is not None and "budget is spent" in result.why
    return " with a higher --budget-tokens or --budget-cost" if spent else ""


def print_next_steps(
    result: RunResult,
    plan: Plan,
    color: str,
    checkpoint: str | None = None,
    cluster: str | None = None,
) -> None:
    """Why it ended early, and how to continue; on stderr."""
    printer = Printer.for_errors(color)
    if result.why and result.state != "cancelled":
        printer.error(result.why)
    if hint := next_step(result, plan, checkpoint, cluster):
        printer.notice(hint)
