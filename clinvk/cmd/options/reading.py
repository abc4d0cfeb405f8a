"""What the flags of a prompt ask for: the configuration, how the output is shown, the prompt, and the
`Request`. It needs no typer, of which a plain prompt is read without: see `quick.py`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from clinvk.cmd.options.prompt_flags import PromptFlags
from clinvk.cmd.options.storage import apply_storage_options
from clinvk.cmd.options.words import LITERAL_MARK, PASSTHROUGH_KEY
from clinvk.config import loading
from clinvk.config import schema as configs
from clinvk.disk.empty import EMPTY
from clinvk.disk.reading import directory_problem, read_named, read_stream
from clinvk.errors import ConfigError, UsageError
from clinvk.model import option_table
from clinvk.model.option_table import BY_NAME, FLAGS
from clinvk.terminal import printer
from clinvk.text import duration

if TYPE_CHECKING:
    from clinvk.model.plan import Worktree
    from clinvk.model.request import Request
    from clinvk.model.session_ref import SessionRef

STDIN = "-"

# `output.format` of the configuration that the command has read; None: it has not read any.
configured_format: ContextVar[str | None] = ContextVar("configured_format", default=None)
FORMATS = ("text", "json", "stream-json")
DIRTY = ("tell", "include", "refuse")  # what is done about uncommitted changes


class OutputOptions(Struct, frozen=True):
    """How a run is shown."""

    format: str = "text"
    raw: bool = False
    verbose: bool = False
    tokens: bool = False
    timing: bool = False
    color: str = "auto"
    quiet: bool = False  # the answer and errors only


def load_config(config: Path | None) -> configs.Loaded:
    """The configuration, with the store that the command line names."""
    configured_format.set("text")  # if it cannot be read
    loaded = _apply_color(apply_storage_options(loading.load(os.environ, config)))
    configured_format.set(loaded.config.output.format)
    printer.color.set(loaded.config.output.color)
    if not loaded.config.output.render:
        printer.plain.set(True)
    return loaded


def _apply_color(loaded: configs.Loaded) -> configs.Loaded:
    """The configuration with the value of `--color`."""
    flag: Any = printer.color_flag.get()
    if flag is None:
        return loaded
    output = replace(loaded.config.output, color=flag)
    return replace(
        loaded,
        config=replace(loaded.config, output=output),
        origins=loaded.origins | {"output.color": "command line"},
    )


def output_options(loaded: configs.Loaded, flags: PromptFlags) -> OutputOptions:
    output = loaded.config.output
    wanted = flags.output_format or output.format
    if flags.as_json:
        if flags.output_format not in (None, "json"):
            raise UsageError(
                f"--json and -o {wanted} cannot be used together", "leave out one of them"
            )
        wanted = "json"
    if wanted not in FORMATS:
        raise UsageError(f"-o: {wanted!r} is not one of: {', '.join(FORMATS)}")
    return OutputOptions(
        format=wanted,
        raw=flags.raw,
        verbose=flags.verbose or (loaded.config.unified_flags.verbose and not flags.quiet),
        tokens=output.show_tokens and not flags.quiet,
        timing=output.show_timing and not flags.quiet,
        color=output.color,
        quiet=flags.quiet,
    )


def passthrough_args(ctx: Any) -> list[str]:
    """The words after `--`, if there are any."""
    return list(ctx.meta.get(PASSTHROUGH_KEY) or [])


def read_prompt(
    words: list[str] | None, file: str | None, args: list[str]
) -> tuple[str, list[str]]:
    """The prompt, and the words for the backend. Raises `UsageError`.

    stdin is read only on request: by `-`, by `--file -`, or if there is no other prompt. In a shell
    loop it holds the list that the loop reads, and in CI an open one may never end. Data that
    was not read is reported: `drive/unread_stdin.py`."""
    words = [w.removeprefix(LITERAL_MARK) for w in words or []]
    append = words[1:] == [STDIN]
    if len(words) > 1 and not append:
        raise UsageError(
            f"unexpected argument {words[1]!r} after the prompt {words[0]!r}",
            f'put the prompt in quotes: clinvk "{" ".join(words)}"',
        )
    if file is not None and file != STDIN and words == [STDIN]:
        return f"{_read_file(file)}\n\n{_read_stdin()}", args
    if words and file is not None:
        raise UsageError(
            "a prompt and --file cannot be used together",
            "leave out one of them; to append standard input to the file: --file FILE -",
        )
    if file is not None:
        return (_read_stdin(alone=True) if file == STDIN else _read_file(file)), args
    if not words and args:
        return args[0], args[1:]
    if words and words[0] != STDIN:
        return (f"{words[0]}\n\n{_read_stdin()}" if append else words[0]), args
    if not words and sys.stdin.isatty():
        raise UsageError("no prompt given", 'try: clinvk "explain this directory"')
    return _read_stdin(alone=bool(words)), args


def build_request(prompt: str, args: list[str], session: SessionRef, flags: PromptFlags) -> Request:
    """The request that the flags make. Raises `UsageError`, `ConfigError`."""
    from clinvk.model.request import Request  # not needed to list sessions

    options = read_options(flags.options)
    others = parse_option_pairs(flags.option or [])
    is_empty = flags.workdir == Path(EMPTY)
    return Request(
        prompt=prompt,
        backend=flags.backend,
        session=session,
        to=flags.to,
        replay=flags.replay,
        options={**options, **others},
        spelled={name: FLAGS[name] for name in options if name not in others},
        args=tuple(args),
        cwd=None if is_empty else flags.workdir,
        own_directory=is_empty,
        ephemeral=flags.ephemeral,
        timeout=parse_duration("timeout", flags.timeout),
        stall_timeout=parse_duration("stall_timeout", flags.stall_timeout),
        title=flags.title,
        tags=tuple(flags.tag or ()),
        lenient=flags.lenient,
        expand=flags.expand,
        wait=not flags.no_wait,
        fail_on_denied=flags.fail_on_denied,
        on_limit=_parse_on_limit(flags.on_limit),
        max_wait=parse_duration("max_wait", flags.max_wait),
        fallback=tuple(flags.fallback) if flags.fallback else None,
        ignore_limit=flags.ignore_limit,
        stored_options=True,
    )


def check_directory_stays(flags: PromptFlags, what: str) -> None:
    """Raise `UsageError` for `-w none`, which is for one prompt."""
    if flags.workdir == Path(EMPTY):
        raise UsageError(
            f"-w none is for a single prompt: {what} needs a directory that stays",
            'use e.g. clinvk -w none "your prompt"; or name a directory',
        )


def _parse_on_limit(text: str | None) -> str | None:
    """The checked value of --on-limit. Raises `UsageError`."""
    if text is not None:
        from clinvk.plans.halt import parse_on_limit  # only with the flag

        try:
            parse_on_limit(text)
        except ValueError as error:
            raise UsageError(f"--on-limit: {error}") from error
    return text


def parse_duration(name: str, text: str | None) -> float | None:
    """The seconds of the option of this name. Raises `UsageError` that names its flag."""
    if text is None:
        return None
    try:
        return duration.parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{BY_NAME[name].flag}: {error}") from error


def read_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request, by name, from the values of their flags. Raises `UsageError`,
    `ConfigError`."""
    return {
        name: _read_option(BY_NAME[name], value)
        for name, value in given.items()
        if value is not None and value != []
    }


def _read_option(option: option_table.Option, value: Any) -> Any:
    if option.path == "file":
        return _read_schema(value)
    if option.optional_value:
        return value if value is True else _absolute_path(value, option)
    if option.path == "directory":
        return [_absolute_path(path, option) for path in value]
    if option.duration:
        return parse_duration(option.name, value)
    if option.type is float and value != value:  # noqa: PLR0124 - not a number, which no range excludes
        raise UsageError(f"{option.flag}: {value} is not a number")
    return value


def _absolute_path(path: Path | str, option: option_table.Option) -> str:
    if problem := directory_problem(path):  # typer passes lists of paths as text
        raise UsageError(
            f"{option.flag}: {os.fspath(path) or chr(39) * 2}: {problem}", "name a directory"
        )
    return os.path.realpath(path)


def parse_pairs(words: list[str], flag: str) -> dict[str, str]:
    """`KEY=VALUE` words as a mapping. Raises `UsageError`."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (equals and key):
            raise UsageError(f"{flag}: {word!r} is not KEY=VALUE")
        found[key] = value
    return found


def parse_option_pairs(words: list[str]) -> dict[str, Any]:
    """The values of `--option KEY=VALUE`, checked if clinvk knows the option. Raises
    `UsageError`."""
    if not words:
        return {}
    # Only with the flag.
    from clinvk.model.option_values import parse_value

    found: dict[str, Any] = {}
    for name, text in parse_pairs(words, "--option").items():
        try:
            found[name] = parse_value(name, text)
        except ValueError as error:
            raise UsageError(f"--option {name}: {error}") from None
    return found


def _read_schema(path: str) -> str:
    # Only with --schema.
    from clinvk.plans.loops.findings import find_schema
    from clinvk.text import json_input

    if (built_in := find_schema(path)) is not None:
        return built_in
    text = _read_file(path)
    try:
        json_input.load(text)
    except json_input.JsonError as error:
        raise ConfigError(f"{path}: {error}") from error
    return text


def _read_file(path: str) -> str:
    try:
        return _decode(read_named(path), path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def _read_stdin(*, alone: bool = False) -> str:
    """What is on stdin; `alone` if that is the whole prompt, which may not be empty."""
    if sys.stdin.isatty():
        # Only on a terminal.
        from clinvk.terminal.printer import Printer, color

        Printer.for_errors(color.get()).notice("type the prompt, then press Ctrl-D")
    try:
        text = _decode(read_stream(sys.stdin.buffer, "stdin"), "stdin")
    except OSError as error:
        raise UsageError(f"stdin: {error.strerror}") from error
    if alone and not text.strip():
        raise UsageError("standard input was empty", 'try: clinvk "explain this directory"')
    return text


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name}: not UTF-8 text: {error.reason} at byte {error.start}",
            "a prompt is text; name the file in the prompt instead",
        ) from error


def worktree_keys(
    *, worktree: bool, base: str | None, dirty: str | None, setup: str | None
) -> bool | dict[str, Any] | None:
    """The key `worktree` of a task that the flags ask for; None without --worktree. Raises
    `UsageError`."""
    given = {"base": base, "dirty": dirty, "setup": setup}
    found = {name: value for name, value in given.items() if value is not None}
    if dirty is not None and dirty not in DIRTY:
        raise UsageError(f"--dirty: {dirty!r} is not one of: {', '.join(DIRTY)}")
    if found and not worktree:
        flag = f"--{next(iter(found))}"
        raise UsageError(f"{flag} needs a worktree", f"add --worktree, or leave out {flag}")
    return (found or True) if worktree else None


def wanted_worktree(flags: PromptFlags) -> Worktree | None:
    """The worktree that the flags ask for, if they do. Raises `UsageError`."""
    if not (flags.worktree or flags.base or flags.dirty or flags.setup):
        return None
    # Only in a worktree.
    from clinvk.plans.taskfile.worktree import worktree_of

    keys = worktree_keys(
        worktree=flags.worktree, base=flags.base, dirty=flags.dirty, setup=flags.setup
    )
    return worktree_of(keys)
