"""A timeline of the tasks, as SVG for an HTML page.

Positions in time are percentages and text has a fixed size, so that the picture is as wide as the
page and can be read on a phone. The colors are variables of the page.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from datetime import datetime
from html import escape
from itertools import takewhile

from msgspec import Struct

from clinvk.model import figures
from clinvk.model.outcome import MARKS, Outcome, RunResult, state_label
from clinvk.model.plan import Plan
from clinvk.reports import words
from clinvk.text import duration
from clinvk.text.sanitize import one_line

MAX_TICKS = 6
TALL_HEIGHT = 600  # pixels; a taller picture has its times below as well
MAX_ROWS = 200  # tasks that get a row each; more of them share rows
COLOR_COUNT = 8  # the variables --b0 to --b7
MAX_NAME_LENGTH = 28  # characters
LABEL_WIDTH = 24.0  # percent of the width: names
COLUMN_WIDTH = 9.0  # and each column of numbers
MIN_BAR_WIDTH = 0.3  # percent: makes the shortest tasks visible
ROW_HEIGHT, BAR_HEIGHT = 24, 14  # pixels
AXIS_HEIGHT = 26
MAX_LANES_HEIGHT = 800  # pixels that shared rows take together, unless that makes them too thin
CLOCK_TOLERANCE = 0.05  # seconds by which two clocks may differ
IDLE_WIDTH = 4.0  # percent for a shortened time in which nothing ran

_STEPS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200,
          10_800, 21_600, 43_200)  # fmt: skip
_DAY = 86_400


class Bar(Struct, frozen=True):
    """When a task's last attempt ran, in seconds since the start; `row` from the top."""

    outcome: Outcome
    begin: float
    end: float
    row: int


class Stretch(Struct, frozen=True):
    """A period without a long pause, and its position in percent of the width."""

    begin: float
    end: float
    left: float
    right: float

    def place(self, moment: float) -> float:
        part = (moment - self.begin) / ((self.end - self.begin) or 1)
        return self.left + min(1, max(0, part)) * (self.right - self.left)


def render(result: RunResult, plan: Plan) -> str:
    """The picture; empty if nothing has started."""
    bars = list(_bars(result))
    if not bars:
        return ""
    alone = len(bars) <= MAX_ROWS
    return _TimelinePicture(bars, result, plan, alone=alone).svg()


def backend_colors(result: RunResult) -> dict[str, int]:
    """A color for each backend that ran."""
    ran = dict.fromkeys(_backend(o) for o in result.results if o.started_at)
    return {name: i % COLOR_COUNT for i, name in enumerate(sorted(ran))}


def _bars(result: RunResult) -> Iterator[Bar]:
    """The bars in the order of their start: a row each, or the first free row."""
    begun = [(o.started_at, o) for o in result.results if o.started_at]
    if not begun:
        return
    zero = min(at for at, _ in begun)
    begun.sort(key=lambda pair: (pair[0], pair[1].index))
    free: list[tuple[float, int]] = []  # when a row is free again
    for i, (at, outcome) in enumerate(begun):
        begin = (at - zero).total_seconds()
        end = begin + _running_seconds(outcome, at, result)
        row = i
        if len(begun) > MAX_ROWS:
            is_free = free and free[0][0] <= begin + CLOCK_TOLERANCE
            row = heapq.heappop(free)[1] if is_free else len(free)
            heapq.heappush(free, (end, row))
        yield Bar(outcome, begin, end, row)


def _running_seconds(outcome: Outcome, began: datetime, result: RunResult) -> float:
    """How long it ran; unknown while it is running or if it was interrupted."""
    if outcome.seconds > 0:
        return outcome.seconds
    end = outcome.ended_at or (result.ended_at if outcome.state == "running" else None)
    return max(0.0, (end - began).total_seconds()) if end else 0.0


class _TimelinePicture:
    """The shared layout of the parts of the picture."""

    def __init__(self, bars: list[Bar], result: RunResult, plan: Plan, *, alone: bool) -> None:
        self.bars = bars
        self.result = result
        self.plan = plan
        self.alone = alone
        self.colors = backend_colors(result)
        self.prefix_length = _common_prefix_length([words.name(bar.outcome) for bar in bars])
        self.columns = _columns(result) if alone else []
        left = LABEL_WIDTH if alone else 0.5
        self.right = 100 - COLUMN_WIDTH * len(self.columns) - (0.5 if not self.columns else 1)
        self.stretches = list(_stretches(bars, left, self.right))
        self.left = left
        rows = 1 + max(bar.row for bar in bars)
        self.row = ROW_HEIGHT if alone else max(5, min(ROW_HEIGHT, MAX_LANES_HEIGHT // rows))
        self.bar = BAR_HEIGHT if alone else max(4, self.row - 3)
        self.bottom = AXIS_HEIGHT + rows * self.row

    def svg(self) -> str:
        height = self.bottom + (AXIS_HEIGHT if self.bottom > TALL_HEIGHT else 4)
        parts = [
            f'<svg {_SVG} width="100%" height="{height}">',
            '<title id="timeline-name">When each task ran</title>',
            f'<desc id="timeline-text">{escape(self._description())}</desc>',
            _PATTERNS,
            *self._axis(),
            *self._pauses(),
            *(self._draw_bar(bar) for bar in self.bars),
            "</svg>",
        ]
        return "\n".join(parts)

    def _description(self) -> str:
        on = ", ".join(self.colors)
        span = duration.format_offset(max(bar.end for bar in self.bars))
        return (
            f"{len(self.bars)} tasks that ran within {span}, on {on}. The table has the same data."
        )

    def place(self, moment: float) -> float:
        """The position of a time, in percent of the width."""
        for stretch in self.stretches:
            if moment <= stretch.end:
                return stretch.place(moment)
        return self.right

    def _axis(self) -> Iterator[str]:
        lines = [AXIS_HEIGHT - 11, *([self.bottom + 16] if self.bottom > TALL_HEIGHT else ())]
        for i, (x, said) in enumerate(self._ticks()):
            yield (
                f'<g class="tick{" odd" * (i % 2)}"><line x1="{x:.3f}%" x2="{x:.3f}%"'
                f' y1="{AXIS_HEIGHT - 6}" y2="{self.bottom}"/>'
            )
            yield from (f'<text x="{x:.3f}%" y="{y}">{escape(said)}</text>' for y in lines)
            yield "</g>"

    def _ticks(self) -> Iterator[tuple[float, str]]:
        """Positions of round times, not too close to each other or to the edge. After a pause they
        are counted from its end, which is rarely round."""
        step = _tick_step(sum(s.end - s.begin for s in self.stretches) / MAX_TICKS)
        apart = (self.right - self.left) / (MAX_TICKS + 3)
        last = -100.0
        for stretch in self.stretches:
            for n in range(1 + int((stretch.end - stretch.begin) / step)):
                x = stretch.place(stretch.begin + n * step)
                if x - last >= apart and x <= self.right - 2:
                    later = stretch.begin > 0 and n > 0
                    yield (
                        x,
                        f"+{duration.format_offset(n * step)}"
                        if later
                        else duration.format_offset(stretch.begin + n * step),
                    )
                    last = x

    def _pauses(self) -> Iterator[str]:
        """Marks where a long period without tasks is left out."""
        for before, after in zip(self.stretches, self.stretches[1:], strict=False):
            width = after.left - before.right
            said = f"nothing ran for {duration.format_offset(after.begin - before.end)}"
            yield (
                f'<g class="pause"><title>{escape(said)}</title><rect x="{before.right:.3f}%"'
                f' y="{AXIS_HEIGHT - 6}" width="{width:.3f}%" height="{self.bottom - AXIS_HEIGHT + 6}"'
                f' fill="url(#pause)"/></g>'
            )

    def _draw_bar(self, bar: Bar) -> str:
        outcome = bar.outcome
        y = AXIS_HEIGHT + bar.row * self.row + (self.row - self.bar) // 2
        x = self.place(bar.begin)
        width = max(MIN_BAR_WIDTH, self.place(bar.end) - x)
        x = min(x, self.right - width)
        box = f'x="{x:.3f}%" y="{y}" width="{width:.3f}%" height="{self.bar}"'
        parts = [
            f'<g class="task {outcome.state}"><title>{escape(self._tooltip(outcome))}</title>',
            f'<rect class="bar" {box} rx="2" style="fill: var(--b{self._color_index(outcome)})"/>',
        ]
        if outcome.state != "done":
            parts.append(f'<rect class="state" {box} rx="2" fill="url(#{_pattern(outcome)})"/>')
        if self.alone:
            parts += self._draw_label(bar, x, x + width)
        return "".join([*parts, "</g>"])

    def _draw_label(self, bar: Bar, begin: float, end: float) -> Iterator[str]:
        """The text of a row: name, time and cost."""
        outcome = bar.outcome
        line = AXIS_HEIGHT + bar.row * self.row + 16
        name = _shorten_name(words.name(outcome), self.prefix_length)
        on = f' <tspan class="soft">{escape(_backend(outcome))}</tspan>' * (len(self.colors) > 1)
        # A nested SVG, since that clips what does not fit.
        yield (
            f'<svg x="0" y="{line - 16}" width="{LABEL_WIDTH - 1}%" height="{ROW_HEIGHT}">'
            f'<text x="0" y="16">{MARKS[outcome.state]} {escape(name)}{on}</text></svg>'
        )
        if end < self.right - 9:
            at, anchor, shift = end, "start", 5
        else:
            at, anchor, shift = begin, "end", -5
        if anchor == "start" or begin > self.left + 9:
            yield (
                f'<text class="soft" x="{at:.3f}%" dx="{shift}" y="{line}"'
                f' text-anchor="{anchor}">{figures.time_taken(outcome)}</text>'
            )
        for i, column in enumerate(reversed(self.columns)):
            said = figures.cost(outcome) if column == "cost" else figures.tokens(outcome)
            yield f'<text class="number {column}" x="{100 - COLUMN_WIDTH * i:g}%" y="{line}">{said}</text>'

    def _color_index(self, outcome: Outcome) -> int:
        return self.colors[_backend(outcome)]

    def _tooltip(self, outcome: Outcome) -> str:
        parts = [
            f"{words.name(outcome)}: {state_label(outcome)}",
            _backend(outcome),
            figures.time_taken(outcome),
        ]
        if outcome.attempts > 1:
            parts.append(f"the last of {outcome.attempts} attempts")
        if outcome.usage:
            parts.append(f"{figures.tokens(outcome)} tokens")
        if outcome.cost is not None:
            parts.append(figures.cost(outcome))
        if needed := words.needed_names(outcome, self.plan):
            parts.append(f"after {', '.join(needed[:5])}")
        return "\n".join(parts)


def _common_prefix_length(names: list[str]) -> int:
    """The length of the common beginning of all names, in whole words, which is redundant."""
    if len(names) < 2:
        return 0
    first, last = min(names), max(names)  # what these two have in common, all have
    same = first[
        : sum(1 for _ in takewhile(lambda p: p[0] == p[1], zip(first, last, strict=False)))
    ]
    found = 1 + max(same.rfind(mark) for mark in " /_-.:")
    return found if found > 5 else 0


def _shorten_name(name: str, alike: int) -> str:
    """A name shortened to its most informative parts: its own beginning and its end."""
    if alike and len(name) > MAX_NAME_LENGTH // 2:
        name = "…" + name[alike:]
    if len(name) <= MAX_NAME_LENGTH:
        return name
    half = MAX_NAME_LENGTH // 2
    return f"{name[:half]}…{name[1 - half :]}"


def _columns(result: RunResult) -> list[str]:
    known = {"tokens": result.usage is not None, "cost": result.cost is not None}
    return [name for name, there in known.items() if there]


def _stretches(bars: list[Bar], left: float, right: float) -> Iterator[Stretch]:
    """The periods in which something ran. A longer pause, as of a run that was resumed the next
    day, would leave no room for them and is drawn short."""
    spans = list(_spans(bars))
    each = min(IDLE_WIDTH, 40 / len(spans))
    room = right - left - each * (len(spans) - 1)
    total = sum(end - begin for begin, end in spans)
    at = left
    for begin, end in spans:
        width = room * (end - begin) / total if total else room / len(spans)
        yield Stretch(begin, end, at, at + width)
        at += width + each


def _spans(bars: list[Bar]) -> Iterator[tuple[float, float]]:
    busy = sum(end - begin for begin, end in _busy_spans(bars, 0))
    yield from _busy_spans(bars, max(1.0, busy))


def _busy_spans(bars: Iterable[Bar], pause: float) -> Iterator[tuple[float, float]]:
    """The periods in which something ran, between pauses longer than that."""
    begin, end = 0.0, 0.0
    for bar in bars:
        if bar.begin - end > pause:
            yield begin, end
            begin = bar.begin
        end = max(end, bar.end)
    yield begin, end


def _tick_step(least: float) -> float:
    for step in _STEPS:
        if step >= least:
            return step
    return _DAY * max(1, -int(-least // _DAY))


def _pattern(outcome: Outcome) -> str:
    return outcome.state if outcome.state in ("failed", "indeterminate") else "ended-early"


def _backend(outcome: Outcome) -> str:
    return one_line(outcome.backend or "") or "no backend"


def swatch(state: str) -> str:
    """A small bar in the style of a state, for the legend."""
    pattern = _pattern(Outcome(index=0, name="", state=state))
    box = 'x="1" y="1" width="24" height="12" rx="2"'
    over = "" if state == "done" else f'<rect class="state" {box} fill="url(#{pattern})"/>'
    return (
        f'<svg class="swatch" width="26" height="14" aria-hidden="true"><g class="task {state}">'
        f'<rect class="bar" {box} style="fill: var(--soft)"/>{over}</g></svg>'
    )


_SVG = (
    'xmlns="http://www.w3.org/2000/svg" class="timeline" role="img" '
    'aria-labelledby="timeline-name timeline-text"'
)
_PATTERNS = """<defs>
<pattern id="failed" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect class="stripe" width="2.5" height="6"/></pattern>
<pattern id="ended-early" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(-45)">
<rect class="stripe" width="3.5" height="6"/></pattern>
<pattern id="indeterminate" width="5" height="5" patternUnits="userSpaceOnUse">
<circle class="stripe" cx="2.5" cy="2.5" r="1.6"/></pattern>
<pattern id="pause" width="6" height="6" patternUnits="userSpaceOnUse">
<circle class="dot" cx="3" cy="3" r="1"/></pattern>
</defs>"""
