"""`clinvk "PROMPT"`, which is `clinvk ask`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from clinvk.cmd.options import reading as opt
from clinvk.cmd.options.holding import until_end
from clinvk.cmd.options.prompt_flags import PromptFlags
from clinvk.cmd.options.session_flags import check_flags, session_ref
from clinvk.cmd.options.words import typed_line
from clinvk.errors import UsageError
from clinvk.model.session_ref import LatestSession, SessionById

if TYPE_CHECKING:
    from clinvk.cmd.interactive.opened import OpenedPrompt
    from clinvk.config.schema import Loaded
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.model.request import Request
    from clinvk.model.session import Session
    from clinvk.model.session_ref import SessionRef

MAX_COMMAND = 60  # characters that a mistyped command has at most


class Asked(Struct, frozen=True, kw_only=True):
    """A command line of `ask`."""

    flags: PromptFlags
    words: list[str] | None
    continue_: bool = False
    anywhere: bool = False
    session: str | None = None
    auto_save: str | None = None
    history: int = 0
    new: bool = False
    template: str | None = None
    file: str | None = None
    edit: bool = False
    native: bool = False
    plain: bool = False
    config: Path | None = None
    behind: list[str] = []  # the words after `--`
    commands: tuple[str, ...] = ()  # those that the prompt may be meant as; none if one was given


def ask(asked: Asked) -> int | OpenedPrompt:
    """Send the prompt and show the answer; return the exit code. Without a prompt, on a terminal,
    return what opens the interactive one."""
    flags, behind = asked.flags, asked.behind
    name = _session_name(asked.session, asked.auto_save)
    check_flags({
        "-c": asked.continue_, "--anywhere": asked.anywhere, "--session": name,
        "--history": asked.history, "--new": asked.new, "--to": flags.to, "--replay": flags.replay,
        "--ephemeral": flags.ephemeral, "--title": flags.title, "--tag": flags.tag,
        "--template": asked.template,
    })  # fmt: skip
    loaded = opt.load_config(asked.config)
    if asked.native:
        return _open_native(asked, loaded, name)
    if asked.words and not behind:
        _check_words(asked, asked.words, new=not (asked.continue_ or name))
    opt.output_options(loaded, flags)  # report errors before the user writes a prompt
    ref = session_ref(
        continue_=asked.continue_, anywhere=asked.anywhere, name=name, history=asked.history,
        new=asked.new,
    )  # fmt: skip

    def send(prompt: str, args: list[str]) -> int:
        # Only once the flags are valid: it is a third of the start.
        from clinvk.dispatch.dispatcher import Dispatcher

        if asked.template is not None:
            return _ask_with_template(
                prompt, args, loaded, flags, asked.template, name, asked.config
            )
        request = opt.build_request(prompt, args, ref, flags)
        return run_request(until_end(Dispatcher(loaded)), request, flags)

    if not (asked.words or asked.file is not None or behind or asked.edit) and is_interactive():
        return _open_prompt(asked, loaded, ref)
    if asked.edit:
        is_sent = not (flags.dry_run or loaded.config.unified_flags.dry_run)
        return send_edited(asked.words, asked.file, behind, send, is_sent=is_sent)
    return send(*opt.read_prompt(asked.words, asked.file, behind))


def is_interactive() -> bool:
    """Whether a user is at a terminal, on which a prompt can be opened."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _open_prompt(asked: Asked, loaded: Loaded, ref: SessionRef) -> OpenedPrompt:
    # Only to open it.
    from contextvars import copy_context

    # Only to open it.
    from clinvk.cmd.interactive.opened import OpenedPrompt, check_interactive

    check_interactive(asked.flags, loaded)
    if isinstance(ref, LatestSession):
        ref = _find_last(loaded, ref, asked.flags)
    return OpenedPrompt(
        loaded=loaded, flags=asked.flags, ref=ref, template=asked.template, config=asked.config,
        context=copy_context(),
    )  # fmt: skip


def _find_last(loaded: Loaded, ref: LatestSession, flags: PromptFlags) -> SessionById:
    """The session that -c continues; one of another directory only if the user agrees. Raises
    `NoSessionHere`."""
    # Only to open the prompt.
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.sessions.lookup import NoSessionHere

    sessions = until_end(Dispatcher(loaded)).sessions
    try:
        found = sessions.find_last(flags.workdir, flags.backend, anywhere=ref.anywhere)
    except NoSessionHere as error:
        if error.elsewhere is None or not _confirm_elsewhere(error.message, error.elsewhere):
            raise
        found = error.elsewhere
    return SessionById(found.id)


def _open_native(asked: Asked, loaded: Loaded, name: str | None) -> int:
    # Only with --native.
    from clinvk.cmd.drive.screen import check_native, open_native

    others = {
        "--file": asked.file, "--edit": asked.edit, "--plain": asked.plain,
        "--history": asked.history, "--template": asked.template,
    }  # fmt: skip
    check_native(asked.flags, others, asked.words)
    ref = session_ref(
        continue_=asked.continue_, anywhere=asked.anywhere, name=name, history=0, new=asked.new
    )
    return open_native(loaded, ref, asked.flags, asked.behind)


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
    if flags.options.get("knowledge") is not None and not flags.quiet:
        # Only for an index.
        from clinvk.terminal.printer import ProgressBar

        dispatcher.index_progress = ProgressBar("reading documents")
    with report_unread_stdin(settings.color, quiet=flags.quiet):
        return _run_request(dispatcher, request, flags, settings)


def _run_request(
    dispatcher: Dispatcher, request: Request, flags: PromptFlags, settings: opt.OutputOptions
) -> int:
    # Only a command that runs something needs them.
    from clinvk.cmd.drive import single
    from clinvk.sessions.lookup import NoSessionHere

    loaded = dispatcher.config
    wanted = opt.wanted_worktree(flags)
    if flags.dry_run or loaded.config.unified_flags.dry_run:
        code = single.print_dry_run(dispatcher, request, settings)
        if wanted is not None and settings.format == "text":
            print(f"# worktree: begins with {wanted.base or 'HEAD'}  (command line)")
        return code
    if (line := typed_line.get()) is not None:  # the interactive prompt sends it
        if wanted is not None:
            raise UsageError(
                "--worktree cannot be used for one message of a conversation",
                'open the prompt with it: clinvk --worktree; or run it by itself: clinvk --worktree "PROMPT"',
            )
        line.asked = request
        return 0
    _warn_of_open_home(loaded.home)
    if wanted is not None:
        # Only in a worktree.
        from clinvk.engine.prompt_run import in_own_worktree

        if not in_own_worktree(dispatcher, request):
            # Only in a worktree.
            from clinvk.cmd.drive.in_worktree import drive_in_worktree

            return drive_in_worktree(dispatcher, request, settings, wanted)
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
        f"{problem}.\nThe last one is {other.id} in {other.directory} ({format_age(other.updated_at)}): "
        f"{other.label[:60]}\nContinue it?"
    )


def _check_words(asked: Asked, words: list[str], *, new: bool) -> None:
    """Raise `UsageError` if no command was given and the prompt looks like one. If an option says
    that it is a prompt, only the very name of a command is refused."""
    if not asked.commands or words[1:] == [opt.STDIN]:
        return
    text = words[0] if len(words) == 1 else ""
    if text.count(" ") > 1 or len(text) > MAX_COMMAND:
        return
    # Only if it may be a command.
    from clinvk.cmd.sessions import group
    from clinvk.cmd.usage.guesses import check_words

    flags = asked.flags
    of_prompt = asked.history or asked.template or flags.to or flags.replay or asked.new
    if of_prompt and words[0] not in asked.commands:
        return
    check_words(words, asked.commands, group.COMMANDS, new=new)
