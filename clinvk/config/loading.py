"""Load the configuration: defaults, file, environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from clinvk.config.paths import backend_names
from clinvk.config.schema import Config, Loaded
from clinvk.disk.reading import is_null_device, read_file, read_named
from clinvk.errors import ConfigError
from clinvk.model.option_table import options_in
from clinvk.text import addresses, values, yaml
from clinvk.text.addresses import mask_password
from clinvk.text.typed import (
    ShapeError,
    build_struct,
    format_path,
    quoted,
    unknown_key,
)
from clinvk.text.yaml.rules import PROSE, Rules

_WRITTEN: Rules = {
    "unified_flags": {"system_prompt": PROSE},
    "backends": {"*": {"system_prompt": PROSE, "env": {"*": PROSE}}},
    "session": {"default_tags": {"[]": PROSE}},
}
DEFAULTS = Config()
FIFO_PATIENCE = 5.0  # seconds until something writes the FIFO that --config names
MINIMUMS = {
    **{
        f"unified_flags.{option.config_key}": option.minimum
        for option in options_in("unified_flags")
        if option.minimum is not None
    },
    "session.retention_days": 0,
    "parallel.max_workers": 1,
    "cluster.cache_gb": 0,
}


def _edit_hint(path: Path) -> str:
    """How to fix the file: the command edits the file in use, unless --config names another one."""
    in_use = os.environ.get("CLINVK_CONFIG") or find_home(os.environ) / "config.yaml"
    if path == Path(in_use).expanduser():
        return "fix it with: clinvk config edit"
    import shlex  # only on the way to an error

    return f"fix it with: clinvk config edit --config {shlex.quote(str(path))}"


def find_home(env: Mapping[str, str]) -> Path:
    """The directory of the user's files: `CLINVK_HOME`, otherwise `~/.clinvk`."""
    if given := env.get("CLINVK_HOME"):
        return Path(given).expanduser().absolute()
    home = Path(env.get("HOME") or _home_of_user())
    if not home.is_absolute():
        raise ConfigError(f"HOME is not an absolute path: {str(home)!r}", "set HOME or CLINVK_HOME")
    return home / ".clinvk"


def _home_of_user() -> str:
    """The home directory of the password database. Raises `ConfigError`."""
    import pwd  # only if HOME is not set, or empty

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        raise ConfigError(
            "HOME is not set, and this user has no home directory", "set HOME or CLINVK_HOME"
        ) from None


def load(env: Mapping[str, str], path: Path | None = None) -> Loaded:
    """The configuration in use. Raises `ConfigError` that names file, line and key; an invalid file
    is never replaced by defaults. A missing one is, unless it was requested."""
    home = find_home(env)
    asked = path or (Path(env["CLINVK_CONFIG"]) if env.get("CLINVK_CONFIG") else None)
    path = (asked or home / "config.yaml").expanduser()
    text = read_text(path, required=asked is not None)
    data, origins = _from_text(text, path)
    _from_env(env, data, origins)
    try:
        config = build_struct(Config, data)
        _check_values(config, home)
        return Loaded(config, home, path, origins)
    except ShapeError as error:
        source = origins.get(format_path(error.path), "")
        raise _config_error(path, text, error, source if source.startswith("$") else "") from error


def read_text(path: Path, *, required: bool = False) -> str:
    try:
        if required or is_null_device(path):
            data = read_named(path, patience=FIFO_PATIENCE)
        else:
            data = read_file(path)
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        if required:
            raise ConfigError(
                f"{path}: no such file", "create it with: clinvk config edit, or leave out --config"
            ) from None
        return ""
    except IsADirectoryError:
        raise ConfigError(
            f"{path}: is a directory, not a file", "remove it, or choose a file with --config"
        ) from None
    except NotADirectoryError:
        raise ConfigError(
            f"{path}: {path.parent} is not a directory",
            "set CLINVK_HOME to a directory, or choose another file with --config",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}",
            "put a readable file there, or choose another one with --config or CLINVK_CONFIG",
        ) from error


def parse_config(text: str, path: Path, *, changed: str | None = None) -> Config:
    """The configuration in `text`, checked completely. Raises `ConfigError`; `path` is for its
    message. If the text differs from the file only in the key `changed`, the names in other keys
    are not checked, and an error in this key has no line in the file."""
    data, _ = _from_text(text, path)
    home = find_home(os.environ)
    try:
        config = build_struct(Config, data)
        _check_values(config, home)
        if "default_backend" in data and changed in (None, "default_backend"):
            _check_default_backend(config.default_backend, home)
    except ShapeError as error:
        if changed is not None and format_path(error.path).startswith(changed):
            raise ConfigError(f"{error}; nothing was changed", error.hint) from error
        raise _config_error(path, text, error, "") from error
    if changed is None:
        check_address(config.session.storage, f"{path}: session.storage")
    elif changed.startswith("session"):
        check_address(config.session.storage, "session.storage")
    return config


def check_changeable(text: str, path: Path) -> None:
    """Raise `ConfigError` unless a setting in `text` can be changed: it has to be YAML of keys and
    values. An invalid value may be what the change fixes."""
    _from_text(text, path)


def _check_default_backend(name: str, home: Path) -> None:
    known = backend_names(home)
    if name not in known:
        raise ShapeError(
            ("default_backend",), f"unknown backend {name!r}; known: {', '.join(known)}"
        )


def check_address(address: str, where: str) -> None:
    """Raise `ConfigError`, which does not show the password, if an address is malformed or of an
    unknown kind of store."""
    if found := addresses.store_problem(address):
        problem, hint = found
        shown_ = mask_password(address)
        if hint == addresses.STORES:
            raise ConfigError(f"{where}: {problem} {shown_!r}", hint)
        raise ConfigError(f"{where}: malformed address {shown_!r}: {problem}", hint)


def _check_values(config: Config, home: Path) -> None:
    """Raise `ShapeError` for a value of the right type that makes no sense."""
    for key, least in MINIMUMS.items():
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        if value is not None and value < least:
            raise ShapeError(
                (section, name), f"{quoted(value)} is too small; the minimum is {least}"
            )
    for name in ("command_timeout_secs", "exit_timeout_secs", "max_wait_secs"):
        seconds = getattr(config.unified_flags, name)
        if seconds is not None and not 0 < seconds < float("inf"):
            raise ShapeError(("unified_flags", name), f"{seconds} is not greater than 0 seconds")
    action = config.unified_flags.on_limit or "fail"
    if action not in ("fail", "wait") and not action.removeprefix("switch:").strip(" ,:"):
        raise ShapeError(("unified_flags", "on_limit"), f"{action!r}: name a backend")
    if action not in ("fail", "wait") and not action.startswith("switch:"):
        raise ShapeError(
            ("unified_flags", "on_limit"),
            f"{action!r} is not one of: wait, fail, or switch:BACKEND",
        )
    for name, backend in config.backends.items():
        for variable in backend.env:
            if problem := values.name_problem(variable):
                raise ShapeError(("backends", name, "env", variable), problem)
    if config.cluster != DEFAULTS.cluster or config.worker != DEFAULTS.worker:
        # Only with a cluster.
        from clinvk.config.cluster_values import check_cluster_values

        check_cluster_values(config, home)
    for place, text in values.texts(to_builtins(config)) if config.backends else ():
        if problem := values.text_problem(text):
            raise ShapeError(place, problem)
    if config.backends:
        known = backend_names(home)
        for name in config.backends:
            if name not in known:
                raise ShapeError(("backends", name), unknown_key(name, known))


def _from_text(text: str, path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    if not text.strip():
        return {}, {}
    try:
        data = yaml.load(text, _WRITTEN)
    except yaml.YamlError as error:
        raise ConfigError(f"{path}: {error}", _edit_hint(path)) from error
    if data is None:
        return {}, {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: line 1: expected keys and values", _edit_hint(path))
    data = _drop_empty(data)
    return data, {key: str(path) for key, _ in _leaves(data)}


def _from_env(env: Mapping[str, str], data: dict[str, Any], origins: dict[str, str]) -> None:
    """Settings from `CLINVK_BACKEND`, and `CLINVK_<BACKEND>_MODEL` for known backends."""
    if name := env.get("CLINVK_BACKEND"):
        data["default_backend"] = name
        origins["default_backend"] = "$CLINVK_BACKEND"
    for variable, value in env.items():
        if variable.startswith("CLINVK_") and variable.endswith("_MODEL") and value:
            name = variable[7:-6].lower().replace("_", "-")
            backends = data.get("backends")
            if backends is None:
                backends = data["backends"] = {}
            if isinstance(backends, dict):
                names = (*backends, *backend_names(find_home(env)))
                known = next((n for n in names if str(n).lower() == name), None)
                if known is None:
                    continue  # a variable of another program
                entry = backends.setdefault(known, {})
                if isinstance(entry, dict):
                    entry["model"] = value
                    origins[f"backends.{known}.model"] = f"${variable}"


def _drop_empty(data: dict[str, Any]) -> dict[str, Any]:
    """Ignore sections without content, such as `session:`."""
    sections = Config.__struct_fields__
    return {k: v for k, v in data.items() if v is not None or k not in sections}


def _leaves(data: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _leaves(value, (*path, str(key)))
    else:
        yield format_path(path), data


def _config_error(path: Path, text: str, error: ShapeError, source: str) -> ConfigError:
    if source:
        return ConfigError(f"{source}: {error}")
    line = yaml.line_of(text, error.path)
    where = f"line {line}: " if line else ""
    parent = format_path(error.path[:-1]) if error.problem.startswith("unknown key") else None
    place = parent if parent is not None else format_path(error.path)
    message = f"{path}: {where}{place + ': ' if place else ''}{error.problem}"
    edit = _edit_hint(path)
    return ConfigError(message, f"{error.hint}; {edit}" if error.hint else edit)
