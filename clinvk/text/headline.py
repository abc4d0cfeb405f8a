"""The title of a prompt in a list: its first line, without Markdown."""

from __future__ import annotations

import re

MAX_LENGTH = 60  # characters

# Compiled when they are needed: most prompts have no markup, and no start should wait for that.
_PREFIX = r"(?:\s*(?:#{1,6}\s|>|[-*+]\s(?:\[[ xX]\]\s)?|\d{1,3}[.)]\s))*\s*"
# Underscores are kept: `__init__.py` and `snake_case` are more frequent than emphasis.
_LINK = r"!?\[([^\][]*)\]\([^()\s]*\)"
_CODE = r"`+([^`]+)`+"
_EMPHASIS = r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*]*[^\s*])\1(?![\w*])"


def headline(text: str) -> str:
    """The first line with text, in at most `MAX_LENGTH` characters; a code block counts only if
    there is nothing else."""
    code = ""
    in_code = False
    for line in text.splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            in_code = not in_code
        elif in_code:
            code = code or line.strip()
        elif words := strip_markup(line):
            return _cut(words)
    return _cut(code or text)


def strip_markup(line: str) -> str:
    """The line without Markdown syntax; empty for a rule."""
    if line.lstrip()[:1].isalpha() and not any(mark in line for mark in "`[*"):
        return " ".join(line.split())
    line = line[re.match(_PREFIX, line).end() :]  # type: ignore[union-attr]  # it matches anything
    line = re.sub(_LINK, r"\1", line)
    line = re.sub(_CODE, r"\1", line)
    line = " ".join(re.sub(_EMPHASIS, r"\2", line).split())
    return line if any(not c.isspace() and c not in "-=*_#|`~>" for c in line) else ""


def _cut(text: str) -> str:
    """The text on one line, cut at the end of a word if one is near."""
    text = " ".join(text.split())
    if len(text) <= MAX_LENGTH:
        return text
    start = text[: MAX_LENGTH - 1]
    words = start.rpartition(" ")[0]
    return (words if len(words) > MAX_LENGTH // 2 else start).rstrip(" ,;:") + "…"
