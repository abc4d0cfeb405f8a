"""`clinvk config`: show, get, set, unset, path, edit, check."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.completions import complete_config_keys, complete_config_values
from clinvk.config import keys, loading
from clinvk.config import schema as configs
from clinvk.errors import ConfigError
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
    if as_json:
        data = {k: {"value": v, "origin": loaded.origin(k)} for k, v in settings}
        printer.print_json({"version": VERSION, "path": str(loaded.path), "settings": data})
    elif origin:
        rows = [[k, _format_value(v), loaded.origin(k)] for k, v in settings]
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


@app.command("set")
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
    parsed = keys.parse_value(key, value)
    _rewrite(_path(config), key, lambda data: _set_key(data, key.split("."), parsed))


@app.command()
def unset(key: Key, config: opt.Config = None) -> None:
    """Remove a setting, restoring its default."""
    keys.get_value(opt.load_config(config), key)
    _rewrite(_path(config), key, lambda data: _remove_key(data, key.split(".")))


@app.command()
def path(config: opt.Config = None) -> None:
    """Print the path of the file."""
    print(one_line(str(_path(config))))


@app.command()
def edit(config: opt.Config = None) -> int:
    """Open the file in $VISUAL or $EDITOR, then check it."""
    # Only `config edit` needs it.
    from clinvk.cmd.options.editor import run_editor

    file = _path(config)
    if not file.exists():
        _write(file, EXAMPLE)
    code = run_editor(file)
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
    path = file or _path(config)
    loading.parse_config(loading.read_text(path, required=file is not None), path)
    shown = one_line(str(path))
    print(f"{shown}: OK" if path.exists() else f"{shown}: no such file; the defaults apply")


EXAMPLE = """\
# clinvk's configuration; config.example.yaml of the project shows every key.
# See the settings in use and their origins: clinvk config show --origin
"""


def _path(config: Path | None) -> Path:
    """The file in use, which may be invalid or missing."""
    if config is not None:
        return config
    if given := os.environ.get("CLINVK_CONFIG"):
        return Path(given).expanduser()
    return loading.find_home(os.environ) / "config.yaml"


def _rewrite(file: Path, key: str, change: Any) -> None:
    """The file after `change` of this key, if it is valid then; comments and order are kept."""
    # Only a command that changes the file needs it.
    from io import StringIO

    from ruamel.yaml import YAML  # 30 ms: only to change a file

    yaml = YAML()
    yaml.preserve_quotes = True
    text = loading.read_text(file)
    loading.check_changeable(text, file)
    data = yaml.load(text) if text.strip() else None
    if data is None:
        data = {}
        text = text.rstrip("\n") + "\n" if text.strip() else ""  # only comments
    else:
        text = ""
    change(data)
    out = StringIO()
    if data:
        yaml.dump(data, out)
    text += out.getvalue()
    loading.parse_config(text, file, changed=key)
    _write(file, text)


def _set_key(data: Any, steps: list[str], value: Any) -> None:
    for step in steps[:-1]:
        if not isinstance(data.get(step), dict):
            data[step] = {}
        data = data[step]
    data[steps[-1]] = value


def _remove_key(data: Any, steps: list[str]) -> None:
    """Remove the key, and mappings that are empty without it."""
    parents = []
    for step in steps[:-1]:
        parents.append((data, step))
        data = data.get(step) if isinstance(data, dict) else None
    if isinstance(data, dict):
        data.pop(steps[-1], None)
    for parent, step in reversed(parents):
        if isinstance(parent, dict) and not parent.get(step):
            parent.pop(step, None)


def _write(file: Path, text: str) -> None:
    # Only a command that changes the file needs it.
    from clinvk.disk.atomic import replace_file

    folder = os.path.dirname(os.path.realpath(file))
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        replace_file(file, text.encode(), durable=True)  # keeps symbolic links
    except OSError as error:
        raise ConfigError(
            f"{file}: {error.strerror}; nothing was changed", "choose another file with --config"
        ) from error


def _format_value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return "{}" if value == {} else str(value)
