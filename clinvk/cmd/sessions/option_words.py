"""The words of `clinvk session --temperature 0.7`, and of `--clear`."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from clinvk.cmd.options.words import BEFORE_COMMAND
from clinvk.config.stored_options import STORABLE, StoredOptions
from clinvk.errors import UsageError
from clinvk.model.option_table import BY_NAME

OF_USER = "clinvk.options_of_user"  # in the context: there is no ID
CLEARED = "clinvk.cleared"  # in the context: what `--clear` clears
SKILLS, TEMPLATE = "skill_set", "template"

# The flags of what can be cleared, with their names; `--option` has a key.
NAMES: dict[str, str] = {"--skill-set": SKILLS, "--template": TEMPLATE, "--option": ""}
for _option in (BY_NAME[name] for name in STORABLE):
    NAMES |= {f: _option.name for f in (_option.flag, _option.short, _option.off_flag) if f}
SWITCHES = {
    flag
    for flag, name in NAMES.items()
    if name and BY_NAME.get(name, None) and BY_NAME[name].type is bool
}
ACTIONS = ("--list", "--reset", "--clear", "--session", "--json")
WITH_VALUE = ("--session", "--config", "--color", "--storage-backend", "--storage-path")


class Cleared(Struct, frozen=True):
    """What `--clear` clears: options by name, and the skills that were named; all, if none was."""

    names: list[str]
    skills: list[str]

    def __bool__(self) -> bool:
        return bool(self.names)

    def remove(self, old: StoredOptions) -> StoredOptions:
        """The stored options without these."""
        new = replace(old, options={k: v for k, v in old.options.items() if k not in self.names})
        if TEMPLATE in self.names:
            new = replace(new, template=None)
        if SKILLS in self.names:
            kept = [n for n in old.skills if n not in self.skills] if self.skills else []
            new = replace(new, skills=tuple(kept))
        return new


def with_options_command(ctx: Any, args: list[str]) -> list[str]:
    """The words of `clinvk sessions` with the subcommand `options` if they begin with one of its
    flags, or if there are none after `clinvk session`."""
    if ctx.resilient_parsing:
        return args
    rest = list(args)
    while len(rest) > 1 and rest[0] in BEFORE_COMMAND:
        rest = rest[2:]
    if rest[:1] and rest[0].partition("=")[0] in BEFORE_COMMAND:
        rest = rest[1:]
    first = rest[0].partition("=")[0] if rest else None
    if first in NAMES or first in ACTIONS or (first is None and ctx.info_name == "session"):
        ctx.meta[OF_USER] = True
        return ["options", *args]
    return args


def split_cleared(words: list[str], *, of_user: bool) -> tuple[list[str], Cleared]:
    """The words without the flags of options, and what those clear. A value after a flag is
    ignored, but the name of a skill; where an ID may follow, the word is the ID. Raises
    `UsageError`."""
    names: list[str] = []
    skills: list[str] = []
    rest: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        flag, equals, value = word.partition("=")
        if flag not in NAMES:
            rest.append(word)
            if flag in WITH_VALUE and not equals and waiting:
                rest.append(waiting.pop(0))
            continue
        if not equals and waiting and _may_be_value(flag, waiting[0], of_user or _has_id(rest)):
            value = waiting.pop(0)
        if flag == "--option":
            key = value.partition("=")[0]
            if not key:
                raise UsageError("--clear --option: missing KEY", "e.g. --clear --option stop")
            names.append(key)
            continue
        names.append(NAMES[flag])
        if flag == "--skill-set" and value:
            skills.append(value)
    return rest, Cleared(list(dict.fromkeys(names)), skills)


def _may_be_value(flag: str, word: str, is_user: bool) -> bool:
    if word.startswith("-") and not word[1:2].isdigit():
        return False
    if flag in ("--option", "--skill-set"):
        return True
    return flag not in SWITCHES and is_user


def _has_id(rest: list[str]) -> bool:
    flags_with_value = [word for word in rest if word in WITH_VALUE]
    named = [word for word in rest if not word.startswith("-")]
    return "--session" in rest or len(named) > len(flags_with_value)
