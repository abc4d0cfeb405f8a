"""A sitting at the prompt: what a typed line means, whatever it is typed into."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Protocol

from msgspec import Struct

from clinvk.config.schema import Loaded
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ClinvkError, UsageError
from clinvk.model.result import Result
from clinvk.model.session import MessageRole, Session
from clinvk.repl.actions import CANCELLED, Action, Exit, OnTerminal, Send
from clinvk.repl.command_lines import CommandLines, Offer
from clinvk.repl.conversation import Conversation
from clinvk.repl.project.output import Output
from clinvk.repl.restored import describe_restored
from clinvk.terminal import printer as show
from clinvk.terminal.printer import Printer
from clinvk.text.sanitize import one_line
from clinvk.text.suggest import similar

# `/etc/hosts` and `/* code */` are no commands.
_COMMAND = re.compile(r"/([a-z?][\w-]*|(?=$))(?:\s+|$)", re.IGNORECASE)
LAST_SHOWN = 600  # characters of the last message that are shown when a session is resumed


class Front(Protocol):
    """What the user looks at."""

    printer: Printer  # for notices and errors
    out: Printer  # for what a slash command has to say

    def clear(self) -> None:
        """Clear the screen."""


def _nothing(_sitting: Sitting, _words: list[str]) -> Iterable[Offer]:
    return ()


class SlashCommand(Struct, frozen=True):
    """`run` gets the sitting and the rest of the line, and says what follows; what it has to say, it
    prints with `sitting.say`. `complete` offers what can follow the words of its argument."""

    name: str
    argument: str  # as the help shows it
    help: str
    run: Callable[[Sitting, str], Action | None]
    complete: Callable[[Sitting, list[str]], Iterable[Offer]] = _nothing
    at_once: bool = False  # also while an answer streams; the others wait for its end


class CommandTable:
    def __init__(
        self, commands: Iterable[SlashCommand], aliases: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.commands = tuple(commands)
        self._by_name = {command.name: command for command in self.commands}
        self._aliases = aliases

    def find(self, name: str) -> SlashCommand:
        """The command of this name. Raises `UsageError`, which suggests one."""
        name = name.lower() or "help"
        found = self._by_name.get(self._aliases.get(name, name))
        if found is None:
            near = similar(name, self._by_name, most=1)
            meant = f"did you mean /{near[0]}?" if near else "see /help"
            raise UsageError(
                f"unknown command /{name}; {meant}",
                "to send it as a message, begin with a space",
            )
        return found


class Sitting:
    def __init__(
        self, conversation: Conversation, lines: CommandLines, table: CommandTable
    ) -> None:
        self.conversation = conversation
        self.lines = lines
        self.table = table
        self.front: Front | None = None  # once there is one
        self.shows_thinking = False
        self.thoughts = ""  # of the last turn
        self.answer = ""  # the last one
        self.shell_output: Output | None = None  # of the last command
        self.restored: Session | None = None  # a session that is to be announced
        self.code = 0  # how the last failure would have ended a command
        # What handles lines that begin with this character.
        self.prefixes: dict[str, Callable[[Sitting, str], Action | None]] = {}

    @property
    def config(self) -> Loaded:
        return self.conversation.dispatcher.config

    @property
    def printer(self) -> Printer:
        return self.front.printer if self.front else Printer.for_errors()

    def say(self, text: str, code: str | None = None) -> None:
        """Print one or more lines of text; `code` is a color."""
        out = self.front.out if self.front else show.for_output()
        for line in text.split("\n"):
            out.line(line, code)
        out.stream.flush()

    def report(self, error: ClinvkError) -> None:
        self.code = error.exit_code
        self.printer.error(error.message, error.hint)

    def handle(self, text: str) -> Action | None:
        """What follows from a typed line, or lines; errors are printed. A text that begins with a
        space is a message, whatever it looks like."""
        return self.attempt(lambda: self.read(text))

    def attempt(self, run: Callable[[], Action | None]) -> Action | None:
        """What `run` returns; an error is printed, and Ctrl-C ends it."""
        try:
            return run()
        except ClinvkError as error:
            self.report(error)
        except KeyboardInterrupt:
            self.code = 7
        return None

    def read(self, text: str) -> Action | None:
        """`handle`, which raises `ClinvkError`."""
        if not text.strip():
            return None
        if text[0].isspace():
            return Send(text.strip())
        if found := _COMMAND.match(text):
            command = self.table.find(found.group(1))
            return command.run(self, text[found.end() :].strip())
        if handler := self.prefixes.get(text[0]):
            return handler(self, text[1:].strip())
        if argv := self.lines.read(text, self.is_session):
            return self.command_line(argv, text)
        return Send(text.strip())

    def waits(self, text: str) -> bool:
        """Whether this has to wait for the answer that streams."""
        found = _COMMAND.match(text)
        if found is None:
            return bool(text.strip())
        try:
            return not self.table.find(found.group(1)).at_once
        except ClinvkError:
            return False

    def is_session(self, text: str) -> bool:
        with suppress(ClinvkError):
            return self.conversation.dispatcher.sessions.lookup_or_last(text) is not None
        return False

    # Command lines.

    def command_line(self, argv: list[str], text: str | None = None) -> OnTerminal:
        """Run a command line of clinvk, which has the terminal to itself."""
        return OnTerminal(lambda: self._run(argv), text or f"clinvk {shlex.join(argv)}")

    def _run(self, argv: list[str]) -> Action | None:
        ended = self.lines.run(argv)
        if ended.code:
            self.code = ended.code
        if self.lines.is_ended:
            return Exit(CANCELLED)
        self._notice_changes()
        if ended.session is not None:
            self.resume(ended.session)
        if ended.asked is not None:
            return Send(ended.asked.prompt, ended.asked)
        return None

    def _notice_changes(self) -> None:
        """The command may have changed the configuration or the session."""
        conversation = self.conversation
        try:
            if (loaded := self.lines.load()) != self.config:
                old = conversation.dispatcher
                new = Dispatcher(loaded)
                if new.config.config.session.storage == old.config.config.session.storage:
                    old.close()
                    conversation.reload(new)
                else:
                    self.printer.notice("the new store is used by the next prompt that is opened")
            session = conversation.session
            if session is not None and not conversation.refresh():
                self.printer.notice(f"session {session.id} is gone; the next message starts one")
        except ClinvkError as error:
            self.report(error)

    # Sessions.

    def resume(self, text: str) -> None:
        """Continue a session, and report what was restored. Raises `SessionError`."""
        session = self.conversation.dispatcher.sessions.lookup_or_last(text)
        self.conversation.resume(session)
        self.announce()

    def announce(self) -> None:
        """Report what was restored of the session."""
        session = self.conversation.session
        if session is None:
            return
        try:
            messages = self.conversation.dispatcher.store.messages(session.id)
        except ClinvkError as error:
            self.report(error)
            return
        self.printer.notice(describe_restored(session, messages))
        self.answer = next(
            (m.content for m in reversed(messages) if m.role is MessageRole.ASSISTANT), ""
        )
        if messages:
            last = one_line(messages[-1].content[: 2 * LAST_SHOWN])
            cut = last if len(last) <= LAST_SHOWN else f"{last[:LAST_SHOWN]}…"
            self.say(f"{messages[-1].speaker}: {cut}", show.DIM)

    def say_goodbye(self) -> None:
        """Say how to come back."""
        session = self.conversation.session
        if session is not None and self.conversation.has_begun:
            self.say(f"resume with: clinvk resume {session.id}", show.DIM)
            if unapplied := self.conversation.worktree.describe_unapplied():
                self.say(unapplied, show.DIM)

    def ended(self, result: Result) -> None:
        """Take the result of a turn into account."""
        if result.has_answer:
            self.answer = result.text
        if result.exit_code:
            self.code = result.exit_code
