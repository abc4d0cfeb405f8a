"""The flags of `clinvk ask`, for typer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clinvk.cmd import ask as asking
from clinvk.cmd.app import new_app
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.json_errors import with_json_errors
from clinvk.cmd.options.prompt_flags import PromptFlags
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.options.turn import FROM_TABLE, TurnOptions, with_turn_options
from clinvk.cmd.options.words import ASKED_WITHOUT_COMMAND

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
            help="Use the session with this name; create it if needed.",
            autocompletion=opt.complete_sessions,
        ),
    ] = None,
    auto_save: Annotated[
        str | None, typer.Option("--auto-save", metavar="NAME", help="Same as --session.")
    ] = None,
    native: opt.Native = False,
    to: opt.To = None,
    replay: opt.Replay = False,
    history: Annotated[
        int,
        typer.Option(
            "--history",
            min=0,
            metavar="N",
            help="Start with the last N sessions in this directory as context.",
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
    worktree: opt.InWorktree = False,
    base: opt.Base = None,
    dirty: opt.DirtyFiles = None,
    setup: opt.Setup = None,
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
    on_limit: opt.OnLimit = None,
    max_wait: opt.MaxWait = None,
    fallback: opt.Fallback = None,
    ignore_limit: opt.IgnoreLimit = False,
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
) -> Any:
    """Send a prompt and stream the answer.

    The prompt is an argument, a file (--file), standard input, or written in an editor (--edit).
    Without one, on a terminal, the interactive prompt is opened; see: clinvk help repl.
    `clinvk "PROMPT" -` appends standard input to the prompt. Arguments after -- are passed to the
    backend."""
    flags = PromptFlags(
        backend=backend, to=to, replay=replay, workdir=workdir, output_format=output_format, raw=raw,
        dry_run=dry_run, ephemeral=ephemeral, timeout=timeout, stall_timeout=stall_timeout,
        options=options, option=option, fail_on_denied=fail_on_denied, lenient=lenient,
        expand=expand, no_wait=no_wait, on_limit=on_limit, max_wait=max_wait, fallback=fallback,
        ignore_limit=ignore_limit, verbose=verbose, title=title, tag=tag, as_json=as_json,
        quiet=quiet, worktree=worktree, base=base, dirty=dirty, setup=setup,
    )  # fmt: skip
    root: Any = ctx.find_root().command
    asked = asking.Asked(
        flags=flags, words=words, continue_=continue_, anywhere=anywhere, session=session,
        auto_save=auto_save, history=history, new=new, template=template, file=file, edit=edit,
        native=native, plain=plain, config=config, behind=opt.passthrough_args(ctx),
        commands=(*root.modules, *root.aliases) if ctx.meta.get(ASKED_WITHOUT_COMMAND) else (),
    )  # fmt: skip
    return asking.ask(asked)
