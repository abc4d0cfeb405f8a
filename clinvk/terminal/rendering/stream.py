"""An answer in Markdown, rendered while it streams."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence

from clinvk.terminal.rendering.blocks import Block, BlockSplitter
from clinvk.terminal.rendering.layout import render_blocks, text_width
from clinvk.terminal.rendering.lines import Line, without_style
from clinvk.terminal.rendering.screen import LiveText

STEP = 1000  # characters of blocks that are rendered together


class AnswerRenderer:
    """Computes what to write on a terminal for an answer, whose text has no control characters."""

    def __init__(self, get_size: Callable[[], os.terminal_size], *, color: bool) -> None:
        self._get_size = get_size
        self._color = color
        self._screen = LiveText(get_size)
        self._splitter = BlockSplitter()
        self._done: deque[Block] = deque()
        self._is_first = True  # nothing of the answer was shown yet
        self._needs_gap = False  # the next block is a new one of the backend

    def feed(self, text: str) -> None:
        """Take text; `draw` shows it."""
        self._done += self._splitter.feed(text)

    def finish(self) -> None:
        """Take the end of a part of an answer; `end_block` shows it."""
        self._done += self._splitter.finish()
        self._splitter = BlockSplitter()

    @property
    def next_size(self) -> int:
        """The number of characters that `draw_next` renders; 0 if no block is complete."""
        return sum(block.size for block in self._next_blocks())

    @property
    def open_size(self) -> int:
        """The number of characters of the block that is not complete."""
        return self._splitter.open_size

    def draw_next(self) -> str:
        """What to write to show the next complete blocks: a step of `draw`, which takes long if
        there are many."""
        blocks = self._next_blocks()
        for _ in blocks:
            self._done.popleft()
        return self._show(blocks, [])

    def draw(self) -> str:
        """What to write to show all text so far."""
        done = [*self._done]
        self._done.clear()
        return self._show(done, self._splitter.open_blocks())

    def end_block(self) -> str:
        """Finish a part of an answer; text that follows is another part."""
        self.finish()
        done = [*self._done]
        self._done.clear()
        text = self._show(done, [])
        self._needs_gap = not self._is_first
        return text + self._screen.end_line()

    def end_line(self) -> str:
        """Make room for other output; the part continues below."""
        return self._screen.end_line()

    def _next_blocks(self) -> list[Block]:
        blocks: list[Block] = []
        size = 0
        for block in self._done:
            size += block.size
            if blocks and size > STEP:
                break
            blocks.append(block)
        return blocks

    def _show(self, done: Sequence[Block], open_: Sequence[Block]) -> str:
        width = text_width(self._get_size().columns)
        if self._needs_gap and (done or open_):
            (done or open_)[0].has_gap = True
        final = self._render(done, width)
        is_first = self._is_first and not final
        shown = self._render(open_, width, is_first=is_first)
        text = self._screen.update(final, shown)
        if final:
            self._is_first = self._needs_gap = False
        return text

    def _render(
        self, blocks: Sequence[Block], width: int, *, is_first: bool | None = None
    ) -> list[Line]:
        first = self._is_first if is_first is None else is_first
        lines = render_blocks(blocks, width, is_first=first)
        return lines if self._color else [without_style(line) for line in lines]
