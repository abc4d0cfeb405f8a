"""The prompt on a terminal: an input line that stays open while an answer streams above it.

It runs on asyncio, as prompt_toolkit does. The alternate screen is not used: what was said stays in
the terminal's own history, and a killed prompt leaves it usable.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint
from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import ThreadedCompleter
from prompt_toolkit.filters import Condition, has_completions
from prompt_toolkit.formatted_text import ANSI, StyleAndTextTuples
from prompt_toolkit.input import create_input
from prompt_toolkit.input.typeahead import clear_typeahead
from prompt_toolkit.key_binding.key_processor import KeyProcessor
from prompt_toolkit.layout import (
    BufferControl,
    CompletionsMenu,
    ConditionalContainer,
    Dimension,
    FormattedTextControl,
    HSplit,
    Layout,
    Window,
)
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style
from prompt_toolkit.widgets import SearchToolbar

from clinvk.errors import ClinvkError
from clinvk.process import ownership
from clinvk.process.groups import unwrap_single_exception
from clinvk.repl.actions import CANCELLED, Action, Exit, Fill, OnTerminal, Send
from clinvk.repl.screen.completion import PromptCompleter
from clinvk.repl.screen.keys import make_keys
from clinvk.repl.screen.pastes import Pastes
from clinvk.repl.screen.status import PLAIN, Status, status_pieces
from clinvk.repl.sitting import Sitting
from clinvk.terminal import printer as show
from clinvk.terminal.keyboard import discard_waiting, restored_if_ended
from clinvk.terminal.live import BEGIN_UPDATE, END_UPDATE
from clinvk.terminal.printer import Printer, StatusLine, safe
from clinvk.terminal.prompt_history import PromptHistory
from clinvk.text.sanitize import one_line
from clinvk.text.width import clip, truncate

if TYPE_CHECKING:
    from clinvk.repl.screen.turn_view import TurnView

MARK = "› "
FRAME_INTERVAL = 0.12  # seconds between two frames of the line that says what is being done
INPUT_ROWS = 10  # of a long input, which scrolls
KEPT_ROWS = 8  # for the lines below an answer that streams
PIECE = 4096  # characters that a terminal takes without blocking once it is writable
SWITCH_INTERVAL = 0.001  # seconds that a thread may run before others get their turn
PATIENCE = 5.0  # seconds that a stopped turn has, on the way out


class TerminalOutput(Vt100_Output):
    """Writes an update of the screen in one piece, so that nothing flickers."""

    is_held = False
    is_gone = False  # the terminal was closed
    on_gone: Callable[[], None] = staticmethod(lambda: None)

    def flush(self) -> None:
        if self.is_held or self.is_gone:
            return
        try:
            super().flush()
        except OSError:
            self.is_gone = True
            self.on_gone()

    def disable_bracketed_paste(self) -> None:
        if not self.is_held:  # it is enabled again at once
            super().disable_bracketed_paste()

    @contextmanager
    def one_update(self) -> Iterator[None]:
        if self.is_held:
            yield
            return
        self.is_held = True
        self.write_raw(BEGIN_UPDATE)
        try:
            yield
        finally:
            self.write_raw(END_UPDATE)
            self.is_held = False
            self.flush()


class _Above:
    """A stream whose text is printed above the input line."""

    encoding = "utf-8"

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._held = ""

    def write(self, text: str) -> int:
        self._held += text
        return len(text)

    def flush(self) -> None:
        text, self._held = self._held, ""
        if text:
            self._screen.print_now(text)

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return sys.stdout.fileno()


class Screen:
    """The `Front` of a sitting, and the `Paper` of its turns."""

    def __init__(self, sitting: Sitting, first: str | None = None) -> None:
        loaded = sitting.config
        self.sitting = sitting
        self.color = show.wants_color(sys.stdout, loaded.config.output.color)
        stream: Any = _Above(self)
        self.printer = self.out = Printer(stream, color=self.color)
        self.history = PromptHistory.of(loaded)
        self.pastes = Pastes()
        self.queue: deque[str | Action] = deque()
        self._first = first
        self.view: TurnView | None = None  # of the turn that is running
        self.code = 0
        self._plain = show.plain.get() or not loaded.config.output.render
        self._is_loaded = False
        self._stops = 0  # how often the running turn was asked to stop
        self._hint = ""
        self._has_work = anyio.Event()
        self._idle = anyio.Event()
        self.output = cast(
            "TerminalOutput", TerminalOutput.from_pty(sys.stdout, term=os.environ.get("TERM"))
        )
        # A terminal reports its cursor position in the input, where it would look like a paste.
        self.output.enable_cpr = False
        self.output.on_gone = lambda: self.leave("the terminal was closed")
        self.buffer = Buffer(
            multiline=True,
            history=self.history.for_editor(),
            completer=ThreadedCompleter(PromptCompleter(sitting)),
            complete_while_typing=Condition(self._completes_while_typing),
            accept_handler=self._accept,
            name="input",
        )
        self._key_watchers: list[Callable[[KeyProcessor], None]] = []
        self.app: Application[Action] = self._application()
        for call in self._key_watchers:
            self.app.key_processor.after_key_press += call

    # The application.

    def _application(self) -> Application[Action]:
        search = SearchToolbar()
        control = BufferControl(
            self.buffer,
            search_buffer_control=search.control,
            preview_search=True,
            focus_on_click=False,
        )
        entry = Window(
            control,
            height=lambda: Dimension(min=1, max=max(1, min(INPUT_ROWS, self.rows - 4))),
            dont_extend_height=True,
            wrap_lines=True,
            get_line_prefix=self._line_prefix,
        )
        body = HSplit(
            [
                ConditionalContainer(Window(height=1), Condition(lambda: self.view is None)),
                _lines(self._open_text, Condition(lambda: self.view is not None)),
                _lines(self._queued_text, Condition(self._has_queued)),
                entry,
                ConditionalContainer(
                    CompletionsMenu(max_height=8, scroll_offset=1), has_completions
                ),
                search,
                Window(FormattedTextControl(self._status_text), height=1, dont_extend_height=True),
            ]
        )
        return Application(
            layout=Layout(body, focused_element=entry),
            key_bindings=make_keys(self),
            style=_style(self.color),
            color_depth=None if self.color else ColorDepth.DEPTH_1_BIT,
            input=create_input(sys.stdin),
            output=self.output,
            erase_when_done=True,
            enable_page_navigation_bindings=False,
        )

    @property
    def columns(self) -> int:
        return max(20, self.output.get_size().columns)

    @property
    def rows(self) -> int:
        return max(4, self.output.get_size().rows)

    def _line_prefix(self, number: int, wrapped: int) -> StyleAndTextTuples:
        return [("class:mark", MARK if number == wrapped == 0 else "  ")]

    def _open_text(self) -> Any:
        view = self.view
        if view is None:
            return []
        lines = view.answer.open_lines(max(3, self.rows - KEPT_ROWS))
        return ANSI("\n".join([*lines, "", self._working_line(view)]))

    def _working_line(self, view: TurnView) -> str:
        seconds = time.monotonic() - view.began
        frame = StatusLine.FRAMES[int(seconds / FRAME_INTERVAL) % len(StatusLine.FRAMES)]
        stop = "stopping… Ctrl-C kills it" if self._stops else "Ctrl-C stops"
        end = f" · {int(seconds)} s · {stop}"
        what = f"{frame} {self.sitting.conversation.backend}: {one_line(view.doing)}"
        line = truncate(what, max(10, self.columns - 1 - len(end))) + end
        return self.printer.paint(clip(line, self.columns - 1), show.DIM)

    def _has_queued(self) -> bool:
        return any(isinstance(item, str) for item in self.queue)

    def _queued_text(self) -> StyleAndTextTuples:
        texts = [item for item in self.queue if isinstance(item, str)]
        lines = [truncate(f"queued: {one_line(text[:500])}", self.columns - 1) for text in texts]
        shown = lines[:3] + ([f"and {len(lines) - 3} more"] if len(lines) > 3 else [])
        return [("class:dim", "\n".join(shown))]

    def _status_text(self) -> StyleAndTextTuples:
        if self._hint:
            return [("class:dim", clip(self._hint, self.columns - 1))]
        conversation = self.sitting.conversation
        session = conversation.session
        status = Status(
            backend=conversation.backend,
            model=conversation.model,
            session=(session.label or session.id) if session else None,
            directory=conversation.shown_directory,
            tokens=conversation.tokens,
            dollars=conversation.dollars,
            limited_until=conversation.limited_until,
        )
        return [
            ("class:dim" if kind == PLAIN else "class:warning", safe(text, self.printer.stream))
            for text, kind in status_pieces(status, self.columns - 1)
        ]

    def _completes_while_typing(self) -> bool:
        before = self.buffer.document.text_before_cursor
        return before.startswith("/") or before.rpartition(" ")[2].startswith("@")

    # `Paper` and `Front`.

    async def print_above(self, text: str) -> None:
        """Print text that stays, in pieces that the terminal takes without making others wait."""
        at = 0
        while at < len(text) and not self.output.is_gone:
            end = len(text)
            if end - at > 2 * PIECE:
                end = text.rfind("\n", at, at + PIECE) + 1
                if end <= at:
                    end = (text.find("\n", at) + 1) or len(text)
            await self._until_writable()
            self.print_now(text[at:end])
            at = end
            await checkpoint()  # a key may have been pressed

    async def _until_writable(self) -> None:
        fd = sys.stdout.fileno()
        with suppress(OSError, ValueError):
            if not select.select([], [fd], [], 0)[1]:
                await anyio.wait_writable(fd)

    def print_now(self, text: str) -> None:
        if not self.app.is_running:
            self.output.write_raw(text)
            self.output.flush()
            return
        with self.output.one_update():
            self.app.renderer.erase(leave_alternate_screen=False)
            self.output.write_raw(text)
            self.app._redraw()  # noqa: SLF001 - `invalidate` draws later, and all of this is one update

    def redraw(self) -> None:
        self.app.invalidate()

    def clear(self) -> None:
        self.app.renderer.clear()

    # Keys.

    def on_key(self, call: Callable[[KeyProcessor], None]) -> None:
        """Call this after each key."""
        self._key_watchers.append(call)

    def hint(self, text: str) -> None:
        """Show a hint in place of the status line, until the next key."""
        self._hint = text
        self.redraw()

    def clear_hint(self) -> None:
        self._hint = ""

    def _accept(self, buffer: Buffer) -> bool:
        self.submit(buffer.text)
        return False  # clears the input line

    def submit(self, shown: str) -> None:
        """Take what was typed: at once, or once the answer that streams is complete."""
        text = self.pastes.expand(shown)
        if not text.strip():
            return
        self.history.add(text)
        if (self.view is not None or self.queue) and not self.sitting.waits(text):
            self._echo(shown)
            self.sitting.handle(text)
            return
        self.queue.append(text)
        self._has_work.set()
        self.redraw()

    def _echo(self, text: str) -> None:
        """Print what was typed, as it was typed."""
        lines = safe(self._shortened(text), self.printer.stream).split("\n")
        marked = [
            f"{self.printer.paint(MARK if i == 0 else '  ', show.BOLD)}{line}\n"
            for i, line in enumerate(lines)
        ]
        self.print_now("\n" + "".join(marked))

    def _shortened(self, text: str) -> str:
        return self.pastes.shorten(text)

    def interrupt(self) -> None:
        """Ctrl-C: stop the answer, else clear the line."""
        if self.view is not None:
            self._stops += 1
            self.sitting.conversation.stop(now=self._stops > 1)
            self._take_back_queue()
            self.redraw()
        elif self.buffer.text:
            self.buffer.append_to_history()
            self.buffer.reset()
        else:
            self.hint("Ctrl-D exits, /help lists the commands")

    def _take_back_queue(self) -> None:
        """Put what waits back into the input line: it was written for another answer."""
        waiting = [item for item in self.queue if isinstance(item, str)]
        self.queue.clear()
        if waiting:
            self._fill_before("\n".join(map(self._shortened, waiting)))

    def end_of_input(self) -> None:
        """Ctrl-D on an empty line: leave, after the answer that streams; a second time, at once."""
        if self.view is None and not self.queue:
            self.leave()
        elif any(isinstance(item, Exit) for item in self.queue):
            self.leave("cancelled")
        else:
            self.queue.append(Exit())
            self.hint("exits after this answer; Ctrl-D again stops it and exits")

    def leave(self, reason: str | None = None) -> None:
        """End the sitting; `reason` stops what is running."""
        if reason is not None and self.view is not None:
            self._stops += 1
            self.sitting.conversation.stop(reason, now=self._stops > 1)
        self.queue.clear()
        self._exit(Exit())

    def edit(self) -> None:
        """Open the input in an editor."""
        text = self.pastes.expand(self.buffer.text)
        self.buffer.reset()
        if self.view is not None:
            self._fill(text)
            self.hint("the editor can be opened once the answer is complete")
            return
        self.queue.append(f"/edit {text}")
        self._has_work.set()

    def toggle_thinking(self) -> None:
        self.sitting.handle("/thinking")

    def _fill_before(self, text: str) -> None:
        """Put the text before what was typed meanwhile."""
        self._fill("\n".join(filter(None, (text, self.buffer.text))))

    def _fill(self, text: str) -> None:
        self.buffer.text = text
        self.buffer.cursor_position = len(text)

    def _exit(self, action: Action) -> None:
        if self.app.is_running and not self.app.is_done:
            self.app.exit(result=action)

    # Work.

    async def run(self) -> Action:
        """Read and send messages until something needs the terminal, or the user leaves."""
        self._idle = anyio.Event()
        self._has_work = anyio.Event()
        if self.queue:
            self._has_work.set()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._work)
                tasks.start_soon(self._animate)
                tasks.start_soon(self._watch_signals)
                if not self._is_loaded:
                    self._is_loaded = True
                    tasks.start_soon(self._preload)
                try:
                    return await self.app.run_async(set_exception_handler=False)
                except EOFError:  # the terminal was closed
                    return Exit()
                finally:
                    await self._finish_turn()
                    tasks.cancel_scope.cancel()
        finally:
            self.app.input.flush_keys()
        raise AssertionError("unreachable")

    async def _preload(self) -> None:
        """Load what the first message needs, while the user types it."""
        await anyio.to_thread.run_sync(_load_for_messages, abandon_on_cancel=True)
        ownership.prepare_for_stream()

    async def _finish_turn(self) -> None:
        """A turn that is left is stopped, and what there is of it is stored."""
        if self.view is None:
            return
        if not self._stops:
            self.sitting.conversation.stop("left before its end")
        with anyio.move_on_after(PATIENCE, shield=True):
            await self._idle.wait()

    async def _work(self) -> None:
        if self._first:
            first, self._first = self._first, None
            self._echo(first)
            await self._perform(Send(first))
        while True:
            await self._has_work.wait()
            self._has_work = anyio.Event()
            while self.queue:
                item = self.queue.popleft()
                action = self._read(item) if isinstance(item, str) else item
                if not await self._perform(action):
                    return

    def _read(self, text: str) -> Action | None:
        self._echo(text)
        return self.sitting.handle(text)

    async def _perform(self, action: Action | None) -> bool:
        """Do it; return whether there may be more to do."""
        match action:
            case Send():
                await self._send(action)
            case Fill(text=text):
                self._fill_before(text)
                self.redraw()
            case OnTerminal() | Exit():
                self._exit(action)
                return False
        return True

    async def _send(self, action: Send) -> None:
        # 0.1 s, which `_preload` spends before the first message.
        from clinvk.repl.screen.turn_view import TurnView

        conversation = self.sitting.conversation
        self.view = view = TurnView(
            self, self.printer, plain=self._plain,
            shows_thinking=lambda: self.sitting.shows_thinking,
        )  # fmt: skip
        self._stops, self._idle = 0, anyio.Event()
        self.redraw()
        result = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(view.work)
                request = conversation.request(action.prompt, action.given)
                try:
                    result = await conversation.send(request, view)
                except ClinvkError as error:
                    await view.fail(error)
                    self.sitting.code = error.exit_code
                else:
                    await view.end(result, conversation.done)
        finally:
            self.view = None
            self._idle.set()
            self.sitting.thoughts = "".join(view.thoughts)
            if result is not None:
                self.sitting.ended(result)
            self.redraw()

    async def _animate(self) -> None:
        while True:
            await anyio.sleep(FRAME_INTERVAL)
            if self.view is not None:
                self.redraw()

    async def _watch_signals(self) -> None:
        """A signal that ends the program stops the turn first; a second one kills it."""
        wanted = [
            number
            for number in (signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN
        ]
        if not wanted:
            return
        with anyio.open_signal_receiver(*wanted) as signals:
            async for number in signals:
                self.code = CANCELLED
                self.output.is_gone = self.output.is_gone or number == signal.SIGHUP
                self.leave(f"cancelled by {number.name}")


def run_on_screen(sitting: Sitting, first: str | None = None) -> int:
    """Open the prompt on the terminal; return the exit code, which is 0 unless a signal ended it."""
    ownership.prepare_for_turn()
    # Threads search long answers for secrets meanwhile: a key must not wait for them 5 ms each time.
    sys.setswitchinterval(SWITCH_INTERVAL)
    screen = Screen(sitting, first)
    sitting.front = screen
    fd = sys.stdin.fileno()
    _greet(screen)
    action: Action | None = None
    while True:
        if action is None:
            with restored_if_ended(fd), unwrap_single_exception():
                action = anyio.run(screen.run)
        match action:
            case Exit(code=code):
                if not screen.output.is_gone and not code:
                    sitting.say_goodbye()
                clear_typeahead(screen.app.input)
                discard_waiting(fd)
                return code or screen.code
            case OnTerminal(run=run):
                action = sitting.attempt(run)
                if isinstance(action, (Send, Fill)):
                    screen.queue.appendleft(action)
                    action = None
            case _:
                action = None


def _load_for_messages() -> None:
    # All of these are needed by the first message, and none to type it.
    import clinvk.dispatch.turn
    import clinvk.dispatch.turn_lock
    import clinvk.process.child
    import clinvk.repl.screen.turn_view
    import clinvk.terminal.rendering.code
    import clinvk.terminal.wording  # noqa: F401


def _greet(screen: Screen) -> None:
    sitting = screen.sitting
    if sitting.restored is not None:
        sitting.announce()
    else:
        sitting.say(
            f"clinvk, on {sitting.conversation.backend}. /help lists the commands, Ctrl-D exits.",
            show.DIM,
        )


def _lines(text: Callable[[], Any], condition: Condition) -> ConditionalContainer:
    window = Window(FormattedTextControl(text), dont_extend_height=True, wrap_lines=True)
    return ConditionalContainer(window, condition)


def _style(color: bool) -> Style:
    if not color:
        return Style.from_dict({"completion-menu.completion.current": "reverse"})
    return Style.from_dict(
        {
            "mark": "bold ansicyan",
            "dim": "ansibrightblack",
            "warning": "ansiyellow",
            "completion-menu": "bg:default",
            "completion-menu.completion": "bg:default fg:default",
            "completion-menu.completion.current": "bg:default fg:ansicyan bold noreverse",
            "completion-menu.meta.completion": "bg:default fg:ansibrightblack",
            "completion-menu.meta.completion.current": "bg:default fg:ansibrightblack",
            "scrollbar.background": "bg:default",
            "scrollbar.button": "bg:ansibrightblack",
        }
    )
