"""A run as JUnit XML, for programs that show tests: Jenkins, GitLab, GitHub Actions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree as ET

from clinvk.model.outcome import COST_SOURCES, Outcome, RunResult
from clinvk.model.plan import Plan
from clinvk.reports import words
from clinvk.text.sanitize import one_line, sanitize

# XML 1.0 cannot represent these, not even as character references.
_FORBIDDEN = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ELEMENTS = {"failed": "failure", "indeterminate": "error"}
_TOTALS = {"failure": "failures", "error": "errors", "skipped": "skipped"}


def render(result: RunResult, plan: Plan) -> str:
    """One suite, with a test for each task."""
    cases = list(_cases(result, plan))
    totals = _totals(result, cases)
    root = ET.Element("testsuites", {"name": words.title(result), **totals})
    named = one_line(result.source) or result.kind
    suite = ET.SubElement(root, "testsuite", {"name": _replace_forbidden(named), **totals})
    if result.started_at:
        suite.set("timestamp", _format_time(result.started_at))
    _add_properties(suite, _run_properties(result))
    suite.extend(cases)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, "unicode")}\n'


def _cases(result: RunResult, plan: Plan) -> Iterable[ET.Element]:
    """A unique name per task: readers treat two tests of the same name as one."""
    taken: dict[str, int] = {}
    settled = result.settled_candidates
    for outcome in result.results:
        base = _replace_forbidden(words.name(outcome))
        name = base
        while name in taken:
            taken[base] += 1
            name = f"{base} ({taken[base]})"
        taken[name] = 1
        yield _case(outcome, plan, name, is_passed_over=outcome.index in settled)


def _case(outcome: Outcome, plan: Plan, name: str, *, is_passed_over: bool) -> ET.Element:
    """`is_passed_over`: its task has chosen another candidate, so that its failure is none."""
    backend = _replace_forbidden(one_line(outcome.backend or "")) or "none"
    seconds = f"{outcome.seconds:.3f}"
    case = ET.Element("testcase", {"name": name, "classname": backend, "time": seconds})
    _add_properties(case, _task_properties(outcome, plan))
    if not outcome.ok:
        _add_problem(case, outcome, is_skipped=is_passed_over)
    if answer := words.answer(outcome):
        ET.SubElement(case, "system-out").text = _replace_forbidden(answer)
    return case


def _add_problem(case: ET.Element, outcome: Outcome, *, is_skipped: bool) -> None:
    failure = words.failure(outcome)
    message = one_line(failure.message)
    if is_skipped or outcome.state not in _ELEMENTS:
        text = f"{outcome.state}: {message}" if outcome.error else outcome.state
        ET.SubElement(case, "skipped", {"message": _replace_forbidden(text)})
        return
    element = ET.SubElement(
        case,
        _ELEMENTS[outcome.state],
        {
            "type": _replace_forbidden(one_line(failure.kind)),
            "message": _replace_forbidden(message),
        },
    )
    lines = [failure.message, *([f"hint: {failure.hint}"] if failure.hint else [])]
    if output := words.check_output(outcome):
        lines += ["", output]
    element.text = _replace_forbidden(sanitize("\n".join(lines)))


def _run_properties(result: RunResult) -> dict[str, Any]:
    return {
        "run": result.id,
        "kind": result.kind,
        "state": result.state,
        "why": result.why,
        "exit_code": result.exit_code,
        "tokens": result.usage.total if result.usage else None,
        "cost_usd": _format_cost(result.cost),
        "cost_source": COST_SOURCES[result.is_cost_whole] if result.cost is not None else None,
    }


def _task_properties(outcome: Outcome, plan: Plan) -> dict[str, Any]:
    usage = outcome.usage
    return {
        "state": outcome.state,
        "session": words.session(outcome),
        "node": outcome.node,
        "model": outcome.model,
        "attempts": outcome.attempts,
        "check": outcome.check.state if outcome.check else None,
        "rounds": outcome.check.rounds if outcome.check else None,
        "candidate_of": outcome.candidate_of,
        "decision": outcome.decision.summary if outcome.decision else None,
        "tokens": usage.total if usage else None,
        "input_tokens": usage.input if usage else None,
        "output_tokens": usage.output if usage else None,
        "cost_usd": _format_cost(outcome.cost),
        "needs": ", ".join(words.needed_names(outcome, plan)),
        "tags": ", ".join(outcome.tags),
    }


def _add_properties(element: ET.Element, values: Mapping[str, Any]) -> None:
    """The properties, without unknown ones: an empty value would look like a known one."""
    properties = ET.SubElement(element, "properties")
    for name, value in values.items():
        if value is not None and value != "":
            text = _replace_forbidden(one_line(str(value)))
            ET.SubElement(properties, "property", {"name": name, "value": text})


def _totals(result: RunResult, cases: list[ET.Element]) -> dict[str, str]:
    counts = {
        total: sum(case.find(element) is not None for case in cases)
        for element, total in _TOTALS.items()
    }
    numbers = {"tests": len(cases), **counts}
    return {k: str(v) for k, v in numbers.items()} | {"time": f"{result.seconds:.3f}"}


def _format_cost(cost: float | None) -> str | None:
    return None if cost is None else f"{cost:.6f}"


def _format_time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _replace_forbidden(text: str) -> str:
    return _FORBIDDEN.sub("", text)
