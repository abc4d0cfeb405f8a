"""What the keys do at the prompt."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition, is_searching
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.key_binding.key_processor import KeyProcessor
from prompt_toolkit.keys import Keys

from clinvk.repl.screen.pastes import Pastes
from clinvk.terminal.keyboard import PASTE_SETTLE, is_waiting

PASTED = 4  # characters that no one types at once


class Keyed(Protocol):
    """What the keys act on."""

    buffer: Buffer
    pastes: Pastes

    def interrupt(self) -> None: ...
    def end_of_input(self) -> None: ...
    def edit(self) -> None: ...
    def toggle_thinking(self) -> None: ...
    def clear_hint(self) -> None: ...
    def on_key(self, call: Callable[[KeyProcessor], None]) -> None: ...


def make_keys(screen: Keyed) -> KeyBindings:
    keys = KeyBindings()
    pace = _Pace()
    buffer = screen.buffer
    typing = ~is_searching
    is_empty = Condition(lambda: not buffer.text)

    @keys.add("enter", filter=typing)
    def _enter(event: KeyPressEvent) -> None:
        screen.clear_hint()
        if buffer.complete_state is not None and buffer.complete_state.current_completion:
            buffer.complete_state = None
        elif pace.is_paste(event):
            buffer.insert_text("\n")
        elif buffer.document.char_before_cursor == "\\" and not buffer.document.text_after_cursor:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=typing)
    @keys.add("escape", "c-j", filter=typing)
    def _new_line(_event: KeyPressEvent) -> None:
        buffer.insert_text("\n")

    @keys.add(Keys.BracketedPaste, filter=typing)
    def _paste(event: KeyPressEvent) -> None:
        buffer.insert_text(screen.pastes.shorten(event.data))

    @keys.add("backspace", filter=typing)
    def _backspace(event: KeyPressEvent) -> None:
        label = screen.pastes.label_before(buffer.document.text_before_cursor)
        buffer.delete_before_cursor(max(len(label), event.arg))

    @keys.add("tab", filter=typing)
    def _tab(_event: KeyPressEvent) -> None:
        offered = buffer.complete_state
        if offered is not None and len(offered.completions) == 1:
            buffer.apply_completion(offered.completions[0])
        elif offered is not None:
            buffer.complete_next()
        else:
            buffer.start_completion(insert_common_part=True)

    @keys.add("c-c", filter=typing)
    @keys.add("<sigint>")
    def _interrupt(_event: Any) -> None:
        screen.clear_hint()
        screen.interrupt()

    @keys.add("c-d", filter=typing & is_empty)
    def _end(_event: KeyPressEvent) -> None:
        screen.clear_hint()
        screen.end_of_input()

    @keys.add("c-x", "c-e", filter=typing)
    def _edit(_event: KeyPressEvent) -> None:
        screen.edit()

    @keys.add("c-o", filter=typing)
    def _thinking(_event: KeyPressEvent) -> None:
        screen.toggle_thinking()

    @keys.add("c-z", filter=typing)
    def _suspend(event: KeyPressEvent) -> None:
        event.app.suspend_to_background()

    screen.on_key(pace.count)
    return keys


class _Pace:
    """Tells a paste into a terminal that does not mark pastes from keys that were typed while the
    screen was busy: of a paste, the text before a line end has come together with it."""

    def __init__(self) -> None:
        self._together = 0  # keys that came in one piece with the next one, before it
        self._is_pasting_until = 0.0

    def count(self, processor: KeyProcessor) -> None:
        """Called after each key."""
        self._together = self._together + 1 if _waiting_keys(processor) else 0

    def is_paste(self, event: KeyPressEvent) -> bool:
        """Whether the line end that was just read is part of a paste."""
        now = time.monotonic()
        more = _waiting_keys(event.key_processor) or is_waiting(sys.stdin.fileno())
        if now < self._is_pasting_until or (more and self._together >= PASTED):
            self._is_pasting_until = now + PASTE_SETTLE
            return True
        return False


def _waiting_keys(processor: KeyProcessor) -> bool:
    return any(
        press.key != Keys.CPRResponse and press.data != "_Flush" for press in processor.input_queue
    )
