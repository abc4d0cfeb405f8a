"""Messages about invalid command lines, in clinvk's words: click's are never shown."""

from __future__ import annotations

import os
import re
import shlex
from contextlib import suppress
from typing import Any

from clinvk.cmd.options.words import OPTIONAL_VALUE
from clinvk.errors import UsageError
from clinvk.text.suggest import similar

TASK_FILES = (".yaml", ".yml", ".json", ".jsonl", ".csv")
# What other programs call it.
OTHER_NAMES = {"--no-color": "--color never", "--nocolor": "--color never", "--no-colour": "--color never"}  # fmt: skip


def describe(error: Any, *, without_command: bool = False) -> UsageError:
    """An error of click as a `UsageError`. `without_command`: the command line begins with a
    prompt."""
    kind, ctx = type(error).__name__, getattr(error, "ctx", None)
    param = getattr(error, "param", None)
    message = str(error.format_message())
    if kind == "NoSuchOption":
        said = _unknown_option(error.option_name, ctx)
    elif kind == "BadOptionUsage":
        said = _misused_option(error.option_name, ctx, has_value="not take" in message)
    elif kind == "MissingParameter" and param is not None:
        said = _missing(param)
    elif kind == "BadParameter" and param is not None:
        said = _bad_value(param, ctx) or _lowered(message)
    elif message.startswith("Missing command"):
        said = "no command given"
    else:
        said = _lowered(message)
    return UsageError(said, _see_help(ctx, without_command=without_command))


def unexpected_argument(ctx: Any, rest: list[str]) -> UsageError:
    """The error of a command that takes fewer arguments."""
    said = f"unexpected argument {rest[0]!r}"
    return UsageError(said, f"usage: {usage_of(ctx)}")


def unknown_command(ctx: Any, args: list[str]) -> UsageError:
    """The error of a group that has no such command."""
    word, rest = args[0], args[1:]
    said = f"unknown command {word!r}"
    if ctx.info_name == "runs" and is_task_file(word):
        meant = ["clinvk", "parallel", word, *rest]
        return UsageError(f"{said}; did you mean: {shlex.join(meant)}?", _see_help(ctx))
    names = [*ctx.command.list_commands(ctx), *getattr(ctx.command, "aliases", ())]
    if "list" not in names and similar(word, ["list", "ls"]):
        names = ["show"] if "show" in names else names
        near = names[:1]
    else:
        near = similar(word, names, most=1)
    if near:
        said += f"; did you mean: {ctx.command_path} {near[0]}?"
    return UsageError(said, _see_help(ctx))


def is_task_file(word: str) -> bool:
    return word.endswith(TASK_FILES) or os.path.isfile(word)


def usage_of(ctx: Any) -> str:
    """`clinvk sessions show [OPTIONS] ID`."""
    words = [metavar(param, usage=True) for param in ctx.command.params
             if param.param_type_name == "argument"]  # fmt: skip
    if hasattr(ctx.command, "list_commands"):
        words.append("COMMAND")
    return " ".join([ctx.command_path, "[OPTIONS]", *words])


def metavar(param: Any, *, usage: bool = False) -> str:
    """The metavar of a parameter, with brackets if the usage line has them."""
    name = param.metavar or param.name.upper().rstrip("_")
    if param.param_type_name != "argument":
        return str(name)
    if not usage:
        return str(name).split("] [")[0].strip("[]")
    if not param.required and not name.startswith("["):
        name = f"[{name}]"
    is_list = param.nargs == -1 and "..." not in name and name.count("[") < 2
    return f"{name}..." if is_list else str(name)


def value_of(param: Any) -> str:
    """What follows the flag of an option in its help: nothing, " VALUE", or "[=VALUE]"."""
    if param.is_flag or param.count:
        return ""
    is_optional = not OPTIONAL_VALUE.isdisjoint(param.opts)
    return f"[={metavar(param)}]" if is_optional else f" {metavar(param)}"


def _unknown_option(typed: str, ctx: Any) -> str:
    said = f"unknown option {typed!r}"
    if typed in OTHER_NAMES:
        return f"{said}; did you mean: {OTHER_NAMES[typed]}?"
    flags = [] if ctx is None else [
        flag
        for param in ctx.command.get_params(ctx)
        if param.param_type_name == "option" and not param.hidden
        for flag in (*param.opts, *param.secondary_opts)
        if flag.startswith("--")
    ]  # fmt: skip
    near = similar(typed, flags) if len(typed) > 2 else []
    return f"{said}; did you mean {' or '.join(near)}?" if near else said


def _misused_option(typed: str, ctx: Any, *, has_value: bool) -> str:
    if has_value:
        return f"{typed} takes no value"
    param = _option_named(typed, ctx)
    return f"{typed} needs a value" + (f": {typed} {metavar(param)}" if param else "")


def _option_named(typed: str, ctx: Any) -> Any:
    params = ctx.command.get_params(ctx) if ctx else []
    return next((p for p in params if typed in (*p.opts, *p.secondary_opts)), None)


def _missing(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"no {metavar(param).removesuffix('...')} given"
    return f"{_longest(param.opts)} {metavar(param)} is required"


def _bad_value(param: Any, ctx: Any) -> str | None:
    """The flag, the value, and why it is invalid. None if no cause is found."""
    # Cmd.app imports this module.
    words = list(ctx.meta.get("clinvk.words", ()))
    values: Any = None
    with suppress(Exception):  # of click: an error is known already
        values = ctx.command.make_parser(ctx).parse_args(list(words))[0].get(param.name)
    typed = _typed_flag(param, words)
    for value in values if isinstance(values, (list, tuple)) else [values]:
        try:
            param.type(value, param, ctx)
        except Exception as error:  # noqa: BLE001 - click's class has several names
            return f"{typed}: {_problem(param.type, value, error)}"
    return None


def _typed_flag(param: Any, words: list[str]) -> str:
    """The flag as it was typed, or the metavar of an argument."""
    if param.param_type_name == "argument":
        return metavar(param).removesuffix("...")
    flags = (*param.opts, *param.secondary_opts)
    for word in words:
        for flag in flags:
            if word == flag or word.startswith(f"{flag}=") or _is_bundled(word, flag):
                return str(flag)
    return _longest(flags)


def _is_bundled(word: str, flag: str) -> bool:
    """Whether `-n0`, or `-vn`, has the flag `-n`."""
    return len(flag) == 2 and word[:1] == "-" and word[:2] != "--" and flag[1] in word[1:]


def _problem(kind: Any, value: Any, error: Any) -> str:
    name, least, most = kind.name, getattr(kind, "min", None), getattr(kind, "max", None)
    if "int" not in name and "float" not in name:
        return _lowered(str(getattr(error, "message", error)))
    whole = "int" in name
    try:
        number = int(value) if whole else float(value)
    except ValueError:
        return f"{value!r} is not a {'whole ' * whole}number"
    if least is not None and number < least:
        return f"{value} is too small; the minimum is {least}"
    if most is not None and number > most:
        return f"{value} is too large; the maximum is {most}"
    return f"{value!r} is not a {'whole ' * whole}number"


def _longest(flags: Any) -> str:
    return str(max(flags, key=len))


def _see_help(ctx: Any, *, without_command: bool = False) -> str | None:
    if ctx is None:
        return None
    path = re.sub(" ask$", "", ctx.command_path) if without_command else ctx.command_path
    return f"see: {path} --help"


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:].rstrip(".")
