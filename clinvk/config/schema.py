"""The settings of a user: defaults, file, environment; each remembers where it came from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from msgspec import Struct, defstruct, field, to_builtins

from clinvk.config.paths import backend_names
from clinvk.disk.reading import is_null_device, read_file, read_named
from clinvk.errors import ConfigError
from clinvk.model.option_table import Option, options_in
from clinvk.text import addresses, values, yaml
from clinvk.text.addresses import mask_password, without_passwords
from clinvk.text.typed import (
    ShapeError,
    build_struct,
    convert,
    format_path,
    is_struct,
    quoted,
    unknown_key,
)

Format = Literal["text", "json", "stream-json"]

FIFO_PATIENCE = 5.0  # seconds until something writes the FIFO that --config names
MASK = "…"  # stands where a value of `env` is shown


def _option_fields(section: str) -> Any:
    """A struct that has the keys of the options in this section."""
    fields = [_option_field(option, section) for option in options_in(section)]
    return defstruct("OptionFields", fields, frozen=True, module=__name__)


def _option_field(option: Option, section: str) -> tuple[str, Any, Any]:
    if option.repeatable:
        return option.config_key, list[option.type], []  # type: ignore[name-defined]
    if option.choices and section == "unified_flags":
        return option.config_key, option.type, "default"
    return option.config_key, option.type | None, None


class UnifiedFlags(_option_fields("unified_flags"), Struct, frozen=True):  # type: ignore[misc]
    """For every backend. A setting that one does not support is dropped with a notice; an approval
    or a sandbox is an error."""

    verbose: bool = False
    dry_run: bool = False
    command_timeout_secs: float | None = None


class BackendConfig(_option_fields("backends"), Struct, frozen=True):  # type: ignore[misc]
    enabled: bool = True
    extra_flags: list[str] = []
    env: dict[str, str] = {}


class SessionConfig(Struct, frozen=True):
    auto_resume: bool = False
    retention_days: int = 30
    store_token_usage: bool = True
    store_messages: bool = True
    redact: bool = True
    default_tags: list[str] = []
    storage: str = "file"


class OutputConfig(Struct, frozen=True):
    format: Format = "text"
    show_tokens: bool = False
    show_timing: bool = False
    color: Literal["auto", "always", "never"] = "auto"


class ParallelConfig(Struct, frozen=True):
    max_workers: int = 3
    max_parallel_per_backend: dict[str, int] = {}
    fail_fast: bool = False
    aggregate_output: bool = True


class Config(Struct, frozen=True):
    default_backend: str = "claude"
    unified_flags: UnifiedFlags = field(default_factory=UnifiedFlags)
    backends: dict[str, BackendConfig] = {}
    session: SessionConfig = field(default_factory=SessionConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


class Loaded(Struct, frozen=True):
    """A configuration, the folder it belongs to, and the source of each value that is not a
    default: a file, or the name of an environment variable."""

    config: Config
    home: Path
    path: Path
    origins: dict[str, str] = {}

    def origin(self, key: str) -> str:
        return self.origins.get(key, "default")

    def backend(self, name: str) -> BackendConfig:
        return self.config.backends.get(name) or BackendConfig()


def find_home(env: Mapping[str, str]) -> Path:
    """The folder that everything of the user's is in: `CLINVK_HOME`, else `~/.clinvk`."""
    if given := env.get("CLINVK_HOME"):
        return Path(given).expanduser().absolute()
    return Path(env.get("HOME") or _home_of_user()) / ".clinvk"


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
    """The configuration in force. Raises `ConfigError` that names file, line and key; a broken
    file is never replaced by defaults. A missing file is, unless it was asked for."""
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
        return data.decode("utf-8")
    except FileNotFoundError:
        if required:
            raise ConfigError(
                f"{path}: no such file", "write one: clinvk config edit, or leave out --config"
            ) from None
        return ""
    except IsADirectoryError:
        raise ConfigError(
            f"{path}: is a folder, where a file should be", "move it away, or name a file"
        ) from None
    except NotADirectoryError:
        raise ConfigError(
            f"{path}: {path.parent} is not a directory",
            "set CLINVK_HOME to a directory, or name another file with --config",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}",
            "put a readable file there, or name another one with --config or CLINVK_CONFIG",
        ) from error


def parse_config(text: str, path: Path, *, changed: str | None = None) -> Config:
    """The configuration that `text` is, of which all can be used. Raises `ConfigError`; `path` is
    for its message. If the text is that of the file but for the key `changed`, the names in other
    keys are not checked, and a problem of this key has no line in the file."""
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
    """Raise `ConfigError` unless one setting in `text` can be changed: it is YAML of keys and
    values. What is wrong with a value may be what the change fixes."""
    _from_text(text, path)


def _check_default_backend(name: str, home: Path) -> None:
    known = backend_names(home)
    if name not in known:
        raise ShapeError(
            ("default_backend",), f"unknown backend {name!r}; known: {', '.join(known)}"
        )


def check_address(address: str, where: str) -> None:
    """Raise `ConfigError`, which does not show the password, if an address is malformed, or of no
    kind of store."""
    if found := addresses.store_problem(address):
        problem, hint = found
        shown_ = mask_password(address)
        if hint == addresses.STORES:
            raise ConfigError(f"{where}: {problem} {shown_!r}", hint)
        raise ConfigError(f"{where}: malformed address {shown_!r}: {problem}", hint)


def _check_values(config: Config, home: Path) -> None:
    """Raise `ShapeError` for a value of the right type that means nothing."""
    for key, least in MINIMUMS.items():
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        if value is not None and value < least:
            raise ShapeError((section, name), f"{quoted(value)} is too small; at least {least}")
    timeout = config.unified_flags.command_timeout_secs
    if timeout is not None and not 0 < timeout < float("inf"):
        raise ShapeError(
            ("unified_flags", "command_timeout_secs"), f"{timeout} is not above 0 seconds"
        )
    for name, backend in config.backends.items():
        for variable in backend.env:
            if problem := values.name_problem(variable):
                raise ShapeError(("backends", name, "env", variable), problem)
    for place, text in values.texts(to_builtins(config)) if config.backends else ():
        if problem := values.text_problem(text):
            raise ShapeError(place, problem)
    if config.backends:
        known = backend_names(home)
        for name in config.backends:
            if name not in known:
                raise ShapeError(("backends", name), unknown_key(name, known))


MINIMUMS = {
    **{
        f"unified_flags.{option.config_key}": option.minimum
        for option in options_in("unified_flags")
        if option.minimum is not None
    },
    "session.retention_days": 0,
    "parallel.max_workers": 1,
}


def parse_value(key: str, text: str) -> Any:
    """`text` as the type that `key` has. Raises `ConfigError` for an unknown key, a wrong value."""
    steps = tuple(key.split("."))
    hint = _find_type(steps)
    if key == "session.storage":
        check_address(text, key)
        if not addresses.is_encoded(text):
            raise ConfigError(
                f"{key}: the user name or the password in {mask_password(text)!r} is not encoded",
                addresses.ENCODE,
            )
    problem: Exception | None = None
    try:
        value = yaml.load(text)
    except yaml.YamlError as error:
        value, problem = text, ShapeError(steps, error.problem)
    try:
        return convert(hint, value, steps)
    except ShapeError as error:
        try:
            return convert(hint, text, steps)  # `set model 4` means the text
        except ShapeError:
            raise ConfigError(str(problem or error)) from error


def get_value(loaded: Loaded, key: str) -> Any:
    """The value at a dotted key. Raises `ConfigError` for one that does not exist."""
    steps = tuple(key.split("."))
    _find_type(steps)
    value: Any = loaded.config
    for i, step in enumerate(steps):
        if isinstance(value, dict):
            value = value.get(step, BackendConfig() if steps[:i] == ("backends",) else None)
        else:
            value = getattr(value, step, None)
    return value


def flatten(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted key, value); values of `env` and passwords in addresses are hidden."""
    if isinstance(value, Struct):
        for name in value.__struct_fields__:
            yield from flatten(getattr(value, name), (*path, name))
    elif isinstance(value, dict) and value:
        for key, inner in value.items():
            masked = MASK if path and path[-1] == "env" else inner
            yield from flatten(masked, (*path, str(key)))
    else:
        yield without_passwords(format_path(path)), shown(value, path)


def shown(value: Any, path: tuple[str, ...] = ()) -> Any:
    """A setting's value without the passwords in its addresses."""
    if isinstance(value, list):
        return [shown(one) for one in value]
    if not isinstance(value, str):
        return value
    return mask_password(value) if path[-1:] == ("storage",) else without_passwords(value)


def _from_text(text: str, path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    if not text.strip():
        return {}, {}
    try:
        data = yaml.load(text)
    except yaml.YamlError as error:
        raise ConfigError(f"{path}: {error}", _EDIT_HINT) from error
    if data is None:
        return {}, {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: line 1: expected keys and values", _EDIT_HINT)
    data = _drop_empty(data)
    return data, {key: str(path) for key, _ in _leaves(data)}


def _from_env(env: Mapping[str, str], data: dict[str, Any], origins: dict[str, str]) -> None:
    """`CLINVK_BACKEND`, and `CLINVK_<BACKEND>_MODEL` for a backend that is called so."""
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
                    continue  # somebody else's variable
                entry = backends.setdefault(known, {})
                if isinstance(entry, dict):
                    entry["model"] = value
                    origins[f"backends.{known}.model"] = f"${variable}"


def _drop_empty(data: dict[str, Any]) -> dict[str, Any]:
    """A heading with nothing below it (`session:`) says nothing."""
    sections = Config.__struct_fields__
    return {k: v for k, v in data.items() if v is not None or k not in sections}


def _leaves(data: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _leaves(value, (*path, str(key)))
    else:
        yield format_path(path), data


def _find_type(steps: tuple[str, ...]) -> Any:
    """The type at a dotted key. Raises `ConfigError`."""
    # Only `config get` and `config set` need it.
    from typing import get_origin, get_type_hints

    hint: Any = Config
    for i, step in enumerate(steps):
        if is_struct(hint):
            hints = get_type_hints(hint)
            if step not in hints:
                raise ConfigError(
                    f"{'.'.join(steps[:i]) or 'config'}: {unknown_key(step, hints)}",
                    "see them all: clinvk config show",
                )
            hint = hints[step]
        elif get_origin(hint) is dict:
            hint = get_args(hint)[1]
        else:
            raise ConfigError(f"{'.'.join(steps[:i])} has no keys of its own")
    return hint


def _config_error(path: Path, text: str, error: ShapeError, source: str) -> ConfigError:
    if source:
        return ConfigError(f"{source}: {error}")
    line = yaml.line_of(text, error.path)
    where = f"line {line}: " if line else ""
    parent = format_path(error.path[:-1]) if error.problem.startswith("unknown key") else None
    place = parent if parent is not None else format_path(error.path)
    return ConfigError(f"{path}: {where}{place + ': ' if place else ''}{error.problem}", _EDIT_HINT)


_EDIT_HINT = "fix it with: clinvk config edit"
