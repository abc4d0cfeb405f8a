"""A message as a part of a Markdown document, whose own headings it cannot be mistaken for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

BELOW = 2  # levels by which the headings of a message are lower than its own are in it
MAX_LEVEL = 6
END = "# end"  # stands behind a message while it is checked that the message swallows nothing

_STRUCTURE = re.compile(r"[#<]|`{3}|~{3}|^[ \t>]*(?:=+|-+)[ \t]*$", re.MULTILINE)
_PREFIX = r"[ \t]*(?:(?:>|[-*+]|\d{1,9}[.)])[ \t]*)*"  # of quotes and items
_HASHES = re.compile(rf"({_PREFIX})(#{{1,6}})(?=[ \t]|$)")
_START = re.compile(_PREFIX)
_CONTINUED = re.compile(r"[ \t>]*")
_TAG = re.compile(r"(?<!\\)<(?=[A-Za-z/!?])")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


def embed_message(text: str) -> str:
    """The text for the place below a heading of level 2. Its headings start at level 3, HTML in it
    is shown and not obeyed, and a block of code that is open is closed. A text that would still be
    mistaken for something else becomes a block of code."""
    text = re.sub(r"\r\n?", "\n", text).strip()
    if not _STRUCTURE.search(text):
        return text
    lowered = _lower_headings(_escape_html(text))
    for candidate in (lowered, close_code_blocks(lowered)):
        if _is_contained(candidate):
            return candidate
    marks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{marks}\n{text}\n{marks}"


def close_code_blocks(text: str) -> str:
    """Markdown in which no block of code is left open, so that it swallows nothing behind it."""
    fence = ""
    for line in text.splitlines():
        found = _FENCE.fullmatch(line)
        if not found:
            continue
        marks, rest = found.groups()
        if not fence and not (marks[0] == "`" and "`" in rest):
            fence = marks
        elif fence and marks.startswith(fence) and not rest.strip():
            fence = ""
    return f"{text}\n{fence}" if fence else text


def _escape_html(text: str) -> str:
    lines = text.split("\n")
    for token in _parse(text):
        if token.type == "html_block":
            start, end = token.map
            lines[start:end] = [_TAG.sub(r"\\<", line) for line in lines[start:end]]
        elif any(_html_parts(token)):
            start, end = token.map
            lines[start:end] = _escape_tags("\n".join(lines[start:end]), token).split("\n")
    return "\n".join(lines)


def _escape_tags(text: str, token: Any) -> str:
    """The text, whose parts are the children of the token, with its tags escaped."""
    done, at = "", 0
    for child in token.children:
        if child.type not in ("html_inline", "code_inline"):
            continue
        found = text.find(child.content, at)
        if found < 0:  # of several lines, in a quote or an item
            continue
        end = found + len(child.content)
        mark = "\\" if child.type == "html_inline" else ""
        done, at = f"{done}{text[at:found]}{mark}{text[found:end]}", end
    return done + text[at:]


def _lower_headings(text: str) -> str:
    lines: list[str | None] = [*text.split("\n")]
    for token in _parse(text):
        if token.type != "heading_open":
            continue
        start, end = token.map
        marks = "#" * min(MAX_LEVEL, int(token.tag[1]) + BELOW)
        first = lines[start] or ""
        if token.markup.startswith("#"):
            lines[start] = _HASHES.sub(rf"\g<1>{marks}", first, count=1)
            continue
        # Underlined, and maybe of several lines.
        words = [_CONTINUED.sub("", line or "", count=1) for line in lines[start + 1 : end - 1]]
        prefix = _START.match(first).group()  # type: ignore[union-attr]  # it matches anything
        lines[start] = " ".join([f"{prefix}{marks} {first[len(prefix) :].strip()}", *words])
        lines[start + 1 : end] = [None] * (end - start - 1)
    return "\n".join(line for line in lines if line is not None)


def _is_contained(text: str) -> bool:
    """Whether what stands behind the text is not a part of it, and no heading is too high."""
    tokens = _parse(f"{text}\n\n{END}\n")
    if any(token.type == "html_block" or any(_html_parts(token)) for token in tokens):
        return False
    headings = [token for token in tokens if token.type == "heading_open"]
    *own, end = headings or [None]
    last = end is not None and (end.tag, end.level) == ("h1", 0) and end is tokens[-3]
    return last and all(int(token.tag[1]) > BELOW for token in own)


def _html_parts(token: Any) -> Iterator[bool]:
    return (True for child in token.children or () if child.type == "html_inline")


def _parse(text: str) -> list[Any]:
    from markdown_it import MarkdownIt  # slow, and few messages have anything to look at

    return MarkdownIt("commonmark").parse(text)
