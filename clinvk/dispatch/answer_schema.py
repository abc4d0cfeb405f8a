"""The JSON schema of an answer: what the model is told, and whether the answer matches."""

from __future__ import annotations

import json
from typing import Any

from clinvk.errors import UsageError
from clinvk.text.json_answer import NoJson, last_value

MAX_PROBLEM = 500  # characters of what is wrong with an answer

_INSTRUCTION = (
    "\n\nEnd your answer with one JSON value that matches the JSON schema below. Nothing may follow "
    "it.\n\n{schema}"
)
_REPAIR = (
    "Your last answer cannot be used: {problem}.\n\nAnswer again with the whole corrected JSON value, "
    "and nothing else. The schema is:\n\n{schema}"
)


class AnswerSchema:
    """A schema, of Draft 2020-12 unless its `$schema` names another one. References to other
    documents are not followed."""

    def __init__(self, text: str) -> None:
        """Raises `UsageError` if it is not a valid schema."""
        # Only with a schema.
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError, best_match
        from jsonschema.validators import validator_for
        from referencing import Registry

        self.text = text
        self._best_match = best_match
        try:
            schema = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"schema: not JSON: {error}") from error
        if not isinstance(schema, (dict, bool)):
            raise UsageError(f"schema: {type(schema).__name__} is not a schema", "use an object")
        kind = validator_for(schema, default=Draft202012Validator)
        try:
            kind.check_schema(schema)  # type: ignore[arg-type]
        except SchemaError as error:
            raise UsageError(f"schema: {error.json_path}: {_shorten(error.message)}") from error
        # Without a registry, references would be fetched.
        self._validator: Any = kind(schema, registry=Registry())
        self._follow_references(schema)

    def _follow_references(self, schema: Any) -> None:
        """Raise `UsageError` for a reference that cannot be followed, before anything is paid."""
        # Only with a schema.
        from referencing.exceptions import Unresolvable

        for reference in _references(schema):
            try:
                self._validator._resolver.lookup(reference)  # noqa: SLF001 - there is no other way
            except Unresolvable:
                raise UsageError(
                    f"schema: $ref: {reference[:200]!r} is not in the schema",
                    "put what it refers to into $defs",
                ) from None

    def add_to(self, prompt: str) -> str:
        """The prompt for a CLI that cannot be given a schema."""
        return prompt + _INSTRUCTION.format(schema=self.text)

    def repair_prompt(self, problem: str) -> str:
        return _REPAIR.format(problem=problem, schema=self.text)

    def read(self, structured: Any, answers: list[str]) -> tuple[Any, str | None]:
        """The structured answer, as the CLI reported it or else the last value in the last of its
        answers that matches, and what is wrong with it; None for what there is not."""
        if structured is not None:
            return structured, self.problem(structured)
        found: list[tuple[Any, str | None]] = []
        for text in reversed(answers):
            try:
                value = last_value(text)
            except NoJson:
                continue
            found.append((value, self.problem(value)))
            if found[-1][1] is None:
                return found[-1]
        return found[0] if found else (None, "there is no JSON in it")

    def problem(self, value: Any) -> str | None:
        """Why the value does not match, with its place; None if it does."""
        try:
            error = self._best_match(self._validator.iter_errors(value))
        except RecursionError:
            return "it is nested too deeply"
        if error is None:
            return None
        place = "" if error.json_path == "$" else f"{error.json_path}: "
        return f"{place}{_shorten(error.message)}"


def _references(schema: Any) -> set[str]:
    found: set[str] = set()
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            reference = part.get("$ref")
            if isinstance(reference, str):
                found.add(reference)
            # What these hold is data, not a schema.
            left.extend(
                v for k, v in part.items() if k not in ("const", "enum", "default", "examples")
            )
        elif isinstance(part, list):
            left.extend(part)
    return found


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_PROBLEM else line[: MAX_PROBLEM - 1] + "…"
