"""Codex CLI: sessions/<year>/<month>/<day>/rollout-<time>-<id>.jsonl, titles in an index.

Archived sessions are in archived_sessions/. Those that were idle for a week are compressed: the same
name with .zst at its end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from clinvk.model.session import Message, MessageRole
from clinvk.model.usage import Usage
from clinvk.sessions.native import NativeSession
from clinvk.sessions.native.lines import (
    JsonLines,
    append_message,
    cli_home,
    modified_at,
    parse_time,
    real_path,
    text_parts,
)

BACKEND = "codex"
_ARCHIVE = "archived_sessions"
_NAME = re.compile(
    r"rollout-.*-([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\.jsonl(?:\.zst)?"
)
# Text that codex adds in the user's name.
_NOISE = re.compile(
    r"\s*(?:<(?:environment_context|user_instructions|permissions|skill|turn_aborted|apps_|plugins_"
    r"|recommended|collaboration_mode|subagent_notification|user_shell_command|INSTRUCTIONS)"
    r"|# AGENTS\.md instructions)"
)


class Line(Struct):
    type: Any = None
    timestamp: Any = None
    payload: Any = None


class ThreadName(Struct):
    id: Any = None
    thread_name: Any = None


def find_files(env: Mapping[str, str]) -> Iterable[Path]:
    home = cli_home(env, "CODEX_HOME", ".codex")
    for folder in ("sessions/*/*/*", _ARCHIVE, f"{_ARCHIVE}/*/*/*"):
        for suffix in ("jsonl", "jsonl.zst"):
            yield from home.glob(f"{folder}/rollout-*.{suffix}")


def find_native_id(path: Path) -> str | None:
    found = _NAME.fullmatch(path.name)
    return found[1] if found else None


def read_session(path: Path) -> NativeSession | None:
    lines = JsonLines(path)
    own: dict[str, Any] = {}
    messages: list[Message] = []
    model, total = None, None
    for line in lines.read(Line):
        data = line.payload
        if not isinstance(data, dict):
            continue
        if line.type == "session_meta":
            own = own or data  # a fork repeats its parent's
        elif line.type == "turn_context":
            model = data.get("model") or model
        elif line.type == "event_msg":
            total = _total_usage(data) or total
            _roll_back(messages, data)
        elif line.type == "response_item" and (said := _to_message(data, line, path, model)):
            append_message(messages, said)
    if _is_subagent(own) or not any(m.role is MessageRole.USER for m in messages):
        return None
    native_id = str(find_native_id(path))
    return NativeSession(
        backend=BACKEND,
        native_id=native_id,
        cwd=real_path(own.get("cwd")),
        title=_find_title(path, native_id),
        model=model,
        messages=messages,
        usage=total,
        archived=_ARCHIVE in _parts_in_home(path),
        problems=lines.problems,
    )


def _to_message(data: dict[str, Any], line: Line, path: Path, model: Any) -> Message | None:
    role = data.get("role")
    if data.get("type") != "message" or role not in ("user", "assistant"):
        return None
    found = text_parts(data.get("content"), "input_text", "output_text", "text")
    if role == "user":
        found = [text for text in found if not _NOISE.match(text)]
    text = "\n\n".join(found)
    if not text.strip():
        return None
    about = {"backend": BACKEND}
    if role == "assistant" and model:
        about["model"] = model
    return Message(MessageRole(role), text, parse_time(line.timestamp) or modified_at(path), about)


def _total_usage(data: dict[str, Any]) -> Usage | None:
    """The usage of the thread so far; every event of this kind repeats the total."""
    info = data.get("info")
    total = info.get("total_token_usage") if isinstance(info, dict) else None
    if data.get("type") != "token_count" or not isinstance(total, dict):
        return None
    return Usage.from_json({
        "input": total.get("input_tokens") or 0,
        "output": total.get("output_tokens") or 0,
        "cached": total.get("cached_input_tokens") or 0,
        "cache_write": total.get("cache_write_input_tokens") or 0,
        "reasoning": total.get("reasoning_output_tokens") or 0,
    })  # fmt: skip


def _roll_back(messages: list[Message], data: dict[str, Any]) -> None:
    """Remove the turns that the user undid."""
    turns = data.get("num_turns")
    if data.get("type") != "thread_rolled_back" or not isinstance(turns, int) or turns < 1:
        return
    asked = [i for i, m in enumerate(messages) if m.role is MessageRole.USER]
    if asked:
        del messages[asked[-min(turns, len(asked))] :]


def _is_subagent(own: dict[str, Any]) -> bool:
    source = own.get("source")
    return isinstance(source, dict) or own.get("thread_source", "user") not in ("user", None)


def _parts_in_home(path: Path) -> tuple[str, ...]:
    """The directories of a file, below that of codex."""
    folders = path.parts[:-1]
    is_dated = folders[-4] in ("sessions", _ARCHIVE) if len(folders) > 4 else False
    return folders[-4:] if is_dated else folders[-1:]


def _find_title(path: Path, native_id: str) -> str | None:
    """The newest name of the thread."""
    title = None
    try:
        home = path.parents[len(_parts_in_home(path))]
        for name in JsonLines(home / "session_index.jsonl").read(ThreadName):
            if name.id == native_id and isinstance(name.thread_name, str):
                title = name.thread_name
    except OSError:
        pass  # no thread has a name
    return title
