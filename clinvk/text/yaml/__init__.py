"""YAML written by hand: a duplicate key is an error, and errors have a line.

The size of the data is limited before it is built: see `LARGEST` and `MAX_DEPTH`."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any

from clinvk.text.yaml import plain

if TYPE_CHECKING:
    from clinvk.text.yaml.rules import Rules

MAX_DEPTH = 100  # levels; loaders and readers of their data recurse for each
LARGEST = 100_000  # values that the aliases of a text may stand for; 64 characters count as one
DIGITS = 4300  # of a whole number; Python converts no more

DEEP = "nested too deeply"
# Where an alias or an anchor may be: at the start of a value. Most prompts have none: `**bold**`,
# `a & b`. They are compiled when they are needed, since no start should wait for that.
_ALIAS = r"(?:\A|[\s\[\]{},:?\ufeff-])\*[^\s*]"
_ANCHOR = r"(?:\A|[\s\[\]{},:?\ufeff-])&[^\s&]"
_SURROGATE = r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}"


class YamlError(ValueError):
    """The text is not YAML, has a duplicate key, or is too large. `line` counts from 1."""

    def __init__(self, problem: str, line: int | None) -> None:
        super().__init__(f"line {line}: {problem}" if line else problem)
        self.problem = problem


def load(text: str | bytes, written: Rules | None = None) -> Any:
    """The data in the text. The parts named by `written` stay as they are written. Raises `YamlError`."""
    if (found := plain.load(text)) is not None:
        return found[0]
    import yaml  # 10 ms: only for what is not plain

    try:
        _check_size(text)
        return _construct(text, written)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or str(error).splitlines()[0])
        if "nesting" in problem:  # PyYAML has a limit of its own since 6.0.4
            problem = DEEP
        raise YamlError(problem, mark.line + 1 if mark else None) from error
    except RecursionError:
        raise YamlError(DEEP, None) from None
    except YamlError:
        raise
    except (ValueError, OverflowError) as error:  # the 31st of February
        raise YamlError(f"not a value: {error}", None) from error
    except (AttributeError, TypeError) as error:  # a tag that does not fit, such as `!!timestamp x`
        raise YamlError("a tag that does not fit its value", None) from error


def line_of(text: str, path: tuple[str | int, ...]) -> int | None:
    """The line of a place in YAML, counted from 1; of JSON too, which is YAML but for halves of
    surrogate pairs."""
    # 11 ms, and a start without a configuration does not need it.
    import yaml

    text = re.sub(_SURROGATE, r"\\ufffd", text)
    try:
        _check_size(text)
        node = yaml.compose(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, YamlError, RecursionError):
        return None
    line: int | None = None
    for step in path:
        if isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if str(k.value) == str(step)]
            if not pairs:
                break
            line, node = pairs[-1][0].start_mark.line + 1, pairs[-1][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


def _check_size(text: str | bytes) -> None:
    """Raise `YamlError` for text that is nested too deeply, or would become too large by its
    aliases.

    Only a text in which that is possible is examined: a level takes a bracket or a column."""
    if isinstance(text, bytes):
        text = text.decode(_encoding(text), "replace")
    brackets = text.count("[") + text.count("{")
    flat = brackets <= MAX_DEPTH and all(len(line) <= MAX_DEPTH for line in text.splitlines())
    may_alias = "*" in text and "&" in text
    if not flat or (may_alias and re.search(_ALIAS, text) and re.search(_ANCHOR, text)):
        _count(text)


def _encoding(data: bytes) -> str:
    """The encoding of YAML, as PyYAML detects it: by its byte order mark."""
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def _count(text: str) -> None:
    """The same, by the events of the parser: nothing is built, and an alias counts as
    much as its target."""
    # 11 ms, and a start without a configuration does not need it.
    import yaml

    sizes: dict[str, int] = {}  # anchor: number of values
    open_: list[tuple[str | None, int]] = []  # anchor, and how many values were before it
    count = aliased = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.AliasEvent):
            name = event.anchor or ""
            if any(anchor == name for anchor, _ in open_):
                raise YamlError(f"*{name} refers to itself", line)
            aliased += sizes.get(name, 1)
            count += sizes.get(name, 1)
            if aliased > LARGEST:
                raise YamlError(f"its aliases would make more than {LARGEST:,} values", line)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1 + len(event.value) // 64
            count += size
            if event.anchor:
                sizes[event.anchor] = size
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, count))
            count += 1
            if len(open_) > MAX_DEPTH:
                raise YamlError(DEEP, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = count - before


def _construct(text: str | bytes, rules: Rules | None) -> Any:
    """The data in the text, built after its nodes have been checked."""
    if isinstance(text, bytes):
        text = text.decode(_encoding(text))
    text = text.removeprefix("\ufeff")  # which the marks of the nodes do not count
    loader = _loader()(text)
    try:
        node = loader.get_single_node()
        _check_keys(node, set())
        if rules and node is not None:
            # Slow, like the parser itself: for what is not plain.
            from clinvk.text.yaml import written

            try:
                node = written.keep_written(node, rules, text, loader.flatten_mapping)
            except written.CutError as error:
                raise YamlError(str(error), error.line + 1) from None
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _check_keys(node: Any, seen: set[int]) -> None:
    """Raise an error for a duplicate key: YAML forbids those, and PyYAML takes the last. What is
    merged into a mapping is not in it yet: its own keys override that."""
    # 11 ms, and a start without a configuration does not need it.
    import yaml

    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if isinstance(item, yaml.CollectionNode):
                _check_keys(item, seen)
    elif isinstance(node, yaml.MappingNode) and id(node) not in seen:
        seen.add(id(node))
        keys = set()
        for key, value in node.value:
            if isinstance(key.value, str):  # the loader refuses a list or a mapping
                if key.value in keys and key.tag != "tag:yaml.org,2002:merge":
                    problem = f"duplicate key {key.value!r}"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                keys.add(key.value)
            if isinstance(value, yaml.CollectionNode):
                _check_keys(value, seen)


def _loader() -> Any:
    """The safe loader, in C if there is one, without numbers that Python does not convert."""
    # 11 ms, and a start without a configuration does not need it.
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        def construct_scalar(self, node: Any) -> Any:
            value = super().construct_scalar(node)
            if node.tag.endswith((":int", ":float")) and len(value) > DIGITS:
                problem = f"a number with more than {DIGITS:,} digits; put it into quotes"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            return value

    # YAML 1.1 has a meaning for a `=` alone, which no program uses.
    Loader.add_constructor("tag:yaml.org,2002:value", Loader.construct_yaml_str)
    return Loader
