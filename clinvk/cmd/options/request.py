"""The options that commands share, for typer, and what is read from them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from clinvk.cmd.options.completions import (
    complete_option_pairs,
    complete_sessions,
    complete_skills,
    complete_tags,
    complete_words,
)
from clinvk.cmd.options.reading import (
    DIRTY,
    FORMATS,
    STDIN,
    OutputOptions,
    build_request,
    check_directory_stays,
    load_config,
    output_options,
    parse_duration,
    parse_option_pairs,
    parse_pairs,
    passthrough_args,
    read_options,
    read_prompt,
    worktree_keys,
)
from clinvk.cmd.options.turn import flag_of
from clinvk.config import loading
from clinvk.model.option_table import BY_NAME
from clinvk.terminal import printer

# For the commands, beside what is defined here.
__all__ = [
    "DIRTY",
    "FORMATS",
    "STDIN",
    "OutputOptions",
    "build_request",
    "check_directory_stays",
    "complete_skills",
    "complete_tags",
    "load_config",
    "output_options",
    "parse_duration",
    "parse_option_pairs",
    "parse_pairs",
    "passthrough_args",
    "read_options",
    "read_prompt",
    "worktree_keys",
]


def complete_backends(incomplete: str) -> list[str]:
    # Only a shell that completes needs it.
    from clinvk.backend.catalog import Catalog

    names = Catalog(loading.find_home(os.environ)).names()
    return [name for name in names if name.startswith(incomplete)]


def complete_templates(incomplete: str) -> list[str]:
    # Only a shell that completes needs it.
    from clinvk.sessions.templates import template_names

    names = template_names(loading.find_home(os.environ))
    return [name for name in names if name.startswith(incomplete)]


Prompt = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PROMPT] [-]", help="Prompt text; - appends standard input."),
]
ID_HELP = "Session id, the beginning of one, the backend's own id, or last."
SessionId = Annotated[
    str | None, typer.Argument(metavar="[ID]", help=ID_HELP, autocompletion=complete_sessions)
]
OneSession = Annotated[
    str, typer.Argument(metavar="ID", help=ID_HELP, autocompletion=complete_sessions)
]
SessionIds = Annotated[
    list[str],
    typer.Argument(
        metavar="ID...", help="Session ids, or the beginnings of some.",
        autocompletion=complete_sessions,
    ),
]  # fmt: skip
Backend = Annotated[
    str | None,
    typer.Option("--backend", "-b", metavar="NAME",
                 help="Backend to use: claude, codex, gemini, echo, or your own.",
                 autocompletion=complete_backends),
]  # fmt: skip
File = Annotated[
    str | None,
    typer.Option("--file", "-f", metavar="FILE", help="Read the prompt from FILE; - is stdin."),
]
Edit = Annotated[bool, typer.Option("--edit", "-e", help="Write the prompt in $VISUAL or $EDITOR.")]
Format = Annotated[
    str | None,
    typer.Option("--output-format", "-o", metavar="FORMAT",
                 help="Output format: text, json (one object) or stream-json (one event per line).",
                 autocompletion=complete_words(FORMATS)),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PromptJson = Annotated[bool, typer.Option("--json", help="Same as -o json.")]
PromptQuiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only the answer and errors.")
]
Raw = Annotated[
    bool,
    typer.Option(
        "--raw",
        help="Do not strip control sequences from answers; with stream-json, print the CLI's own lines.",
    ),
]
Plain = Annotated[
    bool,
    typer.Option(
        "--plain",
        help="Print Markdown as it is written, instead of rendering it.",
        callback=lambda value: value and printer.plain.set(True) and value,
    ),
]
Option = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="Set another option of the backend (repeatable).", autocompletion=complete_option_pairs),
]  # fmt: skip
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Read the configuration from FILE."),
]
To = Annotated[
    str | None,
    typer.Option("--to", metavar="BACKEND", help="Hand the conversation over to another backend.",
                 autocompletion=complete_backends),
]  # fmt: skip
Replay = Annotated[
    bool,
    typer.Option("--replay", help="Start the backend's own session over, from the transcript."),
]
Native = Annotated[
    bool,
    typer.Option("--native", help="Open the backend's own screen instead of sending a prompt."),
]
InWorktree = Annotated[
    bool,
    typer.Option("--worktree", help="Work in a git worktree; its result is a commit to apply."),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="REVISION", help="With --worktree: begin with this commit, not HEAD."
    ),
]
DirtyFiles = Annotated[
    str | None,
    typer.Option(
        "--dirty",
        metavar="ACTION",
        help="With --worktree: tell about uncommitted changes, include them, or refuse.",
        autocompletion=complete_words(DIRTY),
    ),
]
Setup = Annotated[
    str | None,
    typer.Option(
        "--setup", metavar="COMMAND", help="With --worktree: run this first, such as 'npm ci'."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
# These come from the option table; a type checker needs their types.
if TYPE_CHECKING:
    Workdir: TypeAlias = Path | None
    Title: TypeAlias = str | None
    Tag: TypeAlias = list[str] | None
    TaskTag: TypeAlias = list[str] | None
    Ephemeral: TypeAlias = bool
    NoWait: TypeAlias = bool
    Lenient: TypeAlias = bool
    Expand: TypeAlias = bool
    FailOnDenied: TypeAlias = bool
    Verbose: TypeAlias = bool
    DryRun: TypeAlias = bool
    ListTasks: TypeAlias = bool
    Timeout: TypeAlias = str | None
    TaskTimeout: TypeAlias = str | None
    StallTimeout: TypeAlias = str | None
    TaskStall: TypeAlias = str | None
    OnLimit: TypeAlias = str | None
    MaxWait: TypeAlias = str | None
    Fallback: TypeAlias = list[str] | None
    RunFallback: TypeAlias = list[str] | None
    IgnoreLimit: TypeAlias = bool
else:
    Workdir = flag_of(BY_NAME["workdir"])
    Title = flag_of(BY_NAME["title"])
    Tag = flag_of(BY_NAME["tags"])
    TaskTag = flag_of(BY_NAME["tags"], of_runs=True)
    Ephemeral = flag_of(BY_NAME["ephemeral"])
    NoWait = flag_of(BY_NAME["no_wait"])
    Lenient = flag_of(BY_NAME["lenient"])
    Expand = flag_of(BY_NAME["expand"])
    FailOnDenied = flag_of(BY_NAME["fail_on_denied"])
    Verbose = flag_of(BY_NAME["verbose"])
    DryRun = flag_of(BY_NAME["dry_run"])
    ListTasks = flag_of(BY_NAME["dry_run"], of_runs=True)
    Timeout = flag_of(BY_NAME["timeout"])
    TaskTimeout = flag_of(BY_NAME["timeout"], of_runs=True)
    StallTimeout = flag_of(BY_NAME["stall_timeout"])
    TaskStall = flag_of(BY_NAME["stall_timeout"], of_runs=True)
    OnLimit = flag_of(BY_NAME["on_limit"])
    MaxWait = flag_of(BY_NAME["max_wait"])
    Fallback = flag_of(BY_NAME["fallback"])
    RunFallback = flag_of(BY_NAME["fallback"], of_runs=True)
    IgnoreLimit = flag_of(BY_NAME["ignore_limit"])
