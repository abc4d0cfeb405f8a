"""Pick a session: type to filter, arrow keys to choose, the last messages below."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer

from clinvk.errors import SessionError
from clinvk.model.session import Message, Session
from clinvk.terminal.keyboard import ask_line, discard_waiting, is_dumb, restored_if_ended
from clinvk.terminal.prompt import is_paste
from clinvk.text.duration import format_age
from clinvk.text.sanitize import one_line, sanitize

LIST_ROWS = 10  # sessions shown at a time
PREVIEW_ROWS = 7  # lines of the last messages


def pick(sessions: list[Session], messages: Callable[[str], list[Message]]) -> Session:
    """The session that the user picks. Raises `typer.Abort` if none is picked, `SessionError`
    without a terminal, after showing the list."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        _print(sessions)
        raise SessionError(
            "no session given, and no terminal to pick one",
            'name it: clinvk resume ID "prompt", or take the newest: clinvk resume --last "prompt"',
        )
    if is_dumb():
        return _pick_by_number(sessions)
    return _pick_on_screen(sessions, messages)


def filter_sessions(sessions: list[Session], text: str) -> list[Session]:
    """The sessions that contain every word of the filter in the fields of the list."""
    words = text.lower().split()
    return [s for s in sessions if all(w in _searchable_text(s) for w in words)]


def _searchable_text(s: Session) -> str:
    return " ".join(
        [s.id, s.backend or "", s.title or "", s.prompt or "", s.cwd or "", *s.tags]
    ).lower()


def _session_line(s: Session) -> str:
    return f"{s.id:<12.24} {s.backend or '-':<8} {format_age(s.updated_at):>9}  {one_line(s.label)}"


def _print(sessions: list[Session]) -> None:
    for i, s in enumerate(sessions, 1):
        print(f"{i:>3}  {_session_line(s)}"[:200], file=sys.stderr)


def _pick_by_number(sessions: list[Session]) -> Session:
    shown = sessions[:20]
    _print(shown)
    if len(sessions) > len(shown):
        print("     … and more: clinvk sessions list", file=sys.stderr)
    while True:
        answer = ask_line(f"Session number [1-{len(shown)}, empty cancels]: ").strip()
        if not answer:
            raise typer.Abort
        if answer.isdigit() and 1 <= int(answer) <= len(shown):
            return shown[int(answer) - 1]


def _pick_on_screen(sessions: list[Session], messages: Callable[[str], list[Message]]) -> Session:
    # Slow, and only needed here.
    from prompt_toolkit.application import Application
    from prompt_toolkit.input.typeahead import clear_typeahead
    from prompt_toolkit.layout import Layout
    from prompt_toolkit.output import create_output

    screen = _PickerScreen(sessions, messages)
    app: Application[Session | None] = Application(
        layout=Layout(screen.layout(), focused_element=screen.filter),
        key_bindings=screen.keys(),
        output=create_output(stdout=sys.stderr),
        erase_when_done=True,
    )
    fd = sys.stdin.fileno()
    try:
        with restored_if_ended(fd):
            chosen = app.run()
    finally:
        clear_typeahead(app.input)
        discard_waiting(fd)
    if chosen is None:
        raise typer.Abort
    return chosen


class _PickerScreen:
    """The screen and its key bindings."""

    def __init__(self, sessions: list[Session], messages: Callable[[str], list[Message]]) -> None:
        # Slow, and only needed here.
        from prompt_toolkit.buffer import Buffer

        self.sessions = sessions
        self.messages = messages
        self.filter = Buffer(multiline=False, on_text_changed=lambda _: self._refilter())
        self.matches = sessions
        self.position = 0
        self._previews: dict[str, str] = {}
        self._in_paste = False

    @property
    def selected(self) -> Session | None:
        return self.matches[self.position] if self.matches else None

    def layout(self) -> Any:
        # Slow, and only needed here.
        from prompt_toolkit.layout import (
            BufferControl,
            FormattedTextControl,
            HSplit,
            VSplit,
            Window,
        )

        def window(text: Callable[[], Any], height: int) -> Window:
            return Window(FormattedTextControl(text), height=height, wrap_lines=False)

        top = VSplit(
            [
                Window(FormattedTextControl([("bold", "Resume which session? ")]), width=22),
                Window(BufferControl(self.filter), height=1),
            ]
        )
        rows = min(LIST_ROWS, len(self.sessions))
        return HSplit(
            [
                top,
                window(self._list, rows),
                window(self._preview, PREVIEW_ROWS),
                window(self._footer, 1),
            ]
        )

    def keys(self) -> Any:
        # Slow, and only needed here.
        from prompt_toolkit.key_binding import KeyBindings

        keys = KeyBindings()
        for name, step in (
            ("up", -1),
            ("down", 1),
            ("pageup", -LIST_ROWS),
            ("pagedown", LIST_ROWS),
        ):
            keys.add(name)(lambda _event, step=step: self._move(step))
        keys.add("c-p")(lambda _event: self._move(-1))
        keys.add("c-n")(lambda _event: self._move(1))
        keys.add("enter")(self._enter)
        for name in ("escape", "c-c", "c-d"):
            keys.add(name, eager=True)(lambda event: event.app.exit(result=None))
        return keys

    def _enter(self, event: Any) -> None:
        """Choose the session at the cursor. A line end in a paste counts as a space: text pasted by
        mistake must neither choose a session nor become its prompt."""
        if is_paste(event, sys.stdin.fileno()):
            self._in_paste = True
            self.filter.insert_text(" ")
        elif self._in_paste:
            self._in_paste = False
        elif self.selected is not None:
            event.app.exit(result=self.selected)

    def _move(self, step: int) -> None:
        self.position = max(0, min(len(self.matches) - 1, self.position + step))

    def _refilter(self) -> None:
        self.matches, self.position = filter_sessions(self.sessions, self.filter.text), 0

    def _list(self) -> list[tuple[str, str]]:
        if not self.matches:
            return [("", "  no matches (Backspace to widen)\n")]
        start = max(0, min(self.position - LIST_ROWS // 2, len(self.matches) - LIST_ROWS))
        return [
            (
                "reverse" if i == self.position else "",
                f"{'>' if i == self.position else ' '} {_session_line(s)}\n",
            )
            for i, s in enumerate(self.matches[start : start + LIST_ROWS], start)
        ]

    def _preview(self) -> list[tuple[str, str]]:
        session = self.selected
        if session is None:
            return []
        if session.id not in self._previews:
            self._previews[session.id] = _preview_text(session, self.messages)
        return [("class:dim", "─" * 40 + "\n"), ("", self._previews[session.id])]

    def _footer(self) -> list[tuple[str, str]]:
        session_id = self.selected.id if self.selected else "ID"
        return [("class:dim", f'Enter: clinvk resume {session_id} "…"   Esc: cancel')]


def _preview_text(session: Session, messages: Callable[[str], list[Message]]) -> str:
    """The end of the conversation, in as many lines as fit."""
    lines = [f"{session.cwd or '-'}"]
    try:
        said = messages(session.id)[-4:]
    except SessionError as error:
        return error.message
    for message in said:
        who = "you" if message.role == "user" else session.backend or message.role.value
        words = " ".join(sanitize(message.content).split())
        lines.append(f"{who}: {words[:300]}")
    return "\n".join(lines[: PREVIEW_ROWS - 1])
