"""OpenAI Responses, as codex speaks it."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

from tests.models import answer as shared
from tests.models.answer import Answer, Conversation, Event, Said

KINDS = {401: "invalid_api_key", 429: "rate_limit_exceeded", 500: "server_error"}
USAGE = {
    "input_tokens": shared.INPUT,
    "input_tokens_details": {"cached_tokens": shared.CACHE_READ},
    "output_tokens": shared.OUTPUT,
    "output_tokens_details": {"reasoning_tokens": shared.THOUGHT},
    "total_tokens": shared.INPUT + shared.OUTPUT,
}


def read(_path: str, body: dict[str, Any]) -> Conversation:
    items = _items(body)
    asides = [_plain(item["content"]) for item in items if item.get("role") == "developer"]
    return shared.conversation(
        _said(items),
        model=body.get("model", ""),
        system="\n".join([body.get("instructions") or "", *asides]),
        tools=[tool.get("name") or tool["type"] for tool in body.get("tools", [])],
        schema=body.get("text", {}).get("format", {}).get("schema"),
    )


def _items(body: dict[str, Any]) -> list[dict[str, Any]]:
    given = body.get("input", [])
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


def _said(items: list[dict[str, Any]]) -> Iterator[Said]:
    for item in items:
        if item.get("role") == "user":
            yield "user", _plain(item["content"])
        elif item.get("type") in ("function_call_output", "custom_tool_call_output"):
            yield "tool", _plain(item["output"])


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content)


def error(status: int, message: str) -> dict[str, Any]:
    code = KINDS.get(status, "invalid_request_error")
    return {"error": {"type": code, "code": code, "message": message, "param": None}}


def broken() -> dict[str, Any]:
    failure = {"code": "server_error", "message": "made-up break of the stream"}
    return {"type": "response.failed", "response": {"status": "failed", "error": failure}}


def whole(shown: Conversation, answer: Answer) -> dict[str, Any]:
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": 0,
        "model": shown.model,
        "status": "completed",
        "output": _output(answer),
        "usage": USAGE,
    }


def events(shown: Conversation, answer: Answer) -> Iterator[Event]:
    response = whole(shown, answer)
    started = {**response, "status": "in_progress", "output": [], "usage": None}
    yield Event({"type": "response.created", "response": started})
    for index, item in enumerate(response["output"]):
        place = {"output_index": index, "item_id": item["id"]}
        empty = {**item, "content": []} if item["type"] == "message" else item
        yield Event({"type": "response.output_item.added", **place, "item": empty})
        if item["type"] == "message":
            yield from _streamed({**place, "content_index": 0}, answer)
        yield Event({"type": "response.output_item.done", **place, "item": item})
    yield Event({"type": "response.completed", "response": response})


def _streamed(place: dict[str, Any], answer: Answer) -> Iterator[Event]:
    part = {"type": "output_text", "text": "", "annotations": []}
    yield Event({"type": "response.content_part.added", **place, "part": part})
    for piece in answer.pieces:
        yield Event({"type": "response.output_text.delta", **place, "delta": piece}, piece=True)
    yield Event({"type": "response.output_text.done", **place, "text": answer.text})


def _output(answer: Answer) -> list[dict[str, Any]]:
    number = uuid.uuid4().hex
    thought = {
        "type": "reasoning",
        "id": f"rs_{number}",
        "summary": [{"type": "summary_text", "text": "made-up reasoning"}],
        "encrypted_content": "c2VjcmV0",
    }
    said: dict[str, Any]
    if answer.tool:
        space, _, name = answer.tool.name.rpartition(".")  # tools of MCP servers have a namespace
        said = {
            "type": "function_call",
            "id": f"fc_{number}",
            "call_id": f"call_{number}",
            "name": name,
            "arguments": json.dumps(answer.tool.input),
        }
        if space:
            said["namespace"] = space
    else:
        text = {"type": "output_text", "text": answer.text, "annotations": []}
        said = {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": [text]}
    said["status"] = "completed"
    return [thought, said] if "think" in answer else [said]
