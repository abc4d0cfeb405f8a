"""Parts of a YAML text that stay as they are written, although YAML 1.1 reads them differently.

`3.10` is a number to YAML, and equal to `3.1`; `no` is false, `12:30` is 750, `010` is 8, and `Fix #1`
ends before its comment. In a prompt, a matrix or an environment, none of that is meant.

This module works on PyYAML's nodes, before data is built; `rules` says for which parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from clinvk.text.yaml.rules import JSON, PROSE, TEXT, Leaf, Rules

_TAG = "tag:yaml.org,2002:"
# What a word without quotes is taken for. `null` stays what it is: it says that there is no value.
_CONVERTED = {_TAG + kind for kind in ("bool", "int", "float", "timestamp", "value", "merge")}
_JSON_INT = re.compile(r"-?(?:0|[1-9][0-9]*)")
# The first character of a comment that was meant as text: `#12`, `#{{number}}`. Comments usually
# begin with a space, or with a line of the same character.
_COMMENT = re.compile(r"""[ \t]*(?P<comment>\#(?:\w|[{(\[<$@"'])[^\r\n]*)""")
# The same on the next line, where it looks like one more line of the text.
_COMMENT_BELOW = re.compile(r"[ \t]*(?:\r\n?|\n)(?P<indent> *)" + _COMMENT.pattern)


class CutError(ValueError):
    """A comment ends a text that must not be cut. `line` counts from 0."""

    def __init__(self, comment: str, line: int) -> None:
        word = comment.split(maxsplit=1)[0][:40]
        super().__init__(
            f"{word!r} begins a comment, so the text would end before it; put the text in quotes"
        )
        self.line = line


def keep_written(
    node: Any, rules: Rules | Leaf, text: str, flatten: Callable[[Any], None], column: int = -1
) -> Any:
    """A copy of the node in which the parts that the rules name stay as they are written.
    `flatten` inserts what a mapping merges; `column` is that of the node's key, or of the dash
    before it. Raises `CutError`."""
    kind = getattr(node, "id", None)
    if kind == "scalar":
        is_prose = rules == PROSE or isinstance(rules, Mapping)
        _check_comment(node, text, is_prose=is_prose)
        if is_prose:
            _check_comment_below(node, text, column)
        return _as_text(node, rules) if rules in (TEXT, JSON) else node
    if not isinstance(rules, Mapping) and rules != JSON:
        return node  # not the kind of value that belongs there: reported by the reader of the data
    if kind == "sequence":
        inner = _inner(rules, "[]")
        if inner is None:
            return node
        column = node.start_mark.column
        items = [keep_written(item, inner, text, flatten, column) for item in node.value]
        return _copy(node, items)
    if kind == "mapping":
        flatten(node)
        return _copy(node, list(_pairs(node, rules, text, flatten)))
    return node


def _pairs(
    node: Any, rules: Rules | Leaf, text: str, flatten: Callable[[Any], None]
) -> Iterator[tuple[Any, Any]]:
    for key, value in node.value:
        name = key.value if key.id == "scalar" else None
        inner = _inner(rules, name)
        if inner is None:
            yield key, value
        else:
            is_any = not isinstance(rules, Mapping) or name not in rules
            kept = _as_text(key, TEXT) if is_any and key.id == "scalar" else key
            yield kept, keep_written(value, inner, text, flatten, key.start_mark.column)


def _inner(rules: Rules | Leaf, name: str | None) -> Rules | Leaf | None:
    """The rules for a part of that name."""
    if not isinstance(rules, Mapping):
        return rules
    found: Rules | Leaf | None = rules.get(name or "*") or rules.get("*")
    return found


def _copy(node: Any, value: Any) -> Any:
    """An alias may use the same node elsewhere, for something else."""
    return type(node)(node.tag, value, node.start_mark, node.end_mark, node.flow_style)


def _as_text(node: Any, rules: Rules | Leaf) -> Any:
    if node.style or node.tag not in _CONVERTED or (rules == JSON and _is_json(node)):
        return node
    return type(node)(_TAG + "str", node.value, node.start_mark, node.end_mark, node.style)


def _is_json(node: Any) -> bool:
    """Whether JSON writes the value in the same way."""
    value: str = node.value
    if node.tag == _TAG + "float":
        try:
            return repr(float(value)) == value and value.strip("-")[0].isdigit()
        except ValueError:  # 1:30.5
            return False
    return value in ("true", "false") or _JSON_INT.fullmatch(value) is not None


def _check_comment(node: Any, text: str, *, is_prose: bool) -> None:
    """Raise `CutError` if a comment ends the text, or is all of it."""
    if node.style or not (node.tag == _TAG + "str" if node.value else is_prose):
        return
    end = node.end_mark.index
    if (found := _COMMENT.match(text, end)) and (not node.value or text[end] in " \t"):
        raise CutError(found["comment"], node.end_mark.line)


def _check_comment_below(node: Any, text: str, column: int) -> None:
    """Raise `CutError` if the text seems to go on with a comment on the next line, which is
    indented as only a line of the text would be."""
    if node.style or not node.value:
        return
    found = _COMMENT_BELOW.match(text, node.end_mark.index)
    if found and len(found["indent"]) > column:
        raise CutError(found["comment"], node.end_mark.line + 1)
