"""`clinvk config`: show, get, set, unset, path, edit, check."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from clinvk.cmd.app import NumbersCommand, new_app
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.completions import complete_config_keys, complete_config_values
from clinvk.cmd.options.words import LITERAL_MARK
from clinvk.config import editing, keys, loading
from clinvk.config import schema as configs
from clinvk.config.stored_options import flat, options_path, read_options_file
from clinvk.errors import ConfigError, UsageError
from clinvk.terminal import printer
from clinvk.text.sanitize import one_line

app = new_app(no_args_is_help=True, help="Show and change the configuration.")
VERSION = 1  # of the JSON that they print
Key = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="Dotted key, such as backends.claude.model.",
        autocompletion=complete_config_keys,
    ),
]


@app.command("show")
def show_(
    origin: Annotated[
        bool, typer.Option("--origin", help="Show where each value comes from.")
    ] = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Show all settings."""
    loaded = opt.load_config(config)
    settings = list(keys.flatten(loaded.config))
    stored = flat(read_options_file(loaded.home).user)
    if as_json:
        data = {k: {"value": v, "origin": loaded.origin(k)} for k, v in settings}
        found = {"path": str(loaded.path), "settings": data, "stored_options": stored}
        printer.print_json({"version": VERSION, **found})
    elif origin:
        rows = [[k, _format_value(v), loaded.origin(k)] for k, v in settings]
        path = str(options_path(loaded.home))
        rows += [[f"stored {k}", _format_value(v), path] for k, v in stored.items()]
        printer.print_table(["KEY", "VALUE", "FROM"], rows, shrinks=["VALUE", "FROM"])
    else:
        for key, value in settings:
            print(f"{key}: {one_line(_format_value(value))}")


@app.command("get")
def get(key: Key, as_json: opt.Json = False, config: opt.Config = None) -> None:
    """Print one setting."""
    value = keys.get_value(opt.load_config(config), key)
    steps = key.split(".")
    if steps[0] == "backends" and steps[2:3] == ["env"]:
        value = dict.fromkeys(value or {}, configs.MASK) if len(steps) == 3 else configs.MASK
    if isinstance(value, dict) or hasattr(value, "__struct_fields__"):
        flat = dict(keys.flatten(value, ()))
        value = flat.get("", flat)
    else:
        value = keys.shown(value, tuple(steps))
    if as_json or isinstance(value, (dict, list)):
        printer.print_json(value)
    elif value is not None:
        print(printer.safe(_format_value(value)))


@app.command("set", cls=NumbersCommand)
def set_(
    key: Key,
    value: Annotated[
        str,
        typer.Argument(
            metavar="VALUE",
            help="The value, in YAML syntax.",
            autocompletion=complete_config_values,
        ),
    ],
    config: opt.Config = None,
) -> None:
    """Change a setting in the file; comments are kept."""
    parsed = keys.parse_value(key, value.removeprefix(LITERAL_MARK))
    editing.change_settings(editing.path_in_use(os.environ, config), {key: parsed})


@app.command()
def unset(key: Key, config: opt.Config = None) -> None:
    """Remove a setting, restoring its default."""
    keys.get_value(opt.load_config(config), key)
    editing.remove_setting(editing.path_in_use(os.environ, config), key)


@app.command()
def path(config: opt.Config = None) -> None:
    """Print the path of the file."""
    print(one_line(str(editing.path_in_use(os.environ, config))))


@app.command()
def edit(config: opt.Config = None) -> int:
    """Open the file in $VISUAL or $EDITOR, then check it."""
    # Only `config edit` needs it.
    from clinvk.cmd.options.editor import run_editor

    file = editing.path_in_use(os.environ, config)
    if not file.exists():
        editing.write_config(file, editing.EXAMPLE)
    try:
        code = run_editor(file)
    except UsageError as error:
        raise ConfigError(error.message, error.hint) from error
    loading.parse_config(loading.read_text(file), file)
    return code


@app.command()
def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="File to check (default: the one in use)."),
    ] = None,
    config: opt.Config = None,
) -> None:
    """Check the file; exit with 3 if it is invalid."""
    path = file or editing.path_in_use(os.environ, config)
    loading.parse_config(loading.read_text(path, required=file is not None), path)
    shown = one_line(str(path))
    printer.print_wrapped(
        f"{shown}: OK" if path.exists() else f"{shown}: no such file; the defaults apply"
    )


def _format_value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return "{}" if value == {} else str(value)
