"""Pi: sessions/<folder>/<time>_<id>.jsonl, a tree of entries; the last leaf is current."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from clinvk.model.session import Message, MessageRole
from clinvk.sessions.native import NativeSession
from clinvk.sessions.native.lines import (
    EntryTree,
    JsonLines,
    cli_home,
    modified_at,
    parse_time,
    real_path,
    text_parts,
)

BACKEND = "pi"
_NAME = re.compile(r".*_([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\.jsonl")


class Line(Struct):
    type: Any = None
    id: Any = None
    parentId: Any = None  # noqa: N815 - pi's name
    timestamp: Any = None
    cwd: Any = None
    message: Any = None


def find_files(env: Mapping[str, str]) -> Iterable[Path]:
    return cli_home(env, "PI_CODING_AGENT_DIR", ".pi/agent").glob("sessions/*/*.jsonl")


def find_native_id(path: Path) -> str | None:
    found = _NAME.fullmatch(path.name)
    return found[1] if found else None


def read_session(path: Path) -> NativeSession | None:
    lines = JsonLines(path)
    tree = EntryTree()
    cwd = None
    for line in lines.read(Line):
        if line.type == "session":
            cwd = line.cwd
        elif isinstance(line.id, str):
            tree.add(line.id, line.parentId, _to_message(line, path))
    messages = tree.current_messages()
    native_id = find_native_id(path)
    if native_id is None or not any(m.role is MessageRole.USER for m in messages):
        return None
    answers = (m.metadata.get("model") for m in reversed(messages))
    return NativeSession(
        backend=BACKEND,
        native_id=native_id,
        cwd=real_path(cwd),
        model=next(filter(None, answers), None),
        messages=messages,
        problems=lines.problems,
    )


def _to_message(line: Line, path: Path) -> Message | None:
    data = line.message
    if line.type != "message" or not isinstance(data, dict):
        return None
    text = "".join(text_parts(data.get("content"), "text"))
    if data.get("role") not in ("user", "assistant") or not text.strip():
        return None
    about = {"backend": BACKEND, "model": data.get("model")}
    when = parse_time(line.timestamp) or modified_at(path)
    return Message(MessageRole(data["role"]), text, when, {k: v for k, v in about.items() if v})
