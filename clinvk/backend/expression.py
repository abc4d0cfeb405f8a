"""JMESPath, compiled to plain Python functions.

A manifest's rules are asked for every line that a CLI prints. jmespath's own interpreter walks its
tree each time, which costs more than parsing the line; so the few node types that manifests mostly
use become closures, and everything else is left to jmespath. What an expression means is the same
either way: `tests/test_expression.py` compares the two on generated data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError

Evaluate = Callable[[Any], Any]


class ExpressionError(ValueError):
    """The text is not JMESPath."""


def compile_expression(text: str) -> Evaluate:
    """A function from a line to the value of `text` in it; `None` where it has none.

    Raises `ExpressionError`. A value of a wrong type inside a function call is no value."""
    try:
        parsed = jmespath.compile(text)
    except JMESPathError as error:
        raise ExpressionError(str(error).splitlines()[0].rstrip(":")) from error
    except RecursionError:
        raise ExpressionError("nested too deeply") from None
    return _compile_node(parsed.parsed) or _interpret(parsed)


def is_truthy(value: Any) -> bool:
    """JMESPath's notion: 0 is true; empty text, list and object are false, as is no value."""
    return not (value is None or value is False or value == "" or value == [] or value == {})  # noqa: PLR1714 - 0 == False


def _interpret(parsed: Any) -> Evaluate:
    def evaluate(data: Any) -> Any:
        try:
            return parsed.search(data)
        except JMESPathError:
            return None

    return evaluate


def _compile_node(node: Any) -> Evaluate | None:
    """The closure for a node, or nothing where it (or what is below it) is not one of the few."""
    kind, children = node["type"], node["children"]
    if kind == "field":
        return _field(node["value"])
    if kind == "literal":
        value = node["value"]
        return lambda _: value
    if kind == "current":
        return lambda data: data
    if kind == "index":
        return _index(node["value"])
    below = [_compile_node(child) for child in children]
    if any(child is None for child in below):
        return None
    make = _MAKERS.get(kind)
    return make(node, *below) if make else None


def _field(name: str) -> Evaluate:
    return lambda data: data.get(name) if type(data) is dict else None


def _index(at: int) -> Evaluate:
    return lambda data: data[at] if type(data) is list and -len(data) <= at < len(data) else None


def _chain(_: Any, *steps: Evaluate) -> Evaluate:
    def evaluate(data: Any) -> Any:
        for step in steps:
            data = step(data)
            if data is None:
                return None
        return data

    return evaluate


def _compare(node: Any, left: Evaluate, right: Evaluate) -> Evaluate | None:
    if node["value"] == "eq":
        return lambda data: _equal(left(data), right(data))
    if node["value"] == "ne":
        return lambda data: not _equal(left(data), right(data))
    return None


def _equal(a: Any, b: Any) -> bool:
    # In JSON true is not 1, though in Python it is.
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _or(_: Any, left: Evaluate, right: Evaluate) -> Evaluate:
    def evaluate(data: Any) -> Any:
        value = left(data)
        return value if is_truthy(value) else right(data)

    return evaluate


def _and(_: Any, left: Evaluate, right: Evaluate) -> Evaluate:
    def evaluate(data: Any) -> Any:
        value = left(data)
        return right(data) if is_truthy(value) else value

    return evaluate


_MAKERS: dict[str, Callable[..., Evaluate | None]] = {
    "subexpression": _chain,
    "index_expression": _chain,
    "comparator": _compare,
    "or_expression": _or,
    "and_expression": _and,
    "not_expression": lambda _, child: lambda data: not is_truthy(child(data)),
}
