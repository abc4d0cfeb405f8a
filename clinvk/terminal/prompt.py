"""Read a prompt from the user: several lines, editing keys, a history."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from clinvk.terminal import keyboard as terminal_input
from clinvk.terminal.keyboard import PASTE_SETTLE, SETTLE
from clinvk.text.sanitize import one_line

if TYPE_CHECKING:
    from clinvk.terminal.prompt_history import PromptHistory

HELP = "Enter sends, Alt-Enter adds a line"


def read_prompt(label: str, history: PromptHistory, *, color: bool) -> str | None:
    """The prompt that the user types after `label`; None for Ctrl-D.

    stdin has to be a terminal. A paste of several lines is one prompt, and none of it is left for
    the shell. Raises `KeyboardInterrupt` for Ctrl-C, with the cursor on a new line."""
    label = f"{one_line(label)} "
    text = _read(label, history, color=color)
    if text is None:
        return None
    text = text.strip("\n").rstrip()
    if text:
        history.add(text)
    return text


_pasted: list[bool] = []  # whether a paste without brackets was noticed


def _read(label: str, history: PromptHistory, *, color: bool) -> str | None:
    if terminal_input.is_dumb():
        return terminal_input.read_lines(label)
    try:
        with terminal_input.screen() as stream:
            return _edit(label, history, stream, color=color)
    except OSError:  # there is nothing to draw on
        return terminal_input.read_lines(label)


def _edit(label: str, history: PromptHistory, stream: Any, *, color: bool) -> str | None:
    # 80 ms, only for a user who is about to type
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import get_app
    from prompt_toolkit.input import create_input
    from prompt_toolkit.input.typeahead import clear_typeahead
    from prompt_toolkit.output import ColorDepth, create_output

    def placeholder() -> Any:
        shown = "" if get_app().is_done else HELP
        return [("fg:ansibrightblack" if color else "", shown)]

    fd = sys.stdin.fileno()
    keyboard, output = create_input(sys.stdin), create_output(stdout=stream)
    # A terminal reports its cursor position in the input, where it would look like a paste.
    output.enable_cpr = False  # type: ignore[attr-defined]
    session: PromptSession[str] = PromptSession(
        label,
        multiline=True,
        key_bindings=_keys(fd),
        history=history.for_editor(),
        input=keyboard,
        output=output,
        color_depth=None if color else ColorDepth.DEPTH_1_BIT,
        placeholder=placeholder,
        prompt_continuation=lambda width, _line, _wrapped: " " * width,
        reserve_space_for_menu=0,
        complete_while_typing=False,
        enable_suspend=True,
    )
    try:
        with terminal_input.restored_if_ended(fd):
            return session.prompt()
    except EOFError:
        return None
    finally:
        clear_typeahead(keyboard)
        terminal_input.discard_waiting(fd)


def _keys(fd: int) -> Any:
    # Slow, and only needed to edit a prompt.
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _enter(event: Any) -> None:
        if is_paste(event, fd):
            event.current_buffer.insert_text("\n")
        else:
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("escape", "c-j")
    def _new_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("tab")
    def _tab(event: Any) -> None:
        event.current_buffer.insert_text("\t")

    return keys


def is_paste(event: Any, fd: int) -> bool:
    """Whether more input follows this key at once: it was pasted into a terminal without bracketed
    paste, or before there was a prompt."""
    # Slow, and only needed to edit a prompt.
    from prompt_toolkit.keys import Keys

    queued = any(
        press.key != Keys.CPRResponse and press.data != "_Flush"
        for press in event.key_processor.input_queue
    )
    more = queued or terminal_input.is_waiting(fd, PASTE_SETTLE if _pasted else SETTLE)
    if more and not _pasted:
        _pasted.append(True)
    return more
