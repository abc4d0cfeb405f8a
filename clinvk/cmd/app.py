"""Commands that are imported when they are called, and a command line that may begin with a prompt.

Typer's groups import every command to know its options. `clinvk version` must not pay for that, and
`clinvk "fix the bug"` has no command at all: a first word that is not a command is a prompt, which
`ask` receives together with the options around it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from clinvk.cmd.options.words import (
    ASKED_WITHOUT_COMMAND,
    OPTIONAL_VALUE,
    PASSTHROUGH_KEY,
    OutputClosed,
    mark_literal_prompts,
    mark_number,
    mark_without_value,
    split_at_dashes,
    split_before_command,
)

PROMPT_COMMAND = "ask"
COLOR_CHOICES = ("auto", "always", "never")
WORDS_KEY = "clinvk.words"  # the words of the command whose options are being read


F = TypeVar("F", bound=Callable[..., Any])


def _show_help(ctx: Any, param: Any, value: object) -> None:
    if not value or ctx.resilient_parsing:
        return
    # Only for help.
    from clinvk.cmd.usage.help_page import render_page

    print(render_page(ctx.command, ctx, full="--help" in param.opts))
    ctx.exit()


def _set_color(ctx: Any, param: Any, value: str | None) -> None:
    if value is None or ctx.resilient_parsing:
        return
    # Only if the flag is there.
    from clinvk.errors import UsageError
    from clinvk.terminal import printer

    if value not in COLOR_CHOICES:
        raise UsageError(
            f"--color: {value!r} is not one of: {', '.join(COLOR_CHOICES)}",
            "use e.g. --color never",
        )
    printer.color_flag.set(value)
    printer.color.set(value)


def _complete_color(ctx: Any, args: list[str], incomplete: str) -> list[str]:
    return [word for word in COLOR_CHOICES if word.startswith(incomplete)]


@cache
def _common_options() -> list[Any]:
    """The options of every command."""
    shared: dict[str, Any] = {"expose_value": False, "is_eager": True}
    flag: dict[str, Any] = {"is_flag": True, "default": False, "callback": _show_help} | shared
    return [
        TyperOption(
            param_decls=["--color"], metavar="WHEN", callback=_set_color, default=None,
            help="Use color: auto, always or never (default: auto).",
            autocompletion=_complete_color,
            **shared,
        ),
        TyperOption(param_decls=["short_help", "-h"], help="Show a summary of this help.", **flag),
        TyperOption(param_decls=["full_help", "--help"], help="Show this help.", **flag),
    ]  # fmt: skip


class _Helpful:
    """A click command with clinvk's help and error messages."""

    params: list[Any]

    def get_params(self, ctx: Any) -> list[Any]:
        return [*self.params, *_common_options()]

    def get_help(self, ctx: Any) -> str:
        # Only for help.
        from clinvk.cmd.usage.help_page import render_page

        return render_page(self, ctx, full=True)


def _with_context(parse: Callable[[Any, list[str]], Any], ctx: Any, args: list[str]) -> list[str]:
    """The words that are not options. An invalid one is an error that names the command."""
    try:
        rest: list[str] = parse(ctx, args)
    except Exception as error:
        if getattr(error, "ctx", ctx) is None:
            error.ctx = ctx  # type: ignore[attr-defined]
        raise
    return rest


class Command(_Helpful, TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[WORDS_KEY] = list(args)
        if not ctx.resilient_parsing and not OPTIONAL_VALUE.isdisjoint(args):
            args = mark_without_value(self, args)
        takes_any, ctx.allow_extra_args = ctx.allow_extra_args, True
        rest: list[str] = _with_context(super().parse_args, ctx, args)
        if rest and not takes_any and not ctx.resilient_parsing:
            # Only for a mistake.
            from clinvk.cmd.usage.wording import unexpected_argument

            raise unexpected_argument(ctx, rest)
        return rest


class NumbersCommand(Command):
    """A command among whose arguments may be negative numbers: they are no options of it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [mark_number(word) for word in args])


class Group(_Helpful, TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[WORDS_KEY] = list(args)
        return _with_context(super().parse_args, ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in SHORT_NAMES:
            found = super().get_command(ctx, SHORT_NAMES[cmd_name])
        return found

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            # Only for a mistake.
            from clinvk.cmd.usage.wording import unknown_command

            raise unknown_command(ctx, args)
        return super().resolve_command(ctx, args)


SHORT_NAMES = {"ls": "list", "rm": "delete"}  # what people type, in every group


class CommandModule:
    """The commands of one module, each made into a click command when it is needed."""

    def __init__(self) -> None:
        self._functions: dict[str, tuple[Any, dict[str, Any]]] = {}

    def command(self, name: str, **settings: Any) -> Callable[[F], F]:
        def register(function: F) -> F:
            self._functions[name] = function, settings
            return function

        return register

    def get(self, name: str) -> Any:
        app = new_app()
        function, settings = self._functions[name]
        app.command(name, **settings)(function)
        return click_command(app)


class LazyGroup(Group):
    """A group whose `commands` map a name to a module below `clinvk.cmd` and a line of help."""

    def __init__(
        self,
        name: str,
        help: str,  # noqa: A002 - click's word
        commands: dict[str, tuple[str, str]],
        aliases: dict[str, str] | None = None,
        add_command: Callable[[Any, list[str]], list[str]] = lambda _, args: args,
    ) -> None:
        """`add_command` returns the words with the command that they leave out."""
        super().__init__(
            name=name,
            help=help,
            no_args_is_help=name != "clinvk",
            rich_markup_mode=None,
            context_settings={"help_option_names": []},
        )
        self.modules = commands
        self.aliases = aliases or {}
        self.add_command_to = add_command
        self._loaded: dict[str, Any] = {}  # takes milliseconds, and is needed more than once

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self.add_command_to(ctx, args))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.modules)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = cmd_name
        if name not in self.modules:
            name = self.aliases.get(name) or SHORT_NAMES.get(name, name)
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


class RootGroup(LazyGroup):
    """The command line as a whole."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = list(args)
        if not args and ctx.resilient_parsing:  # the first word is being completed
            return super().parse_args(ctx, args)
        before, args = split_before_command(args)
        if not args and sys.stdin.isatty() and not sys.stdout.isatty():
            args = ["-h"]  # there is neither a pipe that holds a prompt nor a place to type one
        first = args[0] if args else None
        if first in ("-h", "--help"):
            color = [word for words in before if words[0].startswith("--color") for word in words]
            return super().parse_args(ctx, [*color, *args])
        if first in ("-V", "--version"):
            args[0] = "version"
        elif not self._is_command(first):
            args.insert(0, PROMPT_COMMAND)
            ctx.meta[ASKED_WITHOUT_COMMAND] = True
        if before:
            args = _move_behind_command(self, ctx, args, [w for words in before for w in words])
        if args[0] in (PROMPT_COMMAND, "chat", "repl", "resume", "compare"):
            args = mark_literal_prompts(self.get_command(ctx, args[0]), args)
        if args[0] in (
            PROMPT_COMMAND,
            "chat",
            "repl",
            "resume",
        ):  # others pass nothing to a backend
            args, ctx.meta[PASSTHROUGH_KEY] = split_at_dashes(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise OutputClosed from error  # click would exit here, in its own way
        except KeyboardInterrupt as error:
            raise typer.Abort from error  # and here, with an exit code of its own

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Include the options of a prompt, which needs no command."""
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
    return typer.main.get_command(app)


class App(typer.Typer):
    """A typer app whose commands have clinvk's help and error messages."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[F], F]:
        settings.setdefault("cls", Command)
        # Typer's own help is off: `--help` and `-h` differ.
        settings["context_settings"] = {
            "help_option_names": [], **(settings.get("context_settings") or {})
        }  # fmt: skip
        return super().command(name, **settings)


def new_app(**settings: Any) -> App:
    """A typer app with plain help, no decorated tracebacks, and completion by `clinvk
    completion`."""
    return App(
        cls=Group,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": []},
        **settings,
    )


def _move_behind_command(
    root: RootGroup, ctx: Any, args: list[str], before: list[str]
) -> list[str]:
    """The words, with the options that came before the command moved after it."""
    name, rest = args[0], args[1:]
    found = root.get_command(ctx, name)
    at = 0
    while at < len(rest) and hasattr(found, "get_command") and not rest[at].startswith("-"):
        found = found.get_command(ctx, rest[at])
        at += 1
    return [name, *rest[:at], *before, *rest[at:]]
