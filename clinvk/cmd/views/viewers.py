"""Choose the viewer of a turn."""

from __future__ import annotations

import os

from clinvk.cmd.options.reading import OutputOptions
from clinvk.cmd.views.turn import JsonViewer, StreamViewer, TextViewer, TurnViewer
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.terminal.actions import is_on_github
from clinvk.terminal.printer import Printer, wants_rendering


def create_turn_viewer(output: OutputOptions, printer: Printer, plan: TurnPlan) -> TurnViewer:
    """The viewer for the output format and the terminal, if there is one."""
    is_rendered = wants_rendering() and not is_on_github(os.environ) and plan.schema is None
    if output.format == "text" and not output.raw and is_rendered:
        # Only on a terminal, and while the backend boots: 0.1 s.
        from clinvk.cmd.views.rendered import RenderedViewer

        return RenderedViewer(output, printer, plan)
    kinds = {"text": TextViewer, "json": JsonViewer, "stream-json": StreamViewer}
    return kinds[output.format](output, printer, plan)
