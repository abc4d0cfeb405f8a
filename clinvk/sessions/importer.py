"""Import native sessions: find them first, then adopt them on request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct, field

from clinvk.config import extras
from clinvk.config.schema import SessionConfig
from clinvk.errors import ClinvkError
from clinvk.model.session import Message, Session, prompt_excerpt
from clinvk.sessions.masking import redact_for_store
from clinvk.sessions.native import NativeReader, NativeSession, reader_for
from clinvk.sessions.native.lines import CompressedError
from clinvk.store.base import Store

Progress = Callable[[int, int], None]


class Candidate(Struct, frozen=True):
    """A native session that is not imported yet: the record it will get, and its file."""

    session: Session
    path: Path


class ScanResult(Struct):
    """The sessions to import, most recently used first."""

    new: list[Candidate] = field(default_factory=list)
    known: int = 0  # imported before, or started by clinvk
    problems: list[str] = field(default_factory=list)


def find_native_sessions(
    store: Store,
    envs: Mapping[str, Mapping[str, str]],
    settings: SessionConfig,
    *,
    cwd: str | None = None,
    since: datetime | None = None,
    progress: Progress = lambda _done, _all: None,
) -> ScanResult:
    """Search the sessions of the backends in `envs`, a mapping of backends to environments. A file
    that cannot be read is reported as a problem. Raises `UsageError`, `SessionError`."""
    findings = ScanResult()
    files = [
        (kind, p)
        for name in envs
        for kind in [reader_for(name)]
        for p in kind.find_files(envs[name])
    ]
    newest: dict[str, Candidate] = {}
    compressed = 0
    for done, (kind, path) in enumerate(files):
        progress(done, len(files))
        try:
            if since is None or path.stat().st_mtime >= since.timestamp():
                _scan_file(store, kind, path, settings, findings, newest)
        except CompressedError:
            compressed += 1
        except OSError as error:
            findings.problems.append(f"{path}: {error.strerror}")
        except ClinvkError:
            raise  # the error is in clinvk's own store
        except Exception as error:  # noqa: BLE001 - whatever is in a file, it stops no other
            findings.problems.append(f"{path}: damaged: {error}")
    progress(len(files), len(files))
    if compressed:
        hint = extras.install_hint("zstd")
        findings.problems.append(f"{compressed} compressed session(s) were skipped; {hint}")
    findings.new = [
        c
        for c in sorted(newest.values(), key=lambda c: c.session.updated_at, reverse=True)
        if cwd in (None, c.session.cwd) and (since is None or c.session.updated_at >= since)
    ]
    return findings


def import_session(store: Store, candidate: Candidate, settings: SessionConfig) -> Session | None:
    """Import the session; None if its file is gone, or another process was faster. Raises
    `OSError`, `SessionError`."""
    session = candidate.session
    native = reader_for(session.backend or "").read_session(candidate.path)
    if native is None or store.find_by_native_id(native.backend, native.native_id):
        return None
    messages = _to_messages(native, settings)
    return store.create(_to_session(native, settings), messages)


def _scan_file(
    store: Store,
    kind: NativeReader,
    path: Path,
    settings: SessionConfig,
    findings: ScanResult,
    newest: dict[str, Candidate],
) -> None:
    native_id = kind.find_native_id(path)
    if native_id is None:
        return
    if store.find_by_native_id(kind.BACKEND, native_id):
        findings.known += 1
        return
    native = kind.read_session(path)
    if native is None:
        return
    findings.problems += native.problems
    candidate = Candidate(_to_session(native, settings), path)
    before = newest.get(candidate.session.id)  # a session may have left more than one file
    if before is None or before.session.updated_at < candidate.session.updated_at:
        newest[candidate.session.id] = candidate


def _to_session(native: NativeSession, settings: SessionConfig) -> Session:
    asked = [m.content for m in native.messages if m.role == "user"]
    usage = native.usage if settings.store_token_usage else None
    counts: dict[str, int] = {}
    for message in native.messages if settings.store_messages else []:
        counts[message.role.value] = counts.get(message.role.value, 0) + 1
    return Session(
        id=_derive_session_id(native),
        backend=native.backend,
        model=native.model,
        cwd=native.cwd,
        title=redact_for_store(native.title, settings) if native.title else None,
        prompt=prompt_excerpt(redact_for_store(asked[0], settings))
        if settings.store_messages
        else None,
        status="archived" if native.archived else "active",
        native_ids={native.backend: native.native_id},
        turns=len(asked),
        counts=counts,
        usage=usage,
        # Otherwise the next turn of a CLI with cumulative counts would be charged for all of it.
        totals={native.native_id: {"usage": native.usage.to_json()}} if native.usage else {},
        metadata={"imported": datetime.now(UTC).date().isoformat()},
        created_at=native.created,
        updated_at=native.updated,
    )


def _to_messages(native: NativeSession, settings: SessionConfig) -> Iterable[Message]:
    if not settings.store_messages:
        return []
    return [
        Message(m.role, redact_for_store(m.content, settings), m.timestamp, m.metadata)
        for m in native.messages
    ]


def _derive_session_id(native: NativeSession) -> str:
    """A deterministic id, so that it can be shown before the import."""
    return hashlib.sha256(f"{native.backend} {native.native_id}".encode()).hexdigest()[:10]
