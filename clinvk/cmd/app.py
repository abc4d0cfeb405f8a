"""Commands that are imported when they are called, and a command line that may begin with a prompt.

Typer's groups import every command to know its options. `clinvk version` must not pay for that, and
`clinvk "fix the bug"` has no command at all: what is no command's name is a prompt, which `ask`
takes with all that stands around it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

import typer
from typer.core import TyperGroup

PROMPT_COMMAND = "ask"
LITERAL_MARK = "\0"  # marks a prompt that looks like a flag; no argument can hold it by itself
PASSTHROUGH_KEY = "clinvk.behind_dashes"  # what stood behind `--`: the backend's, not ours


F = TypeVar("F", bound=Callable[..., Any])


class OutputClosed(Exception):  # noqa: N818 - reads as what it says
    """Whoever read our output has gone."""


class CommandModule:
    """The commands of one module, each made into a click command when it is asked for."""

    def __init__(self) -> None:
        self._functions: dict[str, Any] = {}

    def command(self, name: str) -> Callable[[F], F]:
        def register(function: F) -> F:
            self._functions[name] = function
            return function

        return register

    def get(self, name: str) -> Any:
        app = new_app()
        app.command(name)(self._functions[name])
        return click_command(app)


class LazyGroup(TyperGroup):
    """A group whose `commands` map a name to a module below `clinvk.cmd` and a line of help."""

    def __init__(
        self,
        name: str,
        help: str,  # noqa: A002 - click's word
        commands: dict[str, tuple[str, str]],
        aliases: dict[str, str] | None = None,
    ) -> None:
        super().__init__(
            name=name,
            help=help,
            no_args_is_help=name != "clinvk",
            rich_markup_mode=None,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        self.modules = commands
        self.aliases = aliases or {}
        self._loaded: dict[str, Any] = {}  # it costs milliseconds, and is asked for more than once

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.modules)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = self.aliases.get(cmd_name, cmd_name)
        if name not in self.modules:
            return None
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> Any:
        module = import_module(f"clinvk.cmd.{self.modules[name][0]}")
        if hasattr(module, "group"):
            return module.group()
        if isinstance(module.app, CommandModule):
            return module.app.get(name)
        return click_command(module.app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.modules.items()])


class RootGroup(LazyGroup):
    """The command line as a whole."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = list(args)
        if not args and ctx.resilient_parsing:  # the first word is being completed
            return super().parse_args(ctx, args)
        before: list[str] = []
        while len(args) > 1 and args[0] == "--config":  # as git takes -C before the command
            before += [args.pop(0), args.pop(0)]
        first = args[0] if args else None
        if first == "--version":
            args[0] = "version"
        elif first not in ("-h", "--help") and not self._is_command(first):
            args.insert(0, PROMPT_COMMAND)
        if before:
            args = [*_move_config_option(self, ctx, args, before)]
        if args[0] in (PROMPT_COMMAND, "chat", "resume", "compare"):
            args = _mark_literal_prompts(self.get_command(ctx, args[0]), args)
        if args[0] in (PROMPT_COMMAND, "chat", "resume"):  # others hand nothing to a backend
            args, ctx.meta[PASSTHROUGH_KEY] = _split_at_dashes(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise OutputClosed from error  # click would end the process here, in its own way
        except KeyboardInterrupt as error:
            raise typer.Abort from error  # and here, with a code that is not ours

    def format_help(self, ctx: Any, formatter: Any) -> None:
        ask = self.get_command(ctx, PROMPT_COMMAND)
        formatter.write(f"{self.help}\n\n")
        formatter.write_usage("clinvk", '[OPTIONS] "PROMPT" [-- BACKEND ARGS]')
        formatter.write_usage("clinvk", "COMMAND ...", prefix="       ")
        self.format_commands(ctx, formatter)
        with ask.make_context("clinvk", [], resilient_parsing=True) as inner:
            ask.format_options(inner, formatter)
        formatter.write(
            "\nFiles: ~/.clinvk/config.yaml, ~/.clinvk/backends/*.yaml (CLINVK_HOME moves them)\n"
        )

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Also the options of a prompt, which needs no command."""
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            ask = self.get_command(ctx, PROMPT_COMMAND)
            with ask.make_context("clinvk", [], resilient_parsing=True) as inner:
                known = {item.value for item in found}
                more = ask.shell_complete(inner, incomplete)
                found += [item for item in more if item.value not in known]
        return found

    def _is_command(self, word: str | None) -> bool:
        return word in self.modules or word in self.aliases


def click_command(app: typer.Typer) -> Any:
    """The click command of a typer app: a group where it has several."""
    made = typer.main.get_command(app)
    made.context_settings.setdefault("help_option_names", ["-h", "--help"])
    return made


def new_app(**settings: Any) -> typer.Typer:
    """A typer app in our manner: plain help, no traceback art, completion by `clinvk completion`."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


def _move_config_option(root: RootGroup, ctx: Any, args: list[str], before: list[str]) -> list[str]:
    """Put what stood before the command behind it, where its own options are read."""
    name, rest = args[0], args[1:]
    found = root.get_command(ctx, name)
    at = 0
    while at < len(rest) and hasattr(found, "get_command") and not rest[at].startswith("-"):
        found = found.get_command(ctx, rest[at])
        at += 1
    return [name, *rest[:at], *before, *rest[at:]]


def _mark_literal_prompts(found: Any, args: list[str]) -> list[str]:
    """Mark the prompts that begin with a dash: "-fix this" is a sentence, `--modle` a slip.

    A word is a sentence when it has white space in it and is not the value of an option before it,
    nor an option of ours with its value behind `=`."""
    takes_value = {
        name: not (param.is_flag or param.count)
        for param in found.params
        if param.param_type_name == "option"
        for name in (*param.opts, *param.secondary_opts)
    }
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


def _split_at_dashes(args: list[str]) -> tuple[list[str], list[str]]:
    """The words before the first `--`, and those behind it."""
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
