"""`Client` and `AsyncClient`: chat completions over any backend, in the shape that programs written
for a chat API expect.

    from clinvk import Client

    reply = Client().chat.completions.create(
        model="claude", messages=[{"role": "user", "content": "Hello!"}]
    )
    print(reply.choices[0].message.content, reply.usage.total_tokens)

`model` names a backend (`claude`), a backend and a model (`claude/opus`), or a model of the client's
backend. As with a chat API, nothing is kept between calls, unless `session` names a session. (A CLI
that always saves its sessions leaves one for each call.)
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Literal, overload

from msgspec.structs import replace

from clinvk.api.chat_objects import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatMessage,
    Choice,
    ChoiceDelta,
    ChunkChoice,
    completion_usage,
    read_messages,
)
from clinvk.api.sync import refuse_event_loop, run_blocking
from clinvk.dispatch.dispatcher import Dispatcher, own_unless
from clinvk.model.events import Delta, Event, Text
from clinvk.model.request import Request
from clinvk.model.result import raise_failure
from clinvk.model.session import Message, MessageRole
from clinvk.sessions import handover

STOP = "stop"  # why an answer ended; one that ended in another way is a failure


class AsyncCompletions:
    def __init__(self, backend: str | None, dispatcher: Dispatcher | None) -> None:
        self._backend = backend
        self._dispatcher = dispatcher

    @overload
    async def create(
        self,
        *,
        model: str | None = ...,
        messages: Iterable[Mapping[str, Any] | Message],
        stream: Literal[False] = ...,
        session: str | None = ...,
        timeout: float | None = ...,  # noqa: ASYNC109 - of the program
        **options: Any,
    ) -> ChatCompletion: ...

    @overload
    async def create(
        self,
        *,
        model: str | None = ...,
        messages: Iterable[Mapping[str, Any] | Message],
        stream: Literal[True],
        session: str | None = ...,
        timeout: float | None = ...,  # noqa: ASYNC109 - of the program
        **options: Any,
    ) -> AsyncIterator[ChatCompletionChunk]: ...

    async def create(
        self,
        *,
        model: str | None = None,
        messages: Iterable[Mapping[str, Any] | Message],
        stream: bool = False,
        session: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - of the program
        **options: Any,
    ) -> ChatCompletion | AsyncIterator[ChatCompletionChunk]:
        """The answer to the last message, which has to be the user's; with `stream`, its pieces as
        they arrive: `async for chunk in await …create(stream=True, …)`.

        `session` is the name of a session, which is created on first use and continued later; then
        only what comes after the last answer in `messages` is sent. `timeout` is in seconds;
        `options` are those of the backend (`max_tokens=500`). Raises `UsageError` for invalid
        messages, `ClinvkError` if nothing could be started, and `TurnError` if the turn failed."""
        call = _Call(self._dispatcher, self._backend, model, messages, session, timeout, options)
        if stream:
            return call.chunks()
        return await call.completion()


class Completions:
    def __init__(self, backend: str | None, dispatcher: Dispatcher | None) -> None:
        self._backend = backend
        self._dispatcher = dispatcher

    @overload
    def create(
        self,
        *,
        model: str | None = ...,
        messages: Iterable[Mapping[str, Any] | Message],
        stream: Literal[False] = ...,
        session: str | None = ...,
        timeout: float | None = ...,
        **options: Any,
    ) -> ChatCompletion: ...

    @overload
    def create(
        self,
        *,
        model: str | None = ...,
        messages: Iterable[Mapping[str, Any] | Message],
        stream: Literal[True],
        session: str | None = ...,
        timeout: float | None = ...,
        **options: Any,
    ) -> Iterator[ChatCompletionChunk]: ...

    def create(
        self,
        *,
        model: str | None = None,
        messages: Iterable[Mapping[str, Any] | Message],
        stream: bool = False,
        session: str | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> ChatCompletion | Iterator[ChatCompletionChunk]:
        """`AsyncCompletions.create` for code without an event loop: the same arguments, the same
        answers. Leaving a loop over the pieces early stops the CLI."""
        refuse_event_loop("clinvk.AsyncClient().chat.completions.create(...)")
        call = _Call(self._dispatcher, self._backend, model, messages, session, timeout, options)
        if stream:
            return call.blocking_chunks()
        return run_blocking(call.completion, "clinvk.AsyncClient().chat.completions.create(...)")


class Chat:
    def __init__(self, completions: Completions) -> None:
        self.completions = completions


class AsyncChat:
    def __init__(self, completions: AsyncCompletions) -> None:
        self.completions = completions


class Client:
    """Chat completions over any backend. `backend` is the one for models that name none; the
    default is that of the configuration."""

    def __init__(self, *, backend: str | None = None, dispatcher: Dispatcher | None = None) -> None:
        self.chat = Chat(Completions(backend, dispatcher))


class AsyncClient:
    """`Client` for an event loop, asyncio or trio."""

    def __init__(self, *, backend: str | None = None, dispatcher: Dispatcher | None = None) -> None:
        self.chat = AsyncChat(AsyncCompletions(backend, dispatcher))


class _Call:
    """One call of `create`."""

    def __init__(
        self,
        dispatcher: Dispatcher | None,
        backend: str | None,
        model: str | None,
        messages: Iterable[Mapping[str, Any] | Message],
        session: str | None,
        timeout: float | None,
        options: Mapping[str, Any],
    ) -> None:
        self.dispatcher = dispatcher
        self.backend = backend
        self.asked = model or backend or "default"
        self.model = model
        self.messages = read_messages(messages)
        self.session = session
        self.timeout = timeout
        self.options = {name: value for name, value in options.items() if value is not None}
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())

    async def completion(self) -> ChatCompletion:
        with own_unless(self.dispatcher) as where:
            result = await where.run(self._request(where))
        raise_failure(result)
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=result.model or self.asked,
            choices=[Choice(0, ChatMessage("assistant", result.text), STOP)],
            usage=completion_usage(result.usage),
            result=result,
        )

    async def chunks(self) -> AsyncIterator[ChatCompletionChunk]:
        yield self._chunk(ChoiceDelta(role="assistant", content=""))
        with own_unless(self.dispatcher) as where:
            pieces = _Pieces()
            async with where.stream(self._request(where)) as run:
                async for event in run:
                    if text := pieces.feed(event):
                        yield self._chunk(ChoiceDelta(content=text))
            result = run.result
        raise_failure(result)
        if not pieces.given and result.text:  # it arrived all at once, at the end
            yield self._chunk(ChoiceDelta(content=result.text))
        last = self._chunk(ChoiceDelta(), STOP)
        model = result.model or self.asked
        yield replace(last, model=model, usage=completion_usage(result.usage), result=result)

    def blocking_chunks(self) -> Iterator[ChatCompletionChunk]:
        # 45 ms, and needed only once something runs.
        from anyio.from_thread import start_blocking_portal

        # The loop runs in a thread of its own, so that the caller can do as it likes between two
        # pieces, and the program is still read and timed out.
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(aclosing(self.chunks())) as chunks,  # type: ignore[type-var]
        ):
            while True:
                try:
                    chunk = portal.call(chunks.__anext__)
                except StopAsyncIteration:
                    return
                yield chunk

    def _chunk(self, delta: ChoiceDelta, why: str | None = None) -> ChatCompletionChunk:
        choice = ChunkChoice(0, delta, why)
        return ChatCompletionChunk(
            id=self.id, created=self.created, model=self.asked, choices=[choice]
        )

    def _request(self, dispatcher: Dispatcher) -> Request:
        backend, model = self._choose(dispatcher)
        options = dict(self.options) | ({"model": model} if model else {})
        messages = self.messages
        if self.session is not None:
            messages = _since_last_answer(messages)
        *earlier, last = messages
        prompt = last.content
        system = [m.content for m in self.messages if m.role is MessageRole.SYSTEM]
        earlier = [m for m in earlier if m.role is not MessageRole.SYSTEM]
        manifest = dispatcher.selector.select(backend).manifest
        if system and "system_prompt" in manifest.options:
            options.setdefault("system_prompt", "\n\n".join(system))
        elif system:  # the backend cannot be told, so the conversation says it
            earlier = [Message(MessageRole.SYSTEM, "\n\n".join(system)), *earlier]
        carried = handover.hand_over(earlier, prompt, manifest.name, manifest.name)
        return Request(
            prompt=carried.text if carried else prompt,
            backend=backend,
            name=self.session,
            options=options,
            ephemeral=self.session is None and manifest.ephemeral is not None,
            timeout=self.timeout,
        )

    def _choose(self, dispatcher: Dispatcher) -> tuple[str | None, str | None]:
        """The backend and the model; None for the defaults."""
        if self.model is None:
            return self.backend, None
        name, slash, model = self.model.partition("/")
        known = dispatcher.catalog.names()
        if name in known:
            return name, (model or None) if slash else None
        return self.backend, self.model


class _Pieces:
    """The pieces of an answer: its deltas, and what texts have beyond them."""

    def __init__(self) -> None:
        self.given = False
        self._block = ""

    def feed(self, event: Event) -> str:
        match event:
            case Delta():
                new, self._block = event.text, self._block + event.text
            case Text():
                new, self._block = event.text.removeprefix(self._block), ""
            case _:
                return ""
        self.given = self.given or bool(new)
        return new


def _since_last_answer(messages: list[Message]) -> list[Message]:
    """A session has the rest."""
    last = max((i for i, m in enumerate(messages) if m.role is MessageRole.ASSISTANT), default=-1)
    return messages[last + 1 :]
