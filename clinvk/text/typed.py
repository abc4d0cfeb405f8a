"""Parsed YAML to frozen structs, with errors that name the place.

msgspec could convert by itself, but its errors leave out the keys of mappings, and "which backend?"
is the question that an error in `backends:` has to answer.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from datetime import date
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from msgspec import Struct, structs

from clinvk.text.suggest import did_you_mean

T = TypeVar("T", bound=Struct)

LONGEST_QUOTED = 80  # characters of a value in a message


class ShapeError(ValueError):
    """An error at `path`, a dotted place such as `backends.claude.model`, with a hint if the fix is
    not obvious."""

    def __init__(self, path: tuple[str | int, ...], problem: str, hint: str | None = None) -> None:
        super().__init__(f"{format_path(path)}: {problem}" if path else problem)
        self.path = path
        self.problem = problem
        self.hint = hint


def format_path(path: tuple[str | int, ...]) -> str:
    """`events[2].when` for ("events", 2, "when")."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def build_struct(cls: type[T], data: Any, path: tuple[str | int, ...] = ()) -> T:
    """An instance of the struct `cls` from a mapping. Raises `ShapeError`."""
    if not isinstance(data, Mapping):
        raise ShapeError(path, f"expected keys and values, found {_name(data)}")
    hints = _type_hints(cls)
    for key in data:
        if key not in hints:
            raise ShapeError((*path, key), unknown_key(str(key), hints))
    if missing := [name for name in _required_fields(cls) if name not in data]:
        raise ShapeError(path, f"missing key {missing[0]!r}")
    return cls(**{k: convert(hints[k], v, (*path, k)) for k, v in data.items()})


def convert(hint: Any, value: Any, path: tuple[str | int, ...]) -> Any:
    """`value` converted to the type `hint`. Raises `ShapeError`; never guesses."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), value, path)
    if origin is Literal:
        if value not in get_args(hint):
            raise ShapeError(path, not_one_of(value, get_args(hint)))
        return value
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise ShapeError(path, f"expected a list, found {_name(value)}")
        return origin(convert(get_args(hint)[0], v, (*path, i)) for i, v in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ShapeError(path, f"expected keys and values, found {_name(value)}")
        return {str(k): convert(get_args(hint)[1], v, (*path, str(k))) for k, v in value.items()}
    if is_struct(hint):
        return build_struct(hint, value, path)
    return _convert_scalar(hint, value, path)


def is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Struct)


def unknown_key(key: str, known: Any) -> str:
    """The message for an unknown key, with the nearest known one."""
    return f"unknown key {key!r}{did_you_mean(key, known)}"


@cache
def _required_fields(cls: Any) -> list[str]:
    return [f.name for f in structs.fields(cls) if f.required]


@cache
def _type_hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _convert_union(options: tuple[Any, ...], value: Any, path: tuple[str | int, ...]) -> Any:
    if value is None and type(None) in options:
        return None
    problem: ShapeError | None = None
    for option in options:
        if option is type(None):
            continue
        try:
            return convert(option, value, path)
        except ShapeError as error:
            # The deepest place is the most helpful one: that option got furthest.
            if problem is None or len(error.path) > len(problem.path):
                problem = error
    assert problem is not None  # noqa: S101 - a union has members
    raise problem


def _convert_scalar(hint: Any, value: Any, path: tuple[str | int, ...]) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, bool):
        raise ShapeError(path, f"expected a whole number, found {_name(value)}")
    if not isinstance(value, hint):
        in_quotes = "; put it in quotes" if hint is str and isinstance(value, _SCALARS) else ""
        raise ShapeError(
            path,
            f"expected {_TYPE_NAMES.get(hint, hint.__name__)}, found {_name(value)}{in_quotes}",
        )
    return value


_TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


_SCALARS = (bool, int, float)  # what YAML only reads as text in quotes: `yes`, `1`


def not_one_of(value: Any, choices: Iterable[Any]) -> str:
    """The message for a value that is not one of the choices."""
    wanted = ", ".join(map(str, choices))
    if isinstance(value, str):
        return f"{quoted(value)} is not one of: {wanted}"
    in_quotes = "; put it in quotes" if isinstance(value, _SCALARS) else ""
    return f"expected one of: {wanted}; found {_name(value)}{in_quotes}"


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "keys and values"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, date):  # or a time
        return f"the date {value}; put it in quotes if it is text"
    return quoted(value)


def quoted(value: Any) -> str:
    """A value for a message; a long one is cut, with its length."""
    try:
        text = repr(value)
    except ValueError:  # Python cannot format a number with that many digits
        return "a number of thousands of digits"
    if len(text) <= LONGEST_QUOTED:
        return text
    return f"{text[:LONGEST_QUOTED]}… ({len(text):,} characters)"
