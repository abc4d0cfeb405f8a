"""Start a program, give its lines, end it and everything that it started."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import cache
from typing import IO

import anyio

from clinvk.command import Command
from clinvk.errors import ClinvkError, NotInstalledError

MARKER = "CLINVK_RUN"  # in the environment of all that a run starts; nested runs are joined by "/"
STDERR_KEPT = 64 * 1024  # bytes, the last ones
CHUNK = 64 * 1024  # bytes: what a pipe holds
LOOK = 0.05  # seconds between looks at a program whose end nobody tells us
UNKNOWN = 255  # the exit code of a program whose end somebody else was told
SILENCE = 0.25  # seconds of nothing on a pipe that is still open though the program has gone
LINGER = 2.0  # seconds, in all, that we wait for those who hold it and go on talking
PATIENCE = 1.5  # seconds between asking and insisting
DRAINED = 8 * 1024 * 1024  # bytes of stdout that are still read while the program ends

_leaders: set[int] = set()  # the programs of all runs of this process, each of a group of its own


class Lines:
    r"""Complete lines from arbitrary pieces, split on `\n` alone: JSON may hold U+2028.

    Pieces are joined once, when their line ends, so that a long line costs its length."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that this piece completes, without their ends."""
        head, *rest = piece.split(b"\n")
        self._pieces.append(head)
        if not rest:
            return []
        rest.insert(0, b"".join(self._pieces))
        self._pieces = [rest.pop()]
        return rest

    def end(self) -> list[bytes]:
        """What was left without an end of line."""
        last, self._pieces = b"".join(self._pieces), []
        return [last] if last else []


class Child:
    """A running program. Use `start`.

    Its stdout, its stderr, its end and the room in its stdin are waited for in one place, by who
    asks for lines: so a run takes no task of its own, and a thousand of them cost little more than
    to start their programs."""

    def __init__(
        self,
        program: subprocess.Popen[bytes],
        ready: selectors.DefaultSelector,
        prompt: bytes,
        marker: str,
        patience: float,
    ) -> None:
        assert program.stdout is not None  # noqa: S101 - started with pipes
        assert program.stderr is not None  # noqa: S101
        self.pid = program.pid
        self.marker = marker
        self.patience = patience
        self.stopped = False
        self._program = program
        self._stdout = program.stdout
        self._stderr = program.stderr
        self._ready = ready
        self._lines = Lines()
        self._ended = False
        self._asking: anyio.CancelScope | None = None
        self._gone = float("inf")  # when the program was seen to have gone
        self._waited = 0.0  # seconds, since then
        self._kept: deque[bytes] = deque()  # of stderr
        self._kept_size = 0
        self._prompt = memoryview(prompt)
        self._end = _pidfd(program.pid)
        self._watch()

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus the signal where one killed it; nothing while it runs."""
        if self._program.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._program.returncode = UNKNOWN
            else:
                self._program.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self._program.returncode

    @property
    def stderr(self) -> str:
        """The last of what it said on stderr (64 KiB at most)."""
        return b"".join(self._kept)[-STDERR_KEPT:].decode("utf-8", "replace")

    async def lines(self) -> list[bytes] | None:
        """The next lines, at least one; nothing at the end. Raises nothing but cancellation."""
        while not self._ended:
            piece = await self._receive()
            if piece is None:
                self._ended = True
                return self._lines.end() or None
            if lines := self._lines.feed(piece):
                return lines
        return None

    async def wait(self) -> int:
        """Its exit code; minus the signal where one killed it. All that it said on stderr is there
        then, unless somebody that it left behind holds that open."""
        with self._deaf():
            while self.returncode is None:
                await self._happens()
            with anyio.move_on_after(SILENCE):
                while self._is_watched(self._stderr):
                    await self._happens()
        return self.returncode

    async def stop(self, ask: signal.Signals, *, now: bool = False) -> list[bytes]:
        """Ask, wait, insist: the program and all that it started. The lines it still said.

        Shielded, and done within three seconds, so that a cancelled run leaves nothing behind."""
        from clinvk.family import Family  # psutil, 10 ms: only for an end that is not normal

        self.stopped = True
        said: list[bytes] = []
        with anyio.CancelScope(shield=True):
            family = Family.of(self.pid, self.marker)
            family.signal(signal.SIGKILL if now else ask)
            with anyio.move_on_after(0 if now else self.patience) as self._asking:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._drain, said)
                    await family.gone()
            await family.end()
            await self.wait()
            if not self._ended:
                with anyio.move_on_after(SILENCE):
                    await self._drain(said)
            self._ended = True
        return said

    def hurry(self) -> None:
        """Insist at once, if a `stop` is still asking."""
        if self._asking is not None:
            self._asking.cancel()

    def close(self) -> None:
        """Let go of it; it is to have ended."""
        self._ready.close()
        for file in (self._program.stdin, self._stdout, self._stderr):
            if file is not None:
                file.close()
        if self._end is not None:
            os.close(self._end)

    async def _drain(self, said: list[bytes]) -> None:
        size = 0
        while size < DRAINED and (lines := await self.lines()):
            said += lines
            size += sum(map(len, lines))

    async def _receive(self) -> bytes | None:
        """The next piece of stdout; nothing at its end, or when the program has gone and somebody
        that it left behind holds the pipe open without saying anything."""
        began, gone = anyio.current_time(), self._gone
        heard = False
        while not heard:
            with anyio.CancelScope(deadline=max(began, self._gone) + SILENCE) as silence:
                heard = await self._happens()
            if silence.cancelled_caught:
                return None
        piece = os.read(self._stdout.fileno(), CHUNK)
        if not piece:
            self._ready.unregister(self._stdout)
            return None
        if gone <= began:
            self._waited += anyio.current_time() - began
        return piece if self._waited < LINGER else None

    # What can happen.

    def _watch(self) -> None:
        for file in (self._stdout, self._stderr):
            os.set_blocking(file.fileno(), False)
        self._ready.register(self._stdout, selectors.EVENT_READ)
        self._ready.register(self._stderr, selectors.EVENT_READ, self._keep_stderr)
        if self._end is not None:
            self._ready.register(self._end, selectors.EVENT_READ, self._look)
        if self._program.stdin is not None:
            os.set_blocking(self._program.stdin.fileno(), False)
            self._feed()
            if self._prompt:
                self._ready.register(self._program.stdin, selectors.EVENT_WRITE, self._feed)

    def _is_watched(self, file: IO[bytes]) -> bool:
        return file in self._ready.get_map()

    async def _happens(self) -> bool:
        """Wait until something happens, and see to it; whether stdout is what can be read."""
        with anyio.move_on_after(LOOK) if self._end is None else nullcontext():
            await anyio.wait_readable(self._ready)
        heard = False
        for key, _ in self._ready.select(0):
            if key.data is None:
                heard = True
            else:
                key.data()
        if self._end is None:
            self._look()
        return heard

    def _look(self) -> None:
        """Whether it has gone."""
        if self.returncode is not None and self._gone == float("inf"):
            self._gone = anyio.current_time()
            if self._end is not None:
                self._ready.unregister(self._end)

    def _keep_stderr(self) -> None:
        piece = os.read(self._stderr.fileno(), CHUNK)
        if not piece:
            self._ready.unregister(self._stderr)
            return
        self._kept.append(piece)
        self._kept_size += len(piece)
        while self._kept_size - len(self._kept[0]) > STDERR_KEPT:
            self._kept_size -= len(self._kept.popleft())

    def _feed(self) -> None:
        """A program that does not read its prompt is its own affair: it will say so, or hang."""
        stdin = self._program.stdin
        assert stdin is not None  # noqa: S101 - watched only where there is one
        try:
            self._prompt = self._prompt[os.write(stdin.fileno(), self._prompt) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._prompt = self._prompt[:0]
        if not self._prompt:
            if self._is_watched(stdin):
                self._ready.unregister(stdin)
            stdin.close()

    @contextmanager
    def _deaf(self) -> Iterator[None]:
        """Leave stdout alone: nobody reads it now, and so it would happen without pause."""
        if not self._is_watched(self._stdout):
            yield
            return
        self._ready.unregister(self._stdout)
        try:
            yield
        finally:
            self._ready.register(self._stdout, selectors.EVENT_READ)


@asynccontextmanager
async def start(
    command: Command, marker: str, *, ask: signal.Signals, patience: float = PATIENCE
) -> AsyncIterator[Child]:
    """The program of `command`, running; ended with all that it started when the block is left
    before it has ended by itself. Raises `ClinvkError` where it cannot be started.

    The prompt goes through stdin, which is then closed: some CLIs wait for ever otherwise."""
    with selectors.DefaultSelector() as ready:
        program = _open(command, marker)
        _leaders.add(program.pid)
        child = Child(program, ready, command.stdin, marker, patience)
        try:
            yield child
        finally:
            try:
                if child.returncode is None and not child.stopped:
                    await child.stop(ask)
            finally:
                _leaders.discard(child.pid)
                child.close()


@contextmanager
def lone_exception() -> Iterator[None]:
    """What was raised inside of a task group, as it was: its wrapping is our own affair."""
    try:
        yield
    except BaseExceptionGroup as group:
        lone: BaseException = group
        while isinstance(lone, BaseExceptionGroup) and len(lone.exceptions) == 1:
            lone = lone.exceptions[0]
        raise lone from lone.__cause__


def _open(command: Command, marker: str) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command.argv,
            stdin=subprocess.PIPE if command.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=command.cwd,
            env={**command.env, MARKER: marker},
            start_new_session=True,  # a group of its own, and no terminal to ask at
        )
    except OSError as error:
        if not os.path.isdir(command.cwd):
            raise ClinvkError(f"{command.cwd}: no such folder") from error
        problem = f"{command.argv[0]}: cannot be started: {error.strerror}"
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise NotInstalledError(problem, "see: clinvk doctor") from error
        raise ClinvkError(problem) from error


def _pidfd(pid: int) -> int | None:
    """What can be read when the process has ended; nothing where the system has no such thing."""
    with suppress(AttributeError, OSError):  # macOS, and some containers
        return os.pidfd_open(pid)
    return None


def new_marker(env: Mapping[str, str]) -> str:
    """The marker of a new run: its own id, behind those of the runs that it was started from."""
    run = os.urandom(16).hex()
    return f"{env[MARKER]}/{run}" if env.get(MARKER) else run


def survivors(group: int, marker: str) -> list[int]:
    """Who is left of a run that ended normally: the group, and those with the marker among the
    processes that are younger than the program. Cheap, since every run asks it."""
    own = marker.rsplit("/", 1)[-1].encode()
    try:
        younger = _processes_from(group)
    except OSError:  # no such thing on macOS
        return _survivors_by_group(group, marker)
    return [pid for pid in younger if pid not in _leaders and _is_left(pid, group, own)]


def _processes_from(first: int) -> list[int]:
    """The numbers of the processes from that one on. They come last in /proc, in order."""
    found = []
    for name in reversed(os.listdir("/proc")):
        if not name.isdigit() or int(name) < first:
            break
        found.append(int(name))
    return found


def _survivors_by_group(group: int, marker: str) -> list[int]:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, 0)
        from clinvk.family import Family  # psutil, 10 ms: only where somebody is left

        return [p.pid for p in Family.of(group, marker).alive]
    return []


def _is_left(pid: int, group: int, own: bytes) -> bool:
    """Whether the process lives (a zombie does not) and is of the group or carries the marker."""
    with suppress(OSError):
        its_group = os.getpgid(pid)
        # Threads of the kernel have none; another run has its own, in a session of its own.
        if its_group != group and (its_group == 0 or its_group in _leaders):
            return False
        # pid (name, which may hold anything) state parent group … start time …: proc(5)
        about = _content(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        if about[0] == b"Z" or int(about[19]) < _own_birth():
            return False
        return its_group == group or _carries(pid, own)
    return False


def _carries(pid: int, own: bytes) -> bool:
    with suppress(OSError):
        environ = _content(f"/proc/{pid}/environ")
        return any(v.startswith(b"CLINVK_RUN=") and own in v for v in environ.split(b"\0"))
    return False


@cache
def _own_birth() -> int:
    """When this process began, as `stat` says it: who is older can be nobody's child of ours."""
    return int(_content("/proc/self/stat").rpartition(b")")[2].split()[19])


def _content(path: str) -> bytes:
    """A file of /proc, in a third of the time that `open` takes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(fd, CHUNK), b""))
    finally:
        os.close(fd)
