"""The turns that are sent from an open prompt, one at a time: how one is shown, stopped and left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from clinvk.errors import ClinvkError
from clinvk.process import ownership
from clinvk.repl.actions import Send
from clinvk.repl.screen.paper import TerminalPaper
from clinvk.repl.sending import Sender
from clinvk.repl.sitting import Sitting

if TYPE_CHECKING:
    from clinvk.repl.screen.turn_view import TurnView

PATIENCE = 5.0  # seconds that a stopped turn has, on the way out


class Turns:
    """`view` shows the turn that is running, if there is one."""

    def __init__(self, sitting: Sitting, paper: TerminalPaper, *, plain: bool) -> None:
        self.view: TurnView | None = None
        self._sitting = sitting
        self._sender = Sender(sitting.conversation)
        self._paper = paper
        self._plain = plain
        self._stops = 0  # how often the running turn was asked to stop
        self._idle = anyio.Event()
        self._is_loaded = False

    @property
    def is_stopping(self) -> bool:
        return self._stops > 0

    async def preload(self) -> None:
        """Load what the first message needs, while the user types it."""
        if self._is_loaded:
            return
        self._is_loaded = True
        await anyio.to_thread.run_sync(_load_for_messages, abandon_on_cancel=True)
        ownership.prepare_for_stream()

    async def send(self, action: Send) -> None:
        """Send a message, and show its turn to the end."""
        # 0.1 s, which `preload` spends before the first message.
        from clinvk.repl.screen.turn_view import TurnView

        conversation = self._sitting.conversation
        self.view = view = TurnView(
            self._paper, self._paper.printer, plain=self._plain,
            shows_thinking=lambda: self._sitting.shows_thinking,
        )  # fmt: skip
        self._stops, self._idle = 0, anyio.Event()
        self._paper.redraw()
        result = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(view.work)
                request = conversation.request(action.prompt, action.given)
                try:
                    result = await self._sender.send(request, view)
                except ClinvkError as error:
                    await view.fail(error)
                    self._sitting.code = error.exit_code
                else:
                    await view.end(result, conversation.done)
        finally:
            self.view = None
            self._idle.set()
            self._sitting.thoughts = "".join(view.thoughts)
            if result is not None:
                self._sitting.ended(result)
            self._paper.redraw()

    def stop(self, reason: str = "cancelled") -> None:
        """Stop the running turn; if it was asked before, kill it."""
        self._stops += 1
        self._sender.stop(reason, now=self._stops > 1)

    async def leave(self) -> None:
        """Stop the running turn, and wait until what there is of it is stored."""
        if self.view is None:
            return
        if not self.is_stopping:
            self._sender.stop("left before its end")
        with anyio.move_on_after(PATIENCE, shield=True):
            await self._idle.wait()


def _load_for_messages() -> None:
    # All of these are needed by the first message, and none to type it.
    import clinvk.dispatch.turn
    import clinvk.dispatch.turn_lock
    import clinvk.process.child
    import clinvk.repl.screen.turn_view
    import clinvk.terminal.rendering.code
    import clinvk.terminal.wording  # noqa: F401
