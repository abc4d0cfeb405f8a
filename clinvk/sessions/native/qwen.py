"""Qwen Code: projects/<folder>/chats/<id>.jsonl, a tree of entries; the last leaf is current."""

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

BACKEND = "qwen"
_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SAID_BY = {None, "real_user", "assistant_output"}  # the rest is the program's own


class Line(Struct):
    type: Any = None
    uuid: Any = None
    parentUuid: Any = None  # noqa: N815 - qwen's names
    provenance: Any = None
    timestamp: Any = None
    cwd: Any = None
    model: Any = None
    message: Any = None


def find_files(env: Mapping[str, str]) -> Iterable[Path]:
    return cli_home(env, "QWEN_HOME", ".qwen").glob("projects/*/chats/*.jsonl")


def find_native_id(path: Path) -> str | None:
    return path.stem if _ID.fullmatch(path.stem) else None


def read_session(path: Path) -> NativeSession | None:
    lines = JsonLines(path)
    tree = EntryTree()
    cwd = model = None
    for line in lines.read(Line):
        if not isinstance(line.uuid, str):
            continue
        cwd, model = cwd or line.cwd, line.model or model
        tree.add(line.uuid, line.parentUuid, _to_message(line, path))
    messages = tree.current_messages()
    if not any(m.role is MessageRole.USER for m in messages):
        return None
    return NativeSession(
        backend=BACKEND,
        native_id=path.stem,
        cwd=real_path(cwd),
        model=model,
        messages=messages,
        problems=lines.problems,
    )


def _to_message(line: Line, path: Path) -> Message | None:
    data = line.message
    if line.type not in ("user", "assistant") or not isinstance(data, dict):
        return None
    parts = data.get("parts")
    spoken = [p for p in parts if isinstance(p, dict) and not p.get("thought")] if isinstance(parts, list) else []  # fmt: skip
    text = "".join(text_parts(spoken, "text"))
    if line.provenance not in _SAID_BY or not text.strip():
        return None
    about = {"backend": BACKEND, "model": line.model}
    when = parse_time(line.timestamp) or modified_at(path)
    return Message(MessageRole(line.type), text, when, {k: v for k, v in about.items() if v})
