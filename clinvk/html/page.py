"""Pages of HTML, each one file that needs nothing else: no script, no image, no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from clinvk.config.extras import require_extra

STYLES = {"light": "default", "dark": "github-dark"}  # of pygments
CODE = ".message pre"
PAGES = Path(__file__).parent / "pages"


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
    """The lines of a list of terms, each with what there is to say of it."""
    return "".join(
        f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>\n" for term, text in about.items()
    )


def styles(*names: str) -> str:
    """What all pages look like, and those of our style sheets."""
    return "".join((PAGES / name).read_text(encoding="utf-8") for name in ("base.css", *names))


def markdown() -> Any:
    """Makes HTML of markdown. HTML in it is shown, not obeyed; pictures, which a page would fetch
    from somewhere, stay links; so does nothing that would run."""
    with require_extra("export", "HTML"):
        # Slow, and only needed here.
        from markdown_it import MarkdownIt

    settings = {"html": False, "breaks": True, "highlight": _highlight}
    return MarkdownIt("commonmark", settings).enable(["table", "strikethrough"]).disable("image")


def _highlight(code: str, language: str, _attributes: str) -> str:
    """Code in colours; an empty text, where the language is unknown, means as it is."""
    with require_extra("export", "HTML"):
        # Slow, and only needed here.
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
    """The colours of code, for the themes that the page can have."""
    light, dark = _read_style(STYLES["light"]), _read_style(STYLES["dark"])
    if theme != "auto":
        return {"light": light, "dark": dark}[theme]
    return "".join(
        f"@media (prefers-color-scheme: {name}) {{\n{style}}}\n"
        for name, style in (("light", light), ("dark", dark))
    )


def _read_style(name: str) -> str:
    with require_extra("export", "HTML"):
        # Slow, and only needed here.
        from pygments.formatters import HtmlFormatter

    formatter: Any = HtmlFormatter(style=name)
    lines = formatter.get_style_defs(CODE).splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith(f"{CODE} ."))
