"""The value of an option: from text, and whether it is valid."""

from __future__ import annotations

import math
from typing import Any

from clinvk.model.option_table import BY_NAME, Option

TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")
MAX_STOP = 1_000  # characters
MAX_DURATION = 1e9  # seconds


def parse_value(name: str, text: str) -> Any:
    """The value of an option that is written as text, such as `KEY=VALUE`. It is the text itself
    for an option of a single backend, or one that is a text. Raises `ValueError`, which does not
    name the option."""
    option = BY_NAME.get(name)
    if option is None:
        return text
    value = _parse(option, text)
    if problem := value_problem(name, value):
        raise ValueError(problem)
    return value


def value_problem(name: str, value: Any) -> str | None:
    """Why this cannot be the value of the option; None if it can, or if another check decides."""
    option = BY_NAME.get(name)
    if option is None or value is None:
        return None
    if option.type in (int, float):
        problem = _number_problem(option, value)
        if problem is None and option.duration and not 0 < float(value) < MAX_DURATION:
            return f"{value} is not a number of seconds greater than 0"
        return problem
    if option.type is bool and not isinstance(value, bool):
        return f"{value!r} is not true or false"
    if name in ("check", "protect"):
        # Only with a check.
        from clinvk.model.checks.check import check_problem

        return check_problem(name, value)
    if option.optional_value and not isinstance(value, (bool, str)):
        return f"{value!r} is not a directory"
    if option.context and option.path:
        paths = value if isinstance(value, list) else [value]
        return "the name of a directory is empty" if "" in paths else None
    if name == "stop" and not (isinstance(value, str) and 0 < len(value) <= MAX_STOP):
        return f"it is not a text of 1 to {MAX_STOP:,} characters"
    return None


def _parse(option: Option, text: str) -> Any:
    word = text.strip()
    if option.type is bool:
        if word.lower() in (*TRUE, *FALSE):
            return word.lower() in TRUE
        raise ValueError(f"{text[:40]!r} is not true or false")
    if option.type in (int, float):
        try:
            return option.type(word)
        except ValueError:
            raise ValueError(_not_a_number(option, repr(text[:40]))) from None
    if option.name == "stop":
        return _parse_stop(text)
    return text


def _parse_stop(text: str) -> Any:
    """One text; also as a list of one, as the interfaces of models have it."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    # Only for a list.
    from clinvk.text import yaml

    try:
        found = yaml.load(text)
    except yaml.YamlError:
        return text
    if not isinstance(found, list):
        return text
    if len(found) != 1:
        raise ValueError(f"{text[:40]!r} has {len(found)} texts; backends take exactly one")
    return found[0]


def _number_problem(option: Option, value: Any) -> str | None:
    kinds = (int,) if option.type is int else (int, float)
    if isinstance(value, str):  # from Python, or a task file
        try:
            value = option.type(value)
        except ValueError:
            return _not_a_number(option, repr(value[:40]))
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        return _not_a_number(option, str(value)[:40])
    if option.minimum is not None and value < option.minimum:
        return f"{value} is too small; the minimum is {option.minimum}"
    if option.maximum is not None and value > option.maximum:
        return f"{value} is too large; the maximum is {option.maximum}"
    return None


def _not_a_number(option: Option, shown: str) -> str:
    return f"{shown} is not a {'whole ' if option.type is int else ''}number"
