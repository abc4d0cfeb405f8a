"""The YAML that most configuration files are made of, read without PyYAML, which takes 20 ms to load.

What is read: keys and values on lines of their own, nested by indentation, lists, words, whole numbers,
quotes without escapes, flat lists and mappings in brackets, comments; and JSON. Whatever else a text
contains, also any mistake, makes it `None`, and PyYAML reads it.
"""

from __future__ import annotations

import json
from typing import Any

LARGEST = 32_768  # characters; PyYAML in C is faster for more
MAX_DEPTH = 20
MAX_BRACKETS = 100  # in JSON
MAX_KEY_LENGTH = 100
MAX_DIGITS = 15
NOTHING = None, True  # an empty value, which a block may follow

_CONSTANTS = {"true": True, "false": False, "null": None, "~": None}
# Words that YAML 1.1 does not take as text, in some spelling.
_RESERVED = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_KEY = dict.fromkeys(map(ord, _LETTERS + "0123456789_-"))
_IN_BRACKETS = dict.fromkeys(map(ord, _LETTERS + "0123456789_-./$~"))


class _NotPlain(Exception):  # noqa: N818 - no error: the other parser reads it
    """The text is not as simple as that."""


def load(text: str | bytes) -> tuple[Any] | None:
    """The data in the text, in a tuple; None if it is for PyYAML."""
    if len(text) > LARGEST:
        return None
    try:
        text = text if isinstance(text, str) else text.decode()
        if text.startswith("{"):
            return (_read_json(text),)
        lines = _Lines(text)
        if not lines.left:
            return None
        data = lines.read_block(lines.left[-1][0], 0)
    except (_NotPlain, ValueError, RecursionError):
        return None
    return None if lines.left else (data,)


class _Lines:
    """The lines that are left, each with its indentation, the next one last."""

    def __init__(self, text: str) -> None:
        self.left: list[tuple[int, str]] = []
        below = -1  # the indentation of a comment on the line below, if it may be meant as text
        for line in reversed(text.split("\n")):
            content = line.strip(" ")
            if not line.isprintable():  # a tab, another kind of line end, a control character
                raise _NotPlain
            indent = len(line) - len(line.lstrip(" "))
            if content and content[0] != "#":
                if below > indent and content[-1] != ":":
                    raise _NotPlain
                self.left.append((indent, content))
            below = indent if _may_be_text(content) else -1

    def read_block(self, indent: int, depth: int) -> Any:
        """The mapping or list whose lines are indented as far as that."""
        if depth > MAX_DEPTH:
            raise _NotPlain
        is_list = self.left[-1][1].startswith("- ")
        block = self._read_list(indent, depth) if is_list else self._read_mapping(indent, depth)
        if self.left and self.left[-1][0] > indent:
            raise _NotPlain
        return block

    def _read_mapping(self, indent: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.left and self.left[-1][0] == indent:
            key, value, may_have_block = _split(self.left[-1][1])
            if key in found:
                raise _NotPlain
            self.left.pop()
            if may_have_block and self.left:
                deeper, content = self.left[-1]
                if deeper > indent or (deeper == indent and content.startswith("- ")):
                    value = self.read_block(deeper, depth + 1) if deeper > indent else (
                        self._read_list(indent, depth + 1)
                    )  # fmt: skip
            found[key] = value
        return found

    def _read_list(self, indent: int, depth: int) -> list[Any]:
        found: list[Any] = []
        while self.left and self.left[-1][0] == indent and self.left[-1][1].startswith("- "):
            content = self.left.pop()[1][1:]
            inner = content.lstrip(" ")
            if inner.startswith(("- ", "#")) or inner == "-":
                raise _NotPlain
            if _begins_with_key(inner):  # the first line of a mapping
                column = indent + 1 + len(content) - len(inner)
                self.left.append((column, inner))
                found.append(self.read_block(column, depth + 1))
            else:
                found.append(_read_value(inner)[0])
                if self.left and self.left[-1][0] > indent:  # a value of several lines
                    raise _NotPlain
        return found


def _begins_with_key(content: str) -> bool:
    key, colon, rest = content.partition(":")
    return bool(colon) and _is_key(key) and rest[:1] in ("", " ")


def _is_key(word: str) -> bool:
    return (
        word[:1].isalpha()
        and not word.translate(_KEY)
        and word.lower() not in _RESERVED
        and len(word) <= MAX_KEY_LENGTH
    )


def _split(content: str) -> tuple[str, Any, bool]:
    """The key of a line, its value, and whether a block follows instead."""
    if not _begins_with_key(content):
        raise _NotPlain
    key, _, rest = content.partition(":")
    return key, *_read_value(rest.lstrip(" "))


def _read_value(text: str) -> tuple[Any, bool]:
    """The value, and whether there is none. A comment may follow it."""
    first = text[:1]
    if first == "#":
        _check_comment(text)
    if not first or first == "#":
        return NOTHING
    if first in "\"'":
        return _read_quoted(text), False
    if first in "[{":
        return _read_brackets(text), False
    text, mark, comment = text.partition(" #")
    if mark:
        _check_comment("#" + comment)
    text = text.rstrip(" ")
    if _begins_as_word(text):
        if ": " in text or text.endswith(":"):
            raise _NotPlain
        if text.lower() not in _RESERVED:
            return text, False
    return _read_constant(text), False


def _check_comment(text: str) -> None:
    """A comment that may have been meant as text, as in `PR #12`, is for the other parser."""
    if _may_be_text(text):
        raise _NotPlain


def _may_be_text(content: str) -> bool:
    return content[:1] == "#" and content[1:2] not in ("", " ", "#")


def _begins_as_word(text: str) -> bool:
    first = text[:1]
    if first.isascii() and (first.isalpha() or first in "/$_"):
        return True
    return text.startswith("~/") or (text.startswith("--") and text[2:3].isalpha())


def _read_constant(text: str) -> Any:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    is_number = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    if is_number and (text == "0" or text[0] != "0"):
        return int(text)
    raise _NotPlain


def _read_quoted(text: str) -> str:
    inner, end, rest = text[1:].partition(text[0])
    is_over = not rest or (rest[0] == " " and rest.lstrip(" ").startswith("#"))
    if not end or "\\" in inner or not is_over:
        raise _NotPlain
    return inner


def _read_brackets(text: str) -> Any:
    """A list or mapping of simple values."""
    closing = "]" if text[0] == "[" else "}"
    inner, end, rest = text[1:].partition(closing)
    if not end or (rest and not (rest[0] == " " and rest.lstrip(" ").startswith("#"))):
        raise _NotPlain
    parts = [part.strip(" ") for part in inner.split(",")] if inner.strip(" ") else []
    if closing == "]":
        return [_read_part(part) for part in parts]
    found: dict[str, Any] = {}
    for part in parts:
        key, colon, value = part.partition(": ")
        if not colon or not _is_key(key) or key in found:
            raise _NotPlain
        found[key] = _read_part(value.strip(" "))
    return found


def _read_part(text: str) -> Any:
    if text[:1] in ('"', "'") and len(text) > 1:
        if text[-1] != text[0] or text[0] in text[1:-1] or "\\" in text:
            raise _NotPlain
        return text[1:-1]
    if not text or text.translate(_IN_BRACKETS):
        raise _NotPlain
    if _begins_as_word(text) and text.lower() not in _RESERVED:
        return text
    return _read_constant(text)


def _read_json(text: str) -> Any:
    """JSON, in so far as it means the same in YAML."""
    if "\\" in text or not text.replace("\n", "").isprintable():
        raise _NotPlain
    if text.count("[") + text.count("{") > MAX_BRACKETS:  # it may be nested too deeply
        raise _NotPlain
    return json.loads(
        text,
        object_pairs_hook=_unique_keys,
        parse_float=_refuse,
        parse_int=_read_constant,
        parse_constant=_refuse,
    )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs) or any(len(key) > MAX_KEY_LENGTH for key in found):
        raise _NotPlain
    return found


def _refuse(_: str) -> Any:
    raise _NotPlain
