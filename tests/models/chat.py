"""OpenAI Chat Completions, as most other CLIs speak it."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

from tests.models import answer as shared
from tests.models.answer import Answer, Conversation, Event, Said

KINDS = {401: "invalid_api_key", 429: "rate_limit_exceeded", 500: "server_error"}
USAGE = {
    "prompt_tokens": shared.INPUT,
    "prompt_tokens_details": {"cached_tokens": shared.CACHE_READ},
    "completion_tokens": shared.OUTPUT,
    "completion_tokens_details": {"reasoning_tokens": shared.THOUGHT},
    "total_tokens": shared.INPUT + shared.OUTPUT,
}


def read(_path: str, body: dict[str, Any]) -> Conversation:
    messages = body.get("messages", [])
    asides = [m["content"] for m in messages if m["role"] in ("system", "developer")]
    wanted = (body.get("response_format") or {}).get("json_schema") or {}
    return shared.conversation(
        _said(messages),
        model=body.get("model", ""),
        system="\n".join(map(_plain, asides)),
        tools=[tool["function"]["name"] for tool in body.get("tools") or []],
        schema=wanted.get("schema"),
    )


def _said(messages: list[dict[str, Any]]) -> Iterator[Said]:
    for message in messages:
        if message["role"] == "user":
            for text in _texts(message["content"]):
                yield "user", text
        elif message["role"] == "tool":
            yield "tool", _plain(message.get("content"))


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part.get("text", "") for part in content or []]


def _plain(content: Any) -> str:
    return "\n".join(_texts(content))


def error(status: int, message: str) -> dict[str, Any]:
    code = KINDS.get(status, "invalid_request_error")
    return {"error": {"type": code, "code": code, "message": message, "param": None}}


def broken() -> dict[str, Any]:
    return error(500, "made-up break of the stream")


def whole(shown: Conversation, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if "think" in answer:
        message["reasoning_content"] = "made-up reasoning"
    if answer.tool:
        message |= {"content": None, "tool_calls": [_call(answer)]}
    choice = {"index": 0, "message": message, "finish_reason": _reason(answer)}
    return {**_head("chat.completion", shown), "choices": [choice], "usage": USAGE}


def events(shown: Conversation, answer: Answer) -> Iterator[Event]:
    head = _head("chat.completion.chunk", shown)

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    yield Event(chunk({"role": "assistant", "content": ""}))
    if "think" in answer:
        yield Event(chunk({"reasoning_content": "made-up reasoning"}))
    if answer.tool:
        yield Event(chunk({"tool_calls": [{"index": 0, **_call(answer)}]}))
    else:
        for piece in answer.pieces:
            yield Event(chunk({"content": piece}), piece=True)
    yield Event(chunk({}, _reason(answer)))
    yield Event({**head, "choices": [], "usage": USAGE})


def _head(kind: str, shown: Conversation) -> dict[str, Any]:
    number = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": number, "object": kind, "created": 1_700_000_000, "model": shown.model}


def _reason(answer: Answer) -> str:
    if "full" in answer:
        return "length"
    return "tool_calls" if answer.tool else "stop"


def _call(answer: Answer) -> dict[str, Any]:
    assert answer.tool
    function = {"name": answer.tool.name, "arguments": json.dumps(answer.tool.input)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
