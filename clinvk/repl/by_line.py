"""The prompt without a screen: one line after another, from a pipe or on a terminal that knows no
escape sequences."""

from __future__ import annotations

import sys

from clinvk.errors import UsageError
from clinvk.process import ownership
from clinvk.repl.actions import CANCELLED, Action, Exit, Fill, OnTerminal, Send
from clinvk.repl.sitting import Sitting
from clinvk.terminal import keyboard
from clinvk.terminal import printer as show
from clinvk.terminal.printer import Printer


class LineFront:
    def __init__(self, color: str) -> None:
        self.printer = Printer.for_errors(color)
        self.out = show.for_output()

    def clear(self) -> None:
        """There is nothing that could be cleared."""


def run_by_line(sitting: Sitting, first: str | None = None) -> int:
    """Handle lines until the end of the input; return the exit code. On a terminal that is 0, on a
    pipe that of the last failure; there, Ctrl-C ends it."""
    sitting.front = LineFront(sitting.config.config.output.color)
    on_terminal = sys.stdin.isatty()
    if on_terminal and sitting.restored is not None:
        sitting.announce()
    ownership.prepare_for_many()
    action: Action | None = Send(first) if first else None
    while True:
        try:
            while action is not None:
                if isinstance(action, Exit):
                    return action.code or _leave(sitting, on_terminal=on_terminal)
                action = _perform(sitting, action)
            if sitting.lines.is_ended or (not on_terminal and sitting.code == CANCELLED):
                return CANCELLED
            line = _ask(sitting) if on_terminal else _read(sitting)
        except KeyboardInterrupt:
            if not on_terminal:
                raise
            continue
        if line is None:
            return _leave(sitting, on_terminal=on_terminal)
        action = sitting.handle(line)
        sys.stdout.flush()


def _leave(sitting: Sitting, *, on_terminal: bool) -> int:
    if not on_terminal:
        return sitting.code
    sitting.say_goodbye()
    return 0


def _ask(sitting: Sitting) -> str | None:
    return keyboard.read_lines(f"{sitting.conversation.backend}> ")


def _read(sitting: Sitting) -> str | None:
    """The next line of stdin that is text; None at its end."""
    while line := sys.stdin.buffer.readline():
        try:
            return line.decode("utf-8-sig").replace("\0", "").rstrip("\r\n")
        except UnicodeDecodeError as error:
            sitting.report(
                UsageError(f"stdin: not UTF-8 text: {error.reason} at byte {error.start}")
            )
    return None


def _perform(sitting: Sitting, action: Action) -> Action | None:
    """Do it, and return what follows."""
    match action:
        case Send():
            return sitting.attempt(lambda: _send(sitting, action))
        case OnTerminal(run=run):
            return sitting.attempt(run)
        case Fill(text=text, offered=False):  # there is no input line: what was edited is sent
            return Send(text) if text.strip() else None
    return None


def _send(sitting: Sitting, action: Send) -> None:
    conversation = sitting.conversation
    request, created = conversation.begin(conversation.request(action.prompt, action.given))
    result = None
    try:
        conversation.watch(request)
        result = sitting.lines.show(conversation, request)
    finally:
        if result is None:
            conversation.abandon(created)
    if result is None:
        sitting.code = CANCELLED
        return
    conversation.account(result)
    sitting.ended(result)
