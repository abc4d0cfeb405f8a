"""`clinvk repl`: the interactive prompt."""

from __future__ import annotations

from contextvars import copy_context
from typing import Annotated

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.interactive.opened import OpenedPrompt, check_interactive
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.prompt_flags import PromptFlags
from clinvk.cmd.options.session_flags import check_flags, session_ref
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.options.turn import FROM_TABLE, TurnOptions, with_turn_options
from clinvk.cmd.options.words import LITERAL_MARK
from clinvk.errors import UsageError

app = new_app()


@app.command(context_settings={"allow_extra_args": True})
@with_storage_options
@with_turn_options()
def repl(
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
    to: opt.To = None,
    workdir: opt.Workdir = None,
    worktree: opt.InWorktree = False,
    base: opt.Base = None,
    dirty: opt.DirtyFiles = None,
    setup: opt.Setup = None,
    plain: opt.Plain = False,
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
    lenient: opt.Lenient = False,
    expand: opt.Expand = False,
    verbose: opt.Verbose = False,
    config: opt.Config = None,
) -> OpenedPrompt:
    """Open the interactive prompt: a conversation, message by message.

    The options hold for all messages. On a pipe, each line of standard input is a message, and the
    answers are printed one after another; the exit code is that of the last one that failed. PROMPT
    is the first message.

    Commands of clinvk work at the prompt as in a shell, and /help lists those of the prompt."""
    flags = PromptFlags(
        backend=backend, to=to, replay=False, workdir=workdir, output_format=None, raw=False,
        dry_run=False, ephemeral=False, timeout=timeout, stall_timeout=stall_timeout,
        options=options, option=option, fail_on_denied=False, lenient=lenient, expand=expand,
        no_wait=False, on_limit=on_limit, max_wait=max_wait, fallback=fallback,
        ignore_limit=ignore_limit, verbose=verbose, title=title, tag=tag, worktree=worktree,
        base=base, dirty=dirty, setup=setup,
    )  # fmt: skip
    check_flags({
        "-c": continue_, "--anywhere": anywhere, "--session": session, "--history": history,
        "--new": new, "--to": to, "--title": title, "--tag": tag, "--template": template,
    })  # fmt: skip
    if len(words or []) > 1:
        raise UsageError(
            f"unexpected argument {(words or [])[1]!r} after the prompt {(words or [])[0]!r}",
            f'put the first message in quotes: clinvk repl "{" ".join(words or [])}"',
        )
    loaded = opt.load_config(config)
    check_interactive(flags, loaded)
    return OpenedPrompt(
        loaded=loaded, flags=flags, template=template, config=config, context=copy_context(),
        ref=session_ref(
            continue_=continue_, anywhere=anywhere, name=session, history=history, new=new
        ),
        first=words[0].removeprefix(LITERAL_MARK) if words else None,
        args=tuple(opt.passthrough_args(ctx)),
    )  # fmt: skip
