"""Answers as files, in a directory of the user."""

from __future__ import annotations

from pathlib import Path

from clinvk.disk.atomic import check_writable, make_folder, replace_file
from clinvk.disk.jsonl import encode
from clinvk.errors import UsageError
from clinvk.model.outcome import RunResult


class OutputDirectory:
    """Writes `<task>.md` for each answer as soon as it is complete, and `results.json` at the
    end."""

    def __init__(self, folder: Path) -> None:
        """Raises `UsageError` if nothing can be written there, before anything runs."""
        self.folder = folder
        self.problem: UsageError | None = None  # a later error, which must not stop the run
        try:
            make_folder(folder)
            check_writable(folder)
        except OSError as error:
            raise self._write_error(error) from error

    def write_answer(self, name: str, answer: str) -> None:
        if answer:
            self._write(f"{name}.md", answer.encode("utf-8", "replace") + b"\n")

    def write_results(self, result: RunResult) -> None:
        self._write("results.json", encode(result.to_json()) + b"\n")

    def _write(self, name: str, data: bytes) -> None:
        try:
            replace_file(self.folder / name, data, durable=False)
        except OSError as error:
            self.problem = self.problem or self._write_error(error)

    def _write_error(self, error: OSError) -> UsageError:
        return UsageError(
            f"cannot write to {self.folder}: {error.strerror}", "choose another --output-dir"
        )
