"""Words that users expect to be commands. They must not become prompts, which cost money."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from clinvk.cmd.usage.help_texts import SECOND_NAMES
from clinvk.cmd.usage.wording import is_task_file
from clinvk.errors import UsageError
from clinvk.text.suggest import edits, similar

_LOGIN = "log in with the CLI itself, e.g. run claude, and check with: clinvk doctor"
_UPDATE = "update it the way it was installed, e.g. uv tool upgrade clinvk or pipx upgrade clinvk"
_INSTALL = "install a CLI the way its vendor describes, and check with: clinvk doctor"
_BACKENDS = "clinvk backends list or clinvk doctor"

# What to type instead, or what to do.
GUESSES = {
    **dict.fromkeys(("ls", "lst", "history", "hist", "chats", "conversations", "threads"), "clinvk sessions list"),
    **dict.fromkeys(("log", "logs"), "clinvk sessions list or clinvk runs list"),
    **dict.fromkeys(("status", "stat", "info"), "clinvk doctor or clinvk runs list"),
    **dict.fromkeys(("jobs", "tasks", "ps", "top"), "clinvk runs list"),
    **dict.fromkeys(("view", "cat", "open"), "clinvk sessions show ID"),
    **dict.fromkeys(("find", "grep"), "clinvk sessions search WORD"),
    **dict.fromkeys(("new", "begin"), 'clinvk "PROMPT" or clinvk sessions start NAME'),
    **dict.fromkeys(("rm", "remove", "del"), "clinvk sessions delete ID"),
    **dict.fromkeys(("continue", "cont"), 'clinvk -c "PROMPT"'),
    "previous": "clinvk last",
    **dict.fromkeys(("interactive", "shell"), "clinvk repl"),
    **dict.fromkeys(("prune", "purge", "gc"), "clinvk sessions clean"),
    "mv": "clinvk sessions rename ID TITLE",
    "about": "clinvk version",
    **dict.fromkeys(("watch", "retry", "cancel", "report"), "clinvk runs {word}"),
    **dict.fromkeys(("stop", "kill", "abort"), "clinvk runs cancel ID"),
    **dict.fromkeys(("run", "exec", "execute", "batch", "fanout"), "clinvk parallel FILE"),
    **dict.fromkeys(("prompt", "send", "say", "query"), 'clinvk "PROMPT"'),
    **dict.fromkeys(("login", "logout", "auth", "signin", "whoami"), _LOGIN),
    **dict.fromkeys(("setup", "configure"), "clinvk init or clinvk config edit"),
    **dict.fromkeys(("settings", "preferences", "set", "get"), "clinvk config show"),
    **dict.fromkeys(("models", "model"), 'clinvk -m MODEL "PROMPT" or clinvk backends list'),
    **dict.fromkeys(("agents", "providers", "engines", "plugins"), _BACKENDS),
    **dict.fromkeys(("update", "upgrade"), _UPDATE),
    **dict.fromkeys(("install", "uninstall"), _INSTALL),
    **dict.fromkeys(("judge", "diff"), 'clinvk compare -b A,B "PROMPT"'),
    **dict.fromkeys(("usage", "man", "docs"), "clinvk help"),
    **dict.fromkeys(("quit", "exit", "q", "bye"), "nothing to quit: clinvk exits after each answer"),
}  # fmt: skip

SHORTEST = 3  # letters of a word that may be a misspelled command
SHORT = 4  # letters of a name in which only swapped letters are recognized
LONG = 7  # letters of a name in which two may be wrong: "again" is not "chain"


def check_words(
    words: list[str], commands: Iterable[str], subcommands: Iterable[str], *, new: bool
) -> None:
    """Raise `UsageError` if the prompt is a command, or almost one. `new`: it would start a
    conversation. In an existing one, "status" or "continue" may well be a prompt."""
    commands, subcommands = [*commands], [*subcommands]
    documented = [name for name in commands if name not in SECOND_NAMES]
    first, *rest = words[0].split() or [""] if len(words) == 1 else words
    if not is_word(first):
        return
    if len(rest) > 1:  # a sentence without its quotes, unless it begins with a misspelled command
        near = similar(first, [n for n in documented if len(n) > SHORTEST], most=1)
        if len(words) > 1 and near and near[0] != first and first not in GUESSES:
            raise _refusal(first, f"clinvk {near[0]} {shlex.join(rest)}", words)
        return
    if len(words) == 1 and rest:  # one argument: "sessions list"
        if first in ("sessions", "session") and rest[0] in subcommands:
            raise _refusal(words[0], f"clinvk {words[0]}", [])
        return
    if first in commands:
        raise _command_after_options(first, words)
    instead = _instead(first, documented, subcommands, new=new)
    if instead is None:
        return
    if rest and first not in GUESSES:
        instead = f"{instead} {shlex.join(rest)}"
    elif rest and is_task_file(rest[0]):
        instead = f"clinvk parallel {shlex.join(rest)}"
    raise _refusal(first, instead, words)


def is_word(text: str) -> bool:
    return text.replace("-", "_").isidentifier()


def _instead(word: str, commands: list[str], subcommands: list[str], *, new: bool) -> str | None:
    """The intended command line, or advice."""
    lowered = word.lower()
    if lowered in commands:
        return f"clinvk {lowered}"
    if lowered in subcommands:
        return f"clinvk sessions {lowered}"
    if lowered in GUESSES:
        return GUESSES[lowered].format(word=lowered) if new else None
    if len(word) < SHORTEST:
        return None
    for group, names in (("", commands), ("sessions ", subcommands)):
        # A slip is seldom in the first letter: "research" is not "search".
        alike = [name for name in names if len(name) > SHORTEST and name[0] == lowered[0]]
        near = similar(lowered, alike, most=1)
        most = 2 if new and near and len(near[0]) >= LONG else 1
        if near and edits(lowered, near[0]) <= most and (not group or _is_slip(lowered, near[0])):
            return f"clinvk {group}{near[0]}"
    return None


def _is_slip(word: str, name: str) -> bool:
    """Whether a word is a misspelled subcommand. Short ones resemble many words: show, slow."""
    return len(name) > SHORT or sorted(word) == sorted(name)


def _refusal(word: str, instead: str, words: list[str]) -> UsageError:
    said = f"{word!r} is not a command"
    if instead.startswith("clinvk"):
        said += f"; did you mean: {instead}?"
        advice = ""
    else:
        advice = f"{instead}; "
    prompt = shlex.quote(" ".join(words) or word)
    if instead.endswith('"PROMPT"') and len(words) > 1:
        return UsageError(f"unexpected argument {words[1]!r} after the prompt {word!r}",
                          f"put the prompt in quotes: clinvk {prompt}")  # fmt: skip
    return UsageError(said, f"{advice}to send it as a prompt: clinvk ask {prompt}")


def _command_after_options(name: str, words: list[str]) -> UsageError:
    return UsageError(
        f"{name!r} is a command, which comes before its options: clinvk {shlex.join(words)} …",
        f"to send it as a prompt: clinvk ask {shlex.quote(' '.join(words))}",
    )
