"""The objects of a chat API: messages that are sent, and answers that are returned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from clinvk.errors import UsageError
from clinvk.model.result import Result, plain
from clinvk.model.session import Message, MessageRole
from clinvk.model.usage import Usage

SYSTEM_ROLES = ("system", "developer")


class ChatMessage(Struct, frozen=True):
    """What the model said."""

    role: str
    content: str


class Choice(Struct, frozen=True):
    index: int
    message: ChatMessage
    finish_reason: str | None


class CompletionUsage(Struct, frozen=True):
    """Tokens of one call, as the backend reported them; the prompt's include the cache."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(Struct, frozen=True, kw_only=True):
    """An answer. `usage` is None if the backend reported none; `result` has everything else."""

    id: str
    object: str = "chat.completion"
    created: int  # seconds since 1970
    model: str
    choices: list[Choice]
    usage: CompletionUsage | None
    result: Result

    def to_json(self) -> dict[str, Any]:
        """The object as a chat API returns it, without `result`."""
        data: dict[str, Any] = _data(self)
        return data


class ChoiceDelta(Struct, frozen=True):
    role: str | None = None
    content: str | None = None


class ChunkChoice(Struct, frozen=True):
    index: int
    delta: ChoiceDelta
    finish_reason: str | None = None


class ChatCompletionChunk(Struct, frozen=True, kw_only=True):
    """A piece of an answer. Only the last one has a `finish_reason`, `usage` and `result`."""

    id: str
    object: str = "chat.completion.chunk"
    created: int  # seconds since 1970
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None
    result: Result | None = None

    def to_json(self) -> dict[str, Any]:
        """The object as a chat API returns it, without `result`."""
        data: dict[str, Any] = _data(self)
        return data


def completion_usage(usage: Usage | None) -> CompletionUsage | None:
    if usage is None:
        return None
    return CompletionUsage(usage.input or 0, usage.output or 0, usage.total or 0)


def read_messages(given: Iterable[Mapping[str, Any] | Message]) -> list[Message]:
    """Messages of a chat API: `{"role": …, "content": text or parts}`. Raises `UsageError` for one
    that is not a text, or if the last one is not the user's."""
    messages = [_read_message(number, message) for number, message in enumerate(given)]
    if not messages:
        raise UsageError("messages is empty", 'use e.g. [{"role": "user", "content": "Hello!"}]')
    if messages[-1].role is not MessageRole.USER:
        raise UsageError(
            f"messages[{len(messages) - 1}] is of role {messages[-1].role.value}",
            "the last message has to be of role user: it is the prompt",
        )
    return messages


def _read_message(number: int, given: Mapping[str, Any] | Message) -> Message:
    if isinstance(given, Message):
        return given
    where = f"messages[{number}]"
    if not isinstance(given, Mapping):
        raise UsageError(f"{where} is {type(given).__name__}, not a mapping with role and content")
    role, content = given.get("role"), given.get("content")
    if role in SYSTEM_ROLES:
        role = MessageRole.SYSTEM.value
    if role not in list(MessageRole):
        roles = ", ".join(MessageRole)
        raise UsageError(f"{where}.role: {role!r} is not one of: {roles}")
    if isinstance(content, str):
        return Message(MessageRole(role), content)
    if isinstance(content, (list, tuple)):
        texts = [_part_text(f"{where}.content[{i}]", part) for i, part in enumerate(content)]
        return Message(MessageRole(role), "\n".join(texts))
    raise UsageError(f"{where}.content: {type(content).__name__} is not a text")


def _part_text(where: str, part: Any) -> str:
    if (
        isinstance(part, Mapping)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
    ):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise UsageError(
        f"{where}: {kind!r} is not a text", "only text can be sent; name files in the prompt"
    )


def _data(value: Any) -> Any:
    if isinstance(value, Struct):
        names = (name for name in value.__struct_fields__ if name != "result")
        return {name: _data(getattr(value, name)) for name in names}
    return [_data(item) for item in value] if isinstance(value, list) else plain(value)
