"""A conversation as an HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from clinvk.html.page import code_colors, definitions, fill, markdown, styles


def render(
    title: str, about: Mapping[str, str], messages: list[dict[str, Any]], *, css: bool, theme: str
) -> str:
    """The page."""
    style = styles("session.css") + code_colors(theme) if css else ""
    return fill(
        title,
        style=style,
        header=f"<dl>\n{definitions(about)}</dl>\n" if about else "",
        main=_articles(messages),
        theme=theme,
    )


def _articles(messages: list[dict[str, Any]]) -> Iterator[str]:
    to_html = markdown().render
    if not messages:
        yield '<p class="empty">No messages yet.</p>'
    for number, message in enumerate(messages):
        notes = "".join(f" <small>{escape(note)}</small>" for note in message["notes"])
        yield (
            f'<article class="message {escape(message["role"])}" id="m{number}">\n'
            f"<h2>{escape(message['who'])}{notes}</h2>\n"
            f"{to_html(message['content'])}</article>"
        )
