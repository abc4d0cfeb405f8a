"""Which candidate of a task was chosen, and by what."""

from __future__ import annotations

import sys

from clinvk.model.candidates.ranking import Ranking
from clinvk.model.outcome import RunResult
from clinvk.terminal import printer as show
from clinvk.terminal.printer import Printer
from clinvk.text.sanitize import one_line


def print_decisions(result: RunResult) -> None:
    """A line for each task that has chosen one of its candidates."""
    found = [(o.name, o.decision) for o in result.results if o.ok and o.decision is not None]
    if found:
        print()
    for name, ranking in found:
        show.print_wrapped(f"{show.shorten(one_line(name), 40)}: {one_line(ranking.summary)}")


def print_ranking(found: Ranking) -> None:
    """The candidates, best first."""
    printer = Printer(sys.stdout, color=show.wants_color(sys.stdout, show.color.get()))
    print()
    show.print_wrapped(one_line(found.summary), f"{printer.paint('Ranking:', show.BOLD)} ")
    for number, candidate in enumerate(found.candidates, 1):
        show.print_wrapped(f"{number}. {one_line(candidate.name)}: {candidate.description}", "  ")
