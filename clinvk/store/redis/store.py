"""Sessions on a Redis server (6 or later, not a cluster): `redis://host/0`, or `rediss://`.

    clinvk:session:<id>    hash: record, version (one more with each write), natives
    clinvk:said:<id>       list: the transcript, a message each
    clinvk:writes:<id>     list: the last writes, so that none is done twice
    clinvk:used            sorted set: ids, the one used last first
    clinvk:ids             sorted set: folded id, NUL, id; for prefixes, and names that differ in case
    clinvk:native:<id>     set: which sessions a backend knows by this id
    clinvk:lease:<id>      who has the turn, until when; the only key that runs out
    clinvk:turn:<id>       hash: who took the turn last, and what a turn that was killed left
    clinvk:turns           set: sessions that may have a turn

A record is changed by comparing its version, so a change may be tried several times. What is
acknowledged is as safe as the server makes it: with `appendonly yes` a restart loses nothing, with
`appendfsync always` a power cut loses nothing either, and without them both may.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from clinvk.disk.closing import Closing
from clinvk.disk.jsonl import encode
from clinvk.errors import SessionError, SessionNotFound
from clinvk.model.session import Message, Session, check_id, new_id
from clinvk.process import host, note
from clinvk.store.base import Change, Damaged, Hit, Query
from clinvk.store.codec import (
    as_kept,
    damaged,
    is_running,
    left_behind,
    messages_of,
    session_of,
    taken,
    unknown,
)
from clinvk.store.connections import store_is_closed
from clinvk.store.index import words_of
from clinvk.store.redis import lua
from clinvk.store.redis.client import REBUILD, Server, WrongType
from clinvk.store.redis.lease import PREFIX, TURNS, LeaseTurn, lease_key, milliseconds, turn_key
from clinvk.store.search import scan

LEASE = 30.0  # seconds that the turn of a dead machine is still had
BUSY = 30.0  # seconds in which a change has to succeed against other writers
BATCH = 500  # records that are read at a time
USED = f"{PREFIX}used"
IDS = f"{PREFIX}ids"
NATIVE = f"{PREFIX}native:"
TRANSCRIPT = (b"list", b"none")  # types that `said` may have

Progress = Callable[[int, int], None]


class RedisStore(Closing):
    def __init__(self, url: str, *, lease: float = LEASE) -> None:
        self._connected = Server(url)
        self._closed = False
        self._lease = lease
        self._turns: dict[str, LeaseTurn] = {}  # ours: what they write is checked

    def close(self) -> None:
        self._closed = True
        self._connected.close()

    @property
    def _server(self) -> Server:
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
        settled: bool = True,  # noqa: ARG002
    ) -> Session:
        lines = _lines(messages)
        check_id(session.id)
        while (answer := self._commit(session, "", lines)) == "taken":
            if exact:
                raise taken(session.id)
            session = replace(session, id=new_id())
        _check(answer, session.id)
        return session

    def get(self, id: str) -> Session:  # noqa: A002
        return self._read(check_id(id))[0]

    def update(
        self,
        id: str,  # noqa: A002
        change: Change,
        *,
        durable: bool = True,  # noqa: ARG002 - the server decides
        settled: bool = True,  # noqa: ARG002
    ) -> Session:
        return self._change(id, change, [])

    def append(
        self,
        id: str,  # noqa: A002
        messages: Iterable[Message],
        change: Change,
        *,
        settled: bool = True,  # noqa: ARG002
    ) -> Session:
        return self._change(id, change, _lines(messages))

    def settle(self, ids: Iterable[str]) -> None:  # noqa: ARG002
        """The server decides."""
        self._server  # noqa: B018 - which is closed, perhaps

    def rewrite(self, id: str, messages: Iterable[Message], change: Change) -> Session:  # noqa: A002
        return self._change(id, change, _lines(messages), "rewrite")

    def messages(self, id: str) -> list[Message]:  # noqa: A002
        return messages_of(self._lines(check_id(id)))

    def size(self, id: str) -> int:  # noqa: A002
        with self._server.asking() as client:
            record = client.hstrlen(_session(check_id(id)), "record")
        return int(record) + sum(map(len, self._lines(id)))

    def select(self, query: Query) -> list[Session | Damaged]:
        found: list[Session | Damaged] = []
        damaged: list[Session | Damaged] = []
        for session in self._all():
            if len(found) == query.limit:
                break
            if isinstance(session, Damaged):
                damaged.append(session)
            elif query.fits(session):
                found.append(session)
        return [*found, *(damaged if query.of_damaged else [])][: query.limit]

    def count(self, query: Query) -> int:
        return len(self.select(replace(query, limit=None)))

    def matching(self, text: str, limit: int = 11) -> list[str]:
        if "\0" in text:  # which ends the folded id there
            return []
        folded = text.lower().encode("utf-8", "replace")
        try:
            with self._server.asking() as client:
                found = client.zrangebylex(IDS, b"[" + folded, b"[" + folded + b"\xff", 0, limit)
        except WrongType:
            found = sorted(_member(id_).encode() for id_ in self._ids())
            found = [member for member in found if member.startswith(folded)][:limit]
        return _decoded(member.partition(b"\0")[2] for member in found)

    def owners(self, backend: str | None, native_id: str) -> list[str]:
        try:
            with self._server.asking() as client:
                found = client.smembers(NATIVE + _text(native_id))
        except WrongType:
            return []
        pairs = sorted(filter(None, map(_owner, found)))
        return [id_ for name, id_ in pairs if backend in (None, name)]

    def search(self, text: str, *, role: str | None = None, limit: int = 20) -> list[Hit]:
        words = words_of(text)
        if not words:
            return []
        sessions = (s for s in self._all() if isinstance(s, Session))
        return scan(sessions, self.messages, words, role, limit)

    def reindex(self, progress: Progress = lambda _done, _all: None) -> int:
        ids = self._scanned(_session(""))
        with self._server.asking() as client:
            for key in (USED, IDS):
                if client.type(key) not in (b"zset", b"none"):
                    client.delete(key)
        for done, id_ in enumerate(ids):
            progress(done, len(ids))
            self._index(id_)
        progress(len(ids), len(ids))
        return len(ids)

    def delete(self, id: str) -> None:  # noqa: A002
        # In one step, without taking its turn: that would need memory.
        _check(self._remove(check_id(id), "", self._dead(id)), id)

    def clean(self, before: str, *, dry_run: bool = False) -> list[str]:
        old = [s.id for s in self.select(Query(before=before)) if isinstance(s, Session)]
        if dry_run:
            return [id_ for id_ in old if self._is_idle(id_)]
        return [id_ for id_ in old if self._remove_old(id_, before)]

    def turn(self, id: str) -> LeaseTurn | None:  # noqa: A002
        keys = [lease_key(check_id(id)), turn_key(id), TURNS]
        token = uuid.uuid4().hex
        taker = json.dumps(host.this_process())
        values = [token, milliseconds(self._lease), taker, self._dead(id), id]
        facts = self._server.run(lua.TAKE, keys, values)
        if facts is None:
            return None
        turn = LeaseTurn(self._connected, id, token, self._lease, facts, self._ended)
        self._turns[id] = turn
        return turn

    def is_own(self, id: str) -> bool:  # noqa: A002, ARG002
        return False  # whoever can write the server

    def running(self, id: str) -> dict[str, Any] | None:  # noqa: A002
        with suppress(WrongType), self._server.asking() as client:
            token = client.get(lease_key(id))
            (facts,) = self._turn(id, "facts")
            return self._held(id, token, facts)
        return None

    def _held(self, id_: str, token: bytes | None, facts: bytes | None) -> dict[str, Any] | None:
        if token is None or token.decode("utf-8", "replace") == self._dead(id_):
            return None
        return note.decode(facts) or {}

    def all_running(self) -> list[str]:
        try:
            with self._server.asking() as client:
                ids = sorted(_decoded(client.smembers(TURNS)))
        except WrongType:
            ids = sorted(self._scanned(lease_key("")))
        return [id_ for id_ in ids if self.running(id_) is not None]

    def _is_idle(self, id_: str) -> bool:
        """Whether no turn runs, and none that was killed has left something to end."""
        (facts,) = self._turn(id_, "facts")
        return not facts and self.running(id_) is None

    def _ended(self, turn: LeaseTurn) -> None:
        if self._turns.get(turn.id) is turn:
            del self._turns[turn.id]

    def _dead(self, id_: str) -> str:
        """The token of a turn whose process is known to be dead, so that the next turn need not
        wait for its lease to end; else nothing."""
        token, holder = self._turn(id_, "token", "holder")
        try:
            is_gone = note.is_gone(note.parse_process(note.decode(holder) or {}))
        except note.InvalidNote:
            return ""  # its lease decides
        return token.decode("utf-8", "replace") if token and is_gone else ""

    def _turn(self, id_: str, *names: str) -> list[bytes | None]:
        """These fields of what is known of its last turn."""
        with suppress(WrongType), self._server.asking() as client:
            return list(client.hmget(turn_key(id_), *names))
        return [None] * len(names)

    # Records.

    def _read(self, id_: str) -> tuple[Session, str]:
        """The session, and its version. Raises `SessionNotFound`."""
        try:
            with self._server.asking() as client, client.pipeline(transaction=False) as pipeline:
                pipeline.hmget(_session(id_), "record", "version")
                pipeline.exists(_session(id_))
                pipeline.type(_said(id_))
                (record, version), exists, kind = pipeline.execute()
        except WrongType:
            raise self._foreign(id_, _session(id_)) from None
        if not exists:
            raise unknown(id_)
        if kind not in TRANSCRIPT:
            raise self._foreign(id_, _said(id_))
        session = self._parsed(id_, record)
        if version is None:
            raise self._damaged(id_, f"{_session(id_)} has no version")
        return session, version.decode("utf-8", "replace")

    def _foreign(self, id_: str, key: str) -> SessionError:
        return self._damaged(id_, f"the key {key} was written by another program")

    def _damaged(self, id_: str, why: str) -> SessionError:
        return damaged(id_, f"redis at {self._connected.name}: {why}")

    def _parsed(self, id_: str, record: bytes | None) -> Session:
        return session_of(record or b"", id_, f"{_session(id_)} at {self._server.name}")

    def _change(self, id_: str, change: Change, lines: list[bytes], how: str = "") -> Session:
        deadline = time.monotonic() + BUSY
        check_id(id_)
        while True:
            session, version = self._read(id_)
            session = change(session)
            answer = self._commit(session, version, lines, how)
            if answer != "stale":
                _check(answer, id_)
                return session
            if time.monotonic() > deadline:
                raise SessionError(f"session {id_}: others have been writing it for {BUSY:.0f} s")
            time.sleep(random.random() * 0.01)  # noqa: S311 - so that two do not keep step

    def _commit(self, session: Session, version: str, lines: list[bytes], how: str = "") -> str:
        record, session = as_kept(session)
        id_ = session.id
        keys = [_session(id_), _said(id_), f"{PREFIX}writes:{id_}", turn_key(id_), USED, IDS]
        turn = self._turns.get(id_)
        values = [id_, _member(id_), version, record, _score(session), _natives(session),
                  uuid.uuid4().hex, turn.token if turn else "", how, NATIVE]  # fmt: skip
        return str(self._server.run(lua.COMMIT, keys, [*values, *lines]))

    def _lines(self, id_: str) -> list[bytes]:
        with self._server.asking() as client:
            return list(client.lrange(_said(id_), 0, -1))

    def _all(self) -> Iterator[Session | Damaged]:
        """Every session, the one used last first."""
        ids = self._ids()
        for start in range(0, len(ids), BATCH):
            some = ids[start : start + BATCH]
            with self._server.asking() as client, client.pipeline(transaction=False) as pipeline:
                for id_ in some:
                    pipeline.hmget(_session(id_), "record", "version")
                    pipeline.type(_said(id_))
                    pipeline.exists(_session(id_))
                answers = pipeline.execute(raise_on_error=False)
            for i, id_ in enumerate(some):
                fields, kind, exists = answers[3 * i : 3 * i + 3]
                if exists:  # else deleted meanwhile
                    yield self._found(id_, fields, kind)

    def _found(self, id_: str, fields: Any, kind: bytes) -> Session | Damaged:
        is_ours = isinstance(fields, list) and None not in fields and kind in TRANSCRIPT
        try:
            return self._parsed(id_, fields[0]) if is_ours else self._read(id_)[0]
        except SessionError as error:
            return Damaged(id_, error.message)

    def _ids(self) -> list[str]:
        """Those of all sessions, the one used last first; in no order if that is not known."""
        try:
            with self._server.asking() as client:
                return _decoded(client.zrange(USED, 0, -1))
        except WrongType:
            return self._scanned(_session(""))

    def _scanned(self, prefix: str) -> list[str]:
        """What the names of keys with this prefix end in."""
        with self._server.asking() as client:
            keys = list(client.scan_iter(f"{prefix}*", count=BATCH))
        return _decoded(key[len(prefix) :] for key in keys)

    def _index(self, id_: str) -> None:
        """Whatever leads to the session, made anew."""
        try:
            with suppress(WrongType), self._server.asking() as client:
                client.hdel(_session(id_), "natives")
            self._change(id_, lambda s: s, [])
        except SessionNotFound:
            return
        except SessionError:  # damaged: to be listed, and deleted
            with self._server.asking() as client:
                client.zadd(USED, {id_: 0})
                client.zadd(IDS, {_member(id_): 0})

    def _remove_old(self, id_: str, before: str) -> bool:
        """Take the session away if it is still old and does not run."""
        try:
            session, version = self._read(id_)
        except SessionNotFound:
            return False
        if not Query(before=before).fits(session) or not self._is_idle(id_):
            return False
        return self._remove(id_, version, self._dead(id_)) == "done"

    def _remove(self, id_: str, version: str, lease: str) -> str:
        keys = [_session(id_), _said(id_), f"{PREFIX}writes:{id_}", turn_key(id_), USED, IDS,
                lease_key(id_), TURNS]  # fmt: skip
        values = [id_, _member(id_), version, lease, NATIVE]
        return str(self._server.run(lua.DELETE, keys, values))


def _check(answer: str, id_: str) -> None:
    """Raise what the server's answer to a write means."""
    if answer == "missing":
        raise unknown(id_)
    if answer == "running":
        raise is_running(id_)
    if answer == "left":
        raise left_behind(id_)
    if answer.startswith("foreign"):
        raise WrongType(
            f"session {id_} cannot be written: the key {answer.partition(' ')[2]} was written by "
            "another program",
            REBUILD,
        )
    if answer == "lost":
        raise SessionError(
            f"session {id_}: another clinvk has taken this turn, which was silent for too long; "
            "nothing was written",
            f"see what it did: clinvk sessions show {id_} --messages 4",
        )


def _session(id_: str) -> str:
    return f"{PREFIX}session:{id_}"


def _said(id_: str) -> str:
    return f"{PREFIX}said:{id_}"


def _member(id_: str) -> str:
    return f"{id_.lower()}\0{id_}"


def _score(session: Session) -> int:
    """Less for what was used later, so that equals come in the order of their ids."""
    return -round(session.updated_at.timestamp() * 1000)


def _natives(session: Session) -> str:
    """(end of a key, member of the set there) of each native id; the scripts read it."""
    return json.dumps(
        [[native, json.dumps([name, session.id])] for name, native in session.native_ids.items()]
    )


def _lines(messages: Iterable[Message]) -> list[bytes]:
    return [encode(m.to_json()) for m in messages]


def _decoded(members: Iterable[bytes]) -> list[str]:
    """Ids; what is not one was put there by another program."""
    found = []
    for member in members:
        with suppress(UnicodeDecodeError, SessionError):
            found.append(check_id(member.decode()))
    return found


def _owner(member: bytes) -> list[str] | None:
    """(backend, id), where that is what it holds."""
    with suppress(ValueError):
        pair = json.loads(member)
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair):
            return pair
    return None


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
