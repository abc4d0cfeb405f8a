"""The status line below the input line."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec import Struct

from clinvk.terminal.wording import format_time
from clinvk.text.sanitize import one_line
from clinvk.text.width import display_width, truncate, truncate_start

BETWEEN = " · "
SHORTEST = 12  # cells of a title or a directory
PLAIN, WARNING = "", "warning"

Piece = tuple[str, str]  # text, and PLAIN or WARNING


class Status(Struct, frozen=True):
    """What there is to say; None and 0 for what is not known."""

    backend: str
    model: str | None = None
    session: str | None = None  # title or id
    directory: str = ""
    tokens: int = 0
    dollars: float | None = None
    limited_until: datetime | None = None


def status_pieces(status: Status, width: int) -> list[Piece]:
    """What fits into `width` cells: the title and the directory are shortened, then the least
    important pieces are left out."""
    limit = _limit(status.limited_until)
    pieces = {
        "limit": limit,
        "backend": one_line(status.backend),
        "model": one_line(status.model or ""),
        "session": one_line(status.session or "new session"),
        "directory": _home_relative(one_line(status.directory)),
        "tokens": f"{status.tokens:,} tokens" if status.tokens else "",
        "cost": f"${status.dollars:.2f}" if status.dollars else "",
    }
    shown = {name: text for name, text in pieces.items() if text}
    _shorten(shown, "directory", truncate_start, width)
    if _width(shown) > width:
        shown.pop("directory", None)
        _shorten(shown, "session", truncate, width)
    for name in ("cost", "tokens", "model", "session", "backend"):
        if _width(shown) <= width:
            break
        shown.pop(name, None)
    found: list[Piece] = []
    for name, text in shown.items():
        if found:
            found.append((BETWEEN, PLAIN))
        found.append((text, WARNING if name == "limit" else PLAIN))
    return found


def _shorten(shown: dict[str, str], name: str, cut: Callable[[str, int], str], width: int) -> None:
    """Shorten a piece as far as needed and sensible."""
    if name in shown and (over := _width(shown) - width) > 0:
        shown[name] = cut(shown[name], max(SHORTEST, display_width(shown[name]) - over))


def _width(shown: dict[str, str]) -> int:
    return sum(map(display_width, shown.values())) + len(BETWEEN) * max(0, len(shown) - 1)


def _limit(until: datetime | None) -> str:
    if until is None or until <= datetime.now(UTC):
        return ""
    return f"rate limit until {format_time(until)}"


def _home_relative(path: str) -> str:
    home = os.path.expanduser("~").rstrip("/")
    return (
        f"~{path[len(home) :]}" if home and (path == home or path.startswith(f"{home}/")) else path
    )
