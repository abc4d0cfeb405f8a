"""A comparison as one self-contained HTML page: no script, no image, no network.

Answers are rendered as Markdown. What only one of them says is also underlined, since color alone
is not visible to everyone, nor on paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from clinvk.html import page
from clinvk.model import figures
from clinvk.model.outcome import Outcome, RunResult, state_label
from clinvk.plans import comparison
from clinvk.plans.comparison import Round, Verdict
from clinvk.text.sanitize import one_line, sanitize_without_bidi

MAX_RENDERED_LENGTH = 1_000_000  # characters of answers that are rendered; more take seconds


def render(prompt: str, result: RunResult) -> str:
    """The page. `result` includes the outputs."""
    answers = comparison.answer_outcomes(result)
    found = comparison.find_verdict(result)
    return page.fill(
        " · ".join(one_line(o.name) for o in answers),
        style=page.styles("session.css", "compare.css") + page.code_colors("auto"),
        main=[
            *_request(prompt),
            *(_verdict(found) if found else ()),
            *_answers(answers, found),
            *_table(result),
        ],
        theme="auto",
    )


def _request(prompt: str) -> Iterator[str]:
    yield f'<section class="request"><p class="text">{escape(_escape(prompt))}</p></section>'


def _verdict(found: Verdict) -> Iterator[str]:
    kind = "verdict" if found.best else "verdict none"
    yield f'<section><h2 id="verdict">Verdict</h2><div class="{kind}">'
    yield f"<p><strong>{escape(one_line(found.summary))}</strong></p>"
    for number, said in enumerate(found.rounds, 1):
        yield from _round(number, said)
    yield f'<p class="soft">The judge was {escape(one_line(found.judge))}.</p></div></section>'


def _round(number: int, said: Round) -> Iterator[str]:
    order = escape(", ".join(map(one_line, said.order)))
    best = escape(one_line(said.best or ("a tie" if said.tie else "no verdict")))
    why = f": {escape(one_line(said.why))}" if said.why else ""
    yield f'<p>{best}{why} <span class="soft">(asked in the order {order})</span></p>'
    if said.output.strip():
        yield f"<details><summary>The judge's reply, round {number}</summary>"
        yield f'<div class="message">{_to_html([said.output])[0]}</div></details>'


def _answers(answers: tuple[Outcome, ...], found: Verdict | None) -> Iterator[str]:
    yield '<section><h2 id="answers">Answers</h2>'
    given = [o for o in answers if o.output.strip()]
    shown = page.mark_differences(_to_html([o.output for o in given]))
    bodies = dict(zip([o.index for o in given], shown, strict=True))
    if len(given) > 1:
        yield f'<p class="soft">{_legend(given)}</p>'
    yield '<div class="answers">'
    for outcome in answers:
        is_best = found is not None and found.best == outcome.name
        yield _answer(outcome, bodies.get(outcome.index, ""), is_best=is_best)
    yield "</div></section>"


def _legend(given: list[Outcome]) -> str:
    first = escape(one_line(given[0].name))
    if len(given) == 2:
        return "<mark>Underlined</mark>: what only one of them says."
    return (
        f"<mark>Underlined</mark> in {first}: what no other answer says; "
        f"<ins>underlined</ins> in the others: what {first} does not say."
    )


def _to_html(texts: list[str]) -> list[str]:
    """The texts rendered, or unchanged if they are too long."""
    cleaned = [_escape(text) for text in texts]
    if sum(map(len, cleaned)) > MAX_RENDERED_LENGTH:
        return [f'<p class="text">{escape(text)}</p>' for text in cleaned]
    to_html = page.markdown().render
    return [to_html(text) for text in cleaned]


def _answer(outcome: Outcome, body: str, *, is_best: bool) -> str:
    substitute = comparison.note_of_substitute(outcome)
    notes = [one_line(outcome.model or ""), substitute, "best" if is_best else ""]
    small = "".join(f"<small>{escape(note)}</small>" for note in notes if note)
    best = " best" if is_best else ""
    return (
        f'<article class="answer{best}"><h3>{escape(one_line(outcome.name))}{small}</h3>'
        f'{_problem_text(outcome)}<div class="message">{body}</div></article>'
    )


def _problem_text(outcome: Outcome) -> str:
    if outcome.ok:
        return "" if outcome.output.strip() else '<p class="soft">An empty answer.</p>'
    why = f": {outcome.error.message}" if outcome.error else ""
    return f'<p class="problem">✗ {escape(one_line(state_label(outcome) + why))}</p>'


def _table(result: RunResult) -> Iterator[str]:
    yield '<section><h2 id="tasks">Time, tokens and cost</h2>'
    yield (
        '<table><thead><tr><th scope="col">Backend</th><th scope="col">Model</th>'
        '<th scope="col">State</th><th scope="col" class="num">Time</th>'
        '<th scope="col" class="num">Tokens</th><th scope="col" class="num">Cost</th>'
        '<th scope="col" class="rarely">Session</th></tr></thead><tbody>'
    )
    for outcome in result.results:
        yield _row(outcome)
    yield "</tbody></table></section>"


def _row(o: Outcome) -> str:
    session = o.session_id if o.attempts and o.session_id else figures.NOTHING
    return (
        f'<tr><th scope="row">{escape(one_line(comparison.label(o)))}</th>'
        f"<td>{escape(one_line(o.model or figures.NOTHING))}</td>"
        f'<td><span class="is {escape(o.state)}">{escape(state_label(o))}</span></td>'
        f'<td class="num">{figures.time_taken(o)}</td>'
        f'<td class="num">{figures.tokens(o)}</td>'
        f'<td class="num">{figures.cost(o)}</td>'
        f'<td class="rarely"><code>{escape(one_line(session))}</code></td></tr>'
    )


def _escape(text: str) -> str:
    return sanitize_without_bidi(text).strip("\n")
