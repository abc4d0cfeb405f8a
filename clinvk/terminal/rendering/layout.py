"""Markdown as lines of a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import zip_longest

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode as Node

from clinvk.terminal.columns import COLUMN_SEPARATOR
from clinvk.terminal.rendering.blocks import Block, BlockSplitter
from clinvk.terminal.rendering.lines import (
    Line,
    Span,
    clean,
    prefixed,
    split_line,
    to_line,
    without_style,
    wrap,
)
from clinvk.terminal.rendering.table import lay_out_table

WIDEST = 120  # columns of text; longer lines are hard to read
NARROWEST = 20
BULLETS = "•◦▪"
CODE_INDENT = 2
# More brackets than this in a text, and so close together, are no links. To look for them there
# would take the parser long.
MAX_BRACKETS = 500
SHORTEST_LINK = 8  # characters
DIM, BOLD, ITALIC, UNDERLINED, STRUCK = "2", "1", "3", "4", "9"
CODE, HEADING, MARK = "36", "1;35", "35"
# A marker of emphasis or code whose meaning depends on the next character.
_OPEN_MARKS = re.compile(r"(?:(?<![*_`~\[])[*_`~\[]+|\]|&#?\w*)$")
_OPEN_BOX = re.compile(r"^(\s*(?:[-*+]|\d{1,9}[.)])\s+)\[[ xX]?\]?\s*$")
_OPEN_LINK = re.compile(r"(?<![\w\]])!?\[([^\[\]]*)(?:\]\([^)\s]*)?$")
_CODE_MARKS = re.compile(r"(?<![\\`])`+(?!`)")
_STRONG_MARKS = re.compile(r"(?<![\\\s])(?:\*\*|~~)|(?<!\\)(?:\*\*|~~)(?=\S)")
_TASK = re.compile(r"\[([ xX])\]\s+")


def text_width(columns: int) -> int:
    """The width of text on a terminal with `columns` columns; the last one stays free."""
    return max(NARROWEST, min(WIDEST, columns - 1))


def render_text(text: str, width: int) -> list[Line]:
    """A whole text as lines of at most `width` cells."""
    splitter = BlockSplitter()
    blocks = [*splitter.feed(text), *splitter.finish()]
    return render_blocks(blocks, width)


def render_side_by_side(texts: Sequence[str], width: int, *, color: bool) -> Iterator[str]:
    """Lines that show the texts side by side, in columns of `width` cells."""
    blocks = [
        [part for line in render_text(text, width) for part in split_line(line, width)]
        for text in texts
    ]
    for row in zip_longest(*blocks, fillvalue=Line("")):
        cells = [line if color else without_style(line) for line in row]
        padded = [line.text + " " * (width - line.width) for line in cells]
        yield COLUMN_SEPARATOR.join(padded).rstrip()


def render_blocks(blocks: Sequence[Block], width: int, *, is_first: bool = True) -> list[Line]:
    """The blocks, with the empty lines between them."""
    lines: list[Line] = []
    for block in blocks:
        body = render_block(block, width)
        if block.has_gap and body and not (is_first and not lines):
            lines.append(Line(""))
        lines += body
    return lines


def render_block(block: Block, width: int) -> list[Line]:
    if block.kind == "code":
        return _code(block.lines, block.language, block.context)
    text = _close_marks(block.text) if block.is_open else block.text
    parser = _parser(links=not _is_full_of_brackets(text))
    return _children(Node(parser.parse(text)), width, block.number)


def _is_full_of_brackets(text: str) -> bool:
    return (count := text.count("[")) > MAX_BRACKETS and count * SHORTEST_LINK > len(text)


@cache
def _parser(*, links: bool = True) -> MarkdownIt:
    """Show link definitions as text: blocks that refer to them are rendered separately, and the
    address would be lost."""
    rules = ["table", "strikethrough"]
    parser = MarkdownIt("commonmark", {"html": False}).enable(rules).disable("reference")
    return parser if links else parser.disable(["link", "image"])


def _children(node: Node, width: int, number: int | None = None) -> list[Line]:
    lines: list[Line] = []
    for i, child in enumerate(node.children):
        body = _block(child, width, number)
        if i and body and not (_is_tight(node.children[i - 1]) or _is_tight(child)):
            lines.append(Line(""))
        lines += body
    return lines


def _is_tight(node: Node) -> bool:
    return node.type == "paragraph" and node.hidden


def _block(node: Node, width: int, number: int | None) -> list[Line]:
    if node.type == "heading":
        return _heading(node, width)
    if node.type in ("fence", "code_block"):
        words = node.info.split()
        lines = node.content.removesuffix("\n").split("\n")
        return _code(lines, words[0] if words else "")
    if node.type in ("bullet_list", "ordered_list"):
        return _list(node, width, number)
    if node.type == "blockquote":
        bar = to_line([Span("│ ", DIM)])
        return prefixed(_children(node, max(NARROWEST, width - 2)), bar, bar)
    if node.type == "hr":
        return [to_line([Span("─" * width, DIM)])]
    if node.type == "table":
        return lay_out_table([[[*_spans(c)] for c in row] for row in _rows(node)], _aligns(node), width)  # fmt: skip
    return wrap(_spans(node), width)


def _heading(node: Node, width: int) -> list[Line]:
    """A heading, with its Markdown mark to show the level: terminals have one font size."""
    mark = Span("#" * int(node.tag[1:]) + " ", HEADING)
    spans = [Span(s.text, f"{HEADING};{s.style}" if s.style else HEADING) for s in _spans(node)]
    return wrap([mark, *spans], width)


def _code(lines: list[str], language: str, context: tuple[str, ...] = ()) -> list[Line]:
    # Pygments, 25 ms: not before the first character is on the screen.
    from clinvk.terminal.rendering.code import highlight

    margin = Span(" " * CODE_INDENT)
    found = highlight(lines, language, context)
    return [to_line([margin, *spans]) if any(s.text for s in spans) else Line("") for spans in found]  # fmt: skip


def _list(node: Node, width: int, number: int | None) -> list[Line]:
    lines: list[Line] = []
    start = number if number is not None else int(node.attrs.get("start", 1))
    depth = min(node.level // 2, len(BULLETS) - 1)
    previous_tight = True
    for i, item in enumerate(node.children):
        mark = f"{start + i}. " if node.type == "ordered_list" else f"{BULLETS[depth]} "
        mark = _take_box(item) or mark
        tight = all(_is_tight(c) or c.type != "paragraph" for c in item.children)
        if i and not (tight and previous_tight):
            lines.append(Line(""))
        previous_tight = tight
        indent = len(mark)
        body = _children(item, max(NARROWEST, width - indent)) or [Line("")]
        lines += prefixed(body, to_line([Span(mark, MARK)]), Line(" " * indent, indent))
    return lines


def _take_box(item: Node) -> str:
    """The check box of a task item, removed from its text; empty if the item is not a task."""
    node = item
    while node.children:
        node = node.children[0]
    found = _TASK.match(node.content) if node.type == "text" and node.token else None
    if found is None:
        return ""
    node.token.content = node.content[found.end() :]  # type: ignore[union-attr]
    return "☐ " if found.group(1) == " " else "☑ "


def _rows(table: Node) -> list[list[Node]]:
    return [[*row.children] for part in table.children for row in part.children]


def _aligns(table: Node) -> list[str]:
    return [str(cell.attrs.get("style", "")).rpartition(":")[2] for cell in _rows(table)[0]]


# Inside a line.


def _spans(node: Node, style: str = "") -> Iterator[Span]:
    for child in node.children:
        yield from _inline(child, style)


def _inline(node: Node, style: str) -> Iterator[Span]:
    if node.type == "text":
        yield Span(clean(node.content), style)
    elif node.type in ("softbreak", "hardbreak"):
        yield Span("\n", style)
    elif node.type == "code_inline":
        yield Span(clean(node.content), _with(style, CODE))
    elif node.type == "image":
        text = clean(node.content)
        yield Span(text or "image", _with(style, ITALIC))
        yield Span(f" ({clean(str(node.attrs.get('src', '')))})", _with(style, DIM))
    elif node.type == "link":
        yield from _link(node, style)
    elif node.children:
        own = {"strong": BOLD, "em": ITALIC, "s": STRUCK}.get(node.type, "")
        yield from _spans(node, _with(style, own))
    else:
        yield Span(clean(node.content), style)


def _link(node: Node, style: str) -> Iterator[Span]:
    """The text of a link, followed by its address if that differs."""
    spans = [*_spans(node, _with(style, UNDERLINED))]
    yield from spans
    address = clean(str(node.attrs.get("href", "")))
    text = "".join(span.text for span in spans)
    if address and text not in (address, address.removeprefix("mailto:")):
        yield Span(f" ({address})", _with(style, DIM))


def _with(style: str, more: str) -> str:
    return f"{style};{more}" if style and more else style or more


def _close_marks(text: str) -> str:
    """The beginning of a block with open emphasis and code closed, so that they are shown styled at
    once and not as marks first."""
    head, newline, last = text.rpartition("\n")
    if not last.strip():
        return text
    last = _OPEN_BOX.sub(r"\1", last)
    last = _OPEN_LINK.sub(r"\1", _OPEN_MARKS.sub("", last))
    marks = _CODE_MARKS.findall(last)
    if len(marks) % 2:
        return f"{head}{newline}{last}{marks[-1]}"
    plain = re.sub(r"`[^`]*`", "", last)
    open_ = [m for m in ("**", "~~") if _STRONG_MARKS.findall(plain).count(m) % 2]
    return f"{head}{newline}{last}" + "".join(open_ if not last.endswith(" ") else [])
