"""Which rules of a manifest the lines of a recording use, and which lines use none."""

from __future__ import annotations

import json
from typing import Any

from clinvk.backend.expression import compile_expression, is_truthy
from clinvk.backend.manifest import EventRule, Manifest
from clinvk.text.typed import format_path

Place = tuple[str | int, ...]


class Coverage:
    """Add the lines one by one. `unused` are the numbers of those that no rule uses."""

    def __init__(self, manifest: Manifest) -> None:
        self._rules = manifest.events
        self._places = [place for place, _ in manifest.all_rules()]
        self._used: set[Place] = set()
        self.unused: list[int] = []

    @property
    def unused_rules(self) -> list[str]:
        return [format_path(place) for place in self._places if place not in self._used]

    def add(self, number: int, line: bytes) -> bool:
        """Look at a line; return whether it is JSON that rules can apply to."""
        if not line or line.isspace():
            return True
        try:
            data = json.loads(line.decode("utf-8", "replace"), strict=False)
        except (ValueError, RecursionError):
            return False
        objects = data if isinstance(data, list) else [data]
        if not any(isinstance(one, dict) for one in objects):
            return False
        used = [self._apply(self._rules, one, ("events",)) for one in objects]  # each of them
        if not any(used):
            self.unused.append(number)
        return True

    def _apply(self, rules: list[EventRule], data: Any, path: Place) -> bool:
        for i, rule in enumerate(rules):
            if rule.when is not None and not is_truthy(compile_expression(rule.when)(data)):
                continue
            place = (*path, i)
            self._used.add(place)
            if not rule.events:
                return True
            found = compile_expression(rule.each)(data) if rule.each else [data]
            inside = found if isinstance(found, list) else []
            applied = [self._apply(rule.events, one, (*place, "events")) for one in inside]
            return bool(rule.emit) or not applied or any(applied)
        return False
