"""A run as one self-contained HTML page: no script, no image, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape

from clinvk.html import page
from clinvk.model import figures
from clinvk.model.outcome import MARKS, Outcome, RunResult, state_label
from clinvk.model.plan import Plan
from clinvk.reports import timeline, words
from clinvk.text.sanitize import one_line, sanitize

MAX_OPEN_ANSWERS = 5  # up to this many answers are open at first
MAX_RENDERED_LENGTH = (
    1_000_000  # characters of answers that are rendered: a megabyte of code takes seconds
)


def render(result: RunResult, plan: Plan) -> str:
    """The page."""
    rendered = page.markdown().render
    parts = [
        *_timeline(result, plan),
        *_table(result),
        *_decisions(result),
        *_problems(result),
        *_answers(result, plan, rendered),
    ]
    return page.fill(
        words.title(result),
        style=page.styles("report.css") + page.code_colors("auto"),
        header="".join(_header(result, plan)),
        main=parts,
    )


def _render_unformatted(text: str) -> str:
    return f'<pre class="plain">{escape(text)}</pre>\n'


def _header(result: RunResult, plan: Plan) -> Iterator[str]:
    yield f'<p class="sum">{escape(figures.summary(result))}</p>\n'
    if result.why:
        yield f'<p class="why">{escape(sanitize(result.why))}</p>\n'
    known = {
        "State": result.state,
        "From": one_line(result.source),
        "Started": f"{result.started_at:%Y-%m-%d %H:%M:%S %Z}" if result.started_at else "",
        "In parallel": f"up to {plan.rules.max_parallel} tasks",
        "Cost": _cost_note(result),
    }
    about = {name: value for name, value in known.items() if value}
    yield f"<dl>\n{page.definitions(about)}</dl>\n"


def _cost_note(result: RunResult) -> str:
    asked = [o for o in result.results if o.attempts and not o.is_free]
    unknown = sum(o.cost is None for o in asked)
    if result.cost is None or not unknown:
        return ""
    return f"{figures.total_cost(result)}: {unknown:,} of {len(asked):,} tasks did not report it"


def _timeline(result: RunResult, plan: Plan) -> Iterator[str]:
    picture = timeline.render(result, plan)
    if not picture:
        return
    yield '<section><h2 id="timeline">When each task ran</h2>\n<figure>'
    yield f'<ul class="legend">{"".join(_legend(result))}</ul>'
    yield picture
    yield "".join(_caption(result))
    yield "</figure></section>"


def _legend(result: RunResult) -> Iterator[str]:
    for name, color in timeline.backend_colors(result).items():
        box = f'<span class="color" style="background: var(--b{color})"></span>'
        yield f"<li>{box}{escape(name)}</li>"
    for state in dict.fromkeys(o.state for o in result.results if o.started_at):
        yield f"<li>{timeline.swatch(state)}{MARKS[state]} {state}</li>"


def _caption(result: RunResult) -> Iterator[str]:
    notes = []
    if absent := sum(o.started_at is None for o in result.results):
        notes.append(f"{absent:,} task{'s' * (absent != 1)} never started.")
    if any(o.attempts > 1 for o in result.results):
        notes.append("Of several attempts, the last is shown.")
    if notes:
        yield f"<figcaption>{' '.join(notes)}</figcaption>"


def _table(result: RunResult) -> Iterator[str]:
    yield '<section><h2 id="tasks">Tasks</h2>'
    yield (
        '<table><thead><tr><th scope="col">Task</th><th scope="col">State</th>'
        '<th scope="col" class="rarely">Backend</th><th scope="col" class="rarely">Model</th>'
        '<th scope="col" class="num">Time</th><th scope="col" class="num rarely">Tokens</th>'
        '<th scope="col" class="num">Cost</th><th scope="col" class="rarely">Session</th>'
        + ('<th scope="col" class="rarely">Node</th>' if result.has_nodes else "")
        + "</tr></thead><tbody>"
    )
    settled = result.settled_candidates
    for outcome in result.results:
        yield _row(outcome, has_link=outcome.index not in settled, with_node=result.has_nodes)
    yield "</tbody></table></section>"


def _row(outcome: Outcome, *, has_link: bool, with_node: bool) -> str:
    name = escape(words.name(outcome))
    if has_link and words.answer(outcome):
        name = f'<a href="#task-{outcome.index + 1}">{name}</a>'
    session = words.session(outcome)
    return (
        f'<tr><th scope="row">{name}<small class="narrow">{_backend(outcome)}</small></th><td>{_state(outcome)}</td>'
        f'<td class="rarely">{_backend(outcome)}</td>'
        f'<td class="rarely">{escape(one_line(outcome.model or "")) or figures.NOTHING}</td>'
        f'<td class="num">{figures.time_taken(outcome)}</td>'
        f'<td class="num rarely">{figures.tokens(outcome)}</td>'
        f'<td class="num">{figures.cost(outcome)}</td>'
        f'<td class="rarely">{f"<code>{escape(session)}</code>" if session else figures.NOTHING}</td>'
        + (f'<td class="rarely">{_node(outcome)}</td>' if with_node else "")
        + "</tr>"
    )


def _state(outcome: Outcome) -> str:
    mark = MARKS[outcome.state]
    again = f" <small>{outcome.attempts} attempts</small>" if outcome.attempts > 1 else ""
    return f'<span class="is {outcome.state}">{mark} {state_label(outcome)}</span>{again}'


def _node(outcome: Outcome) -> str:
    return escape(one_line(outcome.node or "")) or figures.NOTHING


def _backend(outcome: Outcome) -> str:
    return escape(one_line(outcome.backend or "")) or figures.NOTHING


def _decisions(result: RunResult) -> Iterator[str]:
    """Which candidates were chosen, and why."""
    found = words.decisions(result)
    if not found:
        return
    yield '<section><h2 id="candidates">Candidates</h2>'
    for name, ranking in found:
        items = "".join(
            f"<li>{escape(one_line(c.name))}: {escape(c.description)}</li>"
            for c in ranking.candidates
        )
        yield f"<p><strong>{escape(name)}</strong>: {escape(one_line(ranking.summary))}</p>"
        yield f"<ol>{items}</ol>"
    yield "</section>"


def _problems(result: RunResult) -> Iterator[str]:
    problems = words.problems(result)
    if not problems:
        return
    yield '<section><h2 id="problems">Unfinished tasks</h2>'
    for problem in problems:
        shown, more = words.names(problem.tasks)
        why = problem.failure
        kind = f" ({escape(one_line(why.kind))})" if why.kind != problem.state else ""
        yield (
            f'<div class="problem {problem.state}"><p><strong>{escape(", ".join(shown))}{more}:'
            f'</strong> <span class="is {problem.state}">{MARKS[problem.state]} '
            f"{problem.state}</span>{kind}</p>"
            f'<p class="reason">{escape(sanitize(why.message))}</p>'
        )
        if why.hint:
            yield f"<p>Next: {escape(sanitize(why.hint))}</p>"
        if output := words.check_output(problem.tasks[0]):
            yield _render_unformatted(output)
        yield "</div>"
    yield "</section>"


def _answers(result: RunResult, plan: Plan, rendered: Callable[[str], str]) -> Iterator[str]:
    answered = [(o, text) for o in result.answers if (text := words.answer(o))]
    yield '<section><h2 id="answers">Answers</h2>'
    if not answered:
        yield '<p class="empty">No answers.</p>'
    left = MAX_RENDERED_LENGTH
    for outcome, text in answered:
        left -= len(text)
        structured = outcome.structured is not None and not outcome.output.strip()
        plain = structured or left < 0
        yield _answer(
            outcome, plan, (_render_unformatted if plain else rendered)(text), len(answered)
        )
    yield "</section>"


def _answer(outcome: Outcome, plan: Plan, body: str, among: int) -> str:
    notes = [_backend(outcome), figures.time_taken(outcome)]
    if outcome.usage:
        notes.append(f"{figures.tokens(outcome)} tokens")
    if outcome.cost is not None:
        notes.append(figures.cost(outcome))
    if session := words.session(outcome):
        notes.append(f"session {escape(session)}")
    if needed := words.needed_names(outcome, plan):
        notes.append(f"after {escape(', '.join(needed))}")
    opened = " open" if among <= MAX_OPEN_ANSWERS else ""
    return (
        f"<details{opened}><summary><strong>{escape(words.name(outcome))}</strong>"
        f"<small>{' · '.join(notes)}</small></summary>\n"
        f'<div class="message" id="task-{outcome.index + 1}">\n{body}</div></details>'
    )
