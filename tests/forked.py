"""`python -m clinvk …`, without the time that loading it takes.

Half of what a call of clinvk costs is the loading of Python and of modules, and the tests call it
thousands of times. So each worker keeps one process that has loaded clinvk and does nothing else;
a call is a fork of it: a process of its own, with its own directory, environment, pipes and exit
code, and with one thread, as after `exec`. What the loading itself does (its order, Ctrl-C in the
middle of it, variables that the interpreter reads at its start) is tested with the real command.
"""

import array
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import clinvk
from clinvk.backend.reading.parse import parse_manifest
from clinvk.config.loading import parse_config

PROJECT = Path(__file__).parent.parent
# What commands import beside the modules of clinvk, some of it late. Loading too much does no harm:
# a call sees the same modules either way.
OTHERS = [
    "anyio._backends._asyncio",
    "csv",
    "email.parser",
    "encodings.utf_8_sig",
    "html",
    "importlib.metadata",
    "importlib.resources",
    "jmespath",
    "jsonschema",
    "psutil",
    "redis",
    "resource",
    "sqlite3",
    "tabulate.version",
    "wcwidth",
    "yaml",
]
_HEAD = 4  # bytes of a message's length


class Server:
    """The process that has loaded clinvk; `run` is what a test calls."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=PROJECT,
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(PROJECT)},
                stdin=subprocess.DEVNULL,
            )
        self._socket = ours

    def close(self) -> None:
        self._socket.close()
        self._process.wait(60)

    def _restart(self, pid: int) -> None:
        """End a call early; the next one must not get the exit code of this one."""
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self.close()
        self._start()

    def run(
        self,
        argv: Sequence[str],
        *,
        input_: str | None,
        env: Mapping[str, str],
        cwd: Path,
        timeout: float,
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run([sys.executable, "-m", "clinvk", …], capture_output=True)`."""
        deadline = time.monotonic() + timeout
        stdin, feed = os.pipe() if input_ is not None else (os.open(os.devnull, os.O_RDONLY), -1)
        out, stdout = os.pipe()
        err, stderr = os.pipe()
        call = json.dumps({"argv": list(argv), "env": dict(env), "cwd": str(cwd)}).encode()
        given = (stdin, stdout, stderr)
        self._socket.sendmsg(
            [len(call).to_bytes(_HEAD, "big")],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", given))],
        )
        self._socket.sendall(call)
        for fd in given:
            os.close(fd)
        text: dict[int, bytearray] = {out: bytearray(), err: bytearray()}
        pid = 0
        try:
            pid = int.from_bytes(_read(self._socket, _HEAD), "big")
            _exchange(text, feed, (input_ or "").encode(), deadline)
            self._socket.settimeout(max(0.1, deadline - time.monotonic()))
            status = int.from_bytes(_read(self._socket, _HEAD), "big")
        except BaseException as error:  # also the timeout of the test
            self._restart(pid)
            if isinstance(error, TimeoutError):
                raise subprocess.TimeoutExpired(list(argv), timeout, bytes(text[out])) from None
            raise
        finally:
            self._socket.settimeout(None)
            for fd in text:
                os.close(fd)
        return subprocess.CompletedProcess(
            list(argv),
            os.waitstatus_to_exitcode(status),
            _decode(text[out]),
            _decode(text[err]),
        )


def _decode(data: bytearray) -> str:
    return io.TextIOWrapper(io.BytesIO(data), "utf-8").read()  # newlines as subprocess gives them


def _read(stream: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            raise EOFError("the process that has loaded clinvk is gone")
        data += more
    return data


def _exchange(text: dict[int, bytearray], feed: int, data: bytes, deadline: float) -> None:
    """Write `data` to `feed` and read both outputs to their ends."""
    with selectors.DefaultSelector() as waiting:
        for fd in text:
            waiting.register(fd, selectors.EVENT_READ)
        if feed >= 0:
            os.set_blocking(feed, False)
            waiting.register(feed, selectors.EVENT_WRITE)
        try:
            while waiting.get_map():
                left = deadline - time.monotonic()
                ready = waiting.select(max(0, left))
                if not ready and left <= 0:
                    raise TimeoutError
                for key, _ in ready:
                    if key.fd == feed:
                        with contextlib.suppress(BlockingIOError):
                            try:
                                data = data[os.write(feed, data) :]
                            except BrokenPipeError:
                                data = b""
                        if not data:
                            waiting.unregister(feed)
                            os.close(feed)
                            feed = -1
                    elif more := os.read(key.fd, 65536):
                        text[key.fd] += more
                    else:
                        waiting.unregister(key.fd)
        finally:
            if feed >= 0:
                os.close(feed)


# In the process that has loaded clinvk


def load() -> None:
    for name in OTHERS:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(clinvk.__path__, "clinvk."):
        importlib.import_module(module.name)
    # What is looked up once about types and patterns, and is the same in every process.
    manifest = PROJECT / "backends" / "claude.yaml"
    parse_manifest(manifest.read_bytes(), manifest)
    parse_config("", manifest)
    gc.collect()
    gc.freeze()


def _serve(stream: socket.socket) -> None:
    load()
    while True:
        head, fds, _, _ = socket.recv_fds(stream, _HEAD, 3)
        if not head:
            return
        call = json.loads(_read(stream, int.from_bytes(head, "big")))
        pid = os.fork()
        if not pid:
            stream.close()
            become(call, fds)
            return
        for fd in fds:
            os.close(fd)
        stream.sendall(pid.to_bytes(_HEAD, "big"))
        _, status = os.waitpid(pid, 0)
        stream.sendall(status.to_bytes(_HEAD, "big"))


def become(call: dict[str, object], fds: list[int]) -> None:
    """Be what `python -m clinvk` is once it has loaded its modules, in a process that was forked."""
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
        os.close(fd)
    os.chdir(str(call["cwd"]))
    os.environ.clear()
    os.environ.update(call["env"])  # type: ignore[call-overload]
    time.tzset()
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    main = sys.modules["clinvk.__main__"]
    sys.argv = [str(main.__file__), *call["argv"]]  # type: ignore[misc]
    main.main()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
