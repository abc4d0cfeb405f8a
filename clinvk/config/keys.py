"""Values of the configuration by their dotted keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

from msgspec import Struct

from clinvk.config.loading import check_address
from clinvk.config.schema import MASK, BackendConfig, Config, Loaded
from clinvk.errors import ConfigError
from clinvk.text import addresses, yaml
from clinvk.text.addresses import mask_password, without_passwords
from clinvk.text.typed import (
    ShapeError,
    convert,
    format_path,
    is_struct,
    unknown_key,
)


def parse_value(key: str, text: str) -> Any:
    """`text` as the type of `key`. Raises `ConfigError` for an unknown key or an invalid value."""
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
    if isinstance(value, str) and "#" in text and not text.lstrip().startswith(('"', "'")):
        value = text  # on a command line, nothing is a comment
    try:
        return convert(hint, value, steps)
    except ShapeError as error:
        try:
            return convert(hint, text, steps)  # `set model 4` means the text
        except ShapeError:
            raise ConfigError(str(problem or error)) from error


def get_value(loaded: Loaded, key: str) -> Any:
    """The value at a dotted key. Raises `ConfigError` for an unknown key."""
    steps = tuple(key.split("."))
    _find_type(steps)
    value: Any = loaded.config
    for i, step in enumerate(steps):
        if isinstance(value, dict):
            value = value.get(step, BackendConfig() if steps[:i] == ("backends",) else None)
        else:
            value = getattr(value, step, None)
    return value


def names(backends: Iterable[str] = ()) -> list[str]:
    """The dotted keys that can be set, and those of these backends."""
    known = [key for key, _ in flatten(Config()) if key != "backends"]
    fields = BackendConfig.__struct_fields__
    return [*known, *(f"backends.{name}.{field}" for name in backends for field in fields)]


def choices(key: str) -> tuple[str, ...]:
    """The values that a key can have, if they are few. Raises `ConfigError` for an unknown key."""
    hint = _find_type(tuple(key.split(".")))
    found: list[str] = []
    for option in (hint, *get_args(hint)):
        if option is bool:
            found += ["true", "false"]
        elif get_origin(option) is Literal:
            found += map(str, get_args(option))
    return tuple(dict.fromkeys(found))


def flatten(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted key, value); values of `env` and passwords in addresses are
    hidden."""
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


def _find_type(steps: tuple[str, ...]) -> Any:
    """The type at a dotted key. Raises `ConfigError`."""
    # Only `config get` and `config set` need it.
    from typing import get_type_hints

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
