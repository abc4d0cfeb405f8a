"""Whether the CLI of this node has the conversation that a request continues."""

from __future__ import annotations

from contextlib import suppress

from clinvk.backend.inherited import expand_homes
from clinvk.cluster.keys import native_session
from clinvk.cluster.worker.resources import WorkerProcess
from clinvk.errors import ClinvkError
from clinvk.model.request import Request
from clinvk.model.session import Session
from clinvk.sessions.lookup import SessionLookup
from clinvk.sessions.native.since import has_native
from clinvk.store.base import Store


def why_start_over(process: WorkerProcess, request: Request) -> str | None:
    """Why the conversation cannot be continued by the CLI of this node, and has to be started over from
    the transcript; None if it can, or there is none. Raises the errors of redis-py."""
    if request.session is None:
        return None
    backend = request.to or request.backend or ""
    asked = native_session(request.session, backend)
    here, home = process.settings.name, process.ledger.home_of(asked)
    if home is None:
        try:
            session = SessionLookup(process.store).lookup(request.session)
            owner = _owner(process.store, session, backend)
        except ClinvkError:
            return None  # the attempt says what is wrong
        if owner is None or not session.counts:
            return None
        if (known := native_session(owner.id, backend)) != asked:
            home = process.ledger.home_of(known)
        if home is None and not _has_native(process, request, owner, backend):
            return f"no worker is known to have its conversation with {backend}"
    return None if home in (None, here) else f"its conversation is on {home}"


def _owner(store: Store, session: Session, backend: str) -> Session | None:
    """The session whose native session is continued, which may be the one that it was branched from;
    None if there is none."""
    if not session.native_ids and len(session.parents) == 1:
        session = store.get(session.parents[0])
    return session if backend in session.native_ids else None


def _has_native(process: WorkerProcess, request: Request, owner: Session, backend: str) -> bool:
    """Whether it is among the files of the CLI here, as of a session that was begun without the
    cluster."""
    env = process.dispatcher("").selector.child_env(backend) | owner.native_env.get(backend, {})
    env |= expand_homes(request.env, {**env, **request.env})
    with suppress(Exception):  # whatever a damaged file leads to
        return has_native(backend, env, owner.native_ids[backend])
    return False
