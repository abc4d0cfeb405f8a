"""Change the configuration file. Its comments and the order of its keys stay as they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clinvk.config import loading
from clinvk.errors import ConfigError

EXAMPLE = """\
# clinvk's configuration; config.example.yaml of the project shows every key.
# See what is in force, and from where: clinvk config show --origin
"""


def path_in_use(env: Mapping[str, str], given: Path | None = None) -> Path:
    """The file in use, or the one `given` instead. It need not be valid, or exist."""
    if given is not None:
        return given
    if named := env.get("CLINVK_CONFIG"):
        return Path(named).expanduser()
    return loading.find_home(env) / "config.yaml"


def change_settings(file: Path, settings: Mapping[str, Any], *, header: str = "") -> None:
    """Set these dotted keys; a file that is new or empty begins with `header`. Raises `ConfigError`,
    with the file unchanged, if it would be invalid or cannot be written."""

    def change(data: Any) -> None:
        for key, value in settings.items():
            _set_key(data, key.split("."), value)

    _rewrite(file, next(iter(settings)), change, header)


def remove_setting(file: Path, key: str) -> None:
    """Remove a dotted key, and the sections that are empty without it. Raises `ConfigError`, with
    the file unchanged."""
    _rewrite(file, key, lambda data: _remove_key(data, key.split(".")))


def write_config(file: Path, text: str) -> None:
    """Replace the whole file. Raises `ConfigError` if it cannot be written."""
    # Only a command that changes the file needs it.
    from clinvk.disk.atomic import replace_file

    folder = os.path.dirname(os.path.realpath(file))
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        replace_file(file, text.encode(), durable=True)  # a link to a file of dotfiles stays one
    except OSError as error:
        raise ConfigError(
            f"{file}: {error.strerror}; nothing was changed", "name another file with --config"
        ) from error


def _rewrite(file: Path, changed: str, change: Callable[[Any], None], header: str = "") -> None:
    """The file after a `change`, of which `changed` is the key to be checked."""
    # Only a command that changes the file needs it.
    from io import StringIO

    from ruamel.yaml import YAML  # 30 ms: only to change a file

    yaml = YAML()
    yaml.preserve_quotes = True
    text = loading.read_text(file) or header
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
    loading.parse_config(text, file, changed=changed)
    write_config(file, text)


def _set_key(data: Any, steps: list[str], value: Any) -> None:
    for step in steps[:-1]:
        if not isinstance(data.get(step), dict):
            data[step] = {}
        data = data[step]
    data[steps[-1]] = value


def _remove_key(data: Any, steps: list[str]) -> None:
    """Take the key out, and what is empty without it."""
    parents = []
    for step in steps[:-1]:
        parents.append((data, step))
        data = data.get(step) if isinstance(data, dict) else None
    if isinstance(data, dict):
        data.pop(steps[-1], None)
    for parent, step in reversed(parents):
        if isinstance(parent, dict) and not parent.get(step):
            parent.pop(step, None)
