"""The result of a run as a file for others: JUnit XML, Markdown, an HTML page, or JSON.

A report contains the answers, not the prompts, which may not be meant for readers of the report.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import Struct

from clinvk.disk.atomic import is_stream, write_for_user
from clinvk.disk.output_file import HTML, MARKDOWN, format_of
from clinvk.errors import UsageError
from clinvk.model.outcome import RunResult
from clinvk.model.plan import Plan
from clinvk.reports.github import publish_to_github
from clinvk.text.json_output import dumps

__all__ = [
    "FORMATS",
    "RequestedReport",
    "check_report",
    "publish_to_github",
    "render",
    "write_report",
    "write_reports",
]

SUFFIXES = {**HTML, **MARKDOWN, ".xml": "junit", ".json": "json"}
FORMATS = ("html", "markdown", "junit", "json")


class RequestedReport(Struct, frozen=True):
    """A requested report: its format and path."""

    path: Path
    format: str


def check_report(path: Path, format_: str | None = None) -> RequestedReport:
    """The requested report; without a format, by the suffix of the path. Raises `UsageError` if it
    could not be written: before anything runs, so that nothing is lost."""
    wanted = RequestedReport(path, format_ or format_of(path, SUFFIXES, "report"))
    if path.is_dir():
        raise UsageError(f"{path} is a directory", f"name a file: {path / 'report.html'}")
    if not path.parent.is_dir():
        raise UsageError(
            f"{path}: no such directory: {path.parent}", f"create it first: mkdir -p {path.parent}"
        )
    try:
        stream = is_stream(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "choose another file") from error
    if not stream and not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: {path.parent} is not writable", "choose another directory")
    return wanted


def write_report(path: Path, result: RunResult, plan: Plan, format_: str | None = None) -> None:
    """Write the report atomically. Raises `UsageError` if that fails."""
    format_ = format_ or format_of(path, SUFFIXES, "report")
    data = render(format_, result, plan).encode("utf-8", "replace")
    try:
        write_for_user(path, data)
    except OSError as error:
        raise UsageError(
            f"cannot write the report {path}: {error.strerror}", _render_later_hint(result)
        ) from error


def write_reports(
    reports: Iterable[RequestedReport], result: RunResult, plan: Plan
) -> list[UsageError]:
    """Write them all; return the errors of those that could not be written."""
    problems = []
    for report in reports:
        try:
            write_report(report.path, result, plan, report.format)
        except UsageError as error:
            problems.append(error)
    return problems


def render(format_: str, result: RunResult, plan: Plan) -> str:
    """The report as text. `result` includes the outputs. Raises `UsageError` for an unknown
    format."""
    if format_ not in _WRITERS:
        raise UsageError(f"invalid report format {format_[:100]!r}", f"valid: {', '.join(FORMATS)}")
    return _WRITERS[format_](result, plan)


def _render_later_hint(result: RunResult) -> str:
    """A hint for a report that could not be written: the run itself is complete."""
    if result.id is None:
        return "choose another file"
    return f"the run itself is complete; see: clinvk runs show {result.id}{result.where}"


# Writers are imported on demand: one needs xml, another jinja and pygments.


def _junit(result: RunResult, plan: Plan) -> str:
    # Only this format needs it.
    from clinvk.reports import junit

    return junit.render(result, plan)


def _markdown(result: RunResult, plan: Plan) -> str:  # noqa: ARG001 - as the other writers
    # Only this format needs it.
    from clinvk.reports import markdown

    return markdown.render(result)


def _html(result: RunResult, plan: Plan) -> str:
    # Only this format needs it.
    from clinvk.reports import html

    return html.render(result, plan)


def _json(result: RunResult, plan: Plan) -> str:  # noqa: ARG001 - as the other writers
    data = result.to_json()
    if result.kind == "compare":
        # Only comparisons need it.
        from clinvk.plans import ranking

        data = ranking.to_json(result)
    return dumps(data, indent=2, default=str) + "\n"


_WRITERS: dict[str, Callable[[RunResult, Plan], str]] = {
    "html": _html,
    "markdown": _markdown,
    "junit": _junit,
    "json": _json,
}
