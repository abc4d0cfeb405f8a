"""Anthropic Messages, as claude speaks it."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

from tests.models import answer as shared
from tests.models.answer import Answer, Conversation, Event, Said

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}
USAGE = {
    "input_tokens": shared.FRESH,
    "cache_creation_input_tokens": shared.CACHE_WRITE,
    "cache_read_input_tokens": shared.CACHE_READ,
    "output_tokens": shared.OUTPUT,
}


def read(_path: str, body: dict[str, Any]) -> Conversation:
    wanted = body.get("output_config", {}).get("format") or {}
    # Newer releases put what belongs to the system prompt between the messages, too.
    asides = [m["content"] for m in body.get("messages", []) if m["role"] == "system"]
    return shared.conversation(
        _said(body),
        model=body.get("model", ""),
        system="\n".join(map(_plain, [body.get("system", ""), *asides])),
        tools=[tool["name"] for tool in body.get("tools", [])],
        schema=wanted.get("schema"),
    )


def _said(body: dict[str, Any]) -> Iterator[Said]:
    for message in body.get("messages", []):
        if message["role"] == "user":
            for block in _blocks(message["content"]):
                if block["type"] == "text":
                    yield "user", block["text"]
                elif block["type"] == "tool_result":
                    yield "tool", _plain(block.get("content", ""))


def _blocks(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _plain(content: Any) -> str:
    return "\n".join(block.get("text", "") for block in _blocks(content))


def error(status: int, message: str) -> dict[str, Any]:
    kind = KINDS.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def broken() -> dict[str, Any]:
    return error(529, "made-up break of the stream")


def whole(shown: Conversation, answer: Answer) -> dict[str, Any]:
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": shown.model,
        "content": _content(answer),
        "stop_reason": _stop_reason(answer),
        "stop_sequence": None,
        "usage": USAGE,
    }


def events(shown: Conversation, answer: Answer) -> Iterator[Event]:
    message = whole(shown, answer)
    end = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    started = {
        **message,
        "content": [],
        "stop_reason": None,
        "usage": {**USAGE, "output_tokens": 1},
    }
    yield Event({"type": "message_start", "message": started})
    for index, block in enumerate(message["content"]):
        empty = {key: type(value)() if key in HOLDS else value for key, value in block.items()}
        yield Event({"type": "content_block_start", "index": index, "content_block": empty})
        for delta in _deltas(block, answer):
            piece = delta["type"] == "text_delta"
            yield Event({"type": "content_block_delta", "index": index, "delta": delta}, piece)
        yield Event({"type": "content_block_stop", "index": index})
    yield Event({"type": "message_delta", "delta": end, "usage": USAGE})
    yield Event({"type": "message_stop"})


def _stop_reason(answer: Answer) -> str:
    if "full" in answer:
        return "max_tokens"
    return "tool_use" if answer.tool else "end_turn"


HOLDS = ("text", "input", "thinking", "signature")  # what the deltas of a block fill in


def _content(answer: Answer) -> list[dict[str, Any]]:
    thought = {"type": "thinking", "thinking": "made-up reasoning", "signature": "c2lnbmVk"}
    if answer.tool:
        said = {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex}", **answer.tool._asdict()}
    else:
        said = {"type": "text", "text": answer.text}
    return [thought, said] if "think" in answer else [said]


def _deltas(block: dict[str, Any], answer: Answer) -> list[dict[str, Any]]:
    match block["type"]:
        case "thinking":
            return [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        case "tool_use":
            return [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        case _:
            return [{"type": "text_delta", "text": piece} for piece in answer.pieces]
