"""How the words of a command line are marked, for all that read it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

ASKED_WITHOUT_COMMAND = "clinvk.no_command"  # the prompt is the first word, with no `ask` before it
LITERAL_MARK = "\0"  # marks a prompt that looks like a flag; no argument can hold it by itself
PASSTHROUGH_KEY = "clinvk.behind_dashes"  # the words after `--`, for the backend
# Flags whose value may be left out, as in the option table, which takes a third of the time of
# `clinvk version` to load.
OPTIONAL_VALUE = frozenset({"--knowledge"})
# The `opened.TypedLine` that is running, if the command line was typed at the interactive prompt.
typed_line: ContextVar[Any] = ContextVar("typed_line", default=None)


class OutputClosed(Exception):  # noqa: N818 - reads as what it says
    """The reader of stdout has closed it."""
