"""The stores that tests run over: a folder, a SQLite file, and a real Redis server."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from tests.bound import bound
from tests.needs import need

KINDS = ["file", "sqlite", "redis"]

_opened = ExitStack()


class Opened(Protocol):
    def close(self) -> None: ...


H = TypeVar("H", bound=Opened)


def keep(opened: H) -> H:
    """The same, which is closed when the test has ended."""
    _opened.callback(opened.close)
    return opened


@pytest.fixture(autouse=True)
def close_all(tmp_path: Path) -> Iterator[None]:
    """Closes what was kept, as long as its directory is there."""
    yield
    _opened.close()


class RedisServer:
    """A server of our own on loopback, which keeps what it acknowledged when it is killed."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder = folder
        self.args = args
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = bound(subprocess.Popen(
            [str(shutil.which("redis-server")), "--port", str(self.port), "--bind", "127.0.0.1",
             "--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "always", "--save", "", *self.args],
            stdout=subprocess.DEVNULL,
        ))  # fmt: skip
        self.wait()

    def wait(self) -> None:
        """Until it answers."""
        assert self.process is not None
        deadline = time.monotonic() + 60
        while not self.answers():
            assert time.monotonic() < deadline, "redis-server does not start"
            assert self.process.poll() is None, "redis-server ended at once"
            time.sleep(0.02)

    def kill(self) -> None:
        """As the kernel would, out of memory."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def say(self, *words: str) -> bytes:
        """The beginning of the answer to one command."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(4096)

    def answers(self) -> bool:
        with suppress(OSError):
            return self.say("PING").startswith((b"+PONG", b"-NOAUTH"))
        return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests of a process; see `redis_url`."""
    need("redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty store on that server."""
    assert redis_server.say("FLUSHALL").startswith(b"+OK")
    return redis_server.url


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may kill."""
    need("redis-server")
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.kill()


def store_url(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """The address of an empty store of that kind, as `open_store(url, folder)` takes it."""
    if kind == "redis":
        return str(request.getfixturevalue("redis_url"))
    return f"sqlite:///{folder}/sessions.db" if kind == "sqlite" else "file"
