"""The command line as a whole: choosing the command, and reporting errors."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from clinvk.cmd.options.holding import closing_all
from clinvk.cmd.options.words import ASKED_WITHOUT_COMMAND, OutputClosed, typed_line
from clinvk.errors import ClinvkError

if TYPE_CHECKING:
    from clinvk.cmd.app import RootGroup

COMMANDS = {
    "ask": ("ask_flags", "Send a prompt (the default command)."),
    "chat": ("ask_flags", "Send a prompt (the same as ask)."),
    "repl": ("interactive.command", "Open the interactive prompt (so does clinvk alone)."),
    "resume": ("resume", "Resume a session."),
    "last": ("sessions.last", "Print the last answer of the newest session."),
    "compare": ("compare", "Send one prompt to several backends and compare the answers."),
    "parallel": ("parallel", "Run the tasks of a file in parallel."),
    "chain": ("chain", "Run steps one after another, each using the answers before it."),
    "worker": ("cluster.worker", "Run tasks of a cluster on this machine."),
    "workers": ("cluster.workers", "List the workers of a cluster, and what they run."),
    "runs": ("runs.group", "List, show, watch, resume, retry and delete runs of tasks."),
    "checkpoints": ("checkpoints", "Manage checkpoints of resumable chains."),
    "sessions": ("sessions.group", "List, show, search, export and delete sessions."),
    "memory": (
        "knowledge.memory",
        "Store, list and forget notes, which --memory adds to a prompt.",
    ),
    "templates": ("knowledge.templates", "List, show and create templates for new sessions."),
    "skills": ("knowledge.skills", "List, show and create skills."),
    "init": ("setup.init", "Choose the default backend and write the configuration."),
    "limits": ("limits", "Show and forget the rate limits that backends have reported."),
    "doctor": ("setup.doctor", "Check which CLIs are installed, logged in and usable."),
    "backends": ("backends", "List, show and check backends."),
    "config": ("config", "Show and change the configuration."),
    "completion": ("setup.completion", "Print a shell completion script."),
    "help": ("help", "Show the help of a command."),
    "version": ("version", "Print the version."),
}
ALIASES = {"session": "sessions"}


def root() -> RootGroup:
    # A third of the start, and a prompt with a few flags is read without it.
    from clinvk.cmd.app import RootGroup

    if "_CLINVK_COMPLETE" in os.environ:
        # Only a shell that completes needs it.
        from clinvk.cmd.options.shells import register_shells

        register_shells()
    help_line = "One CLI for every AI coding agent: claude, codex, gemini, or your own."
    return RootGroup("clinvk", help_line, COMMANDS, ALIASES)


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code, after all of its output is written. An error
    that a user can fix never ends in a traceback. May be called more than once: what a command
    finds out, such as the configured color, is forgotten when it ends."""
    return copy_context().run(_main, argv)


def _main(argv: Sequence[str]) -> int:
    try:
        return _run(argv)
    finally:
        _discard_typed_ahead()


def _run(argv: Sequence[str]) -> int:
    try:
        with closing_all():
            code = _run_command(argv)
        if code is not None and not isinstance(code, int):
            code = _open_prompt(code)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except ClinvkError as error:
        return fail(error.message, error.hint, error.exit_code)
    except KeyboardInterrupt:
        return fail("cancelled", None, 7)
    except (BrokenPipeError, OutputClosed):
        return 7  # the reader of stdout has closed it
    except OSError as error:
        if os.environ.get("CLINVK_DEBUG"):
            raise
        if error.errno == errno.EBADF and not error.filename:
            return fail("stdout is closed: the output cannot be written", None, 1)
        if error.errno == errno.ENOENT and not error.filename and not _is_directory_there():
            return fail("the current directory no longer exists", "cd to another one", 1)
        return fail(f"{error.filename or 'output'}: {error.strerror or error}", None, 1)
    except RecursionError:
        return fail("the input is nested too deeply", None, 1)
    except Exception as error:
        if (known := _report_click(error)) is not None:
            return known
        if os.environ.get("CLINVK_DEBUG"):
            raise
        if isinstance(error, RuntimeError) and "home directory" in str(error):  # of `~` in a path
            problem = "HOME is not set, and this user has no home directory"
            return fail(problem, "set HOME, or pass paths without ~", 3)
        return fail(
            f"unexpected: {type(error).__name__}: {error}",
            "this is a bug in clinvk; set CLINVK_DEBUG=1 for a traceback, and report it",
            1,
        )


def _open_prompt(opened: Any) -> int:
    """Open the interactive prompt, or leave that to the one at which the command was typed."""
    if (line := typed_line.get()) is not None:
        line.opened = opened
        return 0
    # Only to open it.
    from clinvk.cmd.interactive import opening

    return opening.open_prompt(opened, main, [*COMMANDS, *ALIASES], root)


def _run_command(argv: Sequence[str]) -> Any:
    prompt = None
    if argv and argv[0] not in COMMANDS and argv[0] not in ALIASES:
        # A command does not need it.
        from clinvk.cmd.options.quick import read_quickly

        prompt = read_quickly(argv, (*COMMANDS, *ALIASES))
    if prompt is None:
        return _run_typer(argv)
    # Most commands do not ask anything.
    from msgspec.structs import asdict

    # Most commands do not ask anything.
    from clinvk.cmd.ask import Asked, ask
    from clinvk.cmd.options.json_errors import with_json_errors

    def run(**_: Any) -> Any:
        commands = (*COMMANDS, *ALIASES)
        asked = Asked(flags=prompt.flags, words=prompt.words, commands=commands, **prompt.choosing)
        return ask(asked)

    return with_json_errors(run)(**asdict(prompt.flags))


def _run_typer(argv: Sequence[str]) -> Any:
    try:
        return root().main(list(argv), prog_name="clinvk", standalone_mode=False)
    except Exception as error:
        if type(error).__name__ != "NoArgsIsHelpError":
            raise
        print(_message(error))  # a group alone: its help is the answer
        return 0


def _report_click(error: Exception) -> int | None:
    """The exit code for an exception of click, which is reported; None for another one."""
    typer = sys.modules.get("typer")
    if typer is None:  # the command line was read without it
        return None
    if isinstance(error, typer.Abort):
        return fail("cancelled", None, 7)
    if not isinstance(error, click_exception()):
        return None
    return _fail_usage(error)


def click_exception() -> type[Exception]:
    """Click's own exceptions come with typer, under a name that differs between its releases."""
    import typer  # a third of the start

    found: type[Exception] = typer.BadParameter.__mro__[2]
    return found


def fail(message: str, hint: str | None, code: int) -> int:
    # Only to print something.
    from clinvk.terminal import printer
    from clinvk.terminal.printer import Printer

    with suppress(OSError, ValueError):
        sys.stdout.flush()  # what was printed before the error comes first
    Printer.for_errors(printer.color.get()).error(message, hint)
    return code


def _is_directory_there() -> bool:
    """Whether the current directory still exists."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _discard_typed_ahead() -> None:
    """After a question or a prompt, the rest of a slow paste must not reach the shell."""
    keyboard = sys.modules.get("clinvk.terminal.keyboard")
    if keyboard is None:  # nothing was asked
        return
    with suppress(KeyboardInterrupt):
        if keyboard.discard_rest():
            # Only to print something.
            from clinvk.terminal import printer
            from clinvk.terminal.printer import Printer

            with suppress(OSError, ValueError):
                Printer.for_errors(printer.color.get()).notice(
                    "input that arrived after the prompt was discarded, so that the shell does not "
                    "execute it; type it again if you need it"
                )


def _fail_usage(error: Any) -> int:
    """Report an error that click found in the command line, in clinvk's words."""
    # Only for a mistake.
    from clinvk.cmd.usage.wording import describe

    ctx = getattr(error, "ctx", None)
    without_command = bool(ctx and ctx.meta.get(ASKED_WITHOUT_COMMAND))
    said = describe(error, without_command=without_command)
    return fail(said.message, said.hint, said.exit_code)


def _message(error: Any) -> str:
    return str(error.format_message())
