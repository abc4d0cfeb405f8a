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
from clinvk.sessions.native import Native
from clinvk.sessions.native.lines import Lines, add, home, moment, real, texts, written

BACKEND = "gemini"
_ROLES = {"user": MessageRole.USER, "gemini": MessageRole.ASSISTANT}
# Its own words in the user's name, and its commands.
_NOISE = ("<session_context>", "<hook_context>", "This is the Gemini CLI", "System: Potential loop",
          "/", "?")  # fmt: skip


class Entry(Struct):
    """A message, as far as it is wanted."""

    id: Any = None
    type: Any = None
    timestamp: Any = None
    content: Any = None
    model: Any = None


class Change(Struct, rename={"set_": "$set", "rewind": "$rewindTo"}):
    """A line: a message, something about the session, or a change to what came before."""

    id: Any = None
    type: Any = None
    timestamp: Any = None
    content: Any = None
    model: Any = None
    sessionId: Any = None  # noqa: N815 - gemini's names
    kind: Any = None
    messages: list[Entry] | None = None
    set_: Set | None = None
    rewind: Any = None


class Set(Struct):
    messages: list[Entry] | None = None
    summary: Any = None


class Conversation(Struct):
    """The state that the lines lead to."""

    session_id: str | None = None
    kind: Any = None
    model: str | None = None  # that answered last; a resume forgets which
    entries: dict[str, Entry] = field(default_factory=dict)
    times: dict[str, Any] = field(default_factory=dict)  # at first; a resume writes later ones


def files(env: Mapping[str, str]) -> Iterable[Path]:
    base = home(env, "GEMINI_CLI_HOME", "")
    return (base / ".gemini").glob("tmp/*/chats/session-*.json*")


def native_id(path: Path) -> str | None:
    """It is in the first line, which holds nothing else in the newer files."""
    found = next(iter(Lines(path).read(Change)), None) if path.suffix == ".jsonl" else _whole(path)
    return found.sessionId if found and isinstance(found.sessionId, str) else None


def read(path: Path) -> Native | None:
    lines = Lines(path)
    state = Conversation()
    whole = _whole(path) if path.suffix == ".json" else None
    for change in [whole] if whole else lines.read(Change):
        _apply(state, change)
    messages: list[Message] = []
    for id_, entry in state.entries.items():
        if message := _message(entry, moment(state.times.get(id_)) or written(path)):
            add(messages, message)
    spoken = any(m.role is MessageRole.USER for m in messages)
    if state.session_id is None or state.kind not in (None, "main") or not spoken:
        return None
    return Native(
        backend=BACKEND,
        native_id=state.session_id,
        cwd=_folder(path.parent.parent),
        model=state.model,
        messages=messages,
        problems=lines.problems,
    )


def _whole(path: Path) -> Change | None:
    try:
        return msgspec.json.decode(read_file(path), type=Change)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _apply(state: Conversation, change: Change) -> None:
    state.session_id = state.session_id or change.sessionId
    state.kind = change.kind or state.kind
    if isinstance(change.rewind, str):
        _rewind(state, change.rewind)
    anew = change.messages if change.set_ is None else change.set_.messages
    if anew is not None:
        state.entries = {}
        for entry in anew:
            _put(state, entry)
    if isinstance(change.id, str):
        _put(state, Entry(change.id, change.type, change.timestamp, change.content, change.model))


def _put(state: Conversation, entry: Entry) -> None:
    if isinstance(entry.id, str):
        state.entries[entry.id] = entry
        state.model = entry.model or state.model
        state.times.setdefault(entry.id, entry.timestamp)


def _rewind(state: Conversation, id_: str) -> None:
    """Forget that message and all behind it; one that is not known takes all with it."""
    known = list(state.entries)
    for gone in known[known.index(id_) if id_ in known else 0 :]:
        del state.entries[gone]


def _message(entry: Entry, when: Any) -> Message | None:
    role = _ROLES.get(entry.type) if isinstance(entry.type, str) else None
    text = "".join(texts(entry.content, "text"))
    if role is None or not text.strip():
        return None
    if role is MessageRole.USER and text.lstrip().startswith(_NOISE):
        return None
    about = {"backend": BACKEND, "model": entry.model}
    return Message(role, text, when, {k: v for k, v in about.items() if v})


def _folder(project: Path) -> str | None:
    """The folder that a project is of: as it says itself, else as the list of all projects does,
    where an old one goes by the hash of its folder."""
    try:
        return real(read_file(project / ".project_root").decode("utf-8").strip())
    except (OSError, UnicodeDecodeError):
        pass
    for folder, name in _projects(project.parent.parent).items():
        if project.name in (name, hashlib.sha256(folder.encode()).hexdigest()):
            return real(folder)
    return None


def _projects(home_: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_file(home_ / "projects.json"))["projects"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
