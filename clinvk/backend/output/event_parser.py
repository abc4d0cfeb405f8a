"""Turn printed lines into events, by a manifest's rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from clinvk.backend.expression import is_truthy
from clinvk.backend.manifest import Manifest, Same
from clinvk.backend.output.field_values import convert_values, has_needed_types, to_int, to_text
from clinvk.backend.output.rules import EXTRA_FIELDS, SILENT, CompiledRule, RuleIndex, index_of
from clinvk.backend.output.usage_share import Sums
from clinvk.model import events as messages
from clinvk.model.events import EVENT_TYPES, Event
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


class EventParser:
    """Parses one run of one backend. What it learns in addition to events is in its attributes."""

    def __init__(
        self, manifest: Manifest, *, is_first_turn: bool, previous_totals: Any = None
    ) -> None:
        self.manifest = manifest
        self.is_first_turn = is_first_turn  # this is the first turn of the native session
        self.sums = Sums(
            is_first_turn=is_first_turn,
            begins=is_first_turn or manifest.sums_per_run,
            previous_totals=previous_totals,
        )
        self.native_id: str | None = None
        self.model: str | None = None  # from another event than `started`
        self.unfinished: str | None = None  # why the last event so far cannot be the last one
        self.noise: list[str] = []  # a few of the lines that were not JSON
        self.background_tasks = 0  # that the CLI has reported to be running
        self.is_working_again = False  # it has begun another turn since its last result
        self._has_result = False
        self._message_id: str | None = None  # of the message that is being printed
        self._is_cut = False  # it ended at a limit, and the next message continues it
        self._continued: dict[str, str | None] = {}  # such a next message, and the one before it
        self._started: tuple[str | None, str | None] | None = None  # what was last said to begin
        self.recognized = 0  # objects that a rule applied to
        self.unrecognized = 0  # those that no rule could read
        self.ends_unrecognized = False  # the last one was among those
        self._index = index_of(Same(manifest.events))
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

    def _apply(self, index: RuleIndex, data: Any, raw: Any, events: list[Event]) -> bool:
        """Add the events of the first rule that matches; return whether it could read the data."""
        for rule in index.candidates(data):
            if rule.when is None or is_truthy(rule.when(data)):
                is_read = self._emit_all(rule, data, raw, events)
                if is_read is not None:
                    return is_read
        return False

    def _emit_all(
        self, rule: CompiledRule, data: Any, raw: Any, events: list[Event]
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
            is_read = has_needed_types(rule.emit, values)
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
        self, rule: CompiledRule, cls: type[Event], data: Any, raw: Any, events: list[Event]
    ) -> bool:
        """What `_emit` and `has_needed_types` do for the most frequent events, in half the time."""
        if rule.text is not None:
            text = rule.text(data)
            is_text = isinstance(text, str)
            if cls is messages.Text:
                text = text if is_text else "" if text is None else to_text(text)
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

    def _note(self, rule: CompiledRule, data: Any) -> None:
        """Remember what a line says beside its event."""
        said = {name: get(data) for name, get in rule.noted}
        if rule.emit == "unfinished":
            message = said.get("message")
            self.unfinished = to_text(message) if message else "another step was to follow"
        self._is_cut = self._is_cut or bool(said.get("continued"))
        if rule.emit == "background":
            self.background_tasks = to_int(said.get("running")) or 0
        if "usage_add" in said:
            self.sums.steps.add_usage(said["usage_add"])
        if "cost_add" in said:
            self.sums.steps.add_cost(said["cost_add"])
        if name := said.get("model"):
            self.model = to_text(name)
        if name := said.get("native_id"):
            self.native_id = to_text(name)

    def _emit(self, emit: str, values: dict[str, Any], raw: Any) -> Iterator[Event]:
        if native_id := values.get("native_id"):
            self.native_id = native_id = str(native_id)
        if emit in EXTRA_FIELDS:
            extras = {name: values.pop(name, None) for name in EXTRA_FIELDS[emit]}
            values["usage"], values["cost"] = self.sums.share(
                values.get("usage"), values.get("cost"), extras
            )
            self.unfinished = None
            self._has_result, self.is_working_again = True, False
            denied = extras["denied"]
            for denial in denied if isinstance(denied, list) else []:
                yield messages.Denied(**convert_values(messages.Denied, denial), raw=raw)
        cls = EVENT_TYPES[emit]
        if cls is messages.Delta:  # the most frequent one
            text = values.get("text")
            if isinstance(text, str) and text:
                yield messages.Delta(text=text, message_id=self._message_id, raw=raw)
            return
        if cls is messages.Text:
            values["message_id"] = self._message_id
        event = cls(**convert_values(cls, values), raw=raw)
        if isinstance(event, messages.Started):
            self.is_working_again = self._has_result
            # A CLI may name its session in each line, or for each step.
            if self._started == (event.native_id, event.model):
                return
            self._started = event.native_id, event.model
        yield event


def _without_halves(text: bytes) -> bytes:
    """The JSON with U+FFFD in place of each lone surrogate."""
    if not _HALF.search(text):
        return text
    return _ESCAPES.sub(lambda m: b"\\ufffd" if m.group(1) else m.group(), text)
