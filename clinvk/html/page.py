"""HTML pages, each a self-contained file: no script, no image, no network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape, unescape
from pathlib import Path
from string import Template
from typing import Any

from clinvk.text.diff import Piece, mark_unique

STYLES = {"light": "default", "dark": "github-dark"}  # of pygments
CODE = ".message pre"
PAGES = Path(__file__).parent / "pages"
_TAG = re.compile(r"(<[^>]+>)")
_TASK = re.compile(r"\[([ xX])\]\s+")


def fill(
    title: str, *, style: str, main: Iterable[str], header: str = "", theme: str | None = None
) -> str:
    """The page, with HTML in `header`, and in each part of `main`. Without `style` it has none."""
    template = Template((PAGES / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        theme=f' data-theme="{theme}"' if theme else "",
        title=escape(title),
        style=f"<style>\n{style}</style>\n" if style else "",
        header=header,
        main="".join(f"{part}\n" for part in main),
    )


def definitions(about: Mapping[str, str]) -> str:
    """The lines of a definition list."""
    return "".join(
        f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>\n" for term, text in about.items()
    )


def styles(*names: str) -> str:
    """The styles of all pages, and the named style sheets."""
    return "".join((PAGES / name).read_text(encoding="utf-8") for name in ("base.css", *names))


def markdown() -> Any:
    """Converts Markdown to HTML. HTML in it is shown as text; images, which a page would have to
    fetch, become links; nothing can be executed."""
    from markdown_it import MarkdownIt  # slow, and only needed for pages

    settings = {"html": False, "breaks": True, "highlight": _highlight}
    parser = MarkdownIt("commonmark", settings).enable(["table", "strikethrough"]).disable("image")
    parser.core.ruler.push("tasks", _draw_boxes)
    return parser


def _draw_boxes(state: Any) -> None:
    """`- [ ]` and `- [x]` as boxes: characters, since the page has no forms."""
    tokens = state.tokens
    for item, paragraph, inline in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if (item.type, paragraph.type) != ("list_item_open", "paragraph_open"):
            continue
        first = inline.children[0] if inline.children else None
        if first is not None and first.type == "text" and (found := _TASK.match(first.content)):
            box = "☐" if found.group(1) == " " else "☑"
            first.content = f"{box} {first.content[found.end() :]}"
            item.attrSet("class", "task")


def mark_differences(pages: Sequence[str]) -> list[str]:
    """HTML of several texts, with what is unique to one of them marked: `<mark>` in the first,
    `<ins>` in the others."""
    parts = [_TAG.split(page) for page in pages]
    texts = ["".join(map(unescape, found[::2])) for found in parts]
    marked = mark_unique(texts)
    names = ["mark", *["ins"] * (len(pages) - 1)]
    return [
        "".join(_mark(found, pieces, name))
        for found, pieces, name in zip(parts, marked, names, strict=True)
    ]


def _mark(parts: list[str], pieces: list[Piece], name: str) -> Iterator[str]:
    """Tags and text in turn, with the pieces of the text marked that are unique."""
    left = [*reversed(pieces)]
    for i, part in enumerate(parts):
        if i % 2:
            yield part
            continue
        length = len(unescape(part))
        while length:
            piece = left.pop()
            if len(piece.text) > length:
                left.append(Piece(piece.text[length:], piece.is_unique))
                piece = Piece(piece.text[:length], piece.is_unique)
            length -= len(piece.text)
            yield _mark_piece(piece, name)


def _mark_piece(piece: Piece, name: str) -> str:
    inner = piece.text.strip()
    if not piece.is_unique or not inner:
        return escape(piece.text)
    # An underlined gap between words would look like another word.
    before, _, behind = piece.text.partition(inner)
    return f"{before}<{name}>{escape(inner)}</{name}>{behind}"


def _highlight(code: str, language: str, _attributes: str) -> str:
    """Highlighted code; an empty text if the language is unknown, which means unchanged."""
    # Slow, and only needed for pages.
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return ""
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))


def code_colors(theme: str) -> str:
    """The colors of code, for the themes of the page."""
    light, dark = _read_style(STYLES["light"]), _read_style(STYLES["dark"])
    if theme != "auto":
        return {"light": light, "dark": dark}[theme]
    return "".join(
        f"@media (prefers-color-scheme: {name}) {{\n{style}}}\n"
        for name, style in (("light", light), ("dark", dark))
    )


def _read_style(name: str) -> str:
    from pygments.formatters import HtmlFormatter  # slow, and only needed for pages

    formatter: Any = HtmlFormatter(style=name)
    lines = formatter.get_style_defs(CODE).splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith(f"{CODE} ."))
