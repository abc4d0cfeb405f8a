"""What a manifest makes of a recording of its CLI: nothing is started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from clinvk.backend.authoring.coverage import Coverage
from clinvk.backend.command.placeholders import uses
from clinvk.backend.manifest import Manifest
from clinvk.backend.native import find_native_id
from clinvk.backend.output.event_parser import EventParser
from clinvk.disk.reading import read_file, read_named
from clinvk.dispatch.folding.fold import TurnFold
from clinvk.dispatch.folding.turn_failure import Exit
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.errors import ConfigError
from clinvk.model.events import Event, Started
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.process.command import Command
from clinvk.process.pipes import LineSplitter

STDOUT = ("stdout", "stdout.jsonl", "stdout.txt")
STDERR = ("stderr", "stderr.txt")
CODE = ("rc", "exit_code", "exit-code", "code")
LONGEST_SHOWN = 200  # characters of a line


class Recording(Struct, frozen=True):
    """What a CLI printed in one run, and its exit code; None if that was not recorded."""

    path: Path
    stdout: bytes
    stderr: str = ""
    code: int | None = None


class Line(Struct, frozen=True):
    """A line of stdout, counted from 1; a long one is cut."""

    number: int
    text: str


class Replay(Struct, frozen=True):
    """What a manifest makes of a recording. `unused` are the lines that no rule used, `not_json`
    those that are no JSON object, `unused_rules` the places of the rules that no line used."""

    path: Path
    events: list[Event]
    result: Result
    lines: int
    unused: list[Line]
    not_json: list[Line]
    unused_rules: list[str]
    problems: list[str]

    @property
    def ended(self) -> bool:
        """Whether it is known how the run ended."""
        return self.result.error is None or self.result.error.kind != "incomplete"

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "lines": self.lines,
            "unused": [{"line": line.number, "text": line.text} for line in self.unused],
            "not_json": [{"line": line.number, "text": line.text} for line in self.not_json],
            "unused_rules": self.unused_rules,
            "problems": self.problems,
            "events": [event.to_json() for event in self.events],
            "result": self.result.to_json(),
        }


def find_recordings(path: Path) -> list[Recording]:
    """The recordings at this path: a file with the CLI's stdout; a directory with the files `stdout`
    and, if there are any, `stderr` and `rc`; or a directory of such directories. Raises
    `ConfigError`."""
    if not path.is_dir():
        return [Recording(path, _read(path))]
    if _one_of(path, STDOUT):
        return [_read_folder(path)]
    found = [_read_folder(p) for p in sorted(path.iterdir()) if p.is_dir() and _one_of(p, STDOUT)]
    if not found:
        raise ConfigError(
            f"{path}: no recording",
            "a recording is a directory with the files stdout, stderr and rc (the exit code)",
        )
    return found


def replay(manifest: Manifest, recording: Recording) -> Replay:
    """What clinvk would have made of it, in a first turn."""
    code = recording.code or 0
    fold = TurnFold(_plan(manifest))
    parser = EventParser(manifest, is_first_turn=True)
    coverage = Coverage(manifest)
    events: list[Event] = []
    splitter = LineSplitter()
    lines = [*splitter.feed(recording.stdout), *splitter.finish()]
    not_json = []
    for number, line in enumerate(lines, 1):
        if manifest.output == "events" and not coverage.add(number, line):
            not_json.append(Line(number, _shown(line)))
        events += _folded(fold, parser.parse_line(line))
    if manifest.output == "json":
        coverage.add(1, recording.stdout)
    events += _folded(fold, parser.finish(code))
    native_id = parser.native_id or find_native_id(manifest, recording.stderr, None)
    end = Exit(
        code=code, stderr=recording.stderr, noise=tuple(parser.noise), native_id=native_id,
        model=parser.model, steps_usage=parser.sums.steps.usage,
        steps_costs=tuple(parser.sums.steps.costs), unfinished=parser.unfinished,
    )  # fmt: skip
    result = fold.finish(end)
    events.append(fold.last_event(result))
    return Replay(
        recording.path, events, result, len(lines),
        [Line(number, _shown(lines[number - 1])) for number in coverage.unused],
        not_json, coverage.unused_rules, list(_problems(manifest, events, result)),
    )  # fmt: skip


def _folded(fold: TurnFold, events: list[Event]) -> list[Event]:
    return [shown for event in events if (shown := fold.add(event)) is not None]


def _problems(manifest: Manifest, events: list[Event], result: Result) -> Iterator[str]:
    """What a rule should have found in the recording."""
    # The id may also be one that clinvk chose, or be found elsewhere than in events.
    chosen = any(uses(words, "$new_id") for words in manifest.argv.values())
    needed = "resume" in manifest.argv and not (chosen or manifest.state or manifest.native_id_in)
    for event in events:
        if isinstance(event, Started) and event.native_id is None and needed:
            yield "started has no native_id, so this session could not be resumed"
    named = any("usage" in name for _, rule in manifest.all_rules() for name in rule.set)
    if result.ok and named and result.usage is None:
        yield "no figure of usage was found, though a rule sets it"
    ended_itself = (result.backend_exit_code or 0) >= 0
    if result.error and result.error.kind == "backend" and not result.error.hint and ended_itself:
        yield f"no rule of errors matches: {result.error.message[:LONGEST_SHOWN]}"


def _plan(manifest: Manifest) -> TurnPlan:
    command = Command(argv=(manifest.command,), env={}, cwd=Path(), stdin=b"", env_changes={})
    return TurnPlan(Request(prompt="-"), manifest, None, None, None, {}, {}, command, None, ())


def _read_folder(folder: Path) -> Recording:
    stdout, stderr, code = (_one_of(folder, names) for names in (STDOUT, STDERR, CODE))
    text = _read(code).decode("utf-8", "replace").strip() if code else ""
    try:
        number = int(text) if text else None
    except ValueError:
        raise ConfigError(f"{code}: {text[:40]!r} is not an exit code") from None
    return Recording(
        folder,
        _read(stdout) if stdout else b"",
        _read(stderr).decode("utf-8", "replace") if stderr else "",
        number,
    )


def _one_of(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read(path: Path) -> bytes:
    try:
        return read_named(path) if not path.is_file() else read_file(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace")
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
