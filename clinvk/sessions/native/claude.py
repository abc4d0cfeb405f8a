"""Claude Code: projects/<folder>/<id>.jsonl, a tree of messages; the last leaf is current."""

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

BACKEND = "claude"
_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")  # others are subagents'
_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>\s*", re.DOTALL)
_COMMAND = re.compile(r"<command-name>(.*?)</command-name>", re.DOTALL)
_ARGUMENTS = re.compile(r"<command-args>(.*?)</command-args>", re.DOTALL)
# A command of the user starts with <command-message>; a command of the program, with its name.
_NOISE = ("<command-name>", "<local-command-", "<bash-", "<task-notification>",
          "[Request interrupted", "Caveat: The messages below")  # fmt: skip


class Line(Struct):
    type: Any = None
    uuid: Any = None
    parentUuid: Any = None  # noqa: N815 - claude's names
    logicalParentUuid: Any = None  # noqa: N815
    isSidechain: Any = None  # noqa: N815
    isMeta: Any = None  # noqa: N815
    isCompactSummary: Any = None  # noqa: N815
    timestamp: Any = None
    cwd: Any = None
    message: Any = None
    customTitle: Any = None  # noqa: N815
    aiTitle: Any = None  # noqa: N815


def find_files(env: Mapping[str, str]) -> Iterable[Path]:
    return cli_home(env, "CLAUDE_CONFIG_DIR", ".claude").glob("projects/*/*.jsonl")


def find_native_id(path: Path) -> str | None:
    return path.stem if _ID.fullmatch(path.stem) else None


def read_session(path: Path) -> NativeSession | None:
    lines = JsonLines(path)
    tree = EntryTree()
    cwd = model = custom = generated = None
    for line in lines.read(Line):
        custom, generated = line.customTitle or custom, line.aiTitle or generated
        if line.isSidechain or not isinstance(line.uuid, str):
            continue
        cwd = cwd or line.cwd
        message = _to_message(line, path)
        tree.add(line.uuid, line.parentUuid or line.logicalParentUuid, message)
        if message:
            model = message.metadata.get("model") or model
    messages = tree.current_messages()
    if not any(m.role is MessageRole.USER for m in messages):
        return None
    return NativeSession(
        backend=BACKEND,
        native_id=path.stem,
        cwd=real_path(cwd),
        title=custom or generated,
        model=model,
        messages=messages,
        problems=lines.problems,
    )


def _to_message(line: Line, path: Path) -> Message | None:
    data = line.message
    if line.type not in ("user", "assistant") or not isinstance(data, dict):
        return None
    if line.isMeta or line.isCompactSummary or data.get("model") == "<synthetic>":
        return None
    text = "\n\n".join(text_parts(data.get("content"), "text"))
    if line.type == "user":
        text = _user_text(text)
    if not text.strip():
        return None
    about = {"backend": BACKEND, "model": data.get("model")}
    when = parse_time(line.timestamp) or modified_at(path)
    return Message(MessageRole(line.type), text, when, {k: v for k, v in about.items() if v})


def _user_text(text: str) -> str:
    """The user's text, without what claude added around it; empty if there is nothing else."""
    text = _REMINDER.sub("", text).strip()
    if text.startswith("<command-message>") and (name := _COMMAND.search(text)):
        arguments = _ARGUMENTS.search(text)
        return f"{name[1]} {arguments[1] if arguments else ''}".strip()
    return "" if text.startswith(_NOISE) else text
