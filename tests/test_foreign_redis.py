"""A Redis server with keys of another program, and what only looks like a Redis server."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from clinvk.errors import ConfigError, SessionError, SessionNotFound
from clinvk.model.session import Message, Session
from clinvk.store import migrate, open_store
from clinvk.store.base import Damaged, Query
from clinvk.store.redis import client as redis_client
from clinvk.store.redis.client import RedisClient
from clinvk.store.redis.store import RedisStore
from tests.conftest import CommandLine, Home
from tests.needs import need
from tests.stores import RedisServer, free_port, keep

FAR = "2999-01-01T00:00:00Z"


@pytest.fixture
def redis(redis_url: str) -> RedisStore:
    return keep(RedisStore(redis_url))


def same(session: Session) -> Session:
    return session


def filled(store: RedisStore, *names: str) -> None:
    for name in names:
        session = Session(id=name, native_ids={"claude": f"native-{name}"})
        store.create(session, [Message("user", f"needle of {name}")])


def ids(store: RedisStore, kind: type = Session) -> list[str]:
    return sorted(found.id for found in store.select(Query()) if isinstance(found, kind))


# A key of the wrong type, of one session.

SPOILED = {
    "session, text": ("SET", "clinvk:session:bad", "x"),
    "session, list": ("RPUSH", "clinvk:session:bad", "x"),
    "session, other fields": ("HSET", "clinvk:session:bad", "mine", "x"),
    "session, no version": ("HSET", "clinvk:session:bad", "record", "{}"),
    "transcript, text": ("SET", "clinvk:said:bad", "x"),
    "transcript, hash": ("HSET", "clinvk:said:bad", "a", "b"),
}
HEALED = {
    "writes, text": ("SET", "clinvk:writes:bad", "x"),
    "native, text": ("SET", "clinvk:native:native-bad", "x"),
    "native, junk": ("SADD", "clinvk:native:native-bad", "junk"),
    "lease, hash": ("HSET", "clinvk:lease:bad", "a", "b"),
    "turn, text": ("SET", "clinvk:turn:bad", "x"),
    "natives, junk": ("HSET", "clinvk:session:bad", "natives", "junk"),
    "natives, other": ("HSET", "clinvk:session:bad", "natives", "[1,[2]]"),
}


def spoil(store: RedisStore, command: tuple[str, ...]) -> None:
    client = store._server.client
    if command[0] != "SADD" and "natives" not in command:  # else something is added to the key
        client.delete(command[1])
    client.execute_command(*command)


@pytest.mark.parametrize("what", SPOILED)
def test_a_key_of_another_program_is_one_damaged_session_that_can_be_deleted(
    redis: RedisStore, what: str, tmp_path: Path
):
    filled(redis, "bad", "good")
    spoil(redis, SPOILED[what])
    assert (ids(redis), ids(redis, Damaged)) == (["good"], ["bad"])
    assert redis.count(Query()) == 2
    assert [hit.session.id for hit in redis.search("needle")] == ["good"]
    with pytest.raises(SessionError, match="bad is damaged") as told:
        redis.get("bad")
    assert "clinvk sessions delete bad" in str(told.value.hint)
    with pytest.raises(SessionError, match="bad is damaged"):
        redis.append("bad", [Message("user", "x")], same)
    with pytest.raises(SessionError):
        redis.create(Session(id="bad"), exact=True)
    plan = migrate.plan_migration(redis, keep(open_store("file", tmp_path)))
    assert (plan.new, [d.id for d in plan.damaged]) == (["good"], ["bad"])
    assert redis.reindex() == 2
    assert (ids(redis), ids(redis, Damaged)) == (["good"], ["bad"])
    assert redis.clean(FAR, dry_run=True) == redis.clean(FAR) == ["good"]
    redis.delete("bad")
    assert redis.select(Query()) == []
    with pytest.raises(SessionNotFound):
        redis.delete("bad")
    filled(redis, "bad")
    assert ids(redis) == ["bad"]


@pytest.mark.parametrize("what", HEALED)
def test_a_key_that_is_derived_is_made_again(redis: RedisStore, what: str):
    filled(redis, "bad", "good")
    spoil(redis, HEALED[what])
    assert ids(redis) == ["bad", "good"]
    assert redis.running_turn("bad") is None
    assert redis.find_by_native_id(None, "native-good") == ["good"]
    redis.find_by_native_id(None, "native-bad")
    turn = redis.acquire_turn("bad")
    assert turn.leftover is None
    turn.note({"run": "x"})
    assert redis.running_ids() == ["bad"]
    turn.close()
    redis.append("bad", [Message("user", "more")], same)
    redis.update("bad", lambda s: Session.from_json(s.to_json() | {"native_ids": {"claude": "n"}}))
    assert redis.find_by_native_id("claude", "n") == ["bad"]
    spoil(redis, HEALED[what])
    redis.delete("bad")
    assert ids(redis) == ["good"]


@pytest.mark.parametrize("key", ["used", "ids", "turns"])
def test_a_key_of_all_sessions_that_is_of_another_program_hides_none(redis: RedisStore, key: str):
    filled(redis, "a", "b")
    turn = redis.acquire_turn("b")
    redis._server.client.delete(f"clinvk:{key}")
    redis._server.client.set(f"clinvk:{key}", "x")
    assert ids(redis) == redis.find_ids("") == ["a", "b"]
    assert redis.find_ids("A") == ["a"]
    assert redis.running_ids() == ["b"]
    turn.close()
    redis.delete("a")
    if key != "turns":
        with pytest.raises(SessionError, match=f"clinvk:{key} was written by another") as told:
            filled(redis, "c")
        assert "clinvk sessions reindex" in str(told.value.hint)
        assert redis.reindex() == 1
    filled(redis, "c")
    assert ids(redis) == redis.find_ids("") == ["b", "c"]


def test_members_of_another_program_are_passed_over(redis: RedisStore):
    filled(redis, "a")
    client = redis._server.client
    client.zadd("clinvk:used", {b"\xff": 0, "../x": 0, "gone": 0})
    client.zadd("clinvk:ids", {b"\xff": 0, "a": 0, b"a\0\xff": 0})
    client.sadd("clinvk:turns", b"\xff", "gone")
    assert ids(redis) == redis.find_ids("a") == ["a"]
    assert redis.running_ids() == []
    assert redis.reindex() == 1


def test_the_command_line_lists_and_deletes_a_damaged_session_of_a_server(
    redis: RedisStore, redis_url: str, home: Home, clinvk: CommandLine
):
    filled(redis, "bad", "good")
    spoil(redis, SPOILED["session, text"])
    home.config(f"session: {{storage: {redis_url}}}\n")
    listed = clinvk.json("sessions", "list", "--json")["sessions"]
    assert {s["id"]: s["status"] for s in listed} == {"bad": "damaged", "good": "active"}
    assert clinvk("sessions", "search", "needle").returncode == 0
    assert clinvk("sessions", "delete", "bad", "--yes").returncode == 0
    assert [s["id"] for s in clinvk.json("sessions", "list", "--json")["sessions"]] == ["good"]


# What is not a Redis server, or speaks another way


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Starts servers that do this with each connection; their ports."""
    open_ones: list[socket.socket] = []

    def start(serve: Callable[[socket.socket], None]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        open_ones.append(listener)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    open_ones.append(connection)
                    with suppress(OSError):
                        serve(connection)

        threads.append(thread := threading.Thread(target=accept, daemon=True))
        thread.start()
        return int(listener.getsockname()[1])

    threads: list[threading.Thread] = []
    yield start
    for one in open_ones:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
    for thread in threads:
        thread.join(60)


def refused(url: str) -> tuple[str, float]:
    """The whole of what is said, and after how long."""
    store = keep(RedisStore(url))
    began = time.monotonic()
    with pytest.raises(SessionError) as told:
        store.select(Query())
    return f"{told.value}; {told.value.hint}", time.monotonic() - began


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is waited for takes a fifth of the time."""
    for name in ("CONNECT_TIMEOUT", "GREETING_TIMEOUT", "ANSWER_TIMEOUT"):
        monkeypatch.setattr(redis_client, name, getattr(redis_client, name) / 5)


def test_a_server_that_says_nothing_is_waited_for_some_seconds(hurried: None, listening):
    port = listening(lambda connection: None)
    said, seconds = refused(f"redis://127.0.0.1:{port}/0")
    assert "it accepts connections, but does not answer within 3 s" in said
    assert said.index("the server may be busy") < said.index(
        "if that port requires TLS, write rediss://"
    )
    assert seconds < 60
    said, seconds = refused(f"rediss://me:secret@127.0.0.1:{port}/0")
    assert "the TLS handshake failed" in said
    assert "if that port has no TLS, write redis://" in said
    assert "secret" not in said
    assert seconds < 60


def test_tls_to_a_server_without_it_is_said_within_seconds(
    hurried: None, redis_server: RedisServer
):
    said, seconds = refused(redis_server.url.replace("redis://", "rediss://"))
    assert "if that port has no TLS, write redis:// in session.storage" in said
    assert seconds < 60


def test_a_server_of_another_protocol_is_said_to_be_one(listening):
    def http(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.close()

    said, _ = refused(f"redis://127.0.0.1:{listening(http)}/0")
    assert "does not answer as a Redis server" in said


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    need("openssl")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, cert


def test_plain_text_to_a_server_with_tls_and_an_unknown_certificate_are_named(
    listening, certificate: tuple[Path, Path]
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])

    def tls(connection: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(1)
        connection.close()

    port = listening(tls)
    said, seconds = refused(f"redis://127.0.0.1:{port}/0")
    assert "if that port requires TLS, write rediss:// in session.storage" in said
    assert seconds < 60
    said, _ = refused(f"rediss://127.0.0.1:{port}/0")
    assert "its certificate is not trusted" in said
    assert "ssl_ca_certs=FILE" in said


def test_a_server_with_tls_is_used(certificate: tuple[Path, Path], tmp_path: Path):
    need("redis-server")
    key, cert = certificate
    (tmp_path / "tls").mkdir()
    port = free_port()
    server = RedisServer(
        tmp_path / "tls", "--tls-port", str(port), "--tls-cert-file", str(cert),
        "--tls-key-file", str(key), "--tls-auth-clients", "no",
    )  # fmt: skip
    try:
        server.start()
    except AssertionError:
        server.kill()
        pytest.skip("this redis-server has no TLS")
    try:
        store = keep(RedisStore(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={cert}"))
        filled(store, "a")
        assert ids(store) == ["a"]
    finally:
        server.kill()


def test_a_server_that_answers_late_is_waited_for_once_it_was_met(hurried: None, redis: RedisStore):
    filled(redis, "a")
    began = time.monotonic()
    redis._server.client.execute_command("CLIENT", "PAUSE", "1200", "ALL")
    assert ids(redis) == ["a"]
    assert time.monotonic() - began > redis_client.CONNECT_TIMEOUT


def test_a_server_that_is_busy_is_waited_for_by_who_meets_it_now(
    hurried: None, redis: RedisStore, redis_url: str
):
    filled(redis, "a")
    redis._server.client.execute_command("CLIENT", "PAUSE", "1400", "ALL")
    assert ids(keep(RedisStore(redis_url))) == ["a"]


def test_a_connection_that_was_lost_is_not_made_with_less_patience(hurried: None, listening):
    """A server that was met may be as slow behind a new connection as behind the first one."""
    ok = b"+OK\r\n" * 8

    def serve(connection: socket.socket) -> None:
        if seen:
            time.sleep(redis_client.GREETING_TIMEOUT + 0.4)
        seen.append(connection)
        connection.recv(4096)
        connection.sendall(ok)

    seen: list[socket.socket] = []
    server = RedisClient(f"redis://127.0.0.1:{listening(serve)}/0")
    for _ in range(2):
        connection = server.client.connection_pool.make_connection()
        connection.connect()
        connection.disconnect()
    server.close()
    assert len(seen) == 2


def test_an_option_that_an_address_cannot_have_is_named(redis_url: str):
    with pytest.raises(ConfigError, match="foo"):
        RedisStore(f"{redis_url}?foo=x")
