"""Open the interactive prompt for a command, and run the command lines that are typed into it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from clinvk.cmd.drive import single
from clinvk.cmd.drive.signals import noting_end_signals
from clinvk.cmd.interactive.opened import OpenedPrompt, TypedLine
from clinvk.cmd.interactive.typed import read_typed
from clinvk.cmd.options import reading as opt
from clinvk.cmd.options.words import typed_line
from clinvk.config.schema import Loaded
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.dispatch.planning.request_check import check_opening
from clinvk.model.plan import Worktree
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.model.session_ref import SessionById
from clinvk.repl.command_lines import LineResult, Offer
from clinvk.repl.conversation import Conversation
from clinvk.repl.project.shell import run_shell
from clinvk.repl.sitting import Sitting
from clinvk.repl.slash import TABLE
from clinvk.terminal.keyboard import is_dumb
from clinvk.terminal.printer import Printer

PLACEHOLDER = "-"  # for the prompt of a request that is not sent

Run = Callable[[Sequence[str]], int]


def open_prompt(
    opened: OpenedPrompt, run: Run, commands: Collection[str], root: Callable[[], Any]
) -> int:
    """Open it; return the exit code. `run` runs a command line. Raises `ClinvkError` if there is no
    backend or no such session."""
    request = opt.build_request(PLACEHOLDER, list(opened.args), opened.ref, opened.flags)
    check_opening(request)
    with Dispatcher(opened.loaded) as dispatcher:
        wanted = opt.wanted_worktree(opened.flags)
        conversation = Conversation(dispatcher, request, opened.template, wanted)
        lines = _CommandLines(opened, run, commands, root)
        sitting = Sitting(conversation, lines, TABLE)
        sitting.prefixes["!"] = run_shell
        try:
            session = conversation.open()
            if opened.template is not None:
                _check_template(opened.loaded, opened.template)
            if session is None:
                dispatcher.selector.select(request.backend)
            sitting.restored = session
            if wanted is not None and not conversation.worktree.exists:
                _check_worktree(conversation, wanted)
            _explain_approval(dispatcher, request, opened)
            return _run(sitting, opened)
        finally:
            conversation.close()
            conversation.dispatcher.close()


def _check_template(loaded: Loaded, name: str) -> None:
    """Raise `ConfigError` before a message is typed that could not be sent."""
    # Only with --template.
    from clinvk.sessions.templates import load_template

    load_template(loaded.home, name)


def _check_worktree(conversation: Conversation, wanted: Worktree) -> None:
    """Raise `ClinvkError` before a message is typed that could not be sent."""
    # Only with --worktree.
    from clinvk.repl.project.worktree import check_possible

    session, dispatcher = conversation.session, conversation.dispatcher
    directory = session.directory if session is not None else None
    check_possible(wanted, directory or conversation.directory, dispatcher.env)


def _explain_approval(dispatcher: Dispatcher, request: Request, opened: OpenedPrompt) -> None:
    """Tell a new user that nothing can be edited by default, as before a first single prompt."""
    output = opt.output_options(opened.loaded, opened.flags)
    if single.is_first_prompt(dispatcher, request, output):
        single.explain_approval(dispatcher.plan(request), Printer.for_errors(output.color))


def _run(sitting: Sitting, opened: OpenedPrompt) -> int:
    if sys.stdin.isatty() and sys.stdout.isatty() and not is_dumb():
        # prompt_toolkit, 80 ms: only for a user who is about to type.
        from clinvk.repl.screen.opening import run_on_screen

        return run_on_screen(sitting, opened.first)
    # Only without a screen.
    from clinvk.repl.by_line import run_by_line

    return run_by_line(sitting, opened.first)


@contextmanager
def _config_file(path: Path | None) -> Iterator[None]:
    """Let commands that name no configuration file use this one."""
    before = os.environ.get("CLINVK_CONFIG")
    if path is None:
        yield
        return
    os.environ["CLINVK_CONFIG"] = str(path.absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ["CLINVK_CONFIG"]
        else:
            os.environ["CLINVK_CONFIG"] = before


class _CommandLines:
    """The command line, as the prompt needs it."""

    def __init__(
        self, opened: OpenedPrompt, run: Run, commands: Collection[str], root: Callable[[], Any]
    ) -> None:
        self._opened = opened
        self._run = run
        self._names = commands
        self._make_root = root
        self.is_ended = False

    def load(self) -> Loaded:
        return self._opened.context.copy().run(opt.load_config, self._opened.config)

    def read(self, text: str, is_session: Callable[[str], bool]) -> list[str] | None:
        return read_typed(text, self._commands, is_session)

    def names(self) -> Sequence[str]:
        return [*self._names]

    def run(self, argv: Sequence[str]) -> LineResult:
        line = TypedLine()
        with _config_file(self._opened.config):
            # As of the command that opened the prompt: the store that it named.
            code = self._opened.context.copy().run(self._run_typed, line, argv)
        sys.stdout.flush()
        sys.stderr.flush()
        resumed = None
        if line.opened is not None and isinstance(line.opened.ref, SessionById):
            resumed = line.opened.ref.text
        return LineResult(code, line.asked, resumed)

    def _run_typed(self, line: TypedLine, argv: Sequence[str]) -> int:
        typed_line.set(line)
        with noting_end_signals() as signals:
            try:
                return self._run(argv)
            finally:
                self.is_ended = bool(signals)

    def complete(self, words: Sequence[str], incomplete: str) -> list[Offer]:
        # Typer, 35 ms: only to complete.
        from clinvk.cmd.options.shells import offers

        return offers(self._root, words, incomplete)

    def edit(self, text: str) -> str:
        # Only to edit something.
        from clinvk.cmd.options.editor import Draft

        draft = Draft(text)
        edited = draft.edit()
        draft.discard()
        return edited

    def show(self, conversation: Conversation, request: Request) -> Result | None:
        with noting_end_signals() as signals:
            try:
                return self._show(conversation, request)
            finally:
                self.is_ended = bool(signals)

    def _show(self, conversation: Conversation, request: Request) -> Result | None:
        dispatcher, wanted = conversation.dispatcher, conversation.worktree.wanted
        output = opt.output_options(dispatcher.config, self._opened.flags)
        if wanted is not None:
            # Only in a worktree.
            from clinvk.engine.prompt_run import in_own_worktree

            if not in_own_worktree(dispatcher, request):
                # Only in a worktree.
                from clinvk.cmd.drive.in_worktree import run_in_worktree

                return run_in_worktree(dispatcher, request, output, wanted)
        return single.drive_turn(dispatcher, request, output, conversation.is_told)

    @cached_property
    def _root(self) -> Any:
        return self._make_root()

    @cached_property
    def _commands(self) -> dict[str, Collection[str]]:
        """The commands with their subcommands."""
        return _Lazily(dict.fromkeys(self._names), self._subcommands)

    def _subcommands(self, name: str) -> Collection[str]:
        found = self._root.get_command(None, name)
        if not hasattr(found, "list_commands"):
            return ()
        # Typer, 35 ms: only if a line begins with a command.
        from clinvk.cmd.app import SHORT_NAMES

        names = found.list_commands(None)
        return (*names, *(short for short, name in SHORT_NAMES.items() if name in names))


class _Lazily(dict[str, Any]):
    """A dictionary that computes a value when it is needed first."""

    def __init__(self, names: dict[str, None], compute: Callable[[str], Any]) -> None:
        super().__init__(names)
        self._compute = compute

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        if found is None:
            found = self[name] = self._compute(name)
        return found
