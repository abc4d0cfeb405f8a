"""`clinvk "PROMPT"`, which is `clinvk ask`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec.structs import replace

from clinvk.cmd.app import ASKED_WITHOUT_COMMAND, new_app
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.holding import until_end
from clinvk.cmd.options.json_errors import with_json_errors
from clinvk.cmd.options.prompt_flags import PromptFlags
from clinvk.cmd.options.session_flags import check_flags, session_ref
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.options.turn import FROM_TABLE, TurnOptions, with_turn_options
from clinvk.errors import UsageError
from clinvk.model.session_ref import SessionById

if TYPE_CHECKING:
    from clinvk.config.schema import Loaded
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.model.request import Request
    from clinvk.model.session import Session

app = new_app()
MAX_COMMAND = 60  # characters that a mistyped command has at most


@app.command(context_settings={"allow_extra_args": True})
@with_storage_options
@with_json_errors
@with_turn_options()
def ask(
    ctx: typer.Context,
    words: opt.Prompt = None,
    backend: opt.Backend = None,
    continue_: Annotated[
        bool,
        typer.Option("--continue", "-c", help="Continue the last session in this directory."),
    ] = False,
    anywhere: Annotated[
        bool, typer.Option("--anywhere", help="With -c: the last session in any directory.")
    ] = False,
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            metavar="NAME",
            help="Use the session of this name; create it if needed.",
            autocompletion=opt.complete_sessions,
        ),
    ] = None,
    auto_save: Annotated[
        str | None, typer.Option("--auto-save", metavar="NAME", help="Same as --session.")
    ] = None,
    to: opt.To = None,
    replay: opt.Replay = False,
    history: Annotated[
        int,
        typer.Option(
            "--history",
            min=0,
            metavar="N",
            help="Start with the last N sessions of this directory as context.",
        ),
    ] = 0,
    new: Annotated[
        bool,
        typer.Option("--new", help="Start a new session, even if session.auto_resume is on."),
    ] = False,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            metavar="NAME",
            help="Start the session from a template; see: clinvk templates list.",
            autocompletion=opt.complete_templates,
        ),
    ] = None,
    workdir: opt.Workdir = None,
    file: opt.File = None,
    edit: opt.Edit = False,
    output_format: opt.Format = None,
    as_json: opt.PromptJson = False,
    quiet: opt.PromptQuiet = False,
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
    """Send a prompt and stream the answer.

    The prompt is an argument, a file (--file), standard input, or written in an editor (--edit).
    `clinvk "PROMPT" -` appends standard input to the prompt. Arguments after -- are passed to the
    backend."""
    name = _session_name(session, auto_save)
    check_flags({
        "-c": continue_, "--anywhere": anywhere, "--session": name, "--history": history,
        "--new": new, "--to": to, "--replay": replay, "--ephemeral": ephemeral, "--title": title,
        "--tag": tag, "--template": template,
    })  # fmt: skip
    flags = PromptFlags(
        backend=backend, to=to, replay=replay, workdir=workdir, output_format=output_format, raw=raw,
        dry_run=dry_run, ephemeral=ephemeral, timeout=timeout, stall_timeout=stall_timeout,
        options=options, option=option, fail_on_denied=fail_on_denied, lenient=lenient,
        expand=expand, no_wait=no_wait, verbose=verbose, title=title, tag=tag, as_json=as_json,
        quiet=quiet,
    )  # fmt: skip
    loaded = opt.load_config(config)
    behind = opt.passthrough_args(ctx)
    if words and not behind:
        of_prompt = bool(history or template or to or replay or new)
        _check_words(ctx, words, new=not (continue_ or name), of_prompt=of_prompt)
    opt.output_options(loaded, flags)  # report errors before the user writes a prompt
    ref = session_ref(continue_=continue_, anywhere=anywhere, name=name, history=history, new=new)

    def send(prompt: str, args: list[str]) -> int:
        # Only once the flags are valid: it is a third of the start.
        from clinvk.dispatch.dispatcher import Dispatcher

        if template is not None:
            return _ask_with_template(prompt, args, loaded, flags, template, name, config)
        request = opt.build_request(prompt, args, ref, flags)
        return run_request(until_end(Dispatcher(loaded)), request, flags)

    if edit:
        is_sent = not (dry_run or loaded.config.unified_flags.dry_run)
        return send_edited(words, file, behind, send, is_sent=is_sent)
    return send(*opt.read_prompt(words, file, behind))


def _ask_with_template(
    prompt: str,
    args: list[str],
    loaded: Loaded,
    flags: PromptFlags,
    template: str,
    name: str | None,
    config: Path | None,
) -> int:
    """Start a session from the template, and send the prompt to it. If the prompt cannot be sent,
    no session is created."""
    # Only with --template.
    from clinvk.cmd.sessions.common import open_manager

    # Only once the flags are valid: it is a third of the start.
    from clinvk.dispatch.dispatcher import Dispatcher

    manager = open_manager(config)
    session_id = manager.create_session(
        flags.title, template, name=name, backend=flags.backend, tags=flags.tag or ()
    )
    begun = False
    try:
        flags = replace(flags, title=None, tag=None)  # the session has them already
        request = opt.build_request(prompt, args, SessionById(session_id), flags)
        code = run_request(until_end(Dispatcher(loaded)), request, flags)
        begun = manager.get_session(session_id).turns > 0
        return code
    finally:
        if not begun:
            manager.delete_session(session_id)


def send_edited(
    words: list[str] | None,
    file: str | None,
    args: list[str],
    send: Callable[[str, list[str]], int],
    *,
    is_sent: bool,
) -> int:
    """Send what the user writes in an editor, starting from the prompt on the command line; return
    the exit code. What could not be sent, or is not with `--dry-run`, is kept in a file."""
    # Only with --edit.
    from clinvk.cmd.options.editor import Draft

    text = ""
    if words or file is not None:
        text, args = opt.read_prompt(words, file, args)
    draft = Draft(text)
    text = draft.edit()
    draft.save(text)
    code = 1
    try:
        code = send(text, args)
    finally:
        if code == 0 and is_sent:
            draft.discard()
        else:
            draft.keep()
    return code


def run_request(dispatcher: Dispatcher, request: Request, flags: PromptFlags) -> int:
    """Run the request, or print what it would do; return the exit code."""
    # Only a command that runs something needs it.
    from clinvk.cmd.drive.unread_stdin import report_unread_stdin

    settings = opt.output_options(dispatcher.config, flags)
    with report_unread_stdin(settings.color, quiet=flags.quiet):
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
            f"--session {session} and --auto-save {auto_save} name one session twice",
            "leave out one of them",
        )
    return session or auto_save


def _confirm_elsewhere(problem: str, other: Session) -> bool:
    # Only to ask a person.
    from clinvk.terminal.questions import confirm
    from clinvk.text.duration import format_age

    return confirm(
        f"{problem}.\nThe last one is {other.id} in {other.cwd} ({format_age(other.updated_at)}): "
        f"{other.label[:60]}\nContinue it?"
    )


def _check_words(ctx: typer.Context, words: list[str], *, new: bool, of_prompt: bool) -> None:
    """Raise `UsageError` if no command was given and the prompt looks like one. `of_prompt`: an
    option says that it is a prompt, so that only the very name of a command is refused."""
    if not ctx.meta.get(ASKED_WITHOUT_COMMAND) or words[1:] == [opt.STDIN]:
        return
    text = words[0] if len(words) == 1 else ""
    if text.count(" ") > 1 or len(text) > MAX_COMMAND:
        return
    # Only if it may be a command.
    from clinvk.cmd.sessions import group
    from clinvk.cmd.usage.guesses import check_words

    root: Any = ctx.find_root().command
    if of_prompt and words[0] not in {*root.modules, *root.aliases}:
        return
    check_words(words, [*root.modules, *root.aliases], group.COMMANDS, new=new)
