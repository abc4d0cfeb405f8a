"""What follows from a line that was typed at the prompt."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from clinvk.model.request import Request

CANCELLED = 7


class Send(Struct, frozen=True):
    """Send a message. `given` is the request of a command line, for this message only."""

    prompt: str
    given: Request | None = None


class OnTerminal(Struct, frozen=True):
    """Something that needs the terminal for itself, such as a command line or an editor. It runs
    outside of any event loop, and what it returns is done next. `label` is what was typed."""

    run: Callable[[], Action | None]
    label: str


class Fill(Struct, frozen=True):
    """Put a text into the input line, where the user can change it. Without an input line, it is
    sent, unless it is only `offered`."""

    text: str
    offered: bool = False


class Exit(Struct, frozen=True):
    """End the sitting, with this exit code if it is not 0."""

    code: int = 0


Action = Send | OnTerminal | Fill | Exit
