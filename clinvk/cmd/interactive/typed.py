"""Whether a line that was typed at the interactive prompt is a command line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Mapping

from clinvk.errors import UsageError
from clinvk.text.suggest import similar

PROGRAM = "clinvk"
# Commands that are words of every language as well: a line that begins with one of them is a command
# line if the rest looks like one.
PROMPTS = ("ask", "chat", "repl", "compare")
FILES = ("parallel", "chain")
SHORTEST = 5  # letters of a command that a misspelled word may be meant as
NO_COMMANDS: Collection[str] = ()


def read_typed(
    text: str,
    commands: Mapping[str, Collection[str]],
    is_session: Callable[[str], bool] = lambda _: False,
) -> list[str] | None:
    """The words of a command line; None if the text is a message. `commands` maps each to its
    subcommands. Raises `UsageError` for what is almost a command line: it may not reach a model.

    With the word `clinvk` before it, a line is a command line if its first word is a command, an
    option, or a quoted prompt."""
    line = text.strip()
    if "\n" in line:
        return None
    try:
        words = shlex.split(line)
    except ValueError:
        return None
    if not words:
        return None
    if words == [PROGRAM]:
        raise UsageError("this is the prompt of clinvk", "/help lists what can be typed here")
    if words[0] == PROGRAM:
        rest = line.removeprefix(PROGRAM).lstrip()
        if words[1] in commands or rest[:1] in "-\"'":
            return words[1:]
        return None
    first, rest_words = words[0], words[1:]
    if first in commands:
        behind = line.removeprefix(first).lstrip()
        return words if _is_command(first, rest_words, behind, commands, is_session) else None
    _check_slip(first, rest_words, commands)
    return None


def _is_command(
    first: str,
    rest: list[str],
    behind: str,
    commands: Mapping[str, Collection[str]],
    is_session: Callable[[str], bool],
) -> bool:
    if not rest or rest[0].startswith("-"):
        return True
    if subcommands := commands[first]:
        if rest[0] in subcommands:
            return True
        if len(rest) <= 2 and _is_word(rest[0]) and (near := similar(rest[0], subcommands, most=1)):
            raise _refusal(f"{first} {rest[0]}", f"{first} {near[0]}")
        return False
    if first in PROMPTS:
        return behind[0] in "\"'" or (first in ("ask", "chat") and len(rest) == 1)
    if first in FILES:
        return os.path.exists(rest[0])
    if first == "resume":
        return is_session(rest[0]) and (len(rest) == 1 or _is_quoted(behind, rest[0]))
    if first == "help":
        return rest[0] in commands and all(w in commands[rest[0]] for w in rest[1:])
    return len(rest) == 1 and rest[0].isalnum() and first == "completion"


def _is_quoted(behind: str, word: str) -> bool:
    return behind.removeprefix(word).lstrip()[:1] in ("'", '"', "-")


def _check_slip(word: str, rest: list[str], commands: Mapping[str, Collection[str]]) -> None:
    """Raise `UsageError` for a misspelled command, alone or with a subcommand or an option."""
    names = [name for name in commands if len(name) >= SHORTEST]
    if not (_is_word(word) and len(word) >= SHORTEST - 1 and len(rest) <= 2):
        return
    near = similar(word, names, most=1)
    if not near or near[0][0] != word[0]:
        return
    subcommands = commands[near[0]]
    if not rest or rest[0] in subcommands or rest[0].startswith("--"):
        raise _refusal(word, near[0])


def _is_word(text: str) -> bool:
    return text.replace("-", "_").isidentifier()


def _refusal(said: str, meant: str) -> UsageError:
    return UsageError(
        f"{said!r} is not a command; did you mean: {meant}?",
        "to send it as a message, begin with a space",
    )
