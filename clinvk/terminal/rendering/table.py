"""A Markdown table in the width of a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from clinvk.terminal.rendering.lines import Line, Span, to_line, wrap

LEAST = 6  # cells of a column; if it does not fit, each row becomes a list
BETWEEN, CROSSING = " │ ", "─┼─"
DIM, BOLD = "2", "1"

Cell = list[Span]


def lay_out_table(rows: Sequence[Sequence[Cell]], aligns: Sequence[str], width: int) -> list[Line]:
    """The rows, of which the first is the header. Cells are wrapped if the table is too wide."""
    count = len(rows[0])
    room = width - len(BETWEEN) * (count - 1)
    natural = [max(_natural_width(row[i]) for row in rows) for i in range(count)]
    least = [min(LEAST, cells) for cells in natural]
    if sum(least) > room:
        return _as_lists(rows, width)
    widths = _fit(natural, least, room)
    rule = to_line([Span(CROSSING.join("─" * cells for cells in widths), DIM)])
    header = [[Span(s.text, f"{BOLD};{s.style}" if s.style else BOLD) for s in c] for c in rows[0]]
    laid = [_lay_out_row(row, aligns, widths) for row in [header, *rows[1:]]]
    lines = [*laid[0], rule]
    is_wrapped = any(len(row) > 1 for row in laid[1:])
    for i, row in enumerate(laid[1:]):
        if i and is_wrapped:  # otherwise rows cannot be told apart
            lines.append(rule)
        lines += row
    return lines


def _natural_width(cell: Cell) -> int:
    return max(1, to_line(cell).width)


def _fit(natural: list[int], least: list[int], room: int) -> list[int]:
    """Widths that fit together: the widest columns shrink first."""
    widths = list(natural)
    while sum(widths) > room:
        i = max(range(len(widths)), key=lambda k: (widths[k] > least[k], widths[k]))
        others = [w for k, w in enumerate(widths) if k != i]
        step = max(1, min(widths[i] - max([*others, least[i]]), sum(widths) - room))
        widths[i] -= step
    return widths


def _lay_out_row(row: Sequence[Cell], aligns: Sequence[str], widths: Sequence[int]) -> list[Line]:
    cells = [_wrap_cell(cell, width) for cell, width in zip(row, widths, strict=True)]
    between = to_line([Span(BETWEEN, DIM)])
    lines = []
    for i in range(max(map(len, cells))):
        parts = [
            _align(lines_[i] if i < len(lines_) else Line(""), align, width)
            for lines_, align, width in zip(cells, aligns, widths, strict=True)
        ]
        lines.append(Line(between.text.join(parts).rstrip(), sum(widths) + 3 * (len(widths) - 1)))
    return lines


def _wrap_cell(cell: Cell, width: int) -> list[Line]:
    return wrap(cell, width, split_addresses=True)


def _align(line: Line, align: str, width: int) -> str:
    space = width - line.width
    left = {"right": space, "center": space // 2}.get(align, 0)
    return " " * left + line.text + " " * (space - left)


def _as_lists(rows: Sequence[Sequence[Cell]], width: int) -> list[Line]:
    """Each row as lines `header: cell`."""
    lines: list[Line] = []
    for i, row in enumerate(rows[1:]):
        if i:
            lines.append(Line(""))
        for name, cell in zip(rows[0], row, strict=True):
            label = [Span(s.text, f"{BOLD};{s.style}" if s.style else BOLD) for s in name]
            lines += wrap([*label, Span(": ", BOLD), *cell], width)
    return lines
