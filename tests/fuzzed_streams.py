"""Damaged output of the CLIs, made from the recordings, and what must hold however it is damaged.

What should be true of a result is found out without the code under test: with jmespath's own
interpreter, and by adding up every figure in the lines.
"""

import contextlib
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jmespath
from msgspec.structs import replace

from clinvk.backend.catalog import read_manifest
from clinvk.backend.manifest import EventRule, Manifest
from clinvk.backend.options import Setting
from clinvk.backend.output.event_parser import EventParser
from clinvk.config.paths import built_in_manifests
from clinvk.dispatch.answer_schema import AnswerSchema
from clinvk.dispatch.folding.fold import TurnFold
from clinvk.dispatch.folding.turn_failure import Exit
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.model.events import Delta, Event, Finished, Text
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.process.command import Command
from clinvk.process.pipes import LineSplitter
from clinvk.text.json_output import dumps
from tests.recordings_expected import cases, resumed

LONG = 400_000  # bytes of a few streams, of which the time is of interest


@dataclass
class Stream:
    """What a program prints, how it ends, and how it was called."""

    manifest: Manifest
    output: bytes
    stderr: str = ""
    code: int = 0
    resumes: str | None = None
    schema: bool = False
    totals: dict[str, Any] = field(default_factory=dict)
    settles_after: int | None = None  # lines; it is ended after its result, if it has one by then


@dataclass
class Reading:
    result: Result
    events: list[Event]  # that are shown
    folded: list[Event]  # all that count for the answer
    seconds: float  # of CPU
    lines: list[bytes]  # as many as count for the result


# Making streams


@dataclass(frozen=True)
class Recording:
    backend: str
    lines: tuple[bytes, ...]
    stderr: str
    resumes: str | None


@cache
def recordings() -> tuple[Recording, ...]:
    return tuple(
        Recording(
            case.parent.name,
            tuple((case / "stdout").read_bytes().split(b"\n")),
            (case / "stderr").read_text(errors="replace"),
            resumed(case),
        )
        for case in cases()
    )


@cache
def _manifests() -> dict[str, Manifest]:
    names = dict.fromkeys(one.backend for one in recordings())
    return {name: read_manifest(built_in_manifests() / f"{name}.yaml") for name in names}


@cache
def _recordings_of(backend: str) -> tuple[Recording, ...]:
    return tuple(one for one in recordings() if one.backend == backend)


def make_stream(rng: random.Random) -> Stream:
    """A stream of one backend, damaged in up to six ways."""
    backend = rng.choice(list(_manifests()))
    manifest = _manifests()[backend]
    base = rng.choice(_recordings_of(backend))
    lines = list(base.lines)
    for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4, 6))):
        rng.choice(_DAMAGES)(rng, lines, backend)
    if rng.random() < 0.01 and sum(map(len, lines)):
        lines *= min(2000, LONG // (sum(map(len, lines)) + len(lines)) + 1)
    output = b"\n".join(lines)
    if rng.random() < 0.15:
        output = _damage_bytes(rng, output)
    if rng.random() < 0.05 and manifest.output == "events":
        manifest = replace(manifest, output=rng.choice(("json", "text")))
        output = b"[" + b",\n".join(line for line in lines if line.strip()) + b"]"
    return Stream(
        manifest,
        output,
        stderr=rng.choice(("", base.stderr, rng.choice(recordings()).stderr)),
        code=rng.choice((0, 0, 0, 0, 1, 1, -15, 143, 75)),
        resumes=rng.choice((None, None, base.resumes, base.resumes, "another-id")),
        schema=rng.random() < 0.25,
        totals=rng.choice(({}, {}, {"usage": {"input": 3, "output": 1}, "cost": 0.01})),
        settles_after=rng.randint(0, len(lines)) if rng.random() < 0.1 else None,
    )


def _cut(rng: random.Random, lines: list[bytes], _: str) -> None:
    at = _index(rng, lines)
    if rng.random() < 0.5:
        del lines[at : at + rng.randint(1, 5)]
    elif rng.random() < 0.5:
        del lines[at + 1 :]
        lines[at] = lines[at][: rng.randint(0, len(lines[at]))]
    else:
        cut = rng.randint(0, len(lines[at]))
        lines[at : at + 1] = [lines[at][:cut], lines[at][cut:]]


def _duplicate(rng: random.Random, lines: list[bytes], _: str) -> None:
    at = _index(rng, lines)
    some = lines[at : at + rng.choice((1, 1, 3, 10))]
    to = rng.choice((at, len(lines), rng.randint(0, len(lines))))
    lines[to:to] = some * rng.choice((1, 1, 2, 5))


def _reorder(rng: random.Random, lines: list[bytes], _: str) -> None:
    if rng.random() < 0.5:
        rng.shuffle(lines)
        return
    some = lines.pop(_index(rng, lines))
    lines.insert(rng.randint(0, len(lines)), some)


def _interleave(rng: random.Random, lines: list[bytes], backend: str) -> None:
    others = recordings() if rng.random() < 0.3 else _recordings_of(backend)
    other = list(rng.choice(others).lines)
    if rng.random() < 0.3:
        lines += other
        return
    merged: list[bytes] = []
    first, second = iter(list(lines)), iter(other)
    for _ in range(len(lines) + len(other)):
        merged += [line for line in [next(rng.choice((first, second)), None)] if line is not None]
    lines[:] = [*merged, *first, *second] or [b""]


def _corrupt(rng: random.Random, lines: list[bytes], _: str) -> None:
    for _n in range(rng.choice((1, 1, 2, 5))):
        at = _index(rng, lines)
        lines[at] = _damage_bytes(rng, lines[at])


def _change(rng: random.Random, lines: list[bytes], _: str) -> None:
    """Put other values into the JSON: wrong types, nulls, huge numbers, halves of characters."""
    for _n in range(rng.choice((1, 1, 2, 5, 20))):
        at = _index(rng, lines)
        try:
            data = json.loads(lines[at])
        except (ValueError, RecursionError):
            continue
        places = list(_places(data))
        if not places:
            continue
        # What is meant for the fields that matter is not lost in a long list of tools.
        known = [p for p in places if isinstance(p[1], str) and _matters(p[1])]
        holder, key = rng.choice(known if known and rng.random() < 0.7 else places)
        if rng.random() < 0.1:
            del holder[key]
        else:
            holder[key] = _value(rng, holder)
        lines[at] = _written(data)


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def _value(rng: random.Random, holder: Any) -> Any:
    if rng.random() < 0.15:
        return holder[rng.choice(_keys(holder))]
    return rng.choice(_VALUES)


_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, -1000, 5, 2.5, 1e15, 1e300, -1e300, 10**30, 10**400, -(10**400),
    10**4299, math.inf, -math.inf, math.nan, 1_900_000_000, 1_900_000_000_000, "", "x", "0", "5",
    "1e999", "success", "tool_use", "error", "null", "\ud83d", "a\udc80b", "\x1b[2K\x1b]0;t\x07",
    "\u2028\u202e", "y" * 100_000, [], {}, [[]], [{}], [None], {"type": "text", "text": "z"},
    [{"type": "text", "text": None}], {"a": {"b": {"c": []}}}, ["a", 1, None], [1, "a"],
    {"input_tokens": 7, "output_tokens": "8"}, [{"tool_name": {}, "tool_input": 1e999}],
)  # fmt: skip


def _matters(key: str) -> bool:
    return any(
        word in key.lower()
        for word in ("token", "cost", "usage", "input", "output", "type", "id", "text", "result",
                     "status", "reason", "turns", "error", "message", "content", "model", "stats",
                     "cache", "total", "resets", "tasks", "denials", "structured")
    )  # fmt: skip


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    keys = (
        list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    )
    for key in keys:
        yield data, key
        yield from _places(data[key])


def _written(data: Any) -> bytes:
    text = json.dumps(data)
    return text.replace("Infinity", "1e999").encode() if len(text) % 2 else text.encode()


# Until 3.11, the nesting of JSON counts towards the interpreter's limit; later it has one of its own,
# between 5,000 and 20,000.
NEAR_LIMIT = (900, 960, 980, 990) if sys.version_info < (3, 12) else ()


def _nest(rng: random.Random, lines: list[bytes], _: str) -> None:
    """Put a deep value in the place of a value."""
    at = _index(rng, lines)
    depth = rng.choice((50, 150, 400, 700, *NEAR_LIMIT, 20_000, 100_000))
    deep = rng.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))
    found = lines[at].find(rng.choice((b'":"', b'":{', b'":[')))
    if found < 0:
        lines[at] = deep
    else:
        lines[at] = lines[at][: found + 2] + deep + b',"rest":' + lines[at][found + 2 :]


def _damage_bytes(rng: random.Random, line: bytes) -> bytes:
    at, to = sorted((rng.randint(0, len(line)), rng.randint(0, len(line))))
    kind = rng.randrange(8)
    if kind == 0:  # bytes
        changed = bytearray(line)
        for _ in range(rng.choice((1, 1, 3, 10)) if line else 0):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    if kind == 1:  # quotes and braces
        mark = rng.choice((b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\"))
        return line.replace(mark, b"", 1) if rng.random() < 0.5 else line[:at] + mark + line[at:]
    if kind == 2:  # something between
        return line[:at] + rng.choice(_BETWEEN) + line[at:]
    if kind == 3:
        return rng.choice(_BETWEEN) + line + rng.choice(_BETWEEN)
    if kind == 4:  # a part is lost, or printed twice
        return line[:at] + line[to:] if rng.random() < 0.5 else line[:to] + line[at:]
    if kind == 5:  # another encoding
        text = line.decode("utf-8", "replace")
        return text.encode(
            rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp1252")), "replace"
        )
    if kind == 6:  # a number
        digits = [i for i in range(len(line)) if line[i : i + 1].isdigit()]
        at = rng.choice(digits) if digits else 0
        return line[:at] + rng.choice((b"1e999", b"-", b"9" * 400, b"9" * 5000, b"NaN")) + line[at:]
    return line + line


_BETWEEN = (
    b"\x1b[31m", b"\x1b]0;a title\x07", b"\x1b[2K\r", b"\r", b"\r\n", b"\x00", b"\xef\xbb\xbf", b"\x9b", b"\xff",
    b"\xed\xa0\xbd", b"\xed\xb8\x80", b"\\ud83d", b"\\udc80", b"\\u0000", b"\xe2\x80\xa8", b"\n", b"\x1bP", b"\t",
    b"Warning: something\n", b"{}", b"[]", b"null", b'{"type":', b"\x08\x08", b"NaN", b"\xf0\x9f",
)  # fmt: skip

_DAMAGES: tuple[Callable[[random.Random, list[bytes], str], None], ...] = (
    _cut, _duplicate, _reorder, _interleave, _corrupt, _change, _change, _change, _nest,
)  # fmt: skip


def _index(rng: random.Random, lines: list[bytes]) -> int:
    if not lines:
        lines.append(b"")
    # The last lines decide.
    return (
        rng.randrange(max(0, len(lines) - 4), len(lines))
        if rng.random() < 0.4
        else rng.randrange(len(lines))
    )


# Reading them

SCHEMA = '{"type": ["object", "array", "string", "number"]}'


@cache
def _schema() -> AnswerSchema:
    return AnswerSchema(SCHEMA)


def read_stream(stream: Stream) -> Reading:
    """What a turn does with the lines of a program."""
    manifest = stream.manifest
    settings = {"schema": Setting("{}", "flag")} if stream.schema else {}
    command = Command((manifest.command,), {}, Path("/"), b"", {})
    plan = TurnPlan(
        Request(prompt="p"), manifest, None, stream.resumes, None, stream.totals, settings,
        command, None, (), schema=_schema() if stream.schema else None,
    )  # fmt: skip
    splitter = LineSplitter()
    began = time.process_time()
    fold = TurnFold(plan)
    parser = EventParser(
        manifest, is_first_turn=stream.resumes is None, previous_totals=stream.totals
    )
    events: list[Event] = []
    folded: list[Event] = []
    lines = [*splitter.feed(stream.output), *splitter.finish()]
    counted = len(lines)

    def add(read: list[Event]) -> None:
        for event in read:
            if fold.stop_reason is not None or fold.is_settled:
                fold.add_after_stop(event)
                continue
            folded.append(event)
            if (shown := fold.add(event)) is not None:
                events.append(shown)

    for number, line in enumerate(lines):
        if number == stream.settles_after and fold.terminal is not None:
            fold.settle()
            counted = number
        add(parser.parse_line(line))
    add(parser.finish(stream.code))
    end = Exit(
        code=stream.code, stderr=stream.stderr, noise=tuple(parser.noise), native_id=parser.native_id,
        model=parser.model, steps_usage=parser.sums.steps.usage, steps_costs=tuple(parser.sums.steps.costs),
        unfinished=parser.unfinished, recognized=parser.recognized, unrecognized=parser.unrecognized,
        ends_unrecognized=parser.ends_unrecognized,
    )  # fmt: skip
    result = fold.finish(end)
    fold.format_notice(end, result)
    events.append(fold.last_event(result))
    seconds = time.process_time() - began
    return Reading(result, events, folded, seconds, lines[:counted])


# What must hold


def problems(stream: Stream, reading: Reading) -> Iterator[str]:
    """What does not hold, in words."""
    result = reading.result
    yield from _output_problems(reading)
    if result.ok:
        yield from _success_problems(stream, reading)
        yield from _answer_problems(reading)
    elif result.exit_code == 0:
        yield f"failed with exit code 0: {result.error}"
    yield from _usage_problems(stream, result)


def _output_problems(reading: Reading) -> Iterator[str]:
    """Everything can be printed: as JSON that any reader accepts, in UTF-8."""
    result = reading.result
    values = [(type(event).__name__, event.to_json(raw=True)) for event in reading.events]
    for what, value in [("the result", result.to_json()), *values]:
        try:
            json.loads(dumps(value).encode(), parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            yield f"{what} is not JSON: {type(error).__name__}: {error}"[:300]
    for text in (result.text, result.native_id or "", result.error.message if result.error else ""):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            yield f"text that is not UTF-8: {error}"


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _success_problems(stream: Stream, reading: Reading) -> Iterator[str]:
    """A success is one that the CLI has reported, and that its exit code does not deny."""
    result, manifest = reading.result, stream.manifest
    is_settled = len(reading.lines) < len(_lines(stream))
    if manifest.output == "text":
        if stream.code != 0:
            yield f"success with exit code {stream.code}"
        return
    has_finished = is_excused = False
    last_incomplete: Any = None
    for data, is_whole in _objects(stream, reading.lines):
        for rule, found in _applied(manifest.events, data):
            if rule.emit == "finished":
                has_finished = True
                last_incomplete = _truth(rule.set.get("incomplete"), found)
            elif rule.emit == "failed" and is_whole:
                turns = _search(rule.set.get("turns"), found)
                is_number = isinstance(turns, (int, float)) and not isinstance(turns, bool)
                if not (has_finished and is_number and abs(turns) < 1):
                    yield f"success, though the CLI reported a failure: {found}"[:300]
                is_excused = True
    if not has_finished:
        yield "success without an event that reports it"
    if last_incomplete:
        yield "success, though the CLI called it incomplete"
    if stream.code != 0 and not is_settled and not (is_excused and stream.code > 0):
        yield f"success with exit code {stream.code}"
    if stream.resumes and not manifest.new_id_on_resume and result.native_id != stream.resumes:
        yield f"success of the session {result.native_id!r} instead of {stream.resumes!r}"
    if stream.schema and not isinstance(result.structured, (dict, list, str, int, float)):
        yield f"success with {result.structured!r} as structured output"


def _applied(rules: list[EventRule], data: Any) -> Iterator[tuple[EventRule, Any]]:
    for rule in rules:
        if rule.when is None or _truth(rule.when, data):
            yield rule, data
            found = _search(rule.each, data) if rule.each else [data]
            for one in found if rule.events and isinstance(found, list) else ():
                yield from _applied(rule.events, one)
            return


def _truth(expression: str | None, data: Any) -> bool:
    return expression is not None and _search(f"!({expression})", data) is False


def _search(expression: str | None, data: Any) -> Any:
    if expression is None:
        return None
    try:
        return _compiled(expression).search(data)
    except (jmespath.exceptions.JMESPathError, ArithmeticError):
        return None


@cache
def _compiled(expression: str) -> Any:
    return jmespath.compile(expression)


def _answer_problems(reading: Reading) -> Iterator[str]:
    """The answer is not shorter than the last message that was streamed, unless the CLI has stated
    another one."""
    texts: list[str] = []  # the last message
    is_open = False
    for event in reading.folded:
        if isinstance(event, (Delta, Text)):
            is_piece = isinstance(event, Delta)
            if not (is_piece and is_open):
                texts = []
            if event.text:
                texts.append(event.text)
            is_open = is_piece
        else:
            is_open = False
    said = "".join(texts).strip()
    stated = [event.text for event in reading.folded if isinstance(event, Finished) and event.text]
    if any(not said.startswith(text.strip()) for text in stated):
        return
    if len(reading.result.text.strip()) < len(said):
        yield f"the answer {reading.result.text[:80]!r} is shorter than {said[:80]!r}"


def _usage_problems(stream: Stream, result: Result) -> Iterator[str]:
    """No figure is larger than those in the lines, added up."""
    if result.usage is None and result.cost is None:
        return
    bounds = {"input": 0.0, "output": 0.0, "cost": 0.0}
    for data, _ in _objects(stream, _lines(stream)):
        for name, value in _figures_of(data).items():
            bounds[name] += value
    usage = result.usage
    reported = {
        "input": usage.input if usage else None,
        "output": usage.output if usage else None,
        "cost": result.cost,
    }
    for name, value in reported.items():
        if value is None:
            continue
        if not 0 <= value < 1e18:
            yield f"{name} is {value}"
        elif value > bounds[name] * (1 + 1e-9):
            yield f"{name} is {value}, and the lines add up to {bounds[name]}"


_INPUT = {
    "input", "input_tokens", "inputTokens", "cache_read_input_tokens", "cacheReadInputTokens", "cache_creation_input_tokens",
    "cacheCreationInputTokens", "cacheRead", "cacheWrite", "read", "write",
}  # fmt: skip
_OUTPUT = {"output", "output_tokens", "outputTokens", "reasoning"}
_TOTAL = {"total", "total_tokens"}
_GROUPS = {"usage", "modelUsage", "model_usage_since_last_result", "stats", "tokens"}


def _figures_of(data: Any) -> dict[str, float]:
    """The figures of a line. Several groups of them are about the same: the largest counts."""
    largest = {"input": 0.0, "output": 0.0, "cost": 0.0}
    for key, value in _pairs(data):
        found = {"input": 0.0, "output": 0.0, "cost": 0.0}
        if key in _GROUPS:
            total = 0.0
            for name, figure in _pairs(value):
                number = _number(figure)
                found["input"] += number if name in _INPUT else 0
                found["output"] += number if name in _OUTPUT else 0
                total += number if name in _TOTAL else 0
            found["output"] = max(found["output"], total)
        if key in (*_GROUPS, "part", "total_cost_usd"):
            found["cost"] = _costs({key: value})
        largest = {name: max(figure, found[name]) for name, figure in largest.items()}
    return largest


def _costs(data: Any) -> float:
    total = 0.0
    for key, value in _pairs(data):
        if key in ("cost", "costUSD", "totalCost", "total_cost_usd"):
            total += _number(value.get("total") if isinstance(value, dict) else value)
    return total


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0.0
    return float(max(0, min(value, 10**300)))


def _pairs(data: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values of all objects."""
    stack = [data]
    while stack:
        found = stack.pop()
        if isinstance(found, dict):
            yield from found.items()
            stack += found.values()
        elif isinstance(found, list):
            stack += found


def _float(text: str) -> float | None:
    return None if math.isinf(float(text)) else float(text)


def _lines(stream: Stream) -> list[bytes]:
    return stream.output.split(b"\n")


def _objects(stream: Stream, lines: list[bytes]) -> Iterator[tuple[Any, bool]]:
    """All objects in the lines, also between other text, and whether each is all of its line."""
    if stream.manifest.output == "json":
        lines = [stream.output]
    decoder = json.JSONDecoder(strict=False, parse_constant=lambda _: None, parse_float=_float)
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            data = json.loads(line.decode(), parse_constant=lambda _: None, parse_float=_float)
            found = data if isinstance(data, list) else [data]
            yield from ((one, True) for one in found if isinstance(one, dict))
            continue
        text = line.decode("utf-8", "replace")
        at = text.find("{")
        failed = 0
        while at >= 0 and failed < 50:
            try:
                data, end = decoder.raw_decode(text, at)
                yield data, False
            except (ValueError, RecursionError):
                end, failed = at + 1, failed + 1
            at = text.find("{", end)
