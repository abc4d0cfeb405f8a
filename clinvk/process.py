"""Start a program, give its lines, end it and everything that it started."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process

from clinvk.command import Command
from clinvk.errors import ClinvkError, NotInstalledError

MARKER = "CLINVK_RUN"  # in the environment of all that a run starts; nested runs are joined by "/"
STDERR_KEPT = 64 * 1024  # bytes, the last ones
CHUNK = 256 * 1024  # bytes
SILENCE = 0.25  # seconds of nothing on a pipe that is still open though the program has gone
LINGER = 2.0  # seconds, in all, that we wait for those who hold it and go on talking
PATIENCE = 1.5  # seconds between asking and insisting
DRAINED = 8 * 1024 * 1024  # bytes of stdout that are still read while the program ends


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
    """A running program. Use `start`."""

    def __init__(self, process: Process, marker: str, patience: float) -> None:
        self.process = process
        self.pid = process.pid
        self.marker = marker
        self.patience = patience
        self.stopped = False
        self._lines = Lines()
        self._ended = False
        self._reading: anyio.CancelScope | None = None
        self._asking: anyio.CancelScope | None = None
        self._waited = 0.0  # seconds, since the program has gone
        self._stderr: deque[bytes] = deque()
        self._stderr_size = 0
        self._stderr_ended = anyio.Event()

    @property
    def stderr(self) -> str:
        """The last of what it said on stderr (64 KiB at most)."""
        return b"".join(self._stderr)[-STDERR_KEPT:].decode("utf-8", "replace")

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
        code = await self.process.wait()
        with anyio.move_on_after(SILENCE):
            await self._stderr_ended.wait()
        return code

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
                    await self.process.wait()
                    await family.gone()
            await family.end()
            await self.process.wait()
            if not self._ended:
                with anyio.move_on_after(SILENCE):
                    await self._drain(said)
            self._ended = True
        return said

    def hurry(self) -> None:
        """Insist at once, if a `stop` is still asking."""
        if self._asking is not None:
            self._asking.cancel()

    async def _drain(self, said: list[bytes]) -> None:
        size = 0
        while size < DRAINED and (lines := await self.lines()):
            said += lines
            size += sum(map(len, lines))

    async def _receive(self) -> bytes | None:
        """The next piece of stdout; nothing at its end, or when the program has gone and somebody
        that it left behind holds the pipe open without saying anything."""
        assert self.process.stdout is not None  # noqa: S101 - started with a pipe
        began, gone = anyio.current_time(), self.process.returncode is not None
        deadline = began + SILENCE if gone else float("inf")
        with anyio.CancelScope(deadline=deadline) as self._reading:
            try:
                piece = await self.process.stdout.receive(CHUNK)
            except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
                return None
            if gone:
                self._waited += anyio.current_time() - began
            return piece if self._waited < LINGER else None
        return None

    async def _watch(self) -> None:
        await self.process.wait()
        if self._reading is not None:
            self._reading.deadline = anyio.current_time() + SILENCE

    async def _keep_stderr(self, stream: ByteReceiveStream) -> None:
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            async for piece in stream:
                self._stderr.append(piece)
                self._stderr_size += len(piece)
                while self._stderr_size - len(self._stderr[0]) > STDERR_KEPT:
                    self._stderr_size -= len(self._stderr.popleft())
        self._stderr_ended.set()


@asynccontextmanager
async def start(
    command: Command, marker: str, *, ask: signal.Signals, patience: float = PATIENCE
) -> AsyncIterator[Child]:
    """The program of `command`, running; ended with all that it started when the block is left
    before it has ended by itself. Raises `ClinvkError` where it cannot be started.

    The prompt goes through stdin, which is then closed: some CLIs wait for ever otherwise."""
    process = await _open(command, marker)
    child = Child(process, marker, patience)
    assert process.stderr is not None  # noqa: S101 - started with a pipe
    try:
        with lone_exception():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(child._watch)  # noqa: SLF001 - one module
                tasks.start_soon(child._keep_stderr, process.stderr)  # noqa: SLF001
                if process.stdin is not None:
                    tasks.start_soon(_feed, process.stdin, command.stdin)
                try:
                    yield child
                finally:
                    if process.returncode is None and not child.stopped:
                        await child.stop(ask)
                    # Somebody that is left may hold stderr open for as long as he likes.
                    tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await process.aclose()


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


async def _open(command: Command, marker: str) -> Process:
    from subprocess import DEVNULL, PIPE

    try:
        return await anyio.open_process(
            command.argv,
            stdin=PIPE if command.stdin else DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            cwd=command.cwd,
            env={**command.env, MARKER: marker},
            start_new_session=True,  # a group of its own, and no terminal to ask at
        )
    except OSError as error:
        if not os.path.isdir(command.cwd):  # noqa: ASYNC240 - on the way to an error
            raise ClinvkError(f"{command.cwd}: no such folder") from error
        problem = f"{command.argv[0]}: cannot be started: {error.strerror}"
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise NotInstalledError(problem, "see: clinvk doctor") from error
        raise ClinvkError(problem) from error


async def _feed(stdin: ByteSendStream, data: bytes) -> None:
    """A program that does not read its prompt is its own affair: it will say so, or hang."""
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await stdin.send(data)
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        await stdin.aclose()


def new_marker(env: Mapping[str, str]) -> str:
    """The marker of a new run: its own id, behind those of the runs that it was started from."""
    run = os.urandom(16).hex()
    return f"{env[MARKER]}/{run}" if env.get(MARKER) else run


def survivors(group: int, marker: str) -> list[int]:
    """Who is left of a run that ended normally: the group, and those with the marker among the
    processes that are younger than the program. Cheap, since every run asks it."""
    own = marker.rsplit("/", 1)[-1].encode()
    try:
        younger = [n for n in os.listdir("/proc") if n.isdigit() and int(n) >= group]
    except OSError:  # no such thing on macOS
        return _survivors_by_group(group, marker)
    return [int(n) for n in younger if _is_left(n, group, own)]


def _survivors_by_group(group: int, marker: str) -> list[int]:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, 0)
        from clinvk.family import Family  # psutil, 10 ms: only where somebody is left

        return [p.pid for p in Family.of(group, marker).alive]
    return []


def _is_left(pid: str, group: int, own: bytes) -> bool:
    """Whether the process lives (a zombie does not) and is of the group or carries the marker."""
    with suppress(OSError):
        with open(f"/proc/{pid}/stat", "rb") as file:
            # pid (name, which may hold anything) state parent group …: proc(5)
            state, _, its_group, *_ = file.read().rpartition(b")")[2].split()
        return state != b"Z" and (int(its_group) == group or _carries(pid, own))
    return False


def _carries(pid: str, own: bytes) -> bool:
    with suppress(OSError):
        with open(f"/proc/{pid}/environ", "rb") as file:
            environ = file.read()
        return any(v.startswith(b"CLINVK_RUN=") and own in v for v in environ.split(b"\0"))
    return False
