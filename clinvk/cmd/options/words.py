"""The words of a command line: how they are split and marked before their options are read."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

ASKED_WITHOUT_COMMAND = "clinvk.no_command"  # the prompt is the first word, with no `ask` before it
LITERAL_MARK = "\0"  # marks a prompt that looks like a flag; no argument can hold it by itself
BEFORE_COMMAND = ("--config", "--color")  # as git takes -C before the command
PASSTHROUGH_KEY = "clinvk.behind_dashes"  # the words after `--`, for the backend
# Flags whose value may be left out, as in the option table, which takes a third of the time of
# `clinvk version` to load.
OPTIONAL_VALUE = frozenset({"--knowledge"})
# The `opened.TypedLine` that is running, if the command line was typed at the interactive prompt.
typed_line: ContextVar[Any] = ContextVar("typed_line", default=None)


class OutputClosed(Exception):  # noqa: N818 - reads as what it says
    """The reader of stdout has closed it."""


def split_before_command(args: list[str]) -> tuple[list[list[str]], list[str]]:
    """The options before the command, each with its value, and the rest."""
    before = []
    while args:
        name, has_value, _ = args[0].partition("=")
        count = 1 if has_value else 2
        if name not in BEFORE_COMMAND or len(args) < count:
            break
        before.append(args[:count])
        args = args[count:]
    return before, args


def mark_number(word: str) -> str:
    return LITERAL_MARK + word if word[:1] == "-" and word[1:2].isdigit() else word


def mark_literal_prompts(found: Any, args: list[str]) -> list[str]:
    """Mark the prompts that begin with a dash: "-fix this" is a sentence, `--modle` a typo.

    A word is a sentence if it contains white space and is neither the value of the option before
    it nor a known option with its value after `=`."""
    takes_value = _takes_value(found)
    marked: list[str] = []
    is_value = False
    for i, word in enumerate(args):
        if word == "--" and not is_value:
            return [*marked, *args[i:]]
        if not is_value and word.startswith("-") and _is_sentence(word, takes_value):
            word = LITERAL_MARK + word  # noqa: PLW2901 - the same word, marked
        marked.append(word)
        is_value = not is_value and takes_value.get(_option_awaiting_value(word), False)
    return marked


def mark_without_value(command: Any, args: list[str]) -> list[str]:
    """Give an option that may stand alone a value that means so: the next word is not its value."""
    takes_value = _takes_value(command)
    marked: list[str] = []
    is_value = False
    for i, word in enumerate(args):
        if word == "--" and not is_value:
            return [*marked, *args[i:]]
        is_alone = word in OPTIONAL_VALUE and not is_value
        marked.append(f"{word}={LITERAL_MARK}" if is_alone else word)
        is_value = not is_value and takes_value.get(_option_awaiting_value(word), False)
    return marked


def _takes_value(command: Any) -> dict[str, bool]:
    """Whether the word after each option of the command is its value."""
    return {
        name: not (param.is_flag or param.count or name in OPTIONAL_VALUE)
        for param in command.get_params(None)
        if param.param_type_name == "option"
        for name in (*param.opts, *param.secondary_opts)
    }


def split_at_dashes(args: list[str]) -> tuple[list[str], list[str]]:
    """The words before the first `--`, and those after it."""
    if "--" not in args:
        return args, []
    at = args.index("--")
    return args[:at], args[at + 1 :]


def _is_sentence(word: str, options: dict[str, bool]) -> bool:
    return any(c.isspace() for c in word) and word.split("=", 1)[0] not in options


def _option_awaiting_value(word: str) -> str:
    """The option that would take the next word: of `-cb`, that is `-b`."""
    if word.startswith("--") or not word.startswith("-") or len(word) < 3:
        return word
    return f"-{word[-1]}"
