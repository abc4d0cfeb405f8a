"""A run as GitHub-flavored Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from itertools import accumulate

from clinvk.model import figures
from clinvk.model.outcome import MARKS, Outcome, RunResult, state_label
from clinvk.reports import words
from clinvk.text.sanitize import one_line

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&!$@])")  # ASCII that GitHub may interpret as markup
_MAX_MESSAGE_LENGTH = 2_000  # characters
_MIN_ANSWER_SIZE = 2_000  # minimum bytes of a long answer if not everything fits


def render(result: RunResult, room: int | None = None) -> str:
    """The report, in at most so many bytes of UTF-8 if there is a limit. A note in its place says
    what was left out."""
    head = [f"# {escape_markdown(words.title(result))}", _summary(result)]
    if result.why:
        head.append(f"> Stopped early: {escape_markdown(result.why[:_MAX_MESSAGE_LENGTH])}")
    text = _join(head)
    text += _table(result, None if room is None else (room - _size(text)) // 2)
    text += _decisions(result, None if room is None else (room - _size(text)) // 2)
    text += _problems(result, None if room is None else (room - _size(text)) // 2)
    return text + _answers(result, None if room is None else room - _size(text))


def escape_markdown(text: str) -> str:
    """A text on one line without markup: for a cell, a heading, a sentence."""
    return _MARKUP.sub(r"\\\1", one_line(text))


def _summary(result: RunResult) -> str:
    source = f" · from {_code(result.source)}" if result.source else ""
    return f"**{escape_markdown(figures.count_line(result))}** · {escape_markdown(_closing_notes(result))}{source}"


def _closing_notes(result: RunResult) -> str:
    return figures.summary(result).removeprefix(f"{figures.count_line(result)} · ")


def _table(result: RunResult, room: int | None) -> str:
    node, line = (" Node |", ":--|") if result.has_nodes else ("", "")
    head = (
        f"| Task | Backend | State | Time | Tokens | Cost | Session |{node}\n"
        f"|:--|:--|:--|--:|--:|--:|:--|{line}\n"
    )
    rows = [_row(o, with_node=result.has_nodes) + "\n" for o in result.listed]
    kept = _lines_that_fit(rows, None if room is None else room - len(head) - 100)
    left = len(rows) - len(kept)
    note = f"\n*{left:,} more tasks are not listed, since the report is limited in size.*\n"
    return head + "".join(kept) + (note if left else "") + "\n"


def _row(outcome: Outcome, *, with_node: bool) -> str:
    session = words.session(outcome)
    cells = [
        escape_markdown(words.name(outcome)),
        escape_markdown(outcome.backend or figures.NOTHING),
        f"{MARKS[outcome.state]} {state_label(outcome)}" + _attempts(outcome),
        figures.time_taken(outcome),
        figures.tokens(outcome),
        escape_markdown(figures.cost(outcome)),
        _code(session).replace("|", "\\|") if session else figures.NOTHING,
    ]
    if with_node:
        cells.append(escape_markdown(one_line(outcome.node or figures.NOTHING)))
    return f"| {' | '.join(cells)} |"


def _attempts(outcome: Outcome) -> str:
    return f" ({outcome.attempts} attempts)" if outcome.attempts > 1 else ""


def _decisions(result: RunResult, room: int | None) -> str:
    """Which candidates were chosen, and why."""
    items = [
        f"- **{escape_markdown(name)}**: {escape_markdown(ranking.summary)}\n"
        + "".join(
            f"  {n}. {escape_markdown(c.name)}: {escape_markdown(c.description[:_MAX_MESSAGE_LENGTH])}\n"
            for n, c in enumerate(ranking.candidates, 1)
        )
        for name, ranking in words.decisions(result)
    ]
    if not items:
        return ""
    kept = _lines_that_fit(items, None if room is None else room - 100)
    left = len(items) - len(kept)
    note = f"- *{left:,} more are not listed, since the report is limited in size.*\n"
    return "## Candidates\n\n" + "".join(kept) + (note if left else "") + "\n"


def _problems(result: RunResult, room: int | None) -> str:
    items = [_problem(problem) for problem in words.problems(result)]
    if not items:
        return ""
    kept = _lines_that_fit(items, None if room is None else room - 100)
    left = len(items) - len(kept)
    note = f"- *{left:,} more reasons are not listed, since the report is limited in size.*\n"
    return "## Unfinished tasks\n\n" + "".join(kept) + (note if left else "") + "\n"


def _problem(problem: words.Problem) -> str:
    shown, more = words.names(problem.tasks)
    names = ", ".join(f"**{escape_markdown(name)}**" for name in shown) + more
    why = problem.failure
    kind = f" ({escape_markdown(why.kind)})" if why.kind != problem.state else ""
    item = (
        f"- {names}: {problem.state}{kind}: {escape_markdown(why.message[:_MAX_MESSAGE_LENGTH])}\n"
    )
    item += f"  <br>Next: {escape_markdown(why.hint)}\n" if why.hint else ""
    output = words.check_output(problem.tasks[0])[-_MAX_MESSAGE_LENGTH:]
    return item + (f"\n{_indented(output)}\n" if output else "")


def _indented(text: str) -> str:
    """In a fence that the text cannot close, as a part of an item of a list."""
    fence = "`" * _fence_length(text)
    return "\n".join(f"  {line}".rstrip() for line in [f"{fence}text", *text.splitlines(), fence])


def _answers(result: RunResult, room: int | None) -> str:
    """The answers, collapsed. If they do not all fit, the long ones are cut to the same size."""
    answered = [(o, text) for o in result.answers if (text := words.answer(o))]
    if not answered:
        return ""
    head = "## Answers\n\n"
    if room is None:
        return head + "\n".join(_answer(o, text) for o, text in answered)
    room -= len(head) + 200  # for the note below
    sizes = [_size(_answer(o, text)) + 1 for o, text in answered]
    if sum(sizes) > room:
        sizes = list(_first_that_fit(sizes, room))
    most = _fair_share(sizes, room)
    blocks = [
        _answer(o, text) if size <= most else _truncate_answer(o, text, most, result)
        for (o, text), size in zip(answered, sizes, strict=False)
    ]
    left = len(answered) - len(blocks)
    note = (
        f"\n*{left:,} more answers are left out, since the report is limited in size.*\n"
        if left
        else ""
    )
    return head + "\n".join(blocks) + note


def _answer(outcome: Outcome, shown: str, note: str = "") -> str:
    """In a fence that the answer cannot close, so that it is shown as text."""
    fence = "`" * _fence_length(shown)
    structured = outcome.structured is not None and not outcome.output.strip()
    backend = escape(one_line(outcome.backend or figures.NOTHING))
    return (
        f"<details>\n<summary>{escape(words.name(outcome))} · {backend}</summary>\n\n"
        f"{fence}{'json' if structured else 'markdown'}\n{shown}\n{fence}\n{note}\n</details>\n"
    )


def _fence_length(text: str) -> int:
    return max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def _truncate_answer(outcome: Outcome, text: str, most: int, result: RunResult) -> str:
    """The beginning of an answer, in a block of at most so many bytes, with a note that it is
    cut."""

    def block(shown: str) -> str:
        whole = f" Full answer: `clinvk runs show {result.id}{result.where}`" if result.id else ""
        note = f"*Cut here: the first {len(shown):,} of {len(text):,} characters.{whole}*"
        return _answer(outcome, shown, f"\n{note}\n")

    room = most - _size(block("")) - 2 * _fence_length(text) - 20  # for digits
    return block(text.encode("utf-8", "replace")[: max(0, room)].decode("utf-8", "ignore"))


# Size.


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _lines_that_fit(lines: list[str], room: int | None) -> list[str]:
    """The first lines that fit together."""
    if room is None:
        return lines
    ends = accumulate(map(_size, lines))
    return [line for line, end in zip(lines, ends, strict=True) if end <= room]


def _first_that_fit(sizes: list[int], room: int) -> Iterable[int]:
    """The first answers that fit if each is cut to the minimum."""
    for size in sizes:
        room -= min(size, _MIN_ANSWER_SIZE)
        if room < 0:
            return
        yield size


def _fair_share(sizes: list[int], room: int) -> int:
    """The maximum size of each, so that all fit: the space left by small ones goes to the
    others."""
    for done, size in enumerate(sorted(sizes)):
        share = room // (len(sizes) - done)
        if size > share:
            return share
        room -= size
    return max(sizes, default=0)


def _code(text: str) -> str:
    text = one_line(text)
    marks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{marks}{space}{text}{space}{marks}"


def _join(parts: Iterable[str]) -> str:
    return "".join(f"{part}\n\n" for part in parts)
