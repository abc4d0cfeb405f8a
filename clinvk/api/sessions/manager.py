"""`SessionManager`: stored conversations, from Python.

    from clinvk import Message, SessionManager

    with SessionManager() as sessions:
        id = sessions.create_session(title="The parser", template="coding")
        sessions.add_message(id, Message("user", "Where are tables read?"))
        print(sessions.export_session(id, export_format="markdown"))

Every call is atomic, and safe with concurrent writers: other managers, `clinvk` itself.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from clinvk.api.sessions.deletion import clean_store, delete_from_store
from clinvk.api.sessions.rewriting import rewrite, save_over, turn_held
from clinvk.config import loading
from clinvk.config import schema as configs
from clinvk.config.stored_options import (
    StoredOptions,
    change_stored_options,
    read_options_file,
)
from clinvk.disk.closing import Closing
from clinvk.errors import ClinvkError, SessionError, SessionNotFound, UsageError
from clinvk.model.age import Age, moment_of
from clinvk.model.option_values import value_problem
from clinvk.model.session import (
    STATUSES,
    Message,
    MessageRole,
    Session,
    check_id,
    count_roles,
    new_id,
    prompt_excerpt,
)
from clinvk.model.usage import rfc3339
from clinvk.sessions import templates, transform
from clinvk.sessions.autosave import Autosave
from clinvk.sessions.lookup import SessionLookup
from clinvk.sessions.masking import redact_data_for_store, redact_for_store
from clinvk.sessions.participants import check_participants
from clinvk.sessions.transform import MessageRef, with_messages
from clinvk.store import open_store
from clinvk.store.base import Query, Store

SETTABLE_STATUSES = tuple(s for s in STATUSES if s != "error")  # that may be set


class SessionManager(Closing):
    """Creates, reads and changes stored sessions. All methods raise `SessionNotFound` (a
    `FileNotFoundError`) for an unknown id, and `SessionError` if the store fails.

    `home` replaces `~/.clinvk`; `store` replaces the configured store. `close`, or the end of a
    `with` block, writes waiting messages, and closes the store unless it was passed in."""

    def __init__(
        self,
        store: Store | None = None,
        home: str | os.PathLike[str] | None = None,
        *,
        config: configs.Loaded | None = None,
    ) -> None:
        if config is None:
            given = {} if home is None else {"CLINVK_HOME": os.fspath(home)}
            config = loading.load({**os.environ, **given})
        self.config = config
        self.home = config.home if home is None else Path(home)
        self.store = store or open_store(config.config.session.storage, self.home)
        self._is_own = store is None
        self._autosave = Autosave(self._append)

    def close(self) -> None:
        """Raises `SessionError` if waiting messages cannot be written; the store is closed then,
        too."""
        atexit.unregister(self.close)
        try:
            self._autosave.flush()
        finally:
            if self._is_own:
                self.store.close()

    # Sessions.

    def create_session(
        self,
        title: str | None = None,
        template: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        backend: str | None = None,
        model: str | None = None,
        tags: Iterable[str] = (),
    ) -> str:
        """Create a session; returns its id: `name`, if given. Raises `SessionError` for a name that
        is taken, `ConfigError` for an unknown template."""
        begun = templates.load_template(self.home, template) if template else templates.Template()
        options = begun.suggested_parameters | ({"model": model} if model else {})
        settings = self.config.config.session
        session = Session(
            id=check_id(name) if name is not None else new_id(),
            title=self._redact(title) if title else None,
            backend=backend,
            model=options.get("model"),
            cwd=os.path.realpath(os.getcwd()),
            tags=tuple(dict.fromkeys([*settings.default_tags, *tags])),
            metadata=begun.default_metadata | dict(metadata or {}),
            began_with=backend,
            options=redact_data_for_store(options, settings),
            template=template,
        )
        instructions = begun.system_message
        first = [Message(MessageRole.SYSTEM, instructions)] if instructions else []
        return self._create(with_messages(session, first), exact=name is not None)

    def get_session(self, session_id: str) -> Session:
        """The session with its messages."""
        record = self._get(session_id)
        return replace(record, messages=self._transcript(session_id))

    def load_session(self, session_id: str) -> Session:
        """The session as it is now in the store; the same as `get_session`."""
        return self.get_session(session_id)

    def save_session(self, session: Session | str) -> None:
        """Store a new or changed session; given an id, write its waiting messages.

        Raises `SessionError` if the stored session was changed since this one was read, and has
        messages that would be lost."""
        if isinstance(session, str):
            self._get(session)
            self._autosave.flush(session)
        else:
            self._save(session)

    def lookup(self, text: str) -> str:
        """The id of the session with this id, unique prefix of an id, or native id. Raises
        `SessionError` if that is ambiguous."""
        return SessionLookup(self.store).lookup(text).id

    def list_sessions(
        self, filter_metadata: Mapping[str, Any] | None = None, *, limit: int | None = None
    ) -> list[Session]:
        """The sessions whose metadata contains all of that, most recently used first, without their
        messages. The key `template` finds sessions created from a template."""
        wanted = dict(filter_metadata or {})
        texts = {k: v for k, v in wanted.items() if isinstance(v, str) and k != "template"}
        found = self.store.select(Query(metadata=texts))
        fitting = [s for s in found if isinstance(s, Session) and _has_metadata(s, wanted)]
        return fitting[:limit]

    def search_sessions(self, text: str, *, limit: int = 20) -> list[Session]:
        """The sessions that contain all words of `text` in their title or messages, best match
        first, without their messages. `store.search` returns where the words are."""
        self._autosave.flush()
        return [hit.session for hit in self.store.search(text, limit=limit)]

    def delete_session(self, session_id: str) -> None:
        """Delete a session, also a damaged one, and stop what a killed turn of it left running.
        Raises `SessionError` while it is running."""
        _check_name(session_id)
        delete_from_store(self.store, self.config.home, session_id)
        self._autosave.discard(session_id)

    def clean_sessions(self, older_than: Age | None = None, *, dry_run: bool = False) -> list[str]:
        """Delete sessions not used for that long (a `timedelta`, days, or a text such as "12h" and
        "2w"); by default `session.retention_days` of the configuration, where 0 deletes nothing.
        Returns their ids; with `dry_run`, those that would be deleted. Sessions that are running or
        were interrupted are kept. Raises `UsageError` for an invalid age."""
        before = moment_of(older_than, self.config.config.session.retention_days)
        if before is None:
            return []
        return clean_store(self.store, self.config.home, rfc3339(before), dry_run=dry_run)

    # Metadata.

    def update_title(self, session_id: str, title: str | None) -> None:
        self.edit_session(session_id, title=title or "")

    def update_metadata(self, session_id: str, metadata: Mapping[str, Any]) -> None:
        """Set these keys of the metadata; the others are kept."""
        self.edit_session(session_id, metadata=metadata)

    def edit_session(
        self,
        session_id: str,
        *,
        title: str | None = None,
        tags: Iterable[str] = (),
        untag: Iterable[str] = (),
        status: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Session:
        """Change what is given and return the session; an empty title clears it. Does not count as
        use. Raises `SessionError` for a status while the session is running."""
        if status is not None and status not in SETTABLE_STATUSES:
            raise UsageError(f"invalid status {status!r}", f"valid: {', '.join(SETTABLE_STATUSES)}")
        gone, added = set(untag), list(tags)
        title = self._redact(title) if title else title

        def change(session: Session) -> Session:
            kept = [t for t in dict.fromkeys([*session.tags, *added]) if t not in gone]
            return replace(
                session,
                title=session.title if title is None else title or None,
                tags=tuple(kept),
                status=status or session.status,
                metadata=session.metadata | dict(metadata or {}),
            )

        self._get(session_id)
        if status is None:
            return self.store.update(session_id, change)
        with turn_held(self.store, session_id):  # a turn that ends sets its own
            return self.store.update(session_id, change)

    # Messages.

    def add_message(self, session_id: str, message: Message) -> None:
        """Append a message. Raises `PermissionError` in a shared session if the message's
        `metadata["user"]` is not among the participants."""
        check_participants(self._get(session_id), [message])
        self._autosave.add(session_id, self._prepare_message(message))

    def get_messages(
        self,
        session_id: str,
        limit: int | None = None,
        role: MessageRole | str | None = None,
        since: datetime | None = None,
    ) -> list[Message]:
        """The last `limit` messages, optionally only of a role, or at or after a time."""
        self._get(session_id)
        role = MessageRole(role) if role is not None else None
        since = since.astimezone(UTC) if since is not None else None
        found = [
            m
            for m in self._transcript(session_id)
            if role in (None, m.role) and (since is None or m.timestamp >= since)
        ]
        return found if limit is None else found[max(0, len(found) - limit) :]

    def update_message_metadata(
        self, session_id: str, message_index: int, metadata: Mapping[str, Any]
    ) -> None:
        """Set these keys of the metadata of a message. Raises `SessionError` if there is no such
        message, or while the session is running."""

        def edit(stored: Session) -> Session:
            said, at = stored.messages, transform.resolve_index(stored, message_index)
            changed = replace(said[at], metadata=said[at].metadata | dict(metadata))
            check_participants(stored, [changed])
            return replace(stored, messages=[*said[:at], changed, *said[at + 1 :]])

        self._rewrite(session_id, edit)

    def update_session_messages(self, session_id: str, messages: Iterable[Message]) -> None:
        """Replace the stored messages. If text was removed, the native sessions are abandoned: the
        next turn hands over the new transcript. Raises `SessionError` while the session is
        running."""
        new = [self._prepare_message(message) for message in messages]

        def edit(stored: Session) -> Session:
            check_participants(stored, new)
            return with_messages(stored, new)

        self._rewrite(session_id, edit)

    def configure_autosave(self, enabled: bool = True, interval: float = 0) -> None:
        """Set when added messages are written: at once (the default), together every `interval`
        seconds, or, if not `enabled`, when `save_session` is called. Messages that wait longer than
        the interval are written with the next message, and when the program exits."""
        if interval < 0:
            raise UsageError("the interval cannot be negative", "use seconds; 0 writes at once")
        self._autosave.configure(enabled=enabled, interval=interval)
        atexit.unregister(self.close)
        if enabled and interval:
            atexit.register(self.close)

    # Branching and merging.

    def branch_session(
        self, session_id: str, from_message_index: int | None = None, title: str | None = None
    ) -> str:
        """Copy a session up to and including that message, by default all of it; returns the new
        id."""
        source = self.get_session(session_id)
        return self._create(transform.branch(source, from_message_index, title))

    def merge_sessions(
        self,
        primary_session_id: str,
        secondary_session_id: str,
        strategy: str = "chronological",
        *,
        order: Iterable[MessageRef] | None = None,
        title: str | None = None,
    ) -> str:
        """Merge two sessions; returns the id of the new one: see `sessions.transform.merge` for the
        strategies (chronological, smart, manual) and for `order`. Raises `UsageError` if both are
        the same."""
        first, second = self.get_session(primary_session_id), self.get_session(secondary_session_id)
        if first.id == second.id:
            raise UsageError(
                f"cannot merge session {first.id} with itself",
                f"to copy it: clinvk sessions branch {first.id}",
            )
        return self._create(transform.merge(first, second, strategy, order=order, title=title))

    def get_session_stats(self, session_id: str) -> dict[str, Any]:
        """Statistics of a session: see `sessions.transform.stats`."""
        return transform.stats(self.get_session(session_id))

    def analyze_conversation_flow(
        self, session_id: str, *, backend: str | None = None
    ) -> dict[str, Any]:
        """`topics` and `sentiment_over_time`: from the words, which needs the extra `analysis` and
        English; or from a backend, if one is named. Raises `ClinvkError`."""
        session = self.get_session(session_id)
        # Only on request, and it needs an extra.
        from clinvk.sessions import analysis

        if backend is None:
            return analysis.analyze_words(session)
        return analysis.analyze_with_model(session, lambda prompt: self._ask(backend, prompt))

    # Templates and exports.

    def stored_options(self, session_id: str | None = None) -> dict[str, Any]:
        """The options that are stored for all prompts on the command line, or for those of a
        session, as `clinvk session` and `clinvk sessions options ID` store them."""
        key = None if session_id is None else self._get(session_id).id
        return dict(read_options_file(self.home).of(key).options)

    def store_options(self, options: Mapping[str, Any], session_id: str | None = None) -> None:
        """Store these options beside those that are stored; None clears one. Raises `UsageError` for
        an unknown option or an invalid value."""
        # Only where something is stored.
        from clinvk.backend.catalog import Catalog

        # Only where something is stored.
        from clinvk.backend.storable import check_option

        key = None if session_id is None else self._get(session_id).id
        given = {name: value for name, value in options.items() if value is not None}
        for name, value in given.items():
            check_option(name, value, Catalog(self.home))
            if problem := value_problem(name, value):
                raise UsageError(f"{name}: {problem}")

        def change(old: StoredOptions) -> StoredOptions:
            kept = {k: v for k, v in old.options.items() if k not in options}
            return replace(old, options=kept | given)

        change_stored_options(self.home, key, change)

    def register_template(self, name: str, template: Mapping[str, Any]) -> None:
        """Store a template for new sessions: `system_message`, `default_metadata`,
        `suggested_parameters`, `description`. Raises `ConfigError` for anything else in it."""
        templates.save_template(self.home, name, template)

    def list_templates(self) -> list[str]:
        return templates.template_names(self.home)

    def export_session(
        self, session_id: str, export_format: str = "markdown", **options: Any
    ) -> str:
        """The session as text: markdown, json, html, or a registered template. The options are
        those of `export.Options`. Raises `UsageError` for an unknown format or option."""
        from clinvk.sessions import export  # only to export

        session = self.get_session(session_id)
        return export.export_session(
            session, export_format, export.read_options(**options), self.home
        )

    def register_export_template(self, name: str, template: str) -> None:
        """Store a Jinja template as an export format of that name. Raises `UsageError` if it is
        invalid."""
        # Only exporting needs it.
        from clinvk.sessions import export

        export.register_template(self.home, name, template)

    # Internals.

    def _get(self, session_id: str) -> Session:
        _check_name(session_id)
        return self.store.get(session_id)

    def _transcript(self, session_id: str) -> list[Message]:
        return [*self.store.messages(session_id), *self._autosave.pending(session_id)]

    def _redact(self, text: str) -> str:
        """The text as it may be stored: `session.redact` masks what looks like a key."""
        return redact_for_store(text, self.config.config.session)

    def _prepare_message(self, message: Message) -> Message:
        content = self._redact(message.content)
        return message if content == message.content else replace(message, content=content)

    def _create(self, session: Session, *, exact: bool = False) -> str:
        return self.store.create(session, session.messages, exact=exact).id

    def _append(self, session_id: str, messages: list[Message]) -> None:
        def change(session: Session) -> Session:
            check_participants(session, messages)
            return _with_more_messages(session, messages)

        self.store.append(session_id, messages, change)

    def _save(self, session: Session) -> None:
        given = with_messages(session, map(self._prepare_message, session.messages))
        try:
            self._get(session.id)
        except SessionNotFound:
            check_id(session.id)
            self._create(given, exact=True)
            return
        self._autosave.flush(session.id)
        save_over(self.store, given)

    def _rewrite(self, session_id: str, edit: Callable[[Session], Session]) -> None:
        self._get(session_id)
        self._autosave.flush(session_id)
        rewrite(self.store, session_id, edit)

    def _ask(self, backend: str, prompt: str) -> str:
        # Most users of a session manager never call a backend.
        from clinvk.api.prompt import run
        from clinvk.dispatch.dispatcher import Dispatcher

        dispatcher = Dispatcher(self.config, store=self.store)
        result = run(prompt, backend=backend, ephemeral=True, dispatcher=dispatcher)
        if not result.ok:
            raise ClinvkError(f"{backend}: {result.error.message if result.error else 'failed'}")
        return str(result.text)


def _check_name(session_id: str) -> None:
    try:
        check_id(session_id)
    except SessionError as error:  # not a valid session id, so there is no such session
        raise SessionNotFound(error.message, error.hint) from None


def _has_metadata(session: Session, wanted: Mapping[str, Any]) -> bool:
    return all(
        session.metadata.get(k) == v or (k == "template" and session.template == v)
        for k, v in wanted.items()
    )


def _with_more_messages(session: Session, messages: list[Message]) -> Session:
    counts = dict(session.counts)
    for role, n in count_roles(messages).items():
        counts[role] = counts.get(role, 0) + n
    asked = next((prompt_excerpt(m.content) for m in messages if m.role is MessageRole.USER), None)
    prompt = session.prompt or asked
    return replace(session, counts=counts, prompt=prompt, updated_at=datetime.now(UTC))
