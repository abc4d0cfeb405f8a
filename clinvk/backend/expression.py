"""JMESPath, compiled to plain Python functions.

A manifest's rules are evaluated for every line that a CLI prints. jmespath's own interpreter walks
its tree each time, which costs more than parsing the line; so the node types that manifests use
become closures, functions are still jmespath's own, and everything else is passed to its
interpreter. What an expression means is the same either way: `tests/test_expression.py` compares
the two on generated data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions

Evaluate = Callable[[Any], Any]


class ExpressionError(ValueError):
    """The text is not JMESPath."""


def compile_expression(text: str) -> Evaluate:
    """A function from a line to the value of `text` in it; `None` if it has none.

    Raises `ExpressionError`. A value of the wrong type in a function call is `None`."""
    try:
        parsed = jmespath.compile(text)
    except JMESPathError as error:
        raise ExpressionError(str(error).splitlines()[0].rstrip(":")) from error
    except RecursionError:
        raise ExpressionError("nested too deeply") from None
    compiled = _compile_node(parsed.parsed)
    return _without_errors(compiled or parsed.search)


def is_truthy(value: Any) -> bool:
    """Truth in JMESPath: 0 is true; empty strings, lists and objects are false, as is null."""
    if value is None or value is False:
        return False
    return bool(value) or not isinstance(value, (str, list, dict))


# jmespath's own are ValueErrors; the others are Python's: a sum of numbers that are too large, text
# that is searched for a number, a value that is nested too deeply to be written as text.
_ERRORS = (ValueError, TypeError, ArithmeticError, RecursionError)


def _without_errors(search: Evaluate) -> Evaluate:
    def evaluate(data: Any) -> Any:
        try:
            return search(data)
        except _ERRORS:
            return None

    return evaluate


def _compile_node(node: Any) -> Evaluate | None:
    """The closure for a node; None if it, or a node below it, is of an unsupported type."""
    kind, children = node["type"], node["children"]
    if kind == "field":
        return _field(node["value"])
    if kind == "literal":
        value = node["value"]
        return lambda _: value
    if kind in ("current", "identity"):
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
        return data

    return evaluate


def _compare(node: Any, left: Evaluate, right: Evaluate) -> Evaluate | None:
    other = node["children"][1]
    if other["type"] == "literal" and isinstance(text := other["value"], str):  # the most frequent
        if node["value"] == "eq":
            return lambda data: bool(left(data) == text)
        if node["value"] == "ne":
            return lambda data: bool(left(data) != text)
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


def _object(node: Any, *values: Evaluate) -> Evaluate:
    pairs = [(pair["value"], value) for pair, value in zip(node["children"], values, strict=True)]

    def evaluate(data: Any) -> Any:
        return None if data is None else {name: value(data) for name, value in pairs}

    return evaluate


def _list(_: Any, *values: Evaluate) -> Evaluate:
    return lambda data: None if data is None else [value(data) for value in values]


def _projection(_: Any, base: Evaluate, each: Evaluate) -> Evaluate:
    def evaluate(data: Any) -> Any:
        found = base(data)
        if not isinstance(found, list):
            return None
        return [value for element in found if (value := each(element)) is not None]

    return evaluate


def _value_projection(_: Any, base: Evaluate, each: Evaluate) -> Evaluate:
    def evaluate(data: Any) -> Any:
        found = base(data)
        if not isinstance(found, dict):
            return None
        return [value for element in found.values() if (value := each(element)) is not None]

    return evaluate


def _flatten(_: Any, base: Evaluate) -> Evaluate:
    def evaluate(data: Any) -> Any:
        found = base(data)
        if not isinstance(found, list):
            return None
        flat: list[Any] = []
        for element in found:
            if isinstance(element, list):
                flat.extend(element)
            else:
                flat.append(element)
        return flat

    return evaluate


_functions = Functions()


def _call(node: Any, *arguments: Evaluate) -> Evaluate:
    name = node["value"]
    if name == "not_null" and arguments:  # the most frequent one, which takes values of all types
        return _first_value(arguments)
    return lambda data: _functions.call_function(name, [value(data) for value in arguments])


def _first_value(arguments: tuple[Evaluate, ...]) -> Evaluate:
    def evaluate(data: Any) -> Any:
        values = [value(data) for value in arguments]  # all of them: any may be an error
        return next((value for value in values if value is not None), None)

    return evaluate


class _Expression:
    """An expression as the argument of a function, as in `max_by(@, &size)`. Functions of jmespath
    know it by the name of its class."""

    def __init__(self, evaluate: Evaluate) -> None:
        self.expression = evaluate

    def visit(self, evaluate: Evaluate, value: Any) -> Any:
        return evaluate(value)


def _reference(_: Any, child: Evaluate) -> Evaluate:
    expression = _Expression(child)
    return lambda _: expression


_MAKERS: dict[str, Callable[..., Evaluate | None]] = {
    "subexpression": _chain,
    "index_expression": _chain,
    "pipe": _chain,
    "comparator": _compare,
    "or_expression": _or,
    "and_expression": _and,
    "multi_select_dict": _object,
    "key_val_pair": lambda _, value: value,
    "multi_select_list": _list,
    "projection": _projection,
    "value_projection": _value_projection,
    "flatten": _flatten,
    "function_expression": _call,
    "expref": _reference,
    "not_expression": lambda _, child: lambda data: not is_truthy(child(data)),
}
