"""What `--help` and `-h` print."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from textwrap import wrap
from typing import Any

from clinvk.cmd.usage import help_texts as texts
from clinvk.cmd.usage.wording import metavar, usage_of, value_of
from clinvk.model.option_table import BY_FLAG
from clinvk.terminal.printer import BOLD, Printer, terminal_width, wants_color

WIDEST, NARROWEST = 100, 40  # columns of a terminal that are used
MARGIN = "  "
CONTINUED = " \\"  # ends a line of a command that continues on the next one
MANY = 16  # from this many options on, they are grouped, and a summary shows only the common ones


def render_page(command: Any, ctx: Any, *, full: bool) -> str:
    """The help of a command; without `full`, a summary of it."""
    return Page(command, ctx, full=full).render()


class Page:
    """The help of one command, for the width of the terminal."""

    def __init__(self, command: Any, ctx: Any, *, full: bool) -> None:
        self.command, self.ctx, self.full = command, ctx, full
        self.path: str = ctx.command_path
        self.is_root = self.path == "clinvk"
        self.width = max(NARROWEST, min(terminal_width(), WIDEST))
        self.printer = Printer(sys.stdout, color=wants_color(sys.stdout))

    def render(self) -> str:
        sections = [self.description(), self.section("Usage", self.usage())]
        sections += self.commands()
        # A group's own options are those of all commands; the prompt's are those of `clinvk`.
        asked = self.command.get_command(self.ctx, "ask") if self.is_root else self.command
        params = asked.get_params(self.ctx)
        arguments = [p for p in params if p.param_type_name == "argument" and p.help]
        sections.append(self.table("Arguments", [(metavar(p), p.help) for p in arguments]))
        sections += self.options([p for p in params if p.param_type_name == "option"])
        if self.full:
            sections += self.task_keys()
            sections.append(self.section("Examples", self.examples()))
            codes = texts.exit_codes(self.path)
            sections.append(self.table("Exit codes", [(str(code), text) for code, text in codes]))
            if self.is_root:
                sections.append(self.table("Files", texts.FILES))
        sections.append("\n".join(self.closing()))
        return "\n\n".join(section for section in sections if section)

    def description(self) -> str:
        paragraphs = texts.ROOT if self.is_root else (self.command.help or "").split("\n\n")
        shown = paragraphs if self.full else paragraphs[:1]
        return "\n\n".join(self.wrapped(text) for text in shown)

    def usage(self) -> Iterator[str]:
        forms = texts.USAGE.get(self.path) or [usage_of(self.ctx)]
        for form in forms:
            yield from self.lines(form, MARGIN, MARGIN * 3)

    def commands(self) -> list[str]:
        if not hasattr(self.command, "list_commands"):
            return []
        rows = dict(self.command_rows())
        found = []
        for title, names in texts.COMMAND_GROUPS.get(self.path, {}).items():
            found.append((title, [(name, rows.pop(name)) for name in names if name in rows]))
        found.append(("Commands" if not found else "Other commands", [*rows.items()]))
        return [self.table(title, group) for title, group in found]

    def command_rows(self) -> Iterator[tuple[str, str]]:
        modules = getattr(self.command, "modules", None)
        for name in self.command.list_commands(self.ctx):
            if name not in texts.SECOND_NAMES:
                yield name, modules[name][1] if modules else self.summary_of(name)

    def summary_of(self, name: str) -> str:
        text = self.command.get_command(self.ctx, name).help or ""
        return str(text.split("\n\n")[0]).replace("\n", " ")

    def options(self, params: list[Any]) -> list[str]:
        shown = [p for p in params if not p.hidden]
        if len(shown) <= MANY:
            return [self.table("Options", map(self.option_row, shown))]
        if not self.full:
            usual = [p for p in shown if {*p.opts} & texts.USUAL]
            return [self.table("Common options", map(self.option_row, usual))]
        groups: dict[str, list[Any]] = {title: [] for title in texts.GROUPS}
        for param in shown:
            groups[group_of(param)].append(param)
        rows = {title: [*map(self.option_row, group)] for title, group in groups.items()}
        if self.is_root:
            rows[texts.OTHER].append(("-V, --version", "Print the version."))
        return [self.table(title, group) for title, group in rows.items() if group]

    def option_row(self, param: Any) -> tuple[str, str]:
        short = [flag for flag in param.opts if not flag.startswith("--")]
        long = [flag for flag in (*param.opts, *param.secondary_opts) if flag.startswith("--")]
        flags = ", ".join([*short, *long])
        if not short:
            flags = f"    {flags}"
        flags += value_of(param)
        text = param.help or ""
        if param.required:
            text += " (required)"
        elif has_default_to_show(param):
            text = f"{text.removesuffix('.')} (default: {param.default})."
        return flags, text

    def task_keys(self) -> Iterator[str]:
        if self.path in texts.READ_TASKS:
            # Only these commands have them: 15 ms.
            from clinvk.cmd.usage import task_keys

            yield from (self.table(title, rows) for title, rows in task_keys.sections(self.path))

    def examples(self) -> Iterator[str]:
        for i, (comment, command) in enumerate(texts.EXAMPLES.get(self.path, ())):
            if i:
                yield ""
            yield from self.lines(f"# {comment}", MARGIN, f"{MARGIN}# ")
            *lines, last = wrap(
                command, self.width - len(CONTINUED), initial_indent=MARGIN,
                subsequent_indent=MARGIN * 3, break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
            yield from (f"{line}{CONTINUED}" for line in lines)
            yield last

    def closing(self) -> Iterator[str]:
        if not self.full:
            what = "all options, examples and exit codes" if self.is_root else "the full help"
            yield self.wrapped(f"{self.path} --help prints {what}.")
        elif hasattr(self.command, "list_commands"):
            yield self.wrapped(f"Help of a command: {self.path} COMMAND --help")
        if self.full:
            yield self.wrapped(f"Documentation: {texts.documentation()}")

    # Layout

    def section(self, title: str, lines: Iterable[str]) -> str:
        body = "\n".join(lines)
        return f"{self.printer.paint(f'{title}:', BOLD)}\n{body}" if body else ""

    def table(self, title: str, rows: Iterable[tuple[str, str]]) -> str:
        """Two columns: a term, and a text that is wrapped beside it, or below a long term."""
        rows = list(rows)
        widest = 32 if self.width >= 80 else 24
        column = min(max((len(left) for left, _ in rows), default=0), widest)
        margin = MARGIN + " " * (column + 2)
        lines: list[str] = []
        for left, text in rows:
            beside = self.lines(text, margin, margin) or [""]
            if len(left) > column:
                lines += [f"{MARGIN}{left}", *beside]
            else:
                first = f"{MARGIN}{left:<{column}}  {beside[0].lstrip()}"
                lines += [first.rstrip(), *beside[1:]]
        return self.section(title, lines)

    def wrapped(self, text: str) -> str:
        return "\n".join(self.lines(" ".join(text.split())))

    def lines(self, text: str, first: str = "", rest: str = "") -> list[str]:
        return wrap(
            text, self.width, initial_indent=first, subsequent_indent=rest,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip


def group_of(param: Any) -> str:
    """The heading of an option's group."""
    for flag in param.opts:
        if flag in BY_FLAG:
            return BY_FLAG[flag].group
    for title, flags in texts.GROUPS.items():
        if {*param.opts} & {*flags.split()}:
            return title
    return texts.OTHER


def has_default_to_show(param: Any) -> bool:
    default = param.default
    return (
        isinstance(default, (int, str))
        and not isinstance(default, bool)
        and bool(default)
        and "default" not in (param.help or "")
    )
