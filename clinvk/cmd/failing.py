"""A run that never began, in a JSON format."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from clinvk.errors import ClinvkError

F = TypeVar("F", bound=Callable[..., Any])


def told_in_json(command: F) -> F:
    """The command, which shows a run that never began in the format that was asked for: as one
    that failed. The sentence on stderr comes as well."""

    @wraps(command)
    def told(**params: Any) -> Any:
        try:
            return command(**params)
        except ClinvkError as error:
            if params.get("output_format") in ("json", "stream-json"):
                _json_error(error, params["output_format"], params.get("backend"))
            raise

    return told  # type: ignore[return-value]


def run_told_in_json(command: F) -> F:
    """The same for a run of many tasks, of which none was started."""

    @wraps(command)
    def told(**params: Any) -> Any:
        try:
            return command(**params)
        except ClinvkError as error:
            wanted = "json" if params.get("as_json") else params.get("output_format")
            if wanted in ("json", "stream-json"):
                _json_of_no_run(error, wanted)
            raise

    return told  # type: ignore[return-value]


def _json_of_no_run(error: ClinvkError, output_format: str) -> None:
    from clinvk.messages import Failure

    failure = Failure(error.kind, error.message, error.hint).to_json()
    data = {"version": 1, "id": None, "state": "failed", "why": error.message,
            "exit_code": error.exit_code, "error": failure}  # fmt: skip
    if output_format == "json":
        print(json.dumps({**data, "results": []}, ensure_ascii=False, indent=2))
    else:
        print(json.dumps({**data, "type": "end"}, ensure_ascii=False))
    sys.stdout.flush()


def _json_error(error: ClinvkError, output_format: str, backend: str | None) -> None:
    """A run that never began, in the shape of one that failed."""
    from clinvk.messages import Failure, Result

    failure = Failure(error.kind, error.message, error.hint)
    result = Result(
        ok=False, text="", backend=backend or "", exit_code=error.exit_code, error=failure
    ).to_json()
    if output_format == "json":
        print(json.dumps(result, ensure_ascii=False, indent=2))
    else:
        print(json.dumps({"type": "failed", **result}, ensure_ascii=False))
    sys.stdout.flush()
