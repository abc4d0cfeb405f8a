"""Opens the prompt on the terminal, and again after each thing that needed the terminal for itself."""

from __future__ import annotations

import sys

import anyio
from prompt_toolkit.input.typeahead import clear_typeahead

from clinvk.process import ownership
from clinvk.process.groups import unwrap_single_exception
from clinvk.repl.actions import Action, Exit, Fill, OnTerminal, Send
from clinvk.repl.screen.app import Screen
from clinvk.repl.sitting import Sitting
from clinvk.terminal import printer as show
from clinvk.terminal.keyboard import discard_waiting, restored_if_ended

SWITCH_INTERVAL = 0.001  # seconds that a thread may run before others get their turn


def run_on_screen(sitting: Sitting, first: str | None = None) -> int:
    """Open the prompt on the terminal; return the exit code, which is 0 unless a signal ended it."""
    ownership.prepare_for_turn()
    # Threads search long answers for secrets meanwhile: a key must not wait for them 5 ms each time.
    sys.setswitchinterval(SWITCH_INTERVAL)
    screen = Screen(sitting, first)
    sitting.front = screen
    fd = sys.stdin.fileno()
    _greet(sitting)
    action: Action | None = None
    while True:
        if action is None:
            with restored_if_ended(fd), unwrap_single_exception():
                action = anyio.run(screen.run)
        match action:
            case Exit(code=code):
                if not screen.is_gone and not code:
                    sitting.say_goodbye()
                clear_typeahead(screen.app.input)
                discard_waiting(fd)
                return code or screen.code
            case OnTerminal(run=run):
                action = sitting.attempt(run)
                if isinstance(action, (Send, Fill)):
                    screen.backlog.add_first(action)
                    action = None
            case _:
                action = None


def _greet(sitting: Sitting) -> None:
    if sitting.restored is not None:
        sitting.announce()
    else:
        sitting.say(
            f"clinvk, on {sitting.conversation.backend}. /help lists the commands, Ctrl-D exits.",
            show.DIM,
        )
