"""What the prompt needs of the command line, which it does not know itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from clinvk.config.schema import Loaded
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.repl.conversation import Conversation


class LineResult(Struct, frozen=True):
    """How a command line has ended."""

    code: int = 0
    asked: Request | None = None  # it was a message, which has not been sent yet
    session: str | None = None  # it resumes this session


Offer = tuple[str, str]  # a word that completes, and what it means


class CommandLines(Protocol):
    is_ended: bool  # a signal that ends the prompt has ended what was run or shown last

    def load(self) -> Loaded:
        """The configuration as it is now. Raises `ConfigError`."""
        raise NotImplementedError

    def read(self, text: str, is_session: Callable[[str], bool]) -> list[str] | None:
        """The words of a command line; None if the text is a message. Raises `UsageError` for what
        is almost a command line."""
        raise NotImplementedError

    def names(self) -> Sequence[str]:
        """The commands."""
        raise NotImplementedError

    def run(self, argv: Sequence[str]) -> LineResult:
        """Run a command line as in a shell; errors are printed."""
        raise NotImplementedError

    def complete(self, words: Sequence[str], incomplete: str) -> list[Offer]:
        """What can follow these words of a command line."""
        raise NotImplementedError

    def edit(self, text: str) -> str:
        """The text after the user has changed it in an editor. Raises `UsageError`."""
        raise NotImplementedError

    def show(self, conversation: Conversation, request: Request) -> Result | None:
        """Send the request and show the answer as `clinvk "PROMPT"` does. None if it was stopped
        before anything ran."""
        raise NotImplementedError
