"""What is drawn below the text that stays: the lines of an answer that still change, what is queued,
the input line, and the status line."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition, has_completions
from prompt_toolkit.formatted_text import ANSI, StyleAndTextTuples
from prompt_toolkit.layout import (
    BufferControl,
    CompletionsMenu,
    ConditionalContainer,
    Dimension,
    FormattedTextControl,
    HSplit,
    Layout,
    Window,
)
from prompt_toolkit.styles import Style
from prompt_toolkit.widgets import SearchToolbar

from clinvk.repl.screen.backlog import Backlog
from clinvk.repl.screen.paper import TerminalPaper
from clinvk.repl.screen.status import PLAIN, Status, status_pieces
from clinvk.repl.screen.turns import Turns
from clinvk.repl.sitting import Sitting
from clinvk.terminal import printer as show
from clinvk.terminal.printer import StatusLine, safe
from clinvk.text.sanitize import one_line
from clinvk.text.width import clip, truncate

if TYPE_CHECKING:
    from clinvk.repl.screen.turn_view import TurnView

MARK = "› "
FRAME_INTERVAL = 0.12  # seconds between two frames of the line that says what is being done
INPUT_ROWS = 10  # of a long input, which scrolls
KEPT_ROWS = 8  # for the lines below an answer that streams


class ScreenLines:
    """Reads what there is to be drawn at each redraw. `hint` is shown in place of the status line."""

    def __init__(
        self, sitting: Sitting, paper: TerminalPaper, turns: Turns, backlog: Backlog
    ) -> None:
        self.hint = ""
        self._sitting = sitting
        self._paper = paper
        self._turns = turns
        self._backlog = backlog

    def layout(self, buffer: Buffer) -> Layout:
        search = SearchToolbar()
        control = BufferControl(
            buffer,
            search_buffer_control=search.control,
            preview_search=True,
            focus_on_click=False,
        )
        entry = Window(
            control,
            height=lambda: Dimension(min=1, max=max(1, min(INPUT_ROWS, self._paper.rows - 4))),
            dont_extend_height=True,
            wrap_lines=True,
            get_line_prefix=_line_prefix,
        )
        is_idle = Condition(lambda: self._turns.view is None)
        body = HSplit(
            [
                ConditionalContainer(Window(height=1), is_idle),
                _lines(self._open_text, Condition(lambda: self._turns.view is not None)),
                _lines(self._queued_text, Condition(lambda: bool(self._backlog.texts))),
                entry,
                ConditionalContainer(
                    CompletionsMenu(max_height=8, scroll_offset=1), has_completions
                ),
                search,
                Window(FormattedTextControl(self._status_text), height=1, dont_extend_height=True),
            ]
        )
        return Layout(body, focused_element=entry)

    def _open_text(self) -> Any:
        view = self._turns.view
        if view is None:
            return []
        lines = view.answer.open_lines(max(3, self._paper.rows - KEPT_ROWS))
        return ANSI("\n".join([*lines, "", self._working_line(view)]))

    def _working_line(self, view: TurnView) -> str:
        seconds = time.monotonic() - view.began
        frame = StatusLine.FRAMES[int(seconds / FRAME_INTERVAL) % len(StatusLine.FRAMES)]
        stop = "stopping… Ctrl-C kills it" if self._turns.is_stopping else "Ctrl-C stops"
        end = f" · {int(seconds)} s · {stop}"
        what = f"{frame} {self._sitting.conversation.backend}: {one_line(view.doing)}"
        columns = self._paper.columns
        line = truncate(what, max(10, columns - 1 - len(end))) + end
        return self._paper.printer.paint(clip(line, columns - 1), show.DIM)

    def _queued_text(self) -> StyleAndTextTuples:
        columns = self._paper.columns
        lines = [
            truncate(f"queued: {one_line(text[:500])}", columns - 1) for text in self._backlog.texts
        ]
        shown = lines[:3] + ([f"and {len(lines) - 3} more"] if len(lines) > 3 else [])
        return [("class:dim", "\n".join(shown))]

    def _status_text(self) -> StyleAndTextTuples:
        columns = self._paper.columns
        if self.hint:
            return [("class:dim", clip(self.hint, columns - 1))]
        conversation = self._sitting.conversation
        session = conversation.session
        status = Status(
            backend=conversation.backend,
            model=conversation.model,
            session=(session.label or session.id) if session else None,
            directory=conversation.shown_directory,
            tokens=conversation.tokens,
            dollars=conversation.dollars,
            limited_until=conversation.limited_until,
        )
        stream = self._paper.printer.stream
        return [
            ("class:dim" if kind == PLAIN else "class:warning", safe(text, stream))
            for text, kind in status_pieces(status, columns - 1)
        ]


def make_style(*, color: bool) -> Style:
    if not color:
        return Style.from_dict({"completion-menu.completion.current": "reverse"})
    return Style.from_dict(
        {
            "mark": "bold ansicyan",
            "dim": "ansibrightblack",
            "warning": "ansiyellow",
            "completion-menu": "bg:default",
            "completion-menu.completion": "bg:default fg:default",
            "completion-menu.completion.current": "bg:default fg:ansicyan bold noreverse",
            "completion-menu.meta.completion": "bg:default fg:ansibrightblack",
            "completion-menu.meta.completion.current": "bg:default fg:ansibrightblack",
            "scrollbar.background": "bg:default",
            "scrollbar.button": "bg:ansibrightblack",
        }
    )


def _line_prefix(number: int, wrapped: int) -> StyleAndTextTuples:
    return [("class:mark", MARK if number == wrapped == 0 else "  ")]


def _lines(text: Callable[[], Any], condition: Condition) -> ConditionalContainer:
    window = Window(FormattedTextControl(text), dont_extend_height=True, wrap_lines=True)
    return ConditionalContainer(window, condition)
