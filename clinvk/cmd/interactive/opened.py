"""A command line that opens the interactive prompt, and one that is typed into it."""

from __future__ import annotations

from contextvars import Context
from pathlib import Path

from msgspec import Struct

from clinvk.cmd.options.prompt_flags import PromptFlags
from clinvk.cmd.options.reading import check_directory_stays, worktree_keys
from clinvk.config.schema import Loaded
from clinvk.errors import UsageError
from clinvk.model.request import Request
from clinvk.model.session_ref import DefaultSession, SessionRef


class OpenedPrompt(Struct, frozen=True, kw_only=True):
    """What a command returns to have the prompt opened, once it has closed what it has opened."""

    loaded: Loaded
    flags: PromptFlags
    ref: SessionRef = DefaultSession()
    template: str | None = None
    config: Path | None = None  # the file that --config names
    context: Context  # that of the command, for reading the configuration again
    first: str | None = None  # message
    args: tuple[str, ...] = ()  # for the backend


class TypedLine(Struct):
    """A command line that was typed at the prompt, and what it leaves to the prompt."""

    asked: Request | None = None
    opened: OpenedPrompt | None = None


def check_interactive(flags: PromptFlags, loaded: Loaded) -> None:
    """Raise `UsageError` for flags that have no meaning at the interactive prompt."""
    given = {
        "--dry-run": flags.dry_run,
        "--ephemeral": flags.ephemeral,
        "--json": flags.as_json,
        "-o": flags.output_format not in (None, "text"),
        "--raw": flags.raw,
    }
    if flag := next((name for name, value in given.items() if value), None):
        why = ": a conversation is continued from its session" * (flag == "--ephemeral")
        raise UsageError(f"{flag} needs a prompt{why}", f'use e.g. clinvk {flag} "your prompt"')
    check_directory_stays(flags, "a conversation at the prompt")
    worktree_keys(
        worktree=flags.worktree, base=flags.base, dirty=flags.dirty, setup=flags.setup
    )  # fmt: skip
    if loaded.config.unified_flags.dry_run:
        raise UsageError(
            "unified_flags.dry_run is on, so that nothing would be sent",
            "turn it off: clinvk config set unified_flags.dry_run false",
        )
