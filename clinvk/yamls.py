"""YAML as people write it by hand: what stands twice is a mistake, and a mistake has a line."""

from __future__ import annotations

from typing import Any

DEEPEST = 500  # levels; the loader in C calls itself for each, until the stack is full


class YamlError(ValueError):
    """The text is not YAML, or says something twice. `line` counts from 1."""

    def __init__(self, problem: str, line: int | None) -> None:
        super().__init__(f"line {line}: {problem}" if line else problem)


def load(text: str | bytes) -> Any:
    """What the text says. Raises `YamlError`."""
    import yaml  # 10 ms: only where there is something to parse

    try:
        _refuse_depth(text)
        return yaml.load(text, _loader())  # noqa: S506 - it is a safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise YamlError(str(problem), mark.line + 1 if mark else None) from error


def line_of(text: str, path: tuple[str | int, ...]) -> int | None:
    """The line of a place in YAML, counted from 1; of JSON too, which is YAML."""
    import yaml

    try:
        _refuse_depth(text)
        node = yaml.compose(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, YamlError):
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


def _refuse_depth(text: str | bytes) -> None:
    """Raise `YamlError` for what is nested too deeply. A level takes a bracket, or a column."""
    import yaml

    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    brackets = text.count("[") + text.count("{")
    if brackets <= DEEPEST and all(len(line) <= DEEPEST for line in text.splitlines()):
        return
    depth = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                mark = event.start_mark
                raise YamlError("nested too deeply", mark.line + 1 if mark else None)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _loader() -> Any:
    """The safe loader in C, where there is one, which looks at the keys of each mapping as well:
    YAML forbids to have one twice, and PyYAML takes the last."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if not isinstance(key.value, str):  # a list or a mapping: the loader refuses those
                    continue
                if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                    problem = f"the key {key.value!r} stands twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    return Loader
