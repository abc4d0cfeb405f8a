"""`clinvk resume [ID] [PROMPT]`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.holding import until_end
from clinvk.cmd.options.json_errors import with_json_errors
from clinvk.cmd.options.prompt_flags import PromptFlags
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.options.turn import FROM_TABLE, TurnOptions, with_turn_options
from clinvk.cmd.options.words import LITERAL_MARK
from clinvk.errors import SessionError, UsageError
from clinvk.model.session_ref import SessionById
from clinvk.terminal import printer

if TYPE_CHECKING:
    from clinvk.config.schema import Loaded
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.model.session import Session
    from clinvk.sessions.lookup import SessionLookup

app = new_app()
MAX_LISTED = 500  # sessions to pick from


@app.command(context_settings={"allow_extra_args": True})
@with_storage_options
@with_json_errors
@with_turn_options()
def resume(
    ctx: typer.Context,
    session_id: opt.SessionId = None,
    words: opt.Prompt = None,
    last: Annotated[
        bool, typer.Option("--last", help="Resume the session used last, in any directory.")
    ] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Pick a session from a list.")
    ] = False,
    here: Annotated[bool, typer.Option("--here", help="Only sessions in this directory.")] = False,
    backend: opt.Backend = None,
    with_tag: Annotated[
        str | None,
        typer.Option(
            "--tag",
            metavar="TAG",
            help="Only sessions with this tag.",
            autocompletion=opt.complete_tags,
        ),
    ] = None,
    native: opt.Native = False,
    to: opt.To = None,
    replay: opt.Replay = False,
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
    fail_on_denied: opt.FailOnDenied = False,
    lenient: opt.Lenient = False,
    expand: opt.Expand = False,
    no_wait: opt.NoWait = False,
    verbose: opt.Verbose = False,
    config: opt.Config = None,
) -> Any:
    """Resume a session: by its id, the beginning of it, or the backend's own id.

    Without PROMPT, the interactive prompt is opened on it. With --last there is no ID. With
    neither, you pick a session from a list."""
    # Only once the session is known.
    from contextvars import copy_context

    # Only once the session is known.
    from clinvk.cmd.ask import is_interactive
    from clinvk.cmd.interactive.opened import OpenedPrompt, check_interactive
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.repl.restored import describe_restored

    flags = PromptFlags(
        backend=backend, to=to, replay=replay, workdir=workdir, output_format=output_format, raw=raw,
        dry_run=dry_run, ephemeral=ephemeral, timeout=timeout, stall_timeout=stall_timeout,
        options=options, option=option, fail_on_denied=fail_on_denied, lenient=lenient,
        expand=expand, no_wait=no_wait, on_limit=on_limit, max_wait=max_wait, fallback=fallback,
        ignore_limit=ignore_limit, verbose=verbose, as_json=as_json, quiet=quiet,
        worktree=worktree, base=base, dirty=dirty, setup=setup,
    )  # fmt: skip
    if ephemeral:
        raise UsageError(
            "resume and --ephemeral cannot be used together: nothing is saved",
            "leave out --ephemeral",
        )
    behind = opt.passthrough_args(ctx)
    loaded = opt.load_config(config)
    words = list(words or [])
    sentence = session_id is not None and (
        any(map(str.isspace, session_id)) or session_id.startswith(LITERAL_MARK)
    )
    if session_id is not None and (last or sentence or (interactive and not words)):
        words.insert(0, session_id)  # the first word is the prompt, since the session is known
        session_id = None
    if native:
        # Only with --native.
        from clinvk.cmd.drive.screen import check_native

        check_native(flags, {"--file": file, "--edit": edit, "--plain": plain}, words)
    dispatcher = until_end(Dispatcher(loaded))
    found = _find_session(
        dispatcher.sessions, session_id.removeprefix(LITERAL_MARK) if session_id else None,
        last=last and not interactive, here=here, backend=backend, tag=with_tag,
    )  # fmt: skip
    if native:
        # Only with --native.
        from clinvk.cmd.drive.screen import open_native

        return open_native(loaded, SessionById(found.id), flags, behind)
    has_prompt = bool(words or file or behind or edit)
    if not has_prompt and is_interactive():
        check_interactive(flags, loaded)
        return OpenedPrompt(
            loaded=loaded, flags=flags, ref=SessionById(found.id), config=config,
            context=copy_context(),
        )  # fmt: skip
    if ctx.parent and ctx.parent.info_name in ("sessions", "session"):
        told = describe_restored(found, dispatcher.store.messages(found.id))
        printer.Printer.for_errors(printer.color.get()).notice(told)
    opt.output_options(loaded, flags)  # report errors before the user writes a prompt
    if edit:
        # Only with --edit.
        from clinvk.cmd.ask import send_edited

        return send_edited(
            words, file, behind,
            lambda prompt, args: _send(dispatcher, found.id, prompt, args, flags),
            is_sent=not (dry_run or loaded.config.unified_flags.dry_run),
        )  # fmt: skip
    if words or file or behind or not sys.stdin.isatty():
        prompt, args = opt.read_prompt(words, file or None, behind)
    else:
        typed = _ask_for_prompt(found.id, loaded, flags)
        if typed is None:
            return 0
        prompt, args = typed, []
    return _send(dispatcher, found.id, prompt, args, flags)


def _send(
    dispatcher: Dispatcher, session_id: str, prompt: str, args: list[str], flags: PromptFlags
) -> int:
    # Only once the session is known.
    from clinvk.cmd.ask import run_request

    if not prompt.strip():
        raise UsageError("the prompt is empty", f'try: clinvk resume {session_id} "…"')
    request = opt.build_request(prompt, args, SessionById(session_id), flags)
    return run_request(dispatcher, request, flags)


def _ask_for_prompt(session_id: str, loaded: Loaded, flags: PromptFlags) -> str | None:
    """The prompt that the user types; None without one."""
    # Only to type one.
    from clinvk.terminal import prompt as editor
    from clinvk.terminal.prompt_history import PromptHistory

    dry_run = flags.dry_run or loaded.config.unified_flags.dry_run
    history = PromptHistory.of(loaded, dry_run=dry_run)
    color = printer.wants_color(sys.stderr, loaded.config.output.color)
    return editor.read_prompt(f"{session_id} >", history, color=color)


def _find_session(
    sessions: SessionLookup,
    session_id: str | None,
    *,
    last: bool,
    here: bool,
    backend: str | None,
    tag: str | None,
) -> Session:
    """The session to resume; without an id or `last`, one picked from a list.
    Raises `SessionError`."""
    # Only once the flags are valid.
    from clinvk.sessions.lookup import TASKS_SKIPPED_HINT, resume_by_id_hint
    from clinvk.store.base import Query

    cwd = os.path.realpath(os.getcwd()) if here else None
    if session_id is not None:
        found = sessions.lookup_or_last(session_id)
        if not Query(cwd=cwd, tag=tag).matches(found):
            wanted = f"tagged {tag!r}" if tag else "of this directory"
            raise SessionError(
                f"session {found.id} is not {wanted}", "leave out " + ("--tag" if tag else "--here")
            )
        return found
    query = Query(cwd=cwd, backend=backend, tag=tag, limit=1 if last else MAX_LISTED)
    matches = sessions.list_resumable(query)
    if not matches:
        task = sessions.find_task_session(query)
        if not (task or sessions.store.find_ids("", 1)):
            raise SessionError("there are no sessions yet", 'start one: clinvk "your prompt"')
        raise SessionError(
            f"there is no session to resume{TASKS_SKIPPED_HINT if task else ''}",
            resume_by_id_hint(task) if task else "see them all: clinvk sessions list",
        )
    if last:
        return matches[0]
    from clinvk.terminal.picker import pick  # prompt_toolkit: only to pick

    return pick(matches, sessions.store.messages)
