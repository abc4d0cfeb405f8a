"""Sessions on a Redis server (6 or later, not a cluster): `redis://host/0`, or `rediss://`.

    clinvk:session:<id>    hash: record, version (one more with each write), natives
    clinvk:said:<id>       list: the transcript, one message each
    clinvk:writes:<id>     list: the last writes, so that none is repeated
    clinvk:used            sorted set: ids, most recently used first
    clinvk:ids             sorted set: folded id, NUL, id; for prefixes, and names that differ in case
    clinvk:native:<id>     set: the sessions with this native id
    clinvk:lease:<id>      who holds the turn, until when; the only key that expires
    clinvk:turn:<id>       hash: who took the turn last, and the note of a killed turn
    clinvk:turns           set: sessions that may have a turn

A record is changed by comparing its version, so a change may be tried several times. Acknowledged
writes are as safe as the server makes them: with `appendonly yes` a restart loses nothing, with
`appendfsync always` a power cut loses nothing either, and without them both may.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from clinvk.disk.closing import Closing
from clinvk.disk.jsonl import encode
from clinvk.disk.waiting import check_may_block
from clinvk.errors import SessionError, SessionNotFound
from clinvk.model.session import Message, Session, check_id, new_id
from clinvk.process import host, note
from clinvk.store.base import Change, Damaged, Hit, ImmediateWrites, Query
from clinvk.store.codec import (
    damaged,
    decode_messages,
    decode_session,
    encode_session,
    left_behind_error,
    not_found_error,
    running_error,
    taken_error,
)
from clinvk.store.connections import store_is_closed
from clinvk.store.index import query_words
from clinvk.store.redis import lua
from clinvk.store.redis.client import REBUILD, RedisClient, WrongType
from clinvk.store.redis.lease import (
    PREFIX,
    TURNS,
    LeaseLock,
    lease_key,
    milliseconds,
    turn_key,
)
from clinvk.store.redis.renewals import Renewals
from clinvk.store.search import scan_sessions

LEASE_SECONDS = 30.0  # seconds for which the turn of a dead machine is still held
BUSY_TIMEOUT = 30.0  # seconds in which a change has to succeed against other writers
BATCH = 500  # records that are read at a time
USED = f"{PREFIX}used"
IDS = f"{PREFIX}ids"
NATIVE = f"{PREFIX}native:"
TRANSCRIPT = (b"list", b"none")  # types that `said` may have

Progress = Callable[[int, int], None]


class RedisStore(Closing):
    def __init__(self, url: str, *, lease: float = LEASE_SECONDS, patient: bool = False) -> None:
        """If `patient`, a server that is restarted is no error."""
        self._connected = RedisClient(url, patient=patient)
        self._closed = False
        self._lease = lease
        self._renewals = Renewals(lease)
        self._turns: dict[str, LeaseLock] = {}  # turns of this process, whose writes are checked
        # By session: the record and its version after the last write of such a turn. If another
        # process has written since, the server refuses a write that is based on it.
        self._written: dict[str, tuple[bytes, str]] = {}

    def close(self) -> None:
        self._closed = True
        self._renewals.close()
        self._connected.close()

    @property
    def _server(self) -> RedisClient:
        if self._closed:
            raise store_is_closed()
        return self._connected

    def create(
        self,
        session: Session,
        messages: Iterable[Message] = (),
        *,
        exact: bool = False,
        durable: bool = True,  # noqa: ARG002 - the server decides
    ) -> Session:
        check_may_block()  # before any work that would have to be done again
        lines = _lines(messages)
        check_id(session.id)
        while (answer := self._commit(session, "", lines)) == "taken":
            if exact:
                raise taken_error(session.id)
            session = replace(session, id=new_id())
        _raise_for_reply(answer, session.id)
        return session

    def begin(
        self,
        session: Session,
        messages: Iterable[Message],
        facts: Callable[[str], dict[str, Any]],
        *,
        exact: bool,
    ) -> tuple[Session, LeaseLock]:
        check_may_block()
        lines = _lines(messages)
        check_id(session.id)
        token, taker = uuid.uuid4().hex, json.dumps(host.this_process())
        while True:
            note_ = json.dumps(facts(session.id))
            before = [token, milliseconds(self._lease), taker, note_]
            answer = self._commit(session, "", lines, script=lua.BEGIN, before=before)
            if answer != "taken" or exact:
                break
            session = replace(session, id=new_id())
        if answer == "taken":
            raise taken_error(session.id)
        _raise_for_reply(answer, session.id)
        return session, self._hold_turn(session.id, token, "")

    def get(self, session_id: str) -> Session:
        return self._read(check_id(session_id))[0]

    def update(
        self,
        session_id: str,
        change: Change,
        *,
        durable: bool = True,  # noqa: ARG002 - the server decides
    ) -> Session:
        return self._change(session_id, change, [])

    def append(self, session_id: str, messages: Iterable[Message], change: Change) -> Session:
        return self._change(session_id, change, _lines(messages))

    def deferred(self) -> ImmediateWrites:
        return ImmediateWrites(self, lambda: self._server)  # which raises if it is closed

    def rewrite(self, session_id: str, messages: Iterable[Message], change: Change) -> Session:
        return self._change(session_id, change, _lines(messages), "rewrite")

    def messages(self, session_id: str) -> list[Message]:
        return decode_messages(self._lines(check_id(session_id)))

    def size(self, session_id: str) -> int:
        with self._server.translate_errors() as client:
            record = client.hstrlen(_session_key(check_id(session_id)), "record")
        return int(record) + sum(map(len, self._lines(session_id)))

    def select(self, query: Query) -> list[Session | Damaged]:
        found: list[Session | Damaged] = []
        damaged: list[Session | Damaged] = []
        for session in self._all():
            if len(found) == query.limit:
                break
            if isinstance(session, Damaged):
                damaged.append(session)
            elif query.matches(session):
                found.append(session)
        return [*found, *(damaged if query.includes_damaged else [])][: query.limit]

    def count(self, query: Query) -> int:
        return len(self.select(replace(query, limit=None)))

    def find_ids(self, text: str, limit: int = 11) -> list[str]:
        if "\0" in text:  # which ends the folded id there
            return []
        folded = text.lower().encode("utf-8", "replace")
        try:
            with self._server.translate_errors() as client:
                found = client.zrangebylex(IDS, b"[" + folded, b"[" + folded + b"\xff", 0, limit)
        except WrongType:
            found = sorted(_index_member(id_).encode() for id_ in self._ids())
            found = [member for member in found if member.startswith(folded)][:limit]
        return _decoded(member.partition(b"\0")[2] for member in found)

    def find_by_native_id(self, backend: str | None, native_id: str) -> list[str]:
        try:
            with self._server.translate_errors() as client:
                found = client.smembers(NATIVE + _to_text(native_id))
        except WrongType:
            return []
        pairs = sorted(filter(None, map(_owner, found)))
        return [session_id for name, session_id in pairs if backend in (None, name)]

    def search(self, text: str, *, role: str | None = None, limit: int = 20) -> list[Hit]:
        words = query_words(text)
        if not words:
            return []
        sessions = (s for s in self._all() if isinstance(s, Session))
        return scan_sessions(sessions, self.messages, words, role, limit)

    def reindex(self, progress: Progress = lambda _done, _all: None) -> int:
        ids = self._scanned(_session_key(""))
        with self._server.translate_errors() as client:
            for key in (USED, IDS):
                if client.type(key) not in (b"zset", b"none"):
                    client.delete(key)
        for done, session_id in enumerate(ids):
            progress(done, len(ids))
            self._reindex_session(session_id)
        progress(len(ids), len(ids))
        return len(ids)

    def delete(self, session_id: str) -> None:
        # In one step, without taking its turn: that would need memory.
        _raise_for_reply(
            self._remove(check_id(session_id), "", self._find_dead_token(session_id)), session_id
        )

    def clean(self, before: str, *, dry_run: bool = False) -> list[str]:
        old = [s.id for s in self.select(Query(before=before)) if isinstance(s, Session)]
        if dry_run:
            return [session_id for session_id in old if self._is_idle(session_id)]
        return [session_id for session_id in old if self._remove_old(session_id, before)]

    def acquire_turn(self, session_id: str) -> LeaseLock | None:
        check_may_block()
        keys = [lease_key(check_id(session_id)), turn_key(session_id), TURNS]
        token = uuid.uuid4().hex
        taker = json.dumps(host.this_process())
        facts, dead = None, ""
        for _ in range(2):  # who has taken it is only asked if somebody has
            values = [token, milliseconds(self._lease), taker, dead, session_id]
            facts = self._server.run_script(lua.TAKE, keys, values)
            if facts is not None or not (dead := self._find_dead_token(session_id)):
                break
        if facts is None:
            return None
        return self._hold_turn(session_id, token, facts)

    def _hold_turn(self, session_id: str, token: str, facts: str) -> LeaseLock:
        """The turn that has just been taken; `facts` are about the one before."""
        turn = self._turns[session_id] = LeaseLock(
            self._connected, session_id, token, self._lease, facts, self._renewals,
            self._forget_turn, self._complete,
        )  # fmt: skip
        return turn

    def _complete(self, turn: LeaseLock, messages: Iterable[Message], change: Change) -> Session:
        # Another turn of this process may have taken it over.
        return self._change(turn.id, change, _lines(messages), script=lua.COMPLETE, turn=turn)

    def is_own(self, session_id: str) -> bool:  # noqa: ARG002
        return False  # every client of the server can write it

    def running_turn(self, session_id: str) -> dict[str, Any] | None:
        with suppress(WrongType), self._server.translate_errors() as client:
            token = client.get(lease_key(session_id))
            (facts,) = self._turn(session_id, "facts")
            return self._held(session_id, token, facts)
        return None

    def _held(self, id_: str, token: bytes | None, facts: bytes | None) -> dict[str, Any] | None:
        if token is None or token.decode("utf-8", "replace") == self._find_dead_token(id_):
            return None
        return note.decode(facts) or {}

    def running_ids(self) -> list[str]:
        try:
            with self._server.translate_errors() as client:
                ids = sorted(_decoded(client.smembers(TURNS)))
        except WrongType:
            ids = sorted(self._scanned(lease_key("")))
        return [session_id for session_id in ids if self.running_turn(session_id) is not None]

    def _is_idle(self, session_id: str) -> bool:
        """Whether no turn is running, and no killed one has left something to stop."""
        (facts,) = self._turn(session_id, "facts")
        return not facts and self.running_turn(session_id) is None

    def _forget_turn(self, turn: LeaseLock) -> None:
        if self._turns.get(turn.id) is turn:
            del self._turns[turn.id]
            self._written.pop(turn.id, None)

    def _find_dead_token(self, session_id: str) -> str:
        """The token of a turn whose process is known to be dead, so that the next turn need not
        wait for its lease to expire; otherwise empty."""
        token, holder = self._turn(session_id, "token", "holder")
        try:
            is_gone = note.is_gone(note.parse_process(note.decode(holder) or {}))
        except note.InvalidNote:
            return ""  # its lease decides
        return token.decode("utf-8", "replace") if token and is_gone else ""

    def _turn(self, id_: str, *names: str) -> list[bytes | None]:
        """These fields of the record of its last turn."""
        with suppress(WrongType), self._server.translate_errors() as client:
            return list(client.hmget(turn_key(id_), *names))
        return [None] * len(names)

    # Records.

    def _read(self, session_id: str) -> tuple[Session, str]:
        """The session, and its version. Raises `SessionNotFound`."""
        try:
            with (
                self._server.translate_errors() as client,
                client.pipeline(transaction=False) as pipeline,
            ):
                pipeline.hmget(_session_key(session_id), "record", "version")
                pipeline.exists(_session_key(session_id))
                pipeline.type(_transcript_key(session_id))
                (record, version), exists, kind = pipeline.execute()
        except WrongType:
            raise self._foreign(session_id, _session_key(session_id)) from None
        if not exists:
            raise not_found_error(session_id)
        if kind not in TRANSCRIPT:
            raise self._foreign(session_id, _transcript_key(session_id))
        session = self._decode_session(session_id, record)
        if version is None:
            raise self._damaged(session_id, f"{_session_key(session_id)} has no version")
        return session, version.decode("utf-8", "replace")

    def _foreign(self, id_: str, key: str) -> SessionError:
        return self._damaged(id_, f"the key {key} was written by another program")

    def _damaged(self, id_: str, why: str) -> SessionError:
        return damaged(id_, f"redis at {self._connected.name}: {why}")

    def _decode_session(self, session_id: str, record: bytes | None) -> Session:
        return decode_session(
            record or b"", session_id, f"{_session_key(session_id)} at {self._server.name}"
        )

    def _change(
        self,
        session_id: str,
        change: Change,
        lines: list[bytes],
        how: str = "",
        script: str = lua.COMMIT,
        turn: LeaseLock | None = None,
    ) -> Session:
        deadline = time.monotonic() + BUSY_TIMEOUT
        check_id(session_id)
        while True:
            session, version = self._last_written(session_id) or self._read(session_id)
            session = change(session)
            answer = self._commit(session, version, lines, how, script, turn=turn)
            if answer != "stale":
                _raise_for_reply(answer, session_id)
                return session
            if time.monotonic() > deadline:
                raise SessionError(
                    f"session {session_id}: other processes have been writing it for {BUSY_TIMEOUT:.0f} s"
                )
            time.sleep(random.random() * 0.01)  # noqa: S311 - so that two do not keep step

    def _last_written(self, session_id: str) -> tuple[Session, str] | None:
        """The session and its version after the last write of a turn of this process."""
        record, version = self._written.pop(session_id, (b"", ""))
        return (self._decode_session(session_id, record), version) if version else None

    def _commit(
        self,
        session: Session,
        version: str,
        lines: list[bytes],
        how: str = "",
        script: str = lua.COMMIT,
        before: Sequence[Any] = (),
        turn: LeaseLock | None = None,
    ) -> str:
        """The answer of the server. `before` are arguments of the script before those of `commit`. `turn` is
        the one that writes, by default that of this process."""
        record, session = encode_session(session)
        session_id = session.id
        keys = [
            _session_key(session_id),
            _transcript_key(session_id),
            f"{PREFIX}writes:{session_id}",
            turn_key(session_id),
            USED,
            IDS,
        ]
        if script is not lua.COMMIT:
            keys += [lease_key(session_id), TURNS]
        turn = turn or self._turns.get(session_id)
        values = [*before, session_id, _index_member(session_id), version, record, _used_score(session),
                  _natives(session), uuid.uuid4().hex, turn.token if turn else "", how, NATIVE]  # fmt: skip
        answer = str(self._server.run_script(script, keys, [*values, *lines]))
        if answer == "done" and (script is lua.BEGIN or (turn is not None and version.isdecimal())):
            self._written[session_id] = record, str(int(version or "0") + 1)
        return answer

    def _lines(self, session_id: str) -> list[bytes]:
        with self._server.translate_errors() as client:
            return list(client.lrange(_transcript_key(session_id), 0, -1))

    def _all(self) -> Iterator[Session | Damaged]:
        """All sessions, most recently used first."""
        ids = self._ids()
        for start in range(0, len(ids), BATCH):
            some = ids[start : start + BATCH]
            with (
                self._server.translate_errors() as client,
                client.pipeline(transaction=False) as pipeline,
            ):
                for session_id in some:
                    pipeline.hmget(_session_key(session_id), "record", "version")
                    pipeline.type(_transcript_key(session_id))
                    pipeline.exists(_session_key(session_id))
                answers = pipeline.execute(raise_on_error=False)
            for i, session_id in enumerate(some):
                fields, kind, exists = answers[3 * i : 3 * i + 3]
                if exists:  # otherwise deleted meanwhile
                    yield self._session_or_damaged(session_id, fields, kind)

    def _session_or_damaged(self, session_id: str, fields: Any, kind: bytes) -> Session | Damaged:
        is_ours = isinstance(fields, list) and None not in fields and kind in TRANSCRIPT
        try:
            return (
                self._decode_session(session_id, fields[0])
                if is_ours
                else self._read(session_id)[0]
            )
        except SessionError as error:
            return Damaged(session_id, error.message)

    def _ids(self) -> list[str]:
        """The ids of all sessions, most recently used first; unordered if that is unknown."""
        try:
            with self._server.translate_errors() as client:
                return _decoded(client.zrange(USED, 0, -1))
        except WrongType:
            return self._scanned(_session_key(""))

    def _scanned(self, prefix: str) -> list[str]:
        """The names of keys with this prefix, without it."""
        with self._server.translate_errors() as client:
            keys = list(client.scan_iter(f"{prefix}*", count=BATCH))
        return _decoded(key[len(prefix) :] for key in keys)

    def _reindex_session(self, session_id: str) -> None:
        """Rebuild the index entries of the session."""
        try:
            with suppress(WrongType), self._server.translate_errors() as client:
                client.hdel(_session_key(session_id), "natives")
            self._change(session_id, lambda s: s, [])
        except SessionNotFound:
            return
        except SessionError:  # damaged: listed, so that it can be deleted
            with self._server.translate_errors() as client:
                client.zadd(USED, {session_id: 0})
                client.zadd(IDS, {_index_member(session_id): 0})

    def _remove_old(self, session_id: str, before: str) -> bool:
        """Delete the session if it is still old and not running."""
        try:
            session, version = self._read(session_id)
        except SessionNotFound:
            return False
        if not Query(before=before).matches(session) or not self._is_idle(session_id):
            return False
        return self._remove(session_id, version, self._find_dead_token(session_id)) == "done"

    def _remove(self, session_id: str, version: str, lease: str) -> str:
        keys = [_session_key(session_id), _transcript_key(session_id), f"{PREFIX}writes:{session_id}", turn_key(session_id), USED, IDS,
                lease_key(session_id), TURNS]  # fmt: skip
        values = [session_id, _index_member(session_id), version, lease, NATIVE]
        return str(self._server.run_script(lua.DELETE, keys, values))


def _raise_for_reply(answer: str, session_id: str) -> None:
    """Raise the error that the server's answer to a write means."""
    if answer == "missing":
        raise not_found_error(session_id)
    if answer == "running":
        raise running_error(session_id)
    if answer == "left":
        raise left_behind_error(session_id)
    if answer.startswith("foreign"):
        raise WrongType(
            f"session {session_id} cannot be written: the key {answer.partition(' ')[2]} was written by "
            "another program",
            REBUILD,
        )
    if answer == "lost":
        raise SessionError(
            f"session {session_id}: another clinvk has taken over this turn, which was silent for too long; "
            "nothing was written",
            f"see what it did: clinvk sessions show {session_id} --messages 4",
        )


def _session_key(session_id: str) -> str:
    return f"{PREFIX}session:{session_id}"


def _transcript_key(session_id: str) -> str:
    return f"{PREFIX}said:{session_id}"


def _index_member(session_id: str) -> str:
    return f"{session_id.lower()}\0{session_id}"


def _used_score(session: Session) -> int:
    """A score that is lower for later use, so that equal ones are in the order of their ids."""
    return -round(session.updated_at.timestamp() * 1000)


def _natives(session: Session) -> str:
    """(end of a key, member of the set there) of each native id; the scripts read it."""
    return json.dumps(
        [[native, json.dumps([name, session.id])] for name, native in session.native_ids.items()]
    )


def _lines(messages: Iterable[Message]) -> list[bytes]:
    return [encode(m.to_json()) for m in messages]


def _decoded(members: Iterable[bytes]) -> list[str]:
    """The valid ids; others were written by another program."""
    found = []
    for member in members:
        with suppress(UnicodeDecodeError, SessionError):
            found.append(check_id(member.decode()))
    return found


def _owner(member: bytes) -> list[str] | None:
    """(backend, id), if the value has that form."""
    with suppress(ValueError):
        pair = json.loads(member)
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair):
            return pair
    return None


def _to_text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
