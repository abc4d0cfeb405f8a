"""Gemini CLI: tmp/<project>/chats/session-<minute>-<id>.jsonl, a log of changes to a conversation;
a .json of the same name, in older versions, is the conversation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from clinvk.disk.reading import read_file
from clinvk.model.session import Message, MessageRole
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

BACKEND = "gemini"
_ROLES = {"user": MessageRole.USER, "gemini": MessageRole.ASSISTANT}
# Text that gemini adds in the user's name, and its commands.
_NOISE = ("<session_context>", "<hook_context>", "This is the Gemini CLI", "System: Potential loop",
          "/", "?")  # fmt: skip


class Entry(Struct):
    """The needed fields of a message."""

    id: Any = None
    type: Any = None
    timestamp: Any = None
    content: Any = None
    model: Any = None


class LogLine(Struct, rename={"set_": "$set", "rewind": "$rewindTo"}):
    """A line: a message, metadata of the session, or a change to earlier lines."""

    id: Any = None
    type: Any = None
    timestamp: Any = None
    content: Any = None
    model: Any = None
    sessionId: Any = None  # noqa: N815 - gemini's names
    kind: Any = None
    messages: list[Entry] | None = None
    set_: SetChange | None = None
    rewind: Any = None


class SetChange(Struct):
    messages: list[Entry] | None = None
    summary: Any = None


class ConversationState(Struct):
    """The state after the lines."""

    session_id: str | None = None
    kind: Any = None
    model: str | None = None  # of the last answer; a resume forgets it
    entries: dict[str, Entry] = field(default_factory=dict)
    times: dict[str, Any] = field(
        default_factory=dict
    )  # the first ones; a resume writes later ones


def find_files(env: Mapping[str, str]) -> Iterable[Path]:
    base = cli_home(env, "GEMINI_CLI_HOME", "")
    return (base / ".gemini").glob("tmp/*/chats/session-*.json*")


def find_native_id(path: Path) -> str | None:
    """The metadata in the first line, which contains nothing else in newer files."""
    found = (
        next(iter(JsonLines(path).read(LogLine)), None)
        if path.suffix == ".jsonl"
        else _read_single_json(path)
    )
    return found.sessionId if found and isinstance(found.sessionId, str) else None


def read_session(path: Path) -> NativeSession | None:
    lines = JsonLines(path)
    state = ConversationState()
    whole = _read_single_json(path) if path.suffix == ".json" else None
    for change in [whole] if whole else lines.read(LogLine):
        _apply_line(state, change)
    messages: list[Message] = []
    for message_id, entry in state.entries.items():
        if message := _to_message(
            entry, parse_time(state.times.get(message_id)) or modified_at(path)
        ):
            append_message(messages, message)
    spoken = any(m.role is MessageRole.USER for m in messages)
    if state.session_id is None or state.kind not in (None, "main") or not spoken:
        return None
    return NativeSession(
        backend=BACKEND,
        native_id=state.session_id,
        cwd=_project_directory(path.parent.parent),
        model=state.model,
        messages=messages,
        problems=lines.problems,
    )


def _read_single_json(path: Path) -> LogLine | None:
    try:
        return msgspec.json.decode(read_file(path), type=LogLine)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _apply_line(state: ConversationState, change: LogLine) -> None:
    state.session_id = state.session_id or change.sessionId
    state.kind = change.kind or state.kind
    if isinstance(change.rewind, str):
        _rewind(state, change.rewind)
    replacement = change.messages if change.set_ is None else change.set_.messages
    if replacement is not None:
        state.entries = {}
        for entry in replacement:
            _put_entry(state, entry)
    if isinstance(change.id, str):
        _put_entry(
            state, Entry(change.id, change.type, change.timestamp, change.content, change.model)
        )


def _put_entry(state: ConversationState, entry: Entry) -> None:
    if isinstance(entry.id, str):
        state.entries[entry.id] = entry
        state.model = entry.model or state.model
        state.times.setdefault(entry.id, entry.timestamp)


def _rewind(state: ConversationState, message_id: str) -> None:
    """Remove that message and all after it; an unknown one removes all."""
    known = list(state.entries)
    for gone in known[known.index(message_id) if message_id in known else 0 :]:
        del state.entries[gone]


def _to_message(entry: Entry, when: Any) -> Message | None:
    role = _ROLES.get(entry.type) if isinstance(entry.type, str) else None
    text = "".join(text_parts(entry.content, "text"))
    if role is None or not text.strip():
        return None
    if role is MessageRole.USER and text.lstrip().startswith(_NOISE):
        return None
    about = {"backend": BACKEND, "model": entry.model}
    return Message(role, text, when, {k: v for k, v in about.items() if v})


def _project_directory(project: Path) -> str | None:
    """The directory of a project: as recorded in it, otherwise as in the list of all projects, in
    which an old one is identified by the hash of its directory."""
    try:
        return real_path(read_file(project / ".project_root").decode("utf-8").strip())
    except (OSError, UnicodeDecodeError):
        pass
    for folder, name in _read_projects(project.parent.parent).items():
        if project.name in (name, hashlib.sha256(folder.encode()).hexdigest()):
            return real_path(folder)
    return None


def _read_projects(home_: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_file(home_ / "projects.json"))["projects"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
