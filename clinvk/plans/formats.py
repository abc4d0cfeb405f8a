"""The data of a task file, read from its format."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clinvk.errors import ConfigError
from clinvk.plans.quoted_names import unquote_name
from clinvk.plans.schema import LISTS, NUMBERS, WRITTEN, WRITTEN_TASK, TaskEntry, read_number
from clinvk.text import json_input, yaml
from clinvk.text.yaml.rules import TEXT, Leaf, Rules

FORMATS = ("yaml", "json", "jsonl", "csv", "lines")

# The columns of a CSV file that are not keys of a task, which prompts can name. An object, so that
# no key of a file can be the same.
COLUMNS: Any = object()
HEADER: Any = object()  # the names of all its columns


def keys_hint(kind: str) -> str:
    """Where the keys of a file for such a run are explained."""
    command = "chain" if kind == "chain" else "parallel"
    return f"see the keys of the file: clinvk help {command}"


def parse_text(
    path: str | None,
    text: str,
    form: str | None = None,
    *,
    of_lines: bool = False,
    null: bool = False,
    kind: str = "parallel",
) -> tuple[Any, str]:
    """The data in a text, and its format: `form`; otherwise lines, if the prompt names them;
    otherwise by the name of the file, or by its content. `null`: lines that end with a NUL
    character. Raises `ConfigError`."""
    source = path or "stdin"
    if null:
        return _entries(text.split("\0")), "lines"
    form = form or ("lines" if of_lines else _detect_format(path, text))
    if form not in FORMATS:
        raise ConfigError(f"--format: {form!r} is not one of: {', '.join(FORMATS)}")
    try:
        return _PARSERS[form](text), form
    except yaml.YamlError as error:
        raise ConfigError(f"{source}: {error}", keys_hint(kind)) from error
    except LineError as error:
        hint = f"it was read as {form}; use --format to choose another format"
        raise ConfigError(f"{source}: {error}", hint) from error


class LineError(ValueError):
    """An error, with its line."""


def _detect_format(path: str | None, text: str) -> str:
    suffix = Path(path or "").suffix.lower().lstrip(".")
    known = {"yml": "yaml", "yaml": "yaml", "json": "json", "jsonl": "jsonl", "ndjson": "jsonl",
             "csv": "csv", "txt": "lines"}  # fmt: skip
    if suffix in known:
        return known[suffix]
    first, _, rest = text.strip().partition("\n")
    if first.startswith("{") and _is_json(first) and (rest or _is_single_task(first)):
        return "jsonl"
    return "json" if _is_json(text) else "yaml"


def _is_single_task(text: str) -> bool:
    """Whether the only line is a task, not a task file."""
    try:
        data = json_input.load(text)
    except json_input.JsonError:
        return False
    return not {"tasks", "steps"} & set(data) and bool({"prompt", "prompt_file"} & set(data))


def _is_json(text: str) -> bool:
    try:
        json_input.load(text)
    except json_input.JsonError as error:
        return yaml.DEEP in str(error)  # the error has no other mark
    return True


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, WRITTEN)


def _parse_json(text: str) -> Any:
    try:
        return _load_json(text, WRITTEN)
    except json_input.JsonError as error:
        raise LineError(str(error)) from error


class _WrittenFloat(float):
    """A number that remembers its spelling: `3.10` is equal to `3.1`."""

    written: str


def _written_float(text: str) -> float:
    number = float(text)
    if repr(number) == text:
        return number
    number = _WrittenFloat(text)
    number.written = text
    return number


def _load_json(text: str, rules: Rules) -> Any:
    """The data in JSON, with the spelling of numbers where they are texts. Raises `JsonError`."""
    numbers: list[_WrittenFloat] = []

    def parse_float(text: str) -> float:
        number = _written_float(text)
        if isinstance(number, _WrittenFloat):
            numbers.append(number)
        return number

    data = json_input.load(text, parse_float)
    return _keep_written(data, rules) if numbers else data


def _keep_written(data: Any, rules: Rules | Leaf | None) -> Any:
    if isinstance(data, _WrittenFloat):
        return data.written if rules == TEXT else float(data)
    if isinstance(data, list):
        return [_keep_written(item, _inner_rules(rules, "[]")) for item in data]
    if isinstance(data, dict):
        return {k: _keep_written(v, _inner_rules(rules, k)) for k, v in data.items()}
    return data


def _inner_rules(rules: Rules | Leaf | None, key: str) -> Rules | Leaf | None:
    return rules.get(key) or rules.get("*") if isinstance(rules, Mapping) else None


def _parse_jsonl(text: str) -> list[Any]:
    entries = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                entries.append(_load_json(line, WRITTEN_TASK))
            except json_input.JsonError as error:
                raise LineError(f"line {number}: {error}") from error
    return entries


def _parse_csv(text: str) -> list[dict[str, Any]]:
    """Each row is a task: columns named like keys set those, the others are for prompts."""
    with _ANY_LENGTH:
        before = csv.field_size_limit(max(len(text), 1))
        try:
            return _parse_rows(csv.DictReader(io.StringIO(text), strict=True))
        finally:
            csv.field_size_limit(before)


# The limit of a cell belongs to the whole process, which may be another's program.
_ANY_LENGTH = threading.Lock()


def _parse_rows(rows: csv.DictReader[str]) -> list[dict[str, Any]]:
    entries = []
    begun = 0  # the last line of the row before
    try:
        columns = rows.fieldnames or ()
        begun = rows.line_num
        for row in rows:
            begun = rows.line_num
            if None in row or None in row.values():
                count = sum(value is not None for value in row.values()) - (None in row)
                found = count + len(row.get(None) or ())
                raise LineError(
                    f"line {rows.line_num}: expected {len(columns)} columns, found {found}"
                )
            entries.append(_parse_row({(k or "").strip(): v for k, v in row.items()}))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            problem = "the file ends inside a quoted value; is a closing quote missing?"
            raise LineError(f"line {begun + 1}: {problem}") from error
        raise LineError(f"line {rows.reader.line_num}: {error}") from error
    return entries


_SWITCHES = ("idempotent", "lenient", "dry_run", "verbose", "stored_options")


def _parse_row(row: dict[str, str]) -> dict[str, Any]:
    keys = TaskEntry.__struct_fields__
    entry: dict[str, Any] = {COLUMNS: {k: v for k, v in row.items() if k not in keys}}
    entry[HEADER] = list(row)
    for key, value in row.items():
        if key not in keys or not value.strip():
            continue
        if key in LISTS:
            entry[key] = [part.strip() for part in value.split(",") if part.strip()]
        elif key in NUMBERS:
            entry[key] = read_number(key, value)
        elif value.strip().lower() in ("true", "false") and key in _SWITCHES:
            entry[key] = value.strip().lower() == "true"
        else:
            entry[key] = value
    return entry


def _parse_lines(text: str) -> list[dict[str, Any]]:
    """Each line is a task's prompt; or `{{line}}` in the prompt of all."""
    if "\0" in text:
        number = text[: text.index("\0")].count("\n") + 1
        problem = "it contains a NUL character; use -0 if those separate the tasks"
        raise LineError(f"line {number}: {problem}")
    return _entries(unquote_name(line.rstrip("\r")) for line in text.split("\n"))


def _entries(lines: Iterable[str]) -> list[dict[str, Any]]:
    return [{COLUMNS: {"line": line}} for line in lines if line.strip()]


_PARSERS: Mapping[str, Any] = {
    "yaml": _parse_yaml, "json": _parse_json, "jsonl": _parse_jsonl, "csv": _parse_csv, "lines": _parse_lines,
}  # fmt: skip


def missing_prompt_message(header: list[str], columns: Mapping[str, str]) -> tuple[str, str]:
    """The error of a row without a prompt, and its fix. Prompts may name the `columns`."""
    if "prompt" in header:
        return (
            "the prompt is empty",
            "fill the column 'prompt', or set it for all tasks: --prompt '…'",
        )
    found = f"missing key 'prompt'; the columns are: {', '.join(map(repr, header))}"
    if len(header) == 1 and (other := next((c for c in ";\t|" if c in header[0]), None)):
        return found, f"columns are separated by commas, not by {other!r}"
    names = " ".join(f"{{{{{name}}}}}" for name in [*columns][:2])
    return found, f"pass --prompt '… {names}', or add a column 'prompt'"
