"""The prompt on a terminal: an input line that stays open while an answer streams above it.

Here is what a key or a typed line leads to; what is drawn is in `layout`. It runs on asyncio, as
prompt_toolkit does. The alternate screen is not used: what was said stays in the terminal's own
history, and a killed prompt leaves it usable.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import anyio
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import ThreadedCompleter
from prompt_toolkit.filters import Condition
from prompt_toolkit.key_binding.key_processor import KeyProcessor

from clinvk.repl.actions import CANCELLED, Action, Exit, Fill, OnTerminal, Send
from clinvk.repl.screen.backlog import Backlog
from clinvk.repl.screen.completion import PromptCompleter
from clinvk.repl.screen.keys import make_keys
from clinvk.repl.screen.layout import FRAME_INTERVAL, MARK, ScreenLines, make_style
from clinvk.repl.screen.paper import TerminalPaper
from clinvk.repl.screen.pastes import Pastes
from clinvk.repl.screen.turns import Turns
from clinvk.repl.sitting import Sitting
from clinvk.terminal import printer as show
from clinvk.terminal.printer import safe
from clinvk.terminal.prompt_history import PromptHistory


class Screen:
    """The `Front` of a sitting, and what the keys act on."""

    def __init__(self, sitting: Sitting, first: str | None = None) -> None:
        loaded = sitting.config
        color = show.wants_color(sys.stdout, loaded.config.output.color)
        self.sitting = sitting
        self.code = 0
        self.history = PromptHistory.of(loaded)
        self.pastes = Pastes()
        self.backlog = Backlog()
        self._first = first
        self._paper = TerminalPaper(color=color)
        self._paper.output.on_gone = lambda: self.leave("the terminal was closed")
        self.printer = self.out = self._paper.printer
        plain = show.plain.get() or not loaded.config.output.render
        self._turns = Turns(sitting, self._paper, plain=plain)
        self._lines = ScreenLines(sitting, self._paper, self._turns, self.backlog)
        self.buffer = Buffer(
            multiline=True,
            history=self.history.for_editor(),
            completer=ThreadedCompleter(PromptCompleter(sitting)),
            complete_while_typing=Condition(self._completes_while_typing),
            accept_handler=self._accept,
            name="input",
        )
        self.app = self._paper.app
        self.app.style = make_style(color=color)
        self.app.layout = self._lines.layout(self.buffer)
        self.app.key_bindings = make_keys(self)

    @property
    def is_gone(self) -> bool:
        """Whether the terminal was closed."""
        return self._paper.output.is_gone

    def clear(self) -> None:
        self._paper.clear()

    # Keys.

    def on_key(self, call: Callable[[KeyProcessor], None]) -> None:
        """Call this after each key."""
        self.app.key_processor.after_key_press += call

    def hint(self, text: str) -> None:
        """Show a hint in place of the status line, until the next key."""
        self._lines.hint = text
        self._paper.redraw()

    def clear_hint(self) -> None:
        self._lines.hint = ""

    def _completes_while_typing(self) -> bool:
        before = self.buffer.document.text_before_cursor
        return before.startswith("/") or before.rpartition(" ")[2].startswith("@")

    def _accept(self, buffer: Buffer) -> bool:
        self.submit(buffer.text)
        return False  # clears the input line

    def submit(self, shown: str) -> None:
        """Take what was typed: at once, or once the answer that streams is complete."""
        text = self.pastes.expand(shown)
        if not text.strip():
            return
        self.history.add(text)
        if (self._turns.view is not None or self.backlog) and not self.sitting.waits(text):
            self._echo(shown)
            self.sitting.handle(text)
            return
        self.backlog.add(text)
        self._paper.redraw()

    def _echo(self, text: str) -> None:
        """Print what was typed, as it was typed."""
        lines = safe(self.pastes.shorten(text), self.printer.stream).split("\n")
        marked = [
            f"{self.printer.paint(MARK if i == 0 else '  ', show.BOLD)}{line}\n"
            for i, line in enumerate(lines)
        ]
        self._paper.print_now("\n" + "".join(marked))

    def interrupt(self) -> None:
        """Ctrl-C: stop the answer, else clear the line."""
        if self._turns.view is not None:
            self._turns.stop()
            self._take_back_queued()
            self._paper.redraw()
        elif self.buffer.text:
            self.buffer.append_to_history()
            self.buffer.reset()
        else:
            self.hint("Ctrl-D exits, /help lists the commands")

    def _take_back_queued(self) -> None:
        """Put what waits back into the input line: it was written for another answer."""
        texts = self.backlog.texts
        self.backlog.clear()
        if texts:
            self._fill_before("\n".join(map(self.pastes.shorten, texts)))

    def end_of_input(self) -> None:
        """Ctrl-D on an empty line: leave, after the answer that streams; a second time, at once."""
        if self._turns.view is None and not self.backlog:
            self.leave()
        elif self.backlog.has_exit:
            self.leave("cancelled")
        else:
            self.backlog.add(Exit())
            self.hint("exits after this answer; Ctrl-D again stops it and exits")

    def leave(self, reason: str | None = None) -> None:
        """End the sitting; `reason` stops what is running."""
        if reason is not None and self._turns.view is not None:
            self._turns.stop(reason)
        self.backlog.clear()
        self._exit(Exit())

    def edit(self) -> None:
        """Open the input in an editor."""
        text = self.pastes.expand(self.buffer.text)
        self.buffer.reset()
        if self._turns.view is not None:
            self._fill(text)
            self.hint("the editor can be opened once the answer is complete")
            return
        self.backlog.add(f"/edit {text}")

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
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._work)
                tasks.start_soon(self._animate)
                tasks.start_soon(self._watch_signals)
                tasks.start_soon(self._turns.preload)
                try:
                    return await self.app.run_async(set_exception_handler=False)
                except EOFError:  # the terminal was closed
                    return Exit()
                finally:
                    await self._turns.leave()
                    tasks.cancel_scope.cancel()
        finally:
            self.app.input.flush_keys()
        raise AssertionError("unreachable")

    async def _work(self) -> None:
        if self._first:
            first, self._first = self._first, None
            self._echo(first)
            await self._perform(Send(first))
        may_continue = True
        while may_continue:
            item = await self.backlog.take()
            action = self._read(item) if isinstance(item, str) else item
            may_continue = await self._perform(action)

    def _read(self, text: str) -> Action | None:
        self._echo(text)
        return self.sitting.handle(text)

    async def _perform(self, action: Action | None) -> bool:
        """Do it; return whether there may be more to do."""
        match action:
            case Send():
                await self._turns.send(action)
            case Fill(text=text):
                self._fill_before(text)
                self._paper.redraw()
            case OnTerminal() | Exit():
                self._exit(action)
                return False
        return True

    async def _animate(self) -> None:
        while True:
            await anyio.sleep(FRAME_INTERVAL)
            if self._turns.view is not None:
                self._paper.redraw()

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
                self._paper.output.is_gone = self.is_gone or number == signal.SIGHUP
                self.leave(f"cancelled by {number.name}")
