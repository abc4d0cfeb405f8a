"""A picture of who ran when, as SVG that stands in a page of HTML.

Places along the time are percentages and letters have a size of their own, so that the picture is
as wide as the page and can be read on a telephone. The colours are variables of the page.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from datetime import datetime
from html import escape
from itertools import takewhile

from msgspec import Struct

from clinvk.model.outcome import Outcome, RunResult
from clinvk.model.plan import Plan
from clinvk.reports import words
from clinvk.text.sanitize import one_line

TICKS = 6
TALL = 600  # pixels; a picture that is taller has its times below it as well
ROWS = 200  # tasks that get a row each; more of them share rows
COLOURS = 8  # the variables --b0 to --b7
NAME_SHOWN = 28  # characters
LABELS = 24.0  # percent of the width: names
COLUMN = 9.0  # and each column of numbers
THINNEST = 0.3  # percent: what takes no time is seen as well
ROW, BAR = 24, 14  # pixels
AXIS = 26
LANES_HIGH = 800  # pixels that shared rows take together, unless that makes them too thin
SAME = 0.05  # seconds by which two clocks may differ
IDLE_SHOWN = 4.0  # percent for a time in which nothing ran, where it is left out

_STEPS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200,
          10_800, 21_600, 43_200)  # fmt: skip
_DAY = 86_400


class Bar(Struct, frozen=True):
    """When a task's last attempt ran, in seconds since the picture begins; `row` from the top."""

    outcome: Outcome
    begin: float
    end: float
    row: int


class Stretch(Struct, frozen=True):
    """A time without a long pause, and where it is drawn, in percent of the width."""

    begin: float
    end: float
    left: float
    right: float

    def place(self, moment: float) -> float:
        part = (moment - self.begin) / ((self.end - self.begin) or 1)
        return self.left + min(1, max(0, part)) * (self.right - self.left)


def render(result: RunResult, plan: Plan) -> str:
    """The picture; nothing, where nothing has begun."""
    bars = list(_bars(result))
    if not bars:
        return ""
    alone = len(bars) <= ROWS
    return _Picture(bars, result, plan, alone=alone).svg()


def colours(result: RunResult) -> dict[str, int]:
    """A colour for each backend that ran."""
    ran = dict.fromkeys(_backend(o) for o in result.results if o.started_at)
    return {name: i % COLOURS for i, name in enumerate(sorted(ran))}


def _bars(result: RunResult) -> Iterator[Bar]:
    """In the order in which they began: a row each, or the first row that is free."""
    begun = [(o.started_at, o) for o in result.results if o.started_at]
    if not begun:
        return
    zero = min(at for at, _ in begun)
    begun.sort(key=lambda pair: (pair[0], pair[1].index))
    free: list[tuple[float, int]] = []  # when a row is free again
    for i, (at, outcome) in enumerate(begun):
        begin = (at - zero).total_seconds()
        end = begin + _seconds(outcome, at, result)
        row = i
        if len(begun) > ROWS:
            is_free = free and free[0][0] <= begin + SAME
            row = heapq.heappop(free)[1] if is_free else len(free)
            heapq.heappush(free, (end, row))
        yield Bar(outcome, begin, end, row)


def _seconds(outcome: Outcome, began: datetime, result: RunResult) -> float:
    """How long it ran; one that still does, or was cut off, has told nothing."""
    if outcome.seconds > 0:
        return outcome.seconds
    end = outcome.ended_at or (result.ended_at if outcome.state == "running" else None)
    return max(0.0, (end - began).total_seconds()) if end else 0.0


class _Picture:
    """What its parts have to know of each other."""

    def __init__(self, bars: list[Bar], result: RunResult, plan: Plan, *, alone: bool) -> None:
        self.bars = bars
        self.result = result
        self.plan = plan
        self.alone = alone
        self.colours = colours(result)
        self.alike = _alike([words.name(bar.outcome) for bar in bars])
        self.columns = _columns(result) if alone else []
        left = LABELS if alone else 0.5
        self.right = 100 - COLUMN * len(self.columns) - (0.5 if not self.columns else 1)
        self.stretches = list(_stretches(bars, left, self.right))
        self.left = left
        rows = 1 + max(bar.row for bar in bars)
        self.row = ROW if alone else max(5, min(ROW, LANES_HIGH // rows))
        self.bar = BAR if alone else max(4, self.row - 3)
        self.bottom = AXIS + rows * self.row

    def svg(self) -> str:
        height = self.bottom + (AXIS if self.bottom > TALL else 4)
        parts = [
            f'<svg {_SVG} width="100%" height="{height}">',
            '<title id="timeline-name">When each task ran</title>',
            f'<desc id="timeline-text">{_text(self._described())}</desc>',
            _PATTERNS,
            *self._axis(),
            *self._pauses(),
            *(self._drawn(bar) for bar in self.bars),
            "</svg>",
        ]
        return "\n".join(parts)

    def _described(self) -> str:
        on = ", ".join(self.colours)
        span = length(max(bar.end for bar in self.bars))
        return f"{len(self.bars)} tasks that ran within {span}, on {on}. The table says the same."

    def place(self, moment: float) -> float:
        """Where a moment is, in percent of the width."""
        for stretch in self.stretches:
            if moment <= stretch.end:
                return stretch.place(moment)
        return self.right

    def _axis(self) -> Iterator[str]:
        lines = [AXIS - 11, *([self.bottom + 16] if self.bottom > TALL else ())]
        for i, (x, said) in enumerate(self._ticks()):
            yield (
                f'<g class="tick{" odd" * (i % 2)}"><line x1="{x:.3f}%" x2="{x:.3f}%"'
                f' y1="{AXIS - 6}" y2="{self.bottom}"/>'
            )
            yield from (f'<text x="{x:.3f}%" y="{y}">{_text(said)}</text>' for y in lines)
            yield "</g>"

    def _ticks(self) -> Iterator[tuple[float, str]]:
        """Places of round moments, not too near to each other or to the edge. Behind a pause they
        are counted from its end, which is hardly ever round."""
        step = _step(sum(s.end - s.begin for s in self.stretches) / TICKS)
        apart = (self.right - self.left) / (TICKS + 3)
        last = -100.0
        for stretch in self.stretches:
            for n in range(1 + int((stretch.end - stretch.begin) / step)):
                x = stretch.place(stretch.begin + n * step)
                if x - last >= apart and x <= self.right - 2:
                    later = stretch.begin > 0 and n > 0
                    yield x, f"+{length(n * step)}" if later else length(stretch.begin + n * step)
                    last = x

    def _pauses(self) -> Iterator[str]:
        """Marks where a long time without any task is left out."""
        for before, after in zip(self.stretches, self.stretches[1:], strict=False):
            width = after.left - before.right
            said = f"nothing ran for {length(after.begin - before.end)}"
            yield (
                f'<g class="pause"><title>{_text(said)}</title><rect x="{before.right:.3f}%"'
                f' y="{AXIS - 6}" width="{width:.3f}%" height="{self.bottom - AXIS + 6}"'
                f' fill="url(#pause)"/></g>'
            )

    def _drawn(self, bar: Bar) -> str:
        outcome = bar.outcome
        y = AXIS + bar.row * self.row + (self.row - self.bar) // 2
        x = self.place(bar.begin)
        width = max(THINNEST, self.place(bar.end) - x)
        x = min(x, self.right - width)
        box = f'x="{x:.3f}%" y="{y}" width="{width:.3f}%" height="{self.bar}"'
        parts = [
            f'<g class="task {outcome.state}"><title>{_text(self._told(outcome))}</title>',
            f'<rect class="bar" {box} rx="2" style="fill: var(--b{self._colour(outcome)})"/>',
        ]
        if outcome.state != "done":
            parts.append(f'<rect class="state" {box} rx="2" fill="url(#{_pattern(outcome)})"/>')
        if self.alone:
            parts += self._beside(bar, x, x + width)
        return "".join([*parts, "</g>"])

    def _beside(self, bar: Bar, begin: float, end: float) -> Iterator[str]:
        """The words of a row: its name, how long it took, and what that cost."""
        outcome = bar.outcome
        line = AXIS + bar.row * self.row + 16
        name = _shortened(words.name(outcome), self.alike)
        on = f' <tspan class="soft">{_text(_backend(outcome))}</tspan>' * (len(self.colours) > 1)
        # A picture in the picture, since that cuts what does not fit.
        yield (
            f'<svg x="0" y="{line - 16}" width="{LABELS - 1}%" height="{ROW}">'
            f'<text x="0" y="16">{words.MARKS[outcome.state]} {_text(name)}{on}</text></svg>'
        )
        if end < self.right - 9:
            at, anchor, shift = end, "start", 5
        else:
            at, anchor, shift = begin, "end", -5
        if anchor == "start" or begin > self.left + 9:
            yield (
                f'<text class="soft" x="{at:.3f}%" dx="{shift}" y="{line}"'
                f' text-anchor="{anchor}">{words.time(outcome)}</text>'
            )
        for i, column in enumerate(reversed(self.columns)):
            said = words.cost(outcome) if column == "cost" else words.tokens(outcome)
            yield f'<text class="number {column}" x="{100 - COLUMN * i:g}%" y="{line}">{said}</text>'

    def _colour(self, outcome: Outcome) -> int:
        return self.colours[_backend(outcome)]

    def _told(self, outcome: Outcome) -> str:
        parts = [f"{words.name(outcome)}: {outcome.state}", _backend(outcome), words.time(outcome)]
        if outcome.attempts > 1:
            parts.append(f"the last of {outcome.attempts} attempts")
        if outcome.usage:
            parts.append(f"{words.tokens(outcome)} tokens")
        if outcome.cost is not None:
            parts.append(words.cost(outcome))
        if needed := words.needed(outcome, self.plan):
            parts.append(f"after {', '.join(needed[:5])}")
        return "\n".join(parts)


def length(seconds: float) -> str:
    """A time since the beginning: `0`, `2.5 s`, `45 s`, `1h 30m`."""
    if seconds < 60:
        return f"{round(seconds, 2):g} s" if seconds else "0"
    whole = round(seconds)
    sizes = (
        ("d", whole // _DAY),
        ("h", whole // 3600 % 24),
        ("m", whole // 60 % 60),
        ("s", whole % 60),
    )
    return " ".join([f"{n}{unit}" for unit, n in sizes if n][:2])


def _alike(names: list[str]) -> int:
    """How many characters all names begin with, in whole words: they tell nothing."""
    if len(names) < 2:
        return 0
    first, last = min(names), max(names)  # what these two share, all share
    same = first[
        : sum(1 for _ in takewhile(lambda p: p[0] == p[1], zip(first, last, strict=False)))
    ]
    found = 1 + max(same.rfind(mark) for mark in " /_-.:")
    return found if found > 5 else 0


def _shortened(name: str, alike: int) -> str:
    """A name in which the parts that tell most are left: its own beginning, and its end."""
    if alike and len(name) > NAME_SHOWN // 2:
        name = "…" + name[alike:]
    if len(name) <= NAME_SHOWN:
        return name
    half = NAME_SHOWN // 2
    return f"{name[:half]}…{name[1 - half :]}"


def _columns(result: RunResult) -> list[str]:
    known = {"tokens": result.usage is not None, "cost": result.cost is not None}
    return [name for name, there in known.items() if there]


def _stretches(bars: list[Bar], left: float, right: float) -> Iterator[Stretch]:
    """The time in which something ran. A pause that is longer than all of that, as of a run that
    was carried on the next day, would leave no room to see anything: it is drawn short."""
    spans = list(_spans(bars))
    each = min(IDLE_SHOWN, 40 / len(spans))
    room = right - left - each * (len(spans) - 1)
    total = sum(end - begin for begin, end in spans)
    at = left
    for begin, end in spans:
        width = room * (end - begin) / total if total else room / len(spans)
        yield Stretch(begin, end, at, at + width)
        at += width + each


def _spans(bars: list[Bar]) -> Iterator[tuple[float, float]]:
    busy = sum(end - begin for begin, end in _joined(bars, 0))
    yield from _joined(bars, max(1.0, busy))


def _joined(bars: Iterable[Bar], pause: float) -> Iterator[tuple[float, float]]:
    """When something ran, from one pause that is longer than that to the next."""
    begin, end = 0.0, 0.0
    for bar in bars:
        if bar.begin - end > pause:
            yield begin, end
            begin = bar.begin
        end = max(end, bar.end)
    yield begin, end


def _step(least: float) -> float:
    for step in _STEPS:
        if step >= least:
            return step
    return _DAY * max(1, -int(-least // _DAY))


def _pattern(outcome: Outcome) -> str:
    return outcome.state if outcome.state in ("failed", "indeterminate") else "ended-early"


def _backend(outcome: Outcome) -> str:
    return one_line(outcome.backend or "") or "no backend"


def _text(text: str) -> str:
    return escape(text)


def swatch(state: str) -> str:
    """A small bar for the legend, as one of that state looks."""
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
