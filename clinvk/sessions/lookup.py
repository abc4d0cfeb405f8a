"""Find the session that a request continues."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec.structs import replace

from clinvk.errors import ClinvkError, SessionError, SessionNotFound, UsageError
from clinvk.model.request import Request
from clinvk.model.session import Session, check_id
from clinvk.model.session_ref import (
    LAST,
    DefaultSession,
    LatestSession,
    NamedSession,
    NewSession,
    SessionById,
)
from clinvk.store.base import Query, Store

TASKS_SKIPPED_HINT = " except sessions of tasks, which are skipped"


class NoSessionHere(SessionError):  # noqa: N818 - reads as what it says
    """This directory has no session to continue; `elsewhere` is the newest one of another
    directory."""

    def __init__(self, message: str, hint: str, elsewhere: Session | None) -> None:
        super().__init__(message, hint)
        self.elsewhere = elsewhere


class SessionLookup:
    """Finds sessions in a store."""

    def __init__(self, store: Store, *, auto_resume: bool = False) -> None:
        self.store = store
        self.auto_resume = auto_resume

    def find(self, request: Request) -> Session | None:
        """The session that the request continues; None if it starts one. Raises `SessionError`."""
        match request.session_ref:
            case NewSession():
                return None
            case NamedSession(name):
                return self.find_by_name(name)
            case SessionById(text):
                return self.lookup(text)
            case LatestSession(anywhere):
                return self.find_last(request.cwd, request.backend, anywhere=anywhere)
            case DefaultSession() if self.auto_resume:
                return self.find_newest(cwd=real_path(request.cwd), backend=request.backend)
        return None

    def find_by_name(self, name: str) -> Session | None:
        """The session with exactly this name, ignoring case."""
        check_id(name)
        matches = [i for i in self.store.find_ids(name, 100) if i.lower() == name.lower()]
        return self.store.get(matches[0]) if matches else None

    def lookup(self, text: str) -> Session:
        """The session with this id, unique prefix of an id, or native id. Raises `SessionError`:
        an ambiguous prefix names the candidates."""
        matches = self.store.find_ids(text) if text else []
        exact = [i for i in matches if i.lower() == text.lower()]
        if exact or len(matches) == 1:
            return self.store.get((exact or matches)[0])
        if matches:
            shown = "".join(f"\n  {self._describe(i)}" for i in matches[:10])
            more = "\n  … and more" if len(matches) > 10 else ""
            if run := self._find_run(text, matches[:10]):
                raise SessionError(
                    f"{run} is a run, and each of its tasks has a session:{shown}{more}",
                    f"show the run: clinvk runs show {run}; for a session, give its whole id",
                )
            raise SessionError(
                f"{text!r} is the beginning of several sessions:{shown}{more}",
                "type more of the id",
            )
        if owners := self.store.find_by_native_id(None, text):
            return self.store.get(owners[0])
        raise SessionNotFound(f"no session {text[:100]!r}", self.other_sessions_hint())

    def lookup_or_last(self, text: str) -> Session:
        """`lookup`, in which "last" is the resumable session used last, in any directory. Raises
        `SessionError`."""
        if text.lower() == LAST and (found := self.find_newest()):
            return found
        return self.lookup(text)

    def other_sessions_hint(self) -> str:
        """A hint for when a session was not found."""
        if self.store.find_ids("", 1):
            return "see them all: clinvk sessions list"
        return f"there are no sessions yet; {_start_hint(None)}"

    def find_newest(self, *, cwd: str | None = None, backend: str | None = None) -> Session | None:
        """The resumable session used last, in a directory (real path) or anywhere; sessions of
        tasks are skipped."""
        found = self.list_resumable(Query(cwd=cwd, backend=backend, limit=1))
        return found[0] if found else None

    def list_resumable(self, query: Query) -> list[Session]:
        """The resumable sessions of a query, without those of tasks."""
        wanted = replace(query, resumable=True, tasks=False)
        return [s for s in self.store.select(wanted) if isinstance(s, Session)]

    def find_task_session(self, query: Query) -> Session | None:
        """The session of a task used last, for when the query has no resumable session."""
        found = self.store.select(replace(query, resumable=True, tasks=True, limit=1))
        return next((s for s in found if isinstance(s, Session) and s.task is not None), None)

    def find_last(
        self, cwd: Path | None = None, backend: str | None = None, *, anywhere: bool = False
    ) -> Session:
        """The session used last, in this directory or anywhere. Raises `NoSessionHere`."""
        here = real_path(cwd)
        found = self.find_newest(cwd=None if anywhere else here, backend=backend)
        if found is not None:
            return found
        of = f"{backend} " if backend else ""
        other = None if anywhere else self.find_newest(backend=backend)
        if other is None:
            task = self.find_task_session(Query(backend=backend))
            raise NoSessionHere(
                f"there is no {of}session to continue{TASKS_SKIPPED_HINT if task else ''}",
                resume_by_id_hint(task) if task else _start_hint(backend),
                None,
            )
        task = self.find_task_session(Query(cwd=here, backend=backend))
        raise NoSessionHere(
            f"there is no {of}session to continue in {here}{TASKS_SKIPPED_HINT if task else ''}",
            f"the last one is {other.id}, in {other.directory}; resume it with: "
            f'clinvk resume {other.id} "your prompt"   (or: clinvk -c --anywhere "your prompt")',
            other,
        )

    def _find_run(self, text: str, ids: list[str]) -> str | None:
        """The run whose id begins with the text, if all of these sessions are of its tasks."""
        try:
            runs = {self.store.get(i).task for i in ids}
        except ClinvkError:
            return None
        run = runs.pop() if len(runs) == 1 else None
        return run if run and run.lower().startswith(text.lower()) else None

    def _describe(self, session_id: str) -> str:
        try:
            session = self.store.get(session_id)
        except ClinvkError:
            return session_id
        return f"{session_id}  {session.backend or '-'}  {session.label[:60]}"


def resume_by_id_hint(task: Session) -> str:
    """A hint on how to resume the session of a task."""
    return (
        f'resume one by its id: clinvk resume {task.id} "your prompt"; '
        "see them all: clinvk sessions list"
    )


def _start_hint(backend: str | None) -> str:
    return f'start one: clinvk {f"-b {backend} " if backend else ""}"your prompt"'


def real_path(path: Path | None) -> str:
    """The real path of a directory, as stored in sessions; by default of the current one. Raises
    `UsageError` if that no longer exists."""
    try:
        return os.path.realpath(path) if path else os.getcwd()
    except FileNotFoundError:
        raise UsageError(
            "the current directory no longer exists", "cd to another one, or pass it with -w"
        ) from None
