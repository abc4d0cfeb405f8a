"""What is made from the table of options, the schema of the configuration and the command line:
config.example.yaml, the tables of keys in docs/configuration.md, and docs/reference.md.

python docs/reference.py            print the names of the files
python docs/reference.py --write    write them
python docs/reference.py --check    exit 1 if one of them says something else
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec.structs import fields

from clinvk.cmd.main import root
from clinvk.cmd.usage import help_texts
from clinvk.cmd.usage.help_page import group_of, has_default_to_show
from clinvk.cmd.usage.wording import metavar, usage_of, value_of
from clinvk.config.key_help import KeyHelp, key_help
from clinvk.config.schema import BackendConfig, Config

DOCS = Path(__file__).parent
EXAMPLE, KEYS, COMMANDS = (
    DOCS.parent / "config.example.yaml", DOCS / "configuration.md", DOCS / "reference.md",
)  # fmt: skip
COMMENT_COLUMN = 30
SIMPLE = {str: "text", int: "number", float: "number", bool: "true or false"}
SECTION_COMMENTS = {
    "unified_flags": "for every backend",
    "backends": "",
    "session": "",
    "output": "",
    "parallel": "of `clinvk parallel`, unless its file or its flags say otherwise",
    "cluster": "tasks on other machines",
    "worker": "of `clinvk worker`, on this machine",
}
HEADER = """\
# Every key of clinvk's configuration, with its default. Copy what you change to
# ~/.clinvk/config.yaml; an empty file is fine. Or: clinvk config set KEY VALUE
# What is in effect, and from where: clinvk config show --origin
"""


def main(args: list[str]) -> int:
    made = {
        EXAMPLE: example(),
        KEYS: with_key_tables(KEYS.read_text("utf-8")),
        COMMANDS: commands_page(),
    }
    if args == ["--write"]:
        for path, text in made.items():
            path.write_text(text, encoding="utf-8")
        return 0
    if args == ["--check"]:
        old = [p for p, text in made.items() if not p.exists() or p.read_text("utf-8") != text]
        for path in old:
            print(f"{path.name} is not what the code says now", file=sys.stderr)
        if old:
            print("  hint: python docs/reference.py --write", file=sys.stderr)
        return 1 if old else 0
    if args:
        sys.exit(__doc__)
    print(*(path.relative_to(DOCS.parent) for path in made), sep="\n")
    return 0


# The keys of the configuration


def sections() -> dict[str, type[msgspec.Struct]]:
    """The parts of the configuration that have keys of their own, by the prefix of these."""
    found: dict[str, type[msgspec.Struct]] = {}
    for field in fields(Config):
        if field.name == "backends":
            found["backends.NAME"] = BackendConfig
        elif isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found |= _sections_of(field.name, field.type)
    return found


def _sections_of(name: str, struct: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    """The section, if it has keys of its own, and those below it."""
    below = {f"{name}.{f.name}": f.type for f in fields(struct) if _is_section(f)}
    own = {name: struct} if len(below) < len(fields(struct)) else {}
    return {**own, **below}


def _is_section(field: msgspec.structs.FieldInfo) -> bool:
    return isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)


def example() -> str:
    helps = key_help()
    parts = [
        HEADER,
        _line("default_backend", Config().default_backend, helps["default_backend"].comment),
    ]
    for prefix, struct in sections().items():
        name = prefix.partition(".")[0]
        if not parts[-1].startswith(f"{name}:"):
            parts.append(_line(name, None, SECTION_COMMENTS[name]))
        indent = "  "
        if name == "backends":
            parts[-1] += _line(
                "  claude", None, "the same keys for codex, gemini, echo and your own"
            )
            indent = "    "
        elif "." in prefix:
            parts[-1] += _line(f"  {prefix.partition('.')[2]}", None, "what it may run")
            indent = "    "
        nested = {field.name for field in fields(struct) if _is_section(field)}
        for key, value in msgspec.to_builtins(struct()).items():
            if key in nested:
                continue
            parts[-1] += _line(f"{indent}{key}", _yaml(value), helps[f"{prefix}.{key}"].comment)
    return "\n".join(parts)


def _line(key: str, value: str | None, comment: str) -> str:
    text = f"{key}:" if value is None else f"{key}: {value}"
    return (f"{text:<{COMMENT_COLUMN - 2}}  # {comment}" if comment else text) + "\n"


def _yaml(value: Any) -> str:
    return {None: "null", False: "false", True: "true"}.get(value, str(value)) if not isinstance(
        value, (list, dict)) else str(value)  # fmt: skip


def with_key_tables(page: str) -> str:
    """The page with the tables of keys as they have to be."""
    helps = key_help()
    tables = {"Top": [_row("default_backend", str, "claude", helps["default_backend"])]}
    for prefix, struct in sections().items():
        tables[f"`{prefix}`"] = [
            _row(field.name, field.type, getattr(struct(), field.name), helps[f"{prefix}.{field.name}"],
                 as_above=prefix == "backends.NAME")
            for field in fields(struct)
            if not _is_section(field)
        ]  # fmt: skip
    for title, rows in tables.items():
        before, rest = page.split(f"### {title}\n", 1)
        table = "\n".join(["| key | type | default | effect |", "|---|---|---|---|", *rows, ""])
        rest = re.sub(
            r"^\|.*?\n(?!\|)", lambda _, t=table: t, rest, count=1, flags=re.MULTILINE | re.DOTALL
        )
        page = f"{before}### {title}\n{rest}"
    return page


def _row(name: str, kind: Any, default: Any, about: KeyHelp, *, as_above: bool = False) -> str:
    words = about.type or _type_in_words(kind)
    if as_above and words.startswith("`"):
        words = "as above"
    shown = about.default or ("none" if default is None else f"`{_yaml(default)}`")
    return f"| `{name}` | {words} | {shown} | {about.effect} |"


def _type_in_words(kind: Any) -> str:
    if get_origin(kind) is UnionType or (get_args(kind) and type(None) in get_args(kind)):
        kind = next(arg for arg in get_args(kind) if arg is not type(None))
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is list:
        return "list"
    if get_origin(kind) is dict:
        return "keys and numbers" if get_args(kind)[1] is int else "keys and values"
    return SIMPLE[kind]


# The commands


def commands_page() -> str:
    parts = [
        "# Command line",
        (
            "Every command with its arguments and options, as `--help` shows them. The "
            "[exit codes](output.md#exit-codes) are on a page of their own."
        ),
    ]
    for context in _contexts(root(), "clinvk"):
        command, path = context.command, context.command_path
        asked = command.get_command(context, "ask") if path == "clinvk" else command
        parts.append(f"## `{path}`")
        parts += help_texts.ROOT if path == "clinvk" else [_cell(p) for p in _paragraphs(command)]
        usage = "\n".join(help_texts.USAGE.get(path) or [usage_of(context)])
        parts.append(f"```text\n{usage}\n```")
        params = asked.params if path != "clinvk" else asked.get_params(context)
        if path != "clinvk ask":  # the same as those of `clinvk`
            parts += _tables([p for p in params if not p.hidden])
        else:
            parts.append("The options are those of `clinvk`.")
    return "\n\n".join(parts) + "\n"


def _contexts(command: Any, path: str, parent: Any = None) -> Iterator[Any]:
    words = ["version"] if parent is None else []
    context = command.make_context(path, words, parent=parent, resilient_parsing=parent is not None)
    yield context
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        if name not in help_texts.SECOND_NAMES:
            yield from _contexts(command.get_command(context, name), name, context)


def _paragraphs(command: Any) -> list[str]:
    return [" ".join(p.split()) for p in (command.help or "").split("\n\n") if p.strip()]


def _tables(params: list[Any]) -> Iterator[str]:
    arguments = [p for p in params if p.param_type_name == "argument"]
    options = [p for p in params if p.param_type_name == "option"]
    if arguments:
        yield _table("argument", [(f"`{metavar(p)}`", p.help) for p in arguments])
    if not options:
        return
    titles = [title for title in help_texts.GROUPS if any(group_of(p) == title for p in options)]
    if len(options) <= SHORT_TABLE:
        yield _table("option", map(_option, options))
        return
    for title in titles:
        yield f"**{title}**"
        yield _table("option", [_option(p) for p in options if group_of(p) == title])


SHORT_TABLE = 12  # options that are in one table


def _option(param: Any) -> tuple[str, str]:
    flags = ", ".join(f"`{flag}`" for flag in (*param.opts, *param.secondary_opts))
    text = param.help or ""
    if param.required:
        text += " Required."
    elif has_default_to_show(param):
        text += f" Default: `{param.default}`."
    return flags[:-1] + value_of(param) + "`", text


def _table(title: str, rows: Any) -> str:
    lines = [f"| {title} | |", "|---|---|"]
    return "\n".join(lines + [f"| {left} | {_cell(text or '')} |" for left, text in rows])


def _cell(text: str) -> str:
    """Text of the help, as Markdown."""
    text = " ".join(text.split())
    return re.sub(r"([|<>*_{}\[\]])", r"\\\1", text) if "`" not in text else text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
