"""`clinvk "PROMPT"`, which is `clinvk ask`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.holding import until_end
from clinvk.cmd.options.json_errors import with_json_errors
from clinvk.cmd.options.prompt_flags import PromptFlags
from clinvk.cmd.options.session_flags import check_flags, session_ref
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.options.turn import FROM_TABLE, TurnOptions, with_turn_options
from clinvk.errors import UsageError
from clinvk.model.session_ref import SessionById
from clinvk.text.suggest import is_typo

if TYPE_CHECKING:
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.model.request import Request
    from clinvk.model.session import Session

app = new_app()


@app.command(context_settings={"allow_extra_args": True})
@with_storage_options
@with_json_errors
@with_turn_options()
def ask(
    ctx: typer.Context,
    words: opt.Prompt = None,
    backend: opt.Backend = None,
    continue_: Annotated[
        bool, typer.Option("--continue", "-c", help="Go on with the last session of this folder.")
    ] = False,
    anywhere: Annotated[
        bool, typer.Option("--anywhere", help="With -c: the last session of any folder.")
    ] = False,
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            metavar="NAME",
            help="The session of that name, made if needed.",
            autocompletion=opt.complete_sessions,
        ),
    ] = None,
    auto_save: Annotated[
        str | None, typer.Option("--auto-save", metavar="NAME", help="The same as --session.")
    ] = None,
    to: opt.To = None,
    replay: opt.Replay = False,
    history: Annotated[
        int,
        typer.Option(
            "--history", min=0, metavar="N", help="Begin with the last N sessions of this folder."
        ),
    ] = 0,
    new: Annotated[
        bool, typer.Option("--new", help="Start a session though session.auto_resume is on.")
    ] = False,
    workdir: opt.Workdir = None,
    file: opt.File = None,
    output_format: opt.Format = None,
    raw: opt.Raw = False,
    plain: opt.Plain = False,
    dry_run: opt.DryRun = False,
    ephemeral: opt.Ephemeral = False,
    timeout: opt.Timeout = None,
    stall_timeout: opt.StallTimeout = None,
    options: TurnOptions = FROM_TABLE,
    option: opt.Option = None,
    tag: opt.Tag = None,
    title: opt.Title = None,
    fail_on_denied: opt.FailOnDenied = False,
    lenient: opt.Lenient = False,
    expand: opt.Expand = False,
    no_wait: opt.NoWait = False,
    verbose: opt.Verbose = False,
    config: opt.Config = None,
) -> int:
    """Send a prompt to an AI CLI, and show its answer as it comes.

    The prompt is an argument, a file (--file), or standard input; `clinvk "PROMPT" -` appends
    standard input to the prompt. Arguments after -- are passed to the backend."""
    name = _session_name(session, auto_save)
    check_flags({
        "-c": continue_, "--anywhere": anywhere, "--session": name, "--history": history,
        "--new": new, "--to": to, "--replay": replay, "--ephemeral": ephemeral, "--title": title,
        "--tag": tag,
    })  # fmt: skip
    flags = PromptFlags(
        backend=backend, to=to, replay=replay, workdir=workdir, output_format=output_format, raw=raw,
        dry_run=dry_run, ephemeral=ephemeral, timeout=timeout, stall_timeout=stall_timeout,
        options=options, option=option, fail_on_denied=fail_on_denied, lenient=lenient,
        expand=expand, no_wait=no_wait, verbose=verbose, title=title, tag=tag,
    )  # fmt: skip
    loaded = opt.load_config(config)
    if words and len(words) > 1 and words[1] != opt.STDIN:
        _check_not_command(words)
    prompt, args = opt.read_prompt(words, file, opt.passthrough_args(ctx))
    if words and not args:
        _check_not_typo(words)
    ref = session_ref(continue_=continue_, anywhere=anywhere, name=name, history=history, new=new)
    request = opt.build_request(prompt, args, ref, flags)
    # Only once the flags are valid: it is a third of the start.
    from clinvk.dispatch.dispatcher import Dispatcher

    return run_request(until_end(Dispatcher(loaded)), request, flags)


def run_request(dispatcher: Dispatcher, request: Request, flags: PromptFlags) -> int:
    """Run the request, or say what it would do; the exit code."""
    # Only a command that runs something needs it.
    from clinvk.cmd.drive.unread_stdin import report_unread_stdin

    settings = opt.output_options(dispatcher.config, flags)
    with report_unread_stdin(settings.color):
        return _run_request(dispatcher, request, flags, settings)


def _run_request(
    dispatcher: Dispatcher, request: Request, flags: PromptFlags, settings: opt.OutputOptions
) -> int:
    # Only a command that runs something needs them.
    from clinvk.cmd.drive import single
    from clinvk.sessions.lookup import NoSessionHere

    loaded = dispatcher.config
    if flags.dry_run or loaded.config.unified_flags.dry_run:
        return single.print_dry_run(dispatcher, request, settings)
    _warn_of_open_home(loaded.home)
    try:
        return single.drive_prompt(dispatcher, request, settings)
    except NoSessionHere as error:
        if error.elsewhere is None or not _confirm_elsewhere(error.message, error.elsewhere):
            raise
        there = request.with_session(SessionById(error.elsewhere.id))
        return single.drive_prompt(dispatcher, there, settings)


def _warn_of_open_home(home: Path) -> None:
    # Only a command that runs something needs them.
    from clinvk.config.paths import home_problem, private_hint
    from clinvk.terminal import printer

    if problem := home_problem(home):
        printer.Printer.for_errors(printer.color.get()).warning(problem, private_hint(home))


def _session_name(session: str | None, auto_save: str | None) -> str | None:
    if session and auto_save and session != auto_save:
        raise UsageError(
            f"--session {session} and --auto-save {auto_save} are two names for one session",
            "leave out one of them",
        )
    return session or auto_save


def _confirm_elsewhere(problem: str, other: Session) -> bool:
    # Only to ask a person.
    from clinvk.terminal.questions import confirm
    from clinvk.text.duration import format_age

    return confirm(
        f"{problem}.\nThe last one is {other.id} in {other.cwd} ({format_age(other.updated_at)}): "
        f"{other.label[:60]}\nGo on there?"
    )


def _check_not_command(words: list[str]) -> None:
    """Several words that begin with what is almost a command are no prompt without its quotes."""
    # Cmd.main imports this module by name.
    from clinvk.cmd.main import COMMANDS

    near = [n for n in COMMANDS if n not in ("ask", "chat") and is_typo(words[0], n)]
    if near and near[0] != words[0]:
        raise UsageError(
            f"{words[0]!r} is not a command; did you mean: clinvk {near[0]} {words[1]}?",
            f"to send it as a prompt: clinvk ask -- {shlex.quote(' '.join(words))}",
        )


def _check_not_typo(words: list[str]) -> None:
    """What is almost a command was hardly meant for a paid model."""
    # Only to ask a person.
    from clinvk.terminal.questions import confirm

    if len(words) > 1 or not (meant := _similar_command(words[0])):
        return
    if meant == words[0]:
        raise UsageError(
            f"{meant!r} is a command, and stands before its options: clinvk {meant} …",
            f"to send it as a prompt: clinvk ask -- {shlex.quote(words[0])}",
        )
    question = f"{words[0]!r} looks like the command `clinvk {meant}`. Send it as a prompt?"
    if not confirm(question):
        raise UsageError(
            f"{words[0]!r} is not a command; did you mean: clinvk {meant}?",
            f"to send it as a prompt: clinvk ask -- {shlex.quote(words[0])}",
        )


def _similar_command(prompt: str) -> str | None:
    """The command that a prompt of one word is a typo away from, that it is a subcommand of, or
    that it spells out in one argument."""
    # Cmd.main imports this module by name.
    from clinvk.cmd.main import ALIASES, COMMANDS
    from clinvk.cmd.sessions import group

    first, *rest = prompt.split() or [""]
    names = [*COMMANDS, *ALIASES]
    if not rest and prompt.isidentifier():
        near = [name for name in names if is_typo(prompt, name)]
        return near[0] if near else f"sessions {prompt}" if prompt in group.COMMANDS else None
    if len(rest) == 1 and first in ("sessions", "session") and rest[0] in group.COMMANDS:
        return prompt
    return None
