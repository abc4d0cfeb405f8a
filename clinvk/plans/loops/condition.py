"""The condition that ends a loop: JMESPath over the structured answers of a round's steps.

    length(steps.review.findings) == `0`

An error in it is found before anything runs, as far as it does not depend on the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions

from clinvk.backend.expression import is_truthy
from clinvk.text.suggest import did_you_mean
from clinvk.text.typed import quoted

EXAMPLE = "length(steps.review.findings) == `0`"
_ROOT = "steps"
# Below these nodes, the first part is about the answers, and the others about its value.
_NESTING = ("subexpression", "index_expression", "projection", "filter_projection",
            "value_projection", "flatten", "pipe")  # fmt: skip
_NUMBERS = ("abs", "avg", "ceil", "floor", "length", "sum", "to_number")


class ConditionError(ValueError):
    """The expression is invalid, or has no value for these answers."""

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(problem)
        self.hint = hint


def check_condition(text: str, schemas: Mapping[str, Any]) -> None:
    """Raise `ConditionError` if the expression is invalid, or names what the answers cannot have.
    `schemas` has each step of the loop, with the JSON schema of its answer, or None."""
    tree = _parse(text)
    paths = [path for path in _paths(tree) if path]
    if not paths:
        raise ConditionError("it depends on no answer, so it never changes", f"e.g. {EXAMPLE}")
    for path in paths:
        _check_path(path, schemas)
    _check_functions(tree)
    if tree["type"] == "function_expression" and tree["value"] in _NUMBERS:
        raise ConditionError(
            "it is a number, neither true nor false", f"compare it: {text.strip()} == `0`"
        )


def holds(text: str, answers: Mapping[str, Any]) -> bool:
    """Whether it is true for the structured answers of the steps. Raises `ConditionError`."""
    try:
        value = jmespath.search(text, {_ROOT: answers})
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise ConditionError(_first_line(error)) from error
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ConditionError(f"it is {value}, neither true nor false")
    return is_truthy(value)


def _parse(text: str) -> Any:
    if not text.strip():
        raise ConditionError("it is empty", f"write `check`, or an expression: {EXAMPLE}")
    try:
        return jmespath.compile(text).parsed
    except JMESPathError as error:
        why = _first_line(error)
        number = "numbers are in backticks, " if "(NUMBER)" in why else ""
        raise ConditionError(f"not JMESPath: {why}", f"{number}e.g. {EXAMPLE}") from error
    except RecursionError:
        raise ConditionError("nested too deeply") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__


def _paths(node: Any) -> Iterator[list[str]]:
    """The names that follow each other, `["steps", "review", "findings"]`, for each part of the
    expression that begins at the answers."""
    kind, children = node["type"], node["children"]
    if kind == "field":
        yield [node["value"]]
    elif kind in _NESTING:
        path = _leading_names(node)
        if path:
            yield path
        else:
            yield from _paths(children[0])
    elif kind != "expref":  # what follows `&` is about the elements of a list
        for child in children:
            yield from _paths(child)


def _leading_names(node: Any) -> list[str]:
    """The names at the beginning of a node, up to what is not a name; empty if it has none."""
    if node["type"] == "field":
        return [node["value"]]
    if node["type"] not in _NESTING:
        return []
    first, *rest = node["children"]
    path = _leading_names(first)
    if first["type"] == "current":  # `@` is all answers
        path = []
    elif not path:
        return []
    if node["type"] != "subexpression":
        return [*path, "*"] if node["type"] == "value_projection" else path
    for child in rest:
        path += _leading_names(child)
        if child["type"] != "field":
            break
    return path


def _check_path(path: list[str], schemas: Mapping[str, Any]) -> None:
    """Raise `ConditionError` for a name that no answer can have."""
    root, *rest = path
    known = ", ".join(f"{_ROOT}.{_spell(name)}" for name, own in schemas.items() if own is not None)
    hint = f"the loop has {known}" if known else "give a step a schema: schema: findings"
    if root != _ROOT:
        meant = f"; did you mean {_ROOT}.{_spell(root)}?" if root in schemas else ""
        raise ConditionError(f"unknown name {quoted(root)}{meant}", hint)
    if not rest:
        raise ConditionError(
            f"`{_ROOT}` alone names no step; write {_ROOT}.STEP.KEY, and parentheses after `!`: "
            f"!({_ROOT}.STEP.KEY)",
            hint,
        )
    name = rest[0]
    if name == "*":
        return
    if name not in schemas:
        raise ConditionError(
            f"the loop has no step {quoted(name)}{did_you_mean(name, schemas)}", hint
        )
    schema = schemas[name]
    if schema is None:
        raise ConditionError(
            f"step {quoted(name)} has no schema, so its answer is only text",
            "give it one: schema: findings, or the file of a JSON schema",
        )
    keys = schema.get("properties") if isinstance(schema, Mapping) else None
    if len(rest) > 1 and isinstance(keys, Mapping) and rest[1] not in keys:
        raise ConditionError(
            f"the schema of step {quoted(name)} has no {quoted(rest[1])}"
            f"{did_you_mean(rest[1], [*map(str, keys)])}",
            f"it has: {', '.join(map(str, keys))}",
        )


def _spell(name: str) -> str:
    """The name as JMESPath needs it."""
    plain = name.isascii() and name.isidentifier()
    return name if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _check_functions(node: Any) -> None:
    """Raise `ConditionError` for a function that does not exist, or has other arguments."""
    if node["type"] == "function_expression":
        name, count = node["value"], len(node["children"])
        known = Functions.FUNCTION_TABLE
        if name not in known:
            raise ConditionError(f"unknown function {name}(){did_you_mean(name, known)}")
        wanted = known[name]["signature"]
        variadic = bool(wanted) and wanted[-1].get("variadic", False)
        if count < len(wanted) or (count > len(wanted) and not variadic):
            raise ConditionError(
                f"{name}() takes {len(wanted)} argument{'s' * (len(wanted) != 1)}, not {count}"
            )
    for child in node["children"]:
        _check_functions(child)
