"""How a comparison is shown: answers side by side, their cost and time, and the verdict."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from clinvk.cmd.views import decisions, run, summary
from clinvk.model.outcome import MARKS, state_label
from clinvk.plans import comparison, ranking
from clinvk.terminal import printer as show
from clinvk.terminal.printer import Printer
from clinvk.text.sanitize import one_line, sanitize
from clinvk.text.width import pad

if TYPE_CHECKING:
    from clinvk.model.outcome import Outcome, RunResult
    from clinvk.model.plan import Plan
    from clinvk.plans.comparison import Round

MIN_COLUMN_WIDTH = 50  # cells that a column needs to be easy to read


def print_comparison(
    result: RunResult, plan: Plan, view: run.RunView, cluster: str | None = None
) -> None:
    """Print the comparison. `result` includes the outputs; `cluster` is as in `next_step`."""
    printer = Printer(sys.stdout, color=show.wants_color(sys.stdout, show.color.get()))
    if not view.quiet:
        print_answers(comparison.answer_outcomes(result), printer)
    print_table(result)
    print()
    show.print_wrapped(summary.summary_line(result))
    print_verdict(result, quiet=view.quiet)
    print_ranking(result)
    summary.print_next_steps(result, plan, view.color, cluster=cluster)


def print_answers(answers: Sequence[Outcome], printer: Printer) -> None:
    """Print the answers side by side on a terminal that is wide enough, otherwise in sequence."""
    if sys.stdout.isatty():
        from clinvk.terminal import columns  # only on a terminal

        width = columns.column_width(len(answers), shutil.get_terminal_size().columns)
        if width >= MIN_COLUMN_WIDTH:
            heads = [pad(_header(o), width) for o in answers]
            print(
                columns.COLUMN_SEPARATOR.join(
                    printer.paint(head, show.BOLD) for head in heads
                ).rstrip()
            )
            for line in _side_by_side([_answer_text(o) for o in answers], width, printer):
                print(line)
            print()
            return
    for outcome in answers:
        print(printer.paint(f"── {_header(outcome)} ──", show.BOLD))
        show.print_markdown(_answer_text(outcome))
        print()


def _side_by_side(texts: Sequence[str], width: int, printer: Printer) -> Iterable[str]:
    # Only on a terminal.
    from clinvk.terminal import columns

    if not show.wants_rendering() or sum(map(len, texts)) > show.MAX_RENDERED:
        return columns.side_by_side([columns.wrap(text, width) for text in texts], width)
    # As above, and it takes 0.1 s.
    from clinvk.terminal.rendering.layout import render_side_by_side

    return render_side_by_side(texts, width, color=printer.color)


def _header(outcome: Outcome) -> str:
    name, model = one_line(outcome.name), one_line(outcome.model or "")
    note = comparison.note_of_substitute(outcome)
    title = f"{name} · {model}" if model and model not in name else name
    return f"{title} ({note})" if note else title


def _answer_text(outcome: Outcome) -> str:
    """The answer; if the task failed, why, and what had been answered by then."""
    said = sanitize(outcome.output).strip("\n").rstrip()
    if outcome.ok:
        return said or "(an empty answer)"
    why = f": {one_line(outcome.error.message)}" if outcome.error else ""
    mark = MARKS.get(outcome.state, "·")
    return f"{mark} {state_label(outcome)}{why}" + (f"\n\n{said}" if said else "")


def print_table(result: RunResult) -> None:
    """Print the table of all answers."""
    headers = ["BACKEND", "MODEL", *summary.HEADERS[2:]]
    rows = [_row(outcome) for outcome in result.results]
    if not result.has_nodes:
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    left_out = show.print_table(
        headers, rows, right=summary.NUMERIC_COLUMNS,
        shrinks=["MODEL", "BACKEND"], spared=["COST", "TOKENS", "TIME", "MODEL", "NODE", "SESSION"],
        state="STATE",
    )  # fmt: skip
    summary.print_sessions_hint(result, left_out)


def _row(outcome: Outcome) -> list[str]:
    _, _, *rest = summary.outcome_row(outcome)
    return [comparison.label(outcome), outcome.model or "-", *rest]


def print_verdict(result: RunResult, *, quiet: bool = False) -> None:
    """Print the verdict and its reasons, if there was a judge. If it did not settle on an answer,
    its replies follow, unless `quiet`. `result` includes the outputs."""
    found = comparison.find_verdict(result)
    if found is None:
        return
    printer = Printer(sys.stdout, color=show.wants_color(sys.stdout, show.color.get()))
    head = printer.paint(f"Verdict ({one_line(found.judge)}):", show.BOLD)
    print()
    show.print_wrapped(one_line(found.summary), f"{head} ")
    if any(said.decided or said.why != found.summary for said in found.rounds):
        for said in found.rounds:
            show.print_wrapped(_describe_round(said), "  ")
    if found.agreed or quiet:
        return
    for said in found.rounds:
        if said.output.strip():
            order = ", ".join(map(one_line, said.order))
            head = f"── {one_line(found.judge)}, shown {order} ──"
            print(f"\n{printer.paint(head, show.BOLD)}")
            show.print_markdown(said.output)


def print_ranking(result: RunResult) -> None:
    """Print which candidate is best, and by what, if they worked in worktrees. `result` includes the
    outputs and the scores."""
    found = ranking.rank(result)
    if found is None:
        return
    decisions.print_ranking(found)


def _describe_round(said: Round) -> str:
    order = ", ".join(map(one_line, said.order))
    why = one_line(said.why)
    if said.decided:
        return f"{order}: {one_line(said.best or 'a tie')}" + (f" - {why}" if why else "")
    return f"{order}: {why or 'no verdict'}"
