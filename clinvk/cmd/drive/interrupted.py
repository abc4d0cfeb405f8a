"""Whether interrupted tasks are run again: on a terminal, the user is asked first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.terminal.printer import Printer, shorten

if TYPE_CHECKING:
    from clinvk.cmd.views.run import RunView
    from clinvk.model.outcome import Outcome

MAX_NAMES = 5  # tasks that the question names

RerunIndeterminate = Annotated[
    bool | None,
    typer.Option(
        "--rerun-indeterminate/--no-rerun-indeterminate",
        help="Run interrupted tasks again, or leave them (default: ask on a terminal).",
        show_default=False,
    ),
]


def should_rerun(interrupted: list[Outcome], view: RunView) -> bool:
    """The user's answer on a terminal; without one, False. Raises `KeyboardInterrupt` if there is
    no answer."""
    # Only to resume a run.
    from clinvk.terminal.questions import can_ask, confirm_or_cancel

    names = [outcome.name for outcome in interrupted]
    if not names:
        return False
    if view.format == "text":  # without a terminal, the last line says how to run them again
        return can_ask() and confirm_or_cancel(_question(names))
    count = f"{len(names)} interrupted task{'s' * (len(names) != 1)}"
    Printer.for_errors(view.color).notice(
        f"not running {count} again (add --rerun-indeterminate to do so)"
    )
    return False


def _question(names: list[str]) -> str:
    shown = ", ".join(shorten(name, 40) for name in names[:MAX_NAMES])
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    if len(names) == 1:
        return (
            f"1 task was interrupted, and may have done part of its work: {shown}.\nRun it again?"
        )
    return (
        f"{len(names)} tasks were interrupted, and may have done part of their work: "
        f"{shown}{more}.\nRun them again?"
    )
