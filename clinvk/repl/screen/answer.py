"""The text of a turn as it streams: what is final, to be printed above the input line, and what
still changes. It knows no screen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from clinvk.terminal.rendering.blocks import Block, BlockSplitter
from clinvk.terminal.rendering.layout import render_blocks, text_width
from clinvk.terminal.rendering.lines import Line, without_style
from clinvk.text.sanitize import StreamSanitizer, with_visible_order
from clinvk.text.width import clip

STEP = 1000  # characters of blocks that are rendered together, in some 5 ms
MAX_WAITING = 262_144  # characters that may wait to be rendered; beyond that, the rest is plain
PLAIN_STEP = 8_192  # characters of plain text that are printed together
PLAIN_NOTICE = "the answer arrives faster than it can be rendered; the rest is plain text"

Aside = tuple[str, ...]  # lines that are no part of the answer


class AnswerText:
    """Takes the pieces of an answer and the lines between them, in their order."""

    def __init__(self, columns: Callable[[], int], *, color: bool, plain: bool = False) -> None:
        self._columns = columns
        self._color = color
        self._splitter = BlockSplitter()
        self._sanitizer = StreamSanitizer()
        self._items: deque[Block | Aside | str] = deque()  # blocks, lines, plain text
        self.waiting = 0  # characters of the items
        self.is_plain = plain
        self._tail = ""  # a line of plain text without its end
        self._last = "prompt"  # what was printed last: that, text, or an aside
        self._in_part = False  # there is text that no `end_part` has ended
        self.has_text = False  # some of the answer has come
        self._needs_gap = False  # the next block is the first of another part

    def feed(self, text: str) -> None:
        """Take a piece of the answer."""
        text = with_visible_order(self._sanitizer.feed(text))
        if not text:
            return
        self._in_part = self.has_text = True
        if self.is_plain:
            self._feed_plain(text)
            return
        for block in self._splitter.feed(text):
            self._add(block)
        if self.waiting > MAX_WAITING:
            self._finish_blocks()
            self.is_plain = True
            self.aside(PLAIN_NOTICE)

    def end_part(self) -> None:
        """The piece was the last one of a block; text that follows is another one."""
        rest = with_visible_order(self._sanitizer.finish())
        if self.is_plain:
            self._feed_plain(rest)
            if self._tail:
                self._feed_plain("\n")
        else:
            for block in self._splitter.feed(rest):
                self._add(block)
            self._finish_blocks()
        self._in_part = False

    def aside(self, *lines: str) -> None:
        """Take lines between the pieces, which may have styles."""
        if self._in_part:
            self.end_part()
        if lines:
            self._items.append(lines)

    def take(self) -> str:
        """The next text to print above the input line, with line ends; empty if there is none. A
        call takes a few milliseconds."""
        if not self._items:
            return ""
        first = self._items[0]
        if isinstance(first, tuple):
            self._items.popleft()
            gap = "\n" if self._last != "aside" else ""
            self._last = "aside"
            return gap + "".join(f"{line}\n" for line in first)
        if isinstance(first, str):
            return self._take_plain()
        blocks: list[Block] = []
        size = 0
        while self._items and isinstance(block := self._items[0], Block):
            if blocks and size + block.size > STEP:
                break
            size += block.size
            self._items.popleft()
            blocks.append(block)
        self.waiting -= size
        return self._printed(blocks)

    def open_lines(self, rows: int) -> list[str]:
        """The end of the text that still changes, in at most this many rows."""
        columns = self._columns()
        if self.is_plain:
            return [clip(self._tail, columns - 1)] if self._tail else []
        blocks = self._splitter.open_blocks()
        lines = self._render(blocks)
        if lines and (self._needs_gap or self._last != "text" or blocks[0].has_gap):
            lines.insert(0, Line(""))
        shown: list[str] = []
        for line in reversed(lines):
            rows -= line.rows(columns)
            if rows < 0 and shown:
                break
            shown.insert(0, line.text)
        return shown

    def _add(self, block: Block) -> None:
        block.has_gap = block.has_gap or self._needs_gap
        self._needs_gap = False
        self._items.append(block)
        self.waiting += block.size

    def _finish_blocks(self) -> None:
        for block in self._splitter.finish():
            self._add(block)
        self._splitter = BlockSplitter()
        self._needs_gap = True

    def _feed_plain(self, text: str) -> None:
        whole, newline, self._tail = (self._tail + text).rpartition("\n")
        if newline:
            self._items.append(whole + newline)
            self.waiting += len(whole) + 1

    def _take_plain(self) -> str:
        parts: list[str] = []
        size = 0
        while self._items and isinstance(item := self._items[0], str) and size < PLAIN_STEP:
            self._items.popleft()
            if size + len(item) > PLAIN_STEP and len(item) > 1:
                at = item.rfind("\n", 0, PLAIN_STEP - size) + 1 or PLAIN_STEP - size
                item, rest = item[:at], item[at:]
                if rest:
                    self._items.appendleft(rest)
            parts.append(item)
            size += len(item)
        self.waiting -= size
        gap = "\n" if self._last != "text" else ""
        self._last = "text"
        return gap + "".join(parts)

    def _printed(self, blocks: list[Block]) -> str:
        lines = self._render(blocks)
        if not lines:
            return ""
        if self._last != "text" or blocks[0].has_gap:
            lines.insert(0, Line(""))
        self._last = "text"
        return "".join(f"{line.text}\n" for line in lines)

    def _render(self, blocks: list[Block]) -> list[Line]:
        """The blocks as lines; the first has no empty line before it."""
        lines = render_blocks(blocks, text_width(self._columns()))
        return lines if self._color else [without_style(line) for line in lines]
