"""A conversation as one page of HTML that needs nothing else: no script, no image, no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clinvk.config.extras import require_extra

STYLES = {"light": "default", "dark": "github-dark"}  # of pygments
CODE = ".message pre"
PAGES = Path(__file__).parent / "pages"


def render(
    title: str, about: Mapping[str, str], messages: list[dict[str, Any]], *, css: bool, theme: str
) -> str:
    """The page. Raises `ClinvkError` where the extra `export` is not installed."""
    with require_extra("export", "HTML"):
        # Slow, and only needed here.
        from jinja2 import Environment
        from markupsafe import Markup

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (PAGES / "session.html.j2").read_text(encoding="utf-8")
    )
    style = styles("session.css") + code_colors(theme)
    markdown_it = markdown()
    shown = [m | {"html": Markup(markdown_it.render(m["content"]))} for m in messages]  # noqa: S704 - markdown-it escapes
    return template.render(
        title=title,
        about=about,
        messages=shown,
        theme=theme,
        style=Markup(style) if css else None,  # noqa: S704 - ours
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
