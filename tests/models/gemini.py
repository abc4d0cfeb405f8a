"""Google's generateContent, as gemini speaks it."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from tests.models import answer as shared
from tests.models.answer import Answer, Conversation, Event, Said

KINDS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED"}
FILES = re.compile(r"\s*--- Content from referenced files")
END_OF_FILES = re.compile(r"\s*--- End of content")
USAGE = {
    "promptTokenCount": shared.INPUT,
    "cachedContentTokenCount": shared.CACHE_READ,
    "candidatesTokenCount": shared.SPOKEN,
    "thoughtsTokenCount": shared.THOUGHT,
    "totalTokenCount": shared.INPUT + shared.OUTPUT,
}


def read(path: str, body: dict[str, Any]) -> Conversation:
    config = body.get("generationConfig", {})
    wants_json = config.get("responseMimeType") == "application/json"
    return shared.conversation(
        _said(body),
        model=path.rpartition("/")[2].partition(":")[0],
        system=_plain(body.get("systemInstruction", {})),
        tools=[
            declared["name"]
            for tool in body.get("tools", [])
            for declared in tool.get("functionDeclarations", [])
        ],
        schema=_schema(config) if wants_json else None,
    )


def _schema(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("responseJsonSchema") or config.get("responseSchema") or {}


def _said(body: dict[str, Any]) -> Iterator[Said]:
    asked = (content for content in body.get("contents", []) if content.get("role") != "model")
    quoting = False  # the files that gemini itself puts behind a prompt with @path
    for part in itertools.chain.from_iterable(content["parts"] for content in asked):
        text = part.get("text", "")
        quoting = not END_OF_FILES.match(text) and (quoting or bool(FILES.match(text)))
        if "functionResponse" in part:
            yield "tool", json.dumps(part["functionResponse"].get("response"))
        elif not quoting:
            # A part is a turn: where one had no answer, the next prompt joins its content.
            yield "user", text


def _plain(content: dict[str, Any]) -> str:
    return "\n".join(part.get("text", "") for part in content.get("parts", []))


def error(status: int, message: str) -> dict[str, Any]:
    kind = KINDS.get(status, "INTERNAL")
    return {"error": {"code": status, "message": message, "status": kind}}


def broken() -> dict[str, Any]:
    return error(500, "made-up break of the stream")


def whole(shown: Conversation, answer: Answer) -> dict[str, Any]:
    said = _call(answer) if answer.tool else {"text": answer.text}
    return _chunk(shown, [*_thoughts(answer), said], end=True)


def events(shown: Conversation, answer: Answer) -> Iterator[Event]:
    for thought in _thoughts(answer):
        yield Event(_chunk(shown, [thought]))
    if answer.tool:
        yield Event(_chunk(shown, [_call(answer)], end=True))
        return
    for piece in answer.pieces:
        yield Event(_chunk(shown, [{"text": piece}]), piece=True)
    yield Event(_chunk(shown, [{"text": ""}], end=True))


def _thoughts(answer: Answer) -> list[dict[str, Any]]:
    return [{"text": "**Made up** reasoning", "thought": True}] if "think" in answer else []


def _call(answer: Answer) -> dict[str, Any]:
    assert answer.tool
    return {"functionCall": {"name": answer.tool.name, "args": answer.tool.input}}


def _chunk(
    shown: Conversation, parts: list[dict[str, Any]], *, end: bool = False
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": parts}}
    if end:
        candidate["finishReason"] = "STOP"
    return {"candidates": [candidate], "modelVersion": shown.model, "usageMetadata": USAGE}
