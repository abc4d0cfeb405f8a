"""Cut streamed Markdown into blocks, each as soon as its end is known.

Each block is rendered on its own, so that the cost of a long answer is linear, however it arrives,
and only the last block on the screen changes. A list is cut into items, and long code into chunks
of lines."""

from __future__ import annotations

import re

from msgspec import Struct
from msgspec.structs import replace

MAX_TEXT = 8_000  # characters of a block; a longer one is cut at the end of a line
MAX_TABLE = 64_000  # the same for a table, which is shown only when it is complete
SHOWN_CODE = 2_000  # characters of a line of code that are shown before it has ended
CODE_LINES = 40  # lines of code in a chunk; the same number before it is its context

_FENCE = re.compile(r"( {0,3})(`{3,}|~{3,})(.*)")
_INNER_FENCE = re.compile(r"\s*(`{3,}|~{3,})(.*)")
_HEADING = re.compile(r" {0,3}#{1,6}(?:\s|$)")
_RULE = re.compile(r" {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-+)\s*$")
_QUOTE = re.compile(r" {0,3}>")
_ITEM = re.compile(r" ?(?:[-*+]|(\d{1,9})([.)]))(\s+|$)")
_UNDECIDED = re.compile(r"\s*(?:[-=#*_>+]+|\d{1,9}[.)])\s*$")
_DELIMITER_ROW = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$")


class Block(Struct, kw_only=True):
    """A part of an answer that is rendered on its own."""

    kind: str  # text, heading, item, indented, table or code
    lines: list[str]
    has_gap: bool = False  # preceded by an empty line
    number: int | None = None  # of an item of a numbered list, counted from its first one
    delimiter: str = ""  # of a list: "." or ")", or empty for bullets
    language: str = ""  # of code
    context: tuple[str, ...] = ()  # code just before it in the same block
    indent: int = 0  # spaces before the fence of code, which its lines may have too
    is_open: bool = False  # more of it may follow

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def size(self) -> int:
        return sum(map(len, self.lines)) + len(self.lines)


class BlockSplitter:
    """Takes text, and returns the blocks that it completes."""

    def __init__(self) -> None:
        self._partial = ""  # a line without its end
        self._more: list[str] = []  # what follows in it, if it is a long line of code
        self._block: Block | None = None
        self._size = 0
        self._blank = False  # an empty line has come since the last line with text
        self._fence = ""  # the fence that closes the code, at the top level or in an item
        self._last: Block | None = None
        self._done: list[Block] = []

    def feed(self, text: str) -> list[Block]:
        if self._fence and len(self._partial) > SHOWN_CODE and "\n" not in text:
            self._more.append(text)  # to look at all of the line again would take long
            return self._take()
        *lines, partial = "".join([self._partial, *self._more, text]).split("\n")
        self._more = []
        for line in lines:
            self._add_line(self._cut(line))
        self._partial = self._cut(partial)
        return self._take()

    def _cut(self, line: str) -> str:
        """The end of a line that is too long for a block; what is before it is in blocks."""
        at = 0
        while len(line) - at > MAX_TEXT and not self._fence:
            end = line.rfind(" ", at + 1, at + MAX_TEXT)
            end = end if end > at else at + MAX_TEXT
            self._add_line(line[at:end])
            self._complete()
            at = end
            while line.startswith(" ", at):
                at += 1
        return line[at:]

    def finish(self) -> list[Block]:
        """The rest, after all text has been fed."""
        if line := "".join([self._partial, *self._more]):
            self._add_line(line)
            self._partial, self._more = "", []
        self._complete()
        self._fence, self._blank = "", False
        return self._take()

    def open_blocks(self) -> list[Block]:
        """The incomplete blocks, as far as they can be shown already. There are two if an
        incomplete line seems to start another one."""
        preview = self._copy()
        if partial := self._visible_part():
            preview._add_line(partial)  # noqa: SLF001 - of the same class
        blocks = [*preview._take(), *([preview._block] if preview._block else [])]  # noqa: SLF001
        if blocks:
            blocks[-1].is_open = not preview._fence  # noqa: SLF001 - code has no marks to close
            if _may_be_table(blocks[-1]):
                blocks.pop()
        return blocks

    @property
    def open_size(self) -> int:
        return (self._block.size if self._block else 0) + len(self._partial)

    def _visible_part(self) -> str:
        """The incomplete line, unless its meaning depends on what follows. Of a long line
        of code, only the beginning: it would be rendered again for each piece that comes."""
        partial = self._partial[:SHOWN_CODE] if self._fence else self._partial
        bare = partial.strip()
        if self._fence:
            return "" if bare and not bare.strip(self._fence[0]) else partial
        held = not bare.strip("`~") or _INNER_FENCE.match(partial) or _UNDECIDED.match(partial)
        return "" if held else partial

    def _copy(self) -> BlockSplitter:
        copy = BlockSplitter()
        block = self._block
        copy._block = block and replace(block, lines=[*block.lines])
        copy._size, copy._blank = self._size, self._blank
        copy._fence, copy._last = self._fence, self._last
        return copy

    def _take(self) -> list[Block]:
        done, self._done = self._done, []
        return done

    def _add_line(self, line: str) -> None:
        if self._fence:
            self._add_code(line)
        elif not line.strip():
            self._add_blank_line()
        elif self._block is None or not self._continues(line):
            self._complete()
            self._begin(line)
        else:
            self._append(line)

    def _add_blank_line(self) -> None:
        self._blank = True
        if self._block is not None and self._block.kind not in ("item", "indented"):
            self._complete()

    def _continues(self, line: str) -> bool:
        """Whether the line belongs to the current block."""
        block = self._block
        assert block is not None  # noqa: S101 - asked only then
        indent = _indent_of(line)
        if block.kind == "item":
            return indent >= 2 or not (self._blank or _interrupts(line, is_item=True))
        if block.kind == "indented":
            return indent >= 4
        return not _interrupts(line) or bool(_UNDERLINE.match(line) and not _QUOTE.match(block.lines[-1]))  # fmt: skip

    def _begin(self, line: str) -> None:
        gap = self._blank and self._last is not None
        self._blank = False
        if fence := _FENCE.match(line):
            indent, marks, info = fence.groups()
            if not (marks[0] == "`" and "`" in info):
                language = info.split()[0] if info.split() else ""
                self._fence = marks
                self._block = Block(
                    kind="code", lines=[], has_gap=True, language=language, indent=len(indent)
                )
                self._size = 0
                return
        item = _ITEM.match(line)
        if item and not _RULE.match(line):
            number, delimiter, _ = item.groups()
            self._block = Block(kind="item", lines=[line], has_gap=gap, delimiter=delimiter or "")
            if number is not None:
                self._block.number = self._number(int(number), delimiter)
        elif _HEADING.match(line):
            self._block = Block(kind="heading", lines=[line], has_gap=True)
            self._complete()
            return
        elif _indent_of(line) >= 4:
            self._block = Block(kind="indented", lines=[line], has_gap=gap)
        else:
            after_heading = self._last is not None and self._last.kind in ("heading", "code")
            self._block = Block(kind="text", lines=[line], has_gap=gap or after_heading)
            if _RULE.match(line):
                self._complete()
                return
        self._size = len(line)
        self._watch_fence(line)

    def _number(self, number: int, delimiter: str) -> int:
        """Number items as Markdown does: from the number of the first one."""
        last = self._last
        if last is not None and last.kind == "item" and last.delimiter == delimiter:
            return (last.number or 0) + 1
        return number

    def _append(self, line: str) -> None:
        block = self._block
        assert block is not None  # noqa: S101 - asked only then
        if self._blank:
            block.lines.append("")
            self._blank = False
        block.lines.append(line)
        self._size += len(line) + 1
        is_header = block.kind == "text" and len(block.lines) == 2 and "|" in block.lines[0]
        if is_header and _DELIMITER_ROW.match(line):
            block.kind = "table"
        if block.kind == "text" and _UNDERLINE.match(line):
            self._complete()
            return
        self._watch_fence(line)
        if self._size > (MAX_TABLE if block.kind == "table" else MAX_TEXT):
            self._complete()

    def _watch_fence(self, line: str) -> None:
        """Code inside an item: its lines are not Markdown."""
        if self._block is not None and self._block.kind == "item":
            item = _ITEM.match(line)
            found = _INNER_FENCE.match(line[item.end() :] if item else line)
            if found and not (found.group(1)[0] == "`" and "`" in found.group(2)):
                self._fence = found.group(1)

    def _add_code(self, line: str) -> None:
        block = self._block
        if block is None:  # it was cut
            block = self._block = Block(kind="text", lines=[])
        found = _INNER_FENCE.match(line)
        closes = (
            found is not None
            and found.group(1).startswith(self._fence)
            and not found.group(2).strip()
        )
        if block.kind == "code":
            if closes:
                self._fence = ""
                self._complete()
                return
            block.lines.append(_dedent(line, block.indent))
            self._size += len(line)
            if len(block.lines) >= CODE_LINES or self._size > MAX_TEXT:
                self._continue_code(block)
            return
        if line.strip() and _indent_of(line) < 2 and not closes:  # the item has ended
            self._fence = ""
            self._complete()
            self._begin(line)
            return
        block.lines.append(line)
        self._size += len(line) + 1
        if closes:
            self._fence = ""
        elif self._size > MAX_TEXT:  # the rest of it is code of its own
            self._complete()
            self._block = Block(kind="code", lines=[], context=("",), indent=_indent_of(line))

    def _continue_code(self, block: Block) -> None:
        self._complete()
        self._block = Block(
            kind="code", lines=[], language=block.language, indent=block.indent,
            context=(*block.context, *block.lines)[-CODE_LINES:],
        )  # fmt: skip

    def _complete(self) -> None:
        block, self._block = self._block, None
        self._size = 0
        if block is not None and (block.lines or block.kind == "code"):
            self._last = block
            self._done.append(block)


def _interrupts(line: str, *, is_item: bool = False) -> bool:
    """Whether a paragraph ends before this line."""
    if _HEADING.match(line) or _RULE.match(line) or _FENCE.match(line):
        return True
    if _QUOTE.match(line) and is_item:
        return True
    item = _ITEM.match(line)
    if item is None:
        return False
    return is_item or (bool(item.group(3)) and item.group(1) in (None, "1"))


def _may_be_table(block: Block) -> bool:
    """Whether the block has to be complete to be shown: the width of a table's columns depends on
    all of its rows."""
    if block.kind == "table":
        return True
    return block.kind == "text" and len(block.lines) == 1 and block.lines[0].lstrip()[:1] == "|"


def _indent_of(line: str) -> int:
    line = line.expandtabs(4)
    return len(line) - len(line.lstrip(" "))


def _dedent(line: str, indent: int) -> str:
    """The line without up to `indent` leading spaces."""
    return line[min(indent, len(line) - len(line.lstrip(" "))) :]
