"""What came of a run as a file for others: JUnit XML, Markdown, a page of HTML, or JSON.

A report holds the answers, not the prompts: what somebody asked may not be meant for whoever
reads the report.
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
    """A report that somebody wants, and where."""

    path: Path
    format: str


def check_report(path: Path, format_: str | None = None) -> RequestedReport:
    """The report that is wanted there: by its suffix, where no format is named. Raises
    `UsageError` where it could not be written: before anything runs, so that nothing is lost."""
    wanted = RequestedReport(path, format_ or format_of(path, SUFFIXES, "report"))
    if path.is_dir():
        raise UsageError(f"{path} is a folder", f"name a file: {path / 'report.html'}")
    if not path.parent.is_dir():
        raise UsageError(
            f"{path}: there is no folder {path.parent}", f"make it first: mkdir -p {path.parent}"
        )
    try:
        stream = is_stream(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "name another file") from error
    if not stream and not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: nothing can be written to {path.parent}", "name another place")
    return wanted


def write_report(path: Path, result: RunResult, plan: Plan, format_: str | None = None) -> None:
    """Write the report, whole or not at all. Raises `UsageError` where that cannot be."""
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
    """Write them all; what went wrong with those that could not be written."""
    problems = []
    for report in reports:
        try:
            write_report(report.path, result, plan, report.format)
        except UsageError as error:
            problems.append(error)
    return problems


def render(format_: str, result: RunResult, plan: Plan) -> str:
    """The report as text. `result` has its outputs. Raises `UsageError` for an unknown format."""
    if format_ not in _WRITERS:
        raise UsageError(f"invalid report format {format_[:100]!r}", f"valid: {', '.join(FORMATS)}")
    return _WRITERS[format_](result, plan)


def _render_later_hint(result: RunResult) -> str:
    """What to do about a report that could not be written: the run is over, and not lost."""
    if result.id is None:
        return "name another file"
    return f"nothing of the run is lost: clinvk runs show {result.id}"


# The writers are imported when one is wanted: a report takes xml, another jinja and pygments.


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
        from clinvk.plans import comparison

        data = comparison.to_json(result)
    return dumps(data, indent=2, default=str) + "\n"


_WRITERS: dict[str, Callable[[RunResult, Plan], str]] = {
    "html": _html,
    "markdown": _markdown,
    "junit": _junit,
    "json": _json,
}
