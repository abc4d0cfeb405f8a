"""Errors before a run starts, in a JSON format."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from clinvk.cmd.options.reading import configured_format
from clinvk.errors import ClinvkError

if TYPE_CHECKING:
    from clinvk.runs.log import RunLog

F = TypeVar("F", bound=Callable[..., Any])

JSON = ("json", "stream-json")


class BrokenRun(Exception):  # noqa: N818 - reads as what it says
    """A run of many tasks that was stopped by an error; `folder` holds what is known about it."""

    def __init__(self, error: ClinvkError, folder: RunLog | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.folder = folder


def with_json_errors(command: F) -> F:
    """The command, which also reports a run that never started in the requested format, as a
    failed one. The message on stderr is printed as well."""
    return _showing_errors(command, _print_error)


def with_run_json_errors(command: F) -> F:
    """The same for a run of many tasks; of a broken one, with what is known about its tasks."""
    return _showing_errors(command, _print_broken_run)


def _showing_errors(command: F, show: Callable[[ClinvkError, str, Mapping[str, Any]], None]) -> F:
    """The command, which calls `show` with an error and the format if that is JSON."""

    @wraps(command)
    def wrapper(**params: Any) -> Any:
        try:
            return command(**params)
        except BrokenRun as broken:
            if (wanted := _requested_format(params)) in JSON:
                _print_broken_run(broken.error, wanted, params, broken.folder)
            raise broken.error from broken.error.__cause__
        except ClinvkError as error:
            if (wanted := _requested_format(params)) in JSON:
                show(error, wanted, params)
            raise

    return wrapper  # type: ignore[return-value]


def _requested_format(params: Mapping[str, Any]) -> str:
    """The format on the command line, otherwise in the configuration. Text if that cannot be read,
    which may be the error."""
    if said := "json" if params.get("as_json") else params.get("output_format"):
        return str(said)
    if (read := configured_format.get()) is not None:  # it may be a FIFO, which is read once
        return read
    # Only for an error before that.
    from clinvk.config import loading

    try:
        return loading.load(os.environ, params.get("config")).config.output.format
    except ClinvkError:
        return "text"


def _print_broken_run(
    error: ClinvkError,
    output_format: str,
    _params: Mapping[str, Any],
    folder: RunLog | None = None,
) -> None:
    # Only for an error in JSON.
    from clinvk.model.outcome import VERSION
    from clinvk.model.result import Failure
    from clinvk.text.json_output import dumps

    failure = Failure(error.kind, error.message, error.hint).to_json()
    data: dict[str, Any] = {"version": VERSION, "id": None, "state": "failed", "results": []}
    if folder is not None:
        with suppress(ClinvkError):
            data = folder.with_outputs(folder.result()).to_json()
    data |= {"why": error.message, "exit_code": error.exit_code, "error": failure}
    if output_format == "json":
        print(dumps(data, indent=2))
    else:
        del data["results"]
        print(dumps({**data, "type": "end"}))
    sys.stdout.flush()


def _print_error(error: ClinvkError, output_format: str, params: Mapping[str, Any]) -> None:
    """A run that never started, in the shape of a failed one."""
    # Only for an error in JSON.
    from clinvk.model.result import Failure, Result
    from clinvk.text.json_output import dumps

    failure = Failure(error.kind, error.message, error.hint, getattr(error, "retry_at", None))
    result = Result(
        ok=False,
        text="",
        backend=params.get("backend") or "",
        exit_code=error.exit_code,
        error=failure,
    ).to_json()
    if output_format == "json":
        print(dumps(result, indent=2))
    else:
        print(dumps({"type": "failed", **result}))
    sys.stdout.flush()
