"""The HTTP around the wire formats."""

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from tests.models import anthropic, chat, gemini, openai
from tests.models.answer import INPUT, Answer, Conversation, Event, plan

CREDENTIALS = {"authorization", "x-api-key", "x-goog-api-key"}
COUNTING = ("/count_tokens", "/input_tokens", ":countTokens")
UNKNOWN = {"error": {"message": "no such page"}}


class Wire(Protocol):
    """What a module has to offer that speaks one wire format."""

    def read(self, path: str, body: dict[str, Any], /) -> Conversation: ...
    def whole(self, shown: Conversation, answer: Answer) -> dict[str, Any]: ...
    def events(self, shown: Conversation, answer: Answer) -> Iterator[Event]: ...
    def broken(self) -> dict[str, Any]: ...
    def error(self, status: int, message: str) -> dict[str, Any]: ...


Send = Callable[[Wire, Conversation, Answer], None]
Script = Callable[[Conversation], str | None]


def wire_for(path: str) -> Wire | None:
    if "/messages" in path:
        return anthropic
    if "/chat/completions" in path:
        return chat
    if "/responses" in path:
        return openai
    return gemini if "/models/" in path else None


@dataclass(frozen=True)
class Request:
    """One question that reached the server."""

    path: str
    model: str
    users: list[str]
    system: str
    tools: list[str]
    body: dict[str, Any]
    headers: dict[str, str]  # by lower-case name, without the credentials

    @property
    def last(self) -> str:
        """The last text that a user wrote, or nothing."""
        return self.users[-1] if self.users else ""


class Models:
    """The server, running as long as the `with` block."""

    def __init__(self, port: int = 0) -> None:
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def requests(self) -> list[Request]:
        """What was asked so far, the oldest first; `.clear()` it at will."""
        return self._server.requests

    @contextmanager
    def saying(self, script: Script) -> Iterator[None]:
        """While the block lasts, the model says what `script` makes of what it is shown. That may
        hold directives, which count in place of the prompt's. None: it answers as ever."""
        before, self._server.script = self._server.script, script
        try:
            yield
        finally:
            self._server.script = before

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # many CLIs may start at once

    def __init__(self, *args: Any) -> None:
        self.requests: list[Request] = []
        self.script: Script = lambda _: None
        self.closing = threading.Event()
        super().__init__(*args)

    def handle_error(self, *args: Any) -> None:
        # A CLI that was killed closes its end: that is what some tests are about.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(*args)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Stay quiet: the requests are recorded."""

    def do_GET(self) -> None:
        if urlsplit(self.path).path.endswith("/models"):
            self._json(200, {"object": "list", "data": [], "models": []})
        else:
            self._json(404, UNKNOWN)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = urlsplit(self.path).path
        wire = wire_for(path)
        if wire is None:
            self._json(404, UNKNOWN)
            return
        shown = wire.read(path, body)
        self._record(path, body, shown)
        if path.endswith(COUNTING):
            self._json(200, {"input_tokens": INPUT, "totalTokens": INPUT})
        else:
            stream = body.get("stream") or path.endswith(":streamGenerateContent")
            self._answer(wire, shown, self._stream if stream else self._whole)

    def _record(self, path: str, body: dict[str, Any], shown: Conversation) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        public = {name: value for name, value in headers.items() if name not in CREDENTIALS}
        self.server.requests.append(
            Request(path, shown.model, shown.users, shown.system, shown.tools, body, public)
        )

    def _answer(self, wire: Wire, shown: Conversation, send: Send) -> None:
        answer = plan(shown, self._times(shown.last), self.server.script(shown))
        self._sleep(answer.number("wait"))
        for file in answer.words.get("until", ()):
            while not os.path.exists(file) and not self.server.closing.is_set():
                self._sleep(0.02)
        if "status" in answer:
            status, *after = answer.words["status"]
            headers = {"Retry-After": after[1]} if after else {}
            said = (
                f"made-up failure, try again in {after[1]} seconds" if after else "made-up failure"
            )
            self._json(int(status), wire.error(int(status), said), headers)
        else:
            send(wire, shown, answer)

    def _times(self, text: str) -> int:
        """How often that was asked so far, this time among them."""
        asked = (r for r in list(self.server.requests) if not r.path.endswith(COUNTING))
        return sum(r.last == text for r in asked)

    def _whole(self, wire: Wire, shown: Conversation, answer: Answer) -> None:
        self._sleep(answer.number("pause"))
        if "cut" in answer:
            self._hang_up()
        elif "broken" in answer:
            self._json(500, wire.broken())
        else:
            self._json(200, wire.whole(shown, answer))

    def _stream(self, wire: Wire, shown: Conversation, answer: Answer) -> None:
        self._head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        trouble = True  # still to come
        for event in wire.events(shown, answer):
            self._event(event.data)
            if event.piece and trouble:
                trouble = False
                self._sleep(answer.number("pause"))
                if "cut" in answer:
                    return self._hang_up()
                if "broken" in answer:
                    self._event(wire.broken())
                    break
        if wire is chat:
            self._chunk(b"data: [DONE]\n\n")
        return self._chunk(b"")

    def _event(self, data: dict[str, Any]) -> None:
        name = f"event: {data['type']}\n" if "type" in data else ""
        self._chunk(f"{name}data: {json.dumps(data)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        """Send a chunk; an empty one ends the body."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _json(
        self, status: int, data: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(data).encode()
        length = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self._head(status, {**length, **(headers or {})})
        self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _sleep(self, seconds: float) -> None:
        # Not time.sleep: the end of a test need not wait for a pause that nobody listens to.
        self.server.closing.wait(seconds)
