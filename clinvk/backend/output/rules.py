"""The rules of a manifest for events, compiled."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from clinvk.backend.expression import Evaluate, compile_expression
from clinvk.backend.manifest import EventRule, Same
from clinvk.backend.output.field_values import converter_of
from clinvk.model import events as messages
from clinvk.model.events import EVENT_TYPES, Event

# Fields that a rule may set in addition to those of the event: the turn's share of a cumulative
# value is the difference to the last one; a value of the whole session is the turn's in its first
# turn. If a turn has several results, each has its own share.
SILENT = ("nothing", "unfinished", "background")  # rules that make no event
TOTAL_FIELDS = ("usage_total", "cost_total")
# Fields that a rule may set with any event, also with none: the turn's share is the sum of all
# lines; the last name of model and session counts.
NOTED_FIELDS = ("usage_add", "cost_add", "model", "native_id")
_EXTRA = ("native_id", "denied", "usage_first", "cost_first", *TOTAL_FIELDS)
EXTRA_FIELDS = {"finished": _EXTRA, "failed": _EXTRA}


class CompiledRule:
    __slots__ = (
        "each", "emit", "fields", "inner", "key", "message_id", "noted", "plain", "set", "text",
        "when",
    )  # fmt: skip

    def __init__(self, rule: EventRule) -> None:
        self.emit = rule.emit
        self.when = compile_expression(rule.when) if rule.when else None
        self.each: Evaluate | None = compile_expression(rule.each) if rule.each else None
        by_name = {name: compile_expression(text) for name, text in rule.set.items()}
        self.message_id = by_name.pop("message_id", None)
        noted = noted_fields(rule.emit)
        self.noted: list[tuple[str, Evaluate]] = [v for v in by_name.items() if v[0] in noted]
        self.set: list[tuple[str, Evaluate]] = [v for v in by_name.items() if v[0] not in noted]
        if rule.emit == "unfinished" and not self.noted:
            self.noted = [("message", lambda _: None)]
        # An event that is made of its fields alone, and what is needed to make it.
        self.plain = _plain_event(rule.emit, by_name)
        is_text = self.plain in (messages.Delta, messages.Text)
        self.text = by_name["text"] if is_text else None
        self.fields = [
            (name, get, converter_of(self.plain, name))
            for name, get in self.set
            if self.plain is not None and name in self.plain.__struct_fields__
        ]
        self.inner = RuleIndex(rule.events) if rule.events else None
        self.key = _TYPE.match(rule.when) if rule.when else None


def _plain_event(emit: str | None, fields: Iterable[str]) -> type[Event] | None:
    """The event, if it is made of these fields alone."""
    names = set(fields)
    if emit in ("delta", "text"):
        return EVENT_TYPES[emit] if names == {"text"} else None
    frequent = emit in ("thinking", "tool", "tool_result", "notice", "denied")
    return (
        EVENT_TYPES[emit]
        if frequent and emit and not names & {"native_id", *noted_fields(emit)}
        else None
    )


def rule_fields(emit: str | None) -> tuple[str, ...]:
    """All fields that a rule for this event may set."""
    noted = (*noted_fields(emit), "native_id", "message_id")
    if emit is None or emit in SILENT:
        only = {"unfinished": "message", "background": "running"}.get(emit or "")
        return tuple(name for name in noted if name not in ("message", "running") or name == only)
    # The kind and the hint of a failure are found by the rules for errors.
    unset = ("raw", "kind", "hint") if emit == "failed" else ("raw",)
    own = tuple(name for name in EVENT_TYPES[emit].__struct_fields__ if name not in unset)
    return tuple(dict.fromkeys((*own, *EXTRA_FIELDS.get(emit, ()), *noted)))


def noted_fields(emit: str | None) -> tuple[str, ...]:
    """The fields of a rule that are no fields of its event."""
    if emit == "started":
        return ("usage_add", "cost_add")
    if emit in (None, *SILENT):
        return (*NOTED_FIELDS, "message", "running", "continued")
    return ("usage_add", "cost_add", "model")


_TYPE = re.compile(r"\s*type\s*==\s*'([^']*)'\s*(?:&&(?!.*\|\|)|$)")


class RuleIndex:
    """Rules by the `type` that they match, so that only those that could apply are tried."""

    def __init__(self, rules: list[EventRule]) -> None:
        compiled = [CompiledRule(rule) for rule in rules]
        types = {rule.key.group(1) for rule in compiled if rule.key}
        self._others = [rule for rule in compiled if not rule.key]
        self._by_type = {
            name: [r for r in compiled if not r.key or r.key.group(1) == name] for name in types
        }

    def candidates(self, data: Any) -> list[CompiledRule]:
        kind = data.get("type") if type(data) is dict else None
        return self._by_type.get(kind, self._others) if isinstance(kind, str) else self._others


@lru_cache(64)
def index_of(rules: Same) -> RuleIndex:
    """The compiled rules, cached per manifest: a process may read thousands of runs. The cache has
    the size of the catalog's, so that a long-lived process does not grow."""
    return RuleIndex(rules.it)
