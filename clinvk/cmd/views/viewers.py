"""Choose the viewer of a turn."""

from __future__ import annotations

from clinvk.cmd.options.reading import OutputOptions
from clinvk.cmd.views.turn import JsonViewer, StreamViewer, TextViewer, TurnViewer
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.terminal.printer import Printer, wants_rendering


def create_turn_viewer(output: OutputOptions, printer: Printer, plan: TurnPlan) -> TurnViewer:
    """The viewer for the output format and the terminal, if there is one."""
    if output.format == "text" and not output.raw and wants_rendering():
        # Only on a terminal, and while the backend boots: 0.1 s.
        from clinvk.cmd.views.rendered import RenderedViewer

        return RenderedViewer(output, printer, plan)
    kinds = {"text": TextViewer, "json": JsonViewer, "stream-json": StreamViewer}
    return kinds[output.format](output, printer, plan)
