"""Turn printed lines into events, by a manifest's rules."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from clinvk.backend.expression import Evaluate, compile_expression, is_truthy
from clinvk.backend.manifest import ErrorRule, EventRule, Manifest, Same
from clinvk.backend.patterns import Patterns
from clinvk.errors import ConfigError
from clinvk.model import events as messages
from clinvk.model.events import EVENT_TYPES, Event
from clinvk.model.result import Failure
from clinvk.model.usage import Usage, sum_costs, to_cost, token_count
from clinvk.process.pipes import LONGEST
from clinvk.text.json_input import parse_value, split_objects

# A half of a surrogate pair, as JSON escapes it: a CLI may have cut a text in the middle of one.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)

NOISE_LENGTH = 500  # characters of a line that is not JSON
LOOKED_AT = 65_536  # characters of a message that are searched for the patterns of `errors`

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


class EventParser:
    """Parses one run of one backend. What it learns in addition to events is in its attributes."""

    def __init__(
        self, manifest: Manifest, *, is_first_turn: bool, previous_totals: Any = None
    ) -> None:
        self.manifest = manifest
        self.is_first_turn = is_first_turn  # this is the first turn of the native session
        self._begins_sums = is_first_turn or manifest.sums_per_run  # the CLI begins to add up
        self.previous_totals = previous_totals or {}  # the totals after the last turn
        self.native_id: str | None = None
        self.model: str | None = None  # from another event than `started`
        self.unfinished: str | None = None  # why the last event so far cannot be the last one
        self.steps = Steps()  # since the last event that reported success or failure
        self.totals: dict[str, Any] = {}
        self.noise: list[str] = []  # a few of the lines that were not JSON
        self.background_tasks = 0  # that the CLI has reported to be running
        self.is_working_again = False  # it has begun another turn since its last result
        self._has_result = False
        self._message_id: str | None = None  # of the message that is being printed
        self._is_cut = False  # it ended at a limit, and the next message continues it
        self._continued: dict[str, str | None] = {}  # such a next message, and the one before it
        self._counted_usage = Usage()  # of the results so far
        self._counted_cost = 0.0
        self._started: tuple[str | None, str | None] | None = None  # what was last said to begin
        self.recognized = 0  # objects that a rule applied to
        self.unrecognized = 0  # those that no rule could read
        self.ends_unrecognized = False  # the last one was among those
        self._index = _index_of(Same(manifest.events))
        self._lines: list[bytes] = []  # lines of an `output: json|text` backend
        self._size = 0  # their size in bytes

    @property
    def size(self) -> int:
        """The bytes that wait for the end of the output; 0 if each line is an event."""
        return self._size

    def parse_line(self, line: bytes) -> list[Event]:
        """The events of one line of stdout."""
        if self.manifest.output != "events":
            self._size += len(line) + 1
            if self._size > LONGEST:
                self._lines = []
                return []
            self._lines.append(line)
            if self.manifest.output == "text":
                return [messages.Delta(text=line.decode("utf-8", "replace") + "\n")]
            return []
        if not line or line.isspace():
            return []
        if b"\\" in line and b"\\u" in line:  # one byte is found ten times as fast
            line = _without_halves(line)
        try:
            data = parse_value(line.decode())
        except (ValueError, RecursionError):  # includes invalid UTF-8
            objects, rest = split_objects(line)
            self._add_noise(rest)
            return [event for data in objects for event in self._events(data)]
        if isinstance(data, dict):
            return self._events(data)
        self._add_noise(line[:NOISE_LENGTH].decode("utf-8", "replace"))
        return []

    def finish(self, code: int) -> list[Event]:
        """The events at the end of the output of a backend that prints no events."""
        if self._size > LONGEST:
            return [messages.Failed(message=f"it printed more than {LONGEST:,} bytes")]
        if self.manifest.output == "text" and code == 0:
            text = b"\n".join(self._lines).decode("utf-8", "replace")
            return [messages.Finished(text=text)]
        if self.manifest.output == "json" and self._lines:
            return self._parse_whole(b"\n".join(self._lines))
        return []

    def _parse_whole(self, text: bytes) -> list[Event]:
        """The events of one JSON value: an object, or a list of them, which may come after lines
        that are not JSON, such as warnings."""
        text = _without_halves(text)
        starts = [
            0,
            *(m.start() for m in islice(re.finditer(rb"^\s*[\[{]", text, re.MULTILINE), 20)),
        ]
        for start in dict.fromkeys(starts):
            try:
                data = parse_value(text[start:].decode())
            except (ValueError, RecursionError):
                continue
            found = data if isinstance(data, list) else [data]
            return [e for one in found if isinstance(one, dict) for e in self._events(one)]
        for line in text.splitlines():
            self._add_noise(line.decode("utf-8", "replace"))
        return []

    def _add_noise(self, text: str) -> None:
        # The same title of a window may precede every line.
        if len(self.noise) < 20 and (text := text[:NOISE_LENGTH]) and text not in self.noise:
            self.noise.append(text)

    def _events(self, data: dict[str, Any]) -> list[Event]:
        events: list[Event] = []
        if self._apply(self._index, data, data, events):
            self.recognized += 1
            self.ends_unrecognized = False
        else:
            self.unrecognized += 1
            self.ends_unrecognized = True
        return events

    def _apply(self, index: _RuleIndex, data: Any, raw: Any, events: list[Event]) -> bool:
        """Add the events of the first rule that matches; return whether it could read the data."""
        for rule in index.candidates(data):
            if rule.when is None or is_truthy(rule.when(data)):
                is_read = self._emit_all(rule, data, raw, events)
                if is_read is not None:
                    return is_read
        return False

    def _emit_all(
        self, rule: _CompiledRule, data: Any, raw: Any, events: list[Event]
    ) -> bool | None:
        """Add the events of this rule; return whether it could read the data. None if it does not
        apply, since its `each` is not a list there."""
        if rule.message_id is not None and isinstance(found := rule.message_id(data), str):
            if self._is_cut and found != self._message_id:
                self._continued[found], self._is_cut = self._message_id, False
            self._message_id = self._continued.get(found, found)
        if rule.noted:
            self._note(rule, data)
        is_read = True
        if rule.plain is not None:
            is_read = self._add_plain(rule, rule.plain, data, raw, events)
        elif rule.emit and rule.emit not in SILENT:
            values = {name: get(data) for name, get in rule.set}
            is_read = _has_types(rule.emit, values)
            events.extend(self._emit(rule.emit, values, raw))
        if rule.inner is not None:
            found = rule.each(data) if rule.each else [data]
            if not isinstance(found, list):
                return None if rule.emit is None else False
            any_read = not found
            for element in found:
                if self._apply(rule.inner, element, raw, events):
                    any_read = True
            is_read = is_read and any_read
        return is_read

    def _add_plain(
        self, rule: _CompiledRule, cls: type[Event], data: Any, raw: Any, events: list[Event]
    ) -> bool:
        """What `_emit` and `_has_types` do for the most frequent events, in half the time."""
        if rule.text is not None:
            text = rule.text(data)
            is_text = isinstance(text, str)
            if cls is messages.Text:
                text = text if is_text else "" if text is None else _to_text(text)
                events.append(messages.Text(text=text, message_id=self._message_id, raw=raw))
            elif is_text and text:
                events.append(messages.Delta(text=text, message_id=self._message_id, raw=raw))
            return is_text
        values: dict[str, Any] = {}
        for name, get, convert in rule.fields:
            value = get(data)
            if value is not None:
                values[name] = convert(value) if convert else value
        events.append(cls(**values, raw=raw))
        return True

    def _note(self, rule: _CompiledRule, data: Any) -> None:
        """Remember what a line says beside its event."""
        said = {name: get(data) for name, get in rule.noted}
        if rule.emit == "unfinished":
            message = said.get("message")
            self.unfinished = _to_text(message) if message else "another step was to follow"
        self._is_cut = self._is_cut or bool(said.get("continued"))
        if rule.emit == "background":
            self.background_tasks = _to_int(said.get("running")) or 0
        if "usage_add" in said:
            self.steps.add_usage(said["usage_add"])
        if "cost_add" in said:
            self.steps.add_cost(said["cost_add"])
        if name := said.get("model"):
            self.model = _to_text(name)
        if name := said.get("native_id"):
            self.native_id = _to_text(name)

    def _emit(self, emit: str, values: dict[str, Any], raw: Any) -> Iterator[Event]:
        if native_id := values.get("native_id"):
            self.native_id = native_id = str(native_id)
        if emit in EXTRA_FIELDS:
            extras = {name: values.pop(name, None) for name in EXTRA_FIELDS[emit]}
            usage = self._usage(values.get("usage"), extras)
            cost = self._cost(values.get("cost"), extras)
            steps, self.steps, self.unfinished = self.steps, Steps(), None
            self._has_result, self.is_working_again = True, False
            values["usage"] = usage or (None if steps.usage.is_unknown else steps.usage)
            values["cost"] = sum_costs(steps.costs) if cost is None else cost
            denied = extras["denied"]
            for denial in denied if isinstance(denied, list) else []:
                yield messages.Denied(**_convert_values(messages.Denied, denial), raw=raw)
        cls = EVENT_TYPES[emit]
        if cls is messages.Delta:  # the most frequent one
            text = values.get("text")
            if isinstance(text, str) and text:
                yield messages.Delta(text=text, message_id=self._message_id, raw=raw)
            return
        if cls is messages.Text:
            values["message_id"] = self._message_id
        event = cls(**_convert_values(cls, values), raw=raw)
        if isinstance(event, messages.Started):
            self.is_working_again = self._has_result
            # A CLI may name its session in each line, or for each step.
            if self._started == (event.native_id, event.model):
                return
            self._started = event.native_id, event.model
        yield event

    def _usage(self, own: Any, extras: dict[str, Any]) -> Usage | None:
        usage = self._own_usage(own, extras["usage_first"])
        if usage is None and isinstance(extras["usage_total"], dict):
            usage = self._share_of_total(Usage.from_json(extras["usage_total"]))
        if usage is not None:
            self._counted_usage += usage
        return usage

    def _own_usage(self, own: Any, of_first_turn: Any) -> Usage | None:
        """The usage since the last result: of two figures the larger one, since the CLI left
        something out of the other."""
        found = [_to_usage(own)]
        if self._begins_sums and (whole := _to_usage(of_first_turn)):
            counted = self._counted_usage
            share = whole if counted.is_unknown else whole - counted
            found += [share] if min(share.input or 0, share.output or 0) >= 0 else []
        return max(filter(None, found), key=lambda usage: usage.counted, default=None)

    def _share_of_total(self, now: Usage) -> Usage | None:
        if now.is_unknown:
            return None
        before = self.previous_totals.get("usage")
        is_first = self.is_first_turn and "usage" not in self.totals
        self.totals["usage"] = now.to_json()
        self.previous_totals = {**self.previous_totals, "usage": now.to_json()}
        if is_first:
            return now
        if before is None:
            return None
        used = now - Usage.from_json(before)
        return used if min(used.input or 0, used.output or 0) >= 0 else None

    def _cost(self, own: Any, extras: dict[str, Any]) -> float | None:
        cost = self._cost_since(own, extras)
        self._counted_cost += cost or 0.0
        return cost

    def _cost_since(self, own: Any, extras: dict[str, Any]) -> float | None:
        """The cost since the last result."""
        if (cost := to_cost(own)) is not None:
            return cost
        if self._begins_sums and (cost := to_cost(extras["cost_first"])) is not None:
            # A sum never shrinks: a smaller one is that of the last result alone.
            return cost if cost < self._counted_cost else cost - self._counted_cost
        total = to_cost(extras["cost_total"])
        if total is None:
            return None
        before = self.previous_totals.get("cost")
        is_first = self.is_first_turn and "cost" not in self.totals
        self.totals["cost"] = total
        self.previous_totals = {**self.previous_totals, "cost": total}
        if is_first:
            return total
        return total - before if before is not None and total >= before else None


def _without_halves(text: bytes) -> bytes:
    """The JSON with U+FFFD in place of each lone surrogate."""
    if not _HALF.search(text):
        return text
    return _ESCAPES.sub(lambda m: b"\\ufffd" if m.group(1) else m.group(), text)


def _has_types(emit: str, values: dict[str, Any]) -> bool:
    """Whether the fields without which the event means nothing have been found, with their types."""
    if emit in ("delta", "text"):
        return isinstance(values.get("text"), str)
    if emit == "started" and "native_id" in values:
        return isinstance(values["native_id"], (str, int))
    return True


class Steps:
    """The sums of what several lines report."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.costs: list[float | None] = []

    def add_usage(self, share: Any) -> None:
        if usage := _to_usage(share):
            self.usage += usage

    def add_cost(self, share: Any) -> None:
        self.costs.append(to_cost(share))


def _to_usage(figures: Any) -> Usage | None:
    """Usage as a rule sets it, with thinking tokens, which a CLI left out if its total exceeds input
    and output; None if no figure is known."""
    if not isinstance(figures, dict):
        return None
    usage, total = Usage.from_json(figures), token_count(figures.get("total"))
    if usage.is_unknown:
        return None
    if total is None or usage.output is None or usage.total is None:
        return usage
    thoughts = max(0, total - usage.total)
    if not thoughts and "reasoning" in figures:
        return usage
    return replace(
        usage, output=usage.output + thoughts, reasoning=(usage.reasoning or 0) + thoughts
    )


class _CompiledRule:
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
            (name, get, _converter(self.plain, name))
            for name, get in self.set
            if self.plain is not None and name in self.plain.__struct_fields__
        ]
        self.inner = _RuleIndex(rule.events) if rule.events else None
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


class _RuleIndex:
    """Rules by the `type` that they match, so that only those that could apply are tried."""

    def __init__(self, rules: list[EventRule]) -> None:
        compiled = [_CompiledRule(rule) for rule in rules]
        types = {rule.key.group(1) for rule in compiled if rule.key}
        self._others = [rule for rule in compiled if not rule.key]
        self._by_type = {
            name: [r for r in compiled if not r.key or r.key.group(1) == name] for name in types
        }

    def candidates(self, data: Any) -> list[_CompiledRule]:
        kind = data.get("type") if type(data) is dict else None
        return self._by_type.get(kind, self._others) if isinstance(kind, str) else self._others


@lru_cache(64)
def _index_of(rules: Same) -> _RuleIndex:
    """The compiled rules, cached per manifest: a process may read thousands of runs. The cache has
    the size of the catalog's, so that a long-lived process does not grow."""
    return _RuleIndex(rules.it)


def _convert_values(cls: type[Event], values: Any) -> dict[str, Any]:
    """The values of the event's fields, converted to their types."""
    fitted = {}
    for name, value in values.items() if isinstance(values, dict) else ():
        if value is None or name not in cls.__struct_fields__:
            continue
        convert = _converter(cls, name)
        fitted[name] = convert(value) if convert else value
    return fitted


def _converter(cls: type[Event], name: str) -> Callable[[Any], Any] | None:
    return _CONVERT.get((cls.type, name)) or _CONVERT.get(("", name))


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _to_int(value: Any) -> int | None:
    return int(value) if _is_number(value) and abs(value) < 1e15 else None


def _to_time(value: Any) -> datetime | None:
    """A time from seconds or milliseconds since 1970, or from RFC 3339."""
    # Only for a rate limit that names a time.
    from datetime import UTC

    try:
        if _is_number(value) or re.fullmatch(r"\d{9,}(\.\d+)?", str(value)):
            seconds = float(value)
            return datetime.fromtimestamp(seconds / 1000 if seconds > 1e11 else seconds, UTC)
        moment = datetime.fromisoformat(str(value))
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None


_CONVERT: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("", "text"): _to_text,
    ("", "message"): _to_text,
    ("", "name"): _to_text,
    ("", "id"): _to_text,
    ("", "native_id"): _to_text,
    ("", "model"): _to_text,
    ("", "reason"): _to_text,
    ("", "hint"): _to_text,
    ("", "ok"): bool,
    ("", "reached"): bool,
    ("", "window"): _to_text,
    ("", "ended"): is_truthy,
    ("", "retrying"): is_truthy,
    ("", "incomplete"): lambda value: _to_text(value) if is_truthy(value) else UNSET,
    ("", "turns"): _to_int,
    ("", "retry_at"): _to_time,
    ("", "status"): _to_int,
}


# Lines of stderr, or of a message, about a limit of something else: an MCP server's, a disk's.
_OF_OTHERS = re.compile(r"(?:\b|_|r)mcp(?:\b|_)", re.IGNORECASE)
_DISK_QUOTA = re.compile(r"\bEDQUOT\b:?|\bdisk quota( exceeded)?", re.IGNORECASE)


def classify_failure(
    manifest: Manifest,
    message: str,
    *,
    stderr: str = "",
    status: int | None = None,
    code: int | None = None,
    retry_at: datetime | None = None,
    limit: messages.RateLimit | None = None,
    zone: str | None = None,
    now: datetime | None = None,
) -> Failure:
    """The kind of a failure, by the manifest's rules, and when to retry.

    What the CLI reports in fields decides: the HTTP status, and `limit`, its last report of a rate
    limit. Then its message, its exit code, and `stderr`, which is passed only if the CLI reported
    no failure in its events. `zone` is the time zone of the CLI, if its environment names one."""
    patterns = Patterns(manifest.source)
    texts = [_ends_of(message), stderr]
    rule, slow = _find_rule(manifest, texts, status, code, patterns)
    if limit is not None and status in (None, 429) and (rule is None or rule.kind in _UNCERTAIN):
        rule = next((r for r in manifest.errors if r.kind == "limit"), ErrorRule("limit"))
    if rule is None:
        return Failure("backend", message, slow, retry_at, status)
    if rule.kind != "limit":
        return Failure(rule.kind, message, rule.hint, retry_at, status, rule.wait_factor)
    # Only at a rate limit.
    from clinvk.backend.retry_after import find_zone, parse_retry_at

    named = retry_at or (limit.retry_at if limit else None)
    if named is None:
        there = find_zone(zone)
        found = (parse_retry_at(_about_limits(t), now=now, zone=there) for t in texts)
        named = next((moment for moment in found if moment), None)
    model = limit.model if limit else None
    if model is None and rule.model is not None:
        with suppress(ConfigError):
            model = patterns.find_group(rule.model, "\n".join(texts))
    window = limit.window if limit else None
    return Failure("limit", message, rule.hint, named, status, window=window, model=model)


def without_noise(manifest: Manifest, text: str) -> str:
    """The text without the lines that the manifest calls noise."""
    if not manifest.noise or not text:
        return text
    patterns = Patterns(manifest.source)
    try:
        kept = [
            line
            for line in text.splitlines()
            if not any(patterns.search(noise, line) for noise in manifest.noise)
        ]
    except ConfigError:  # a pattern takes too long
        return text
    return "\n".join(kept)


def find_reason(manifest: Manifest, failure: Failure, text: str) -> str | None:
    """The line of the text by which a rule has classified the failure."""
    patterns = Patterns(manifest.source)
    about = (failure.kind, failure.hint)
    rules = [rule for rule in manifest.errors if rule.match and (rule.kind, rule.hint) == about]
    try:
        for rule in rules:
            for line in text.splitlines():
                if patterns.search(rule.match or "", _text_for(rule, line, is_stderr=True)):
                    return _plain_message(line.strip())
    except ConfigError:  # a pattern takes too long
        pass
    return None


def _plain_message(line: str) -> str:
    """The line; of one that is a message in an indented JSON object, the message."""
    found = re.fullmatch(r'"message": ("(?:[^"\\]|\\.)*"),?', line)
    if found is None:
        return line
    try:
        return str(json.loads(found[1]))
    except ValueError:
        return line


_UNCERTAIN = ("limit", "server", "backend")  # kinds of a message that a reported limit overrules


def _find_rule(
    manifest: Manifest, texts: list[str], status: int | None, code: int | None, patterns: Patterns
) -> tuple[ErrorRule | None, str | None]:
    """The rule of a failure, and a pattern that took too long."""
    if status is not None:
        for rule in manifest.errors:
            if status in rule.status:
                return rule, None
    slow = None
    for number, text in enumerate(texts):
        found, reason = _match_rule(manifest.errors, text, patterns, is_stderr=number > 0)
        slow = slow or reason
        if found is not None:
            return found, None
        if number == 0 and (by_code := _rule_of_code(manifest, code)):
            # What it printed may name the cause, but does not make it another kind of failure.
            same = [rule for rule in manifest.errors if rule.kind == by_code.kind]
            causes = (_match_rule(same, said, patterns, is_stderr=True)[0] for said in texts[1:])
            return next(filter(None, causes), by_code), None
    return None, slow


def _rule_of_code(manifest: Manifest, code: int | None) -> ErrorRule | None:
    return next((rule for rule in manifest.errors if code in rule.exit_code), None)


def _match_rule(
    rules: list[ErrorRule], text: str, patterns: Patterns, *, is_stderr: bool
) -> tuple[ErrorRule | None, str | None]:
    """The first rule that matches the text, and the first pattern that took too long."""
    slow = None
    for rule in rules:
        if rule.match is None:
            continue
        try:
            if patterns.search(rule.match, _text_for(rule, text, is_stderr=is_stderr)):
                return rule, None
        except ConfigError as error:
            slow = slow or f"the kind of this failure could not be determined: {error}"
    return None, slow


def _text_for(rule: ErrorRule, text: str, *, is_stderr: bool) -> str:
    if rule.kind == "limit":
        return _about_limits(text)
    return _without_others(text) if is_stderr else text


def _about_limits(text: str) -> str:
    """The text without what it says about limits of others."""
    return _DISK_QUOTA.sub("", _without_others(text))


def _without_others(text: str) -> str:
    if "mcp" not in text.lower():
        return text
    # Line by line: a pattern that begins with the rest of a line takes quadratic time.
    return "\n".join("" if _OF_OTHERS.search(line) else line for line in text.split("\n"))


def _ends_of(message: str) -> str:
    """The message, or the beginning and end of a long one."""
    half = LOOKED_AT // 2
    return message if len(message) <= LOOKED_AT else f"{message[:half]}\n{message[-half:]}"
