"""How large a cluster can be: a Redis server with the tasks and workers of hundreds of machines, which are
simulated. `python -m bench cluster_scale [--tasks N] [--slots N] …`.

A worker makes the same requests to Redis for each task, but for the names in them. So they are made once by
the code of the worker, and recorded; then each simulated slot sends them, over connections of its own and
in the time that a task would take, and no program is run. Python and the programs would take a hundred times
as long as Redis does, which is what is measured here: its memory, its time on a processor, and the time that
each command takes, as it says itself.
"""

from __future__ import annotations

import argparse
import heapq
import os
import re
import socket
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import redis
from msgspec import Struct
from msgspec.structs import replace

from clinvk import __version__
from clinvk.cluster import app as apps
from clinvk.cluster import payload
from clinvk.cluster.address import connect_to, parse
from clinvk.cluster.keys import AttemptId, Keys, queue_of
from clinvk.cluster.ledger.ledger import Ledger, Owner
from clinvk.cluster.limits.shared import SharedLimits
from clinvk.cluster.nodes import Cli, Node, Nodes
from clinvk.model.events import Started, Text
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.model.session import Message, MessageRole, Session
from clinvk.model.session_ref import NewSession
from clinvk.store import open_store
from tests.stores import RedisServer

RUN = "r0000001"
FIRST = 20_000_000  # the first task; all have the same number of digits
NODE = "node-10000"  # the name that is recorded: so do all nodes
SLOTS_OF_WORKER = 8
BACKEND = "claude"
BEAT = 0.5  # seconds between renewals, as of a worker
HEARTBEAT = 2.0  # seconds between reports of a node
PROMPT = "review the changes of this module and say what is wrong with them. " * 3  # 200 bytes
EVENT = "I have read the file; the next thing to look at is how it is called. " * 4  # 280 bytes
ANSWER = "The function looks up each name twice, and the second time it may be gone. " * 13  # 1 KB
KEYS = Keys.of()
# Of Celery: the arguments are encoded in it, and shown beside.
MESSAGE = re.compile(rb"argsrepr\W+%s\W+(\d+)" % RUN.encode())


class Shape(Struct):
    """What is simulated."""

    tasks: int
    slots: int
    events: int  # of a task
    seconds: float  # that a task takes
    processes: int  # that simulate


# What a worker sends for a task, with the code of the worker.


def turn(url: str, number: int, shape: Shape) -> Iterator[None]:
    """One attempt, from its claim to its end. Each step is what is done without a pause."""
    attempt, session = AttemptId(RUN, number, 1), f"{RUN}.{number}"
    owner = Owner(attempt, f"{NODE}.{session}", NODE, BACKEND)
    asked, answered = Message(MessageRole.USER, PROMPT), Message(MessageRole.ASSISTANT, ANSWER)
    events = [
        ("event", payload.event_to_json(Started(native_id=f"native-{number}"))),
        *[("event", payload.event_to_json(Text(text=EVENT)))] * shape.events,
    ]
    result = Result(ok=True, text=ANSWER, backend=BACKEND, exit_code=0, session_id=session, native_id=f"native-{number}")  # fmt: skip
    with connect_to(parse(url)) as client, open_store(url, Path(tempfile.gettempdir())) as store:
        ledger = Ledger(client, KEYS)
        if ledger.claim(owner, payload.PROTOCOL).status != "run":
            raise RuntimeError("the attempt that is recorded cannot be claimed")
        SharedLimits(client, KEYS).read()
        store.create(Session(id=session, backend=BACKEND, cwd="/srv", prompt=PROMPT[:80]), [asked])
        with store.acquire_turn(session) as lock:
            lock.note({"of": f"session {session}", "clinvk": os.getpid()})
            ledger.beat(
                owner, 0, [("started", b'{"session":"%s","cwd":"/srv"}' % session.encode())]
            )
            yield
            beats = max(1, int(shape.seconds / BEAT))
            share, reported = -(-len(events) // beats), 0
            for n in range(beats - 1):
                ledger.beat(owner, 1 + reported, events[n * share : (n + 1) * share])
                reported += len(events[n * share : (n + 1) * share])
                yield
            store.update(session, lambda s: replace(s, native_ids={BACKEND: f"native-{number}"}))
            store.append(session, [answered], lambda s: replace(s, turns=1))
        data = payload.result_to_json(result)
        ledger.finish(owner, data, session, 1 + reported, events[reported:])
        yield


@contextmanager
def recording() -> Iterator[list[bytes]]:
    """The requests that this process sends within the block."""
    sent: list[bytes] = []
    real = redis.Connection.send_packed_command

    def record(self: Any, command: Any, check_health: bool = True) -> None:
        parts = command if isinstance(command, (list, tuple)) else [command]
        sent.append(b"".join(p.encode() if isinstance(p, str) else bytes(p) for p in parts))
        real(self, command, check_health)

    redis.Connection.send_packed_command = record  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        redis.Connection.send_packed_command = real  # type: ignore[method-assign]


def record_turn(url: str, shape: Shape) -> list[list[bytes]]:
    """The requests for a task, in its steps."""
    client = connect_to(parse(url))
    for number in (FIRST - 2, FIRST - 1):  # the first one loads the scripts into the server
        submit_one(Ledger(client, KEYS), number)
        steps: list[list[bytes]] = []
        with recording() as sent:
            for _ in turn(url, number, shape):
                steps.append([c for c in sent if not re.match(rb"\*\d\r\n\$\d\r\n(HELLO|PING|CLIENT)", c)])  # fmt: skip
                sent.clear()
    client.close()
    return steps


def submit_one(ledger: Ledger, number: int) -> None:
    request = Request(prompt=PROMPT, session=NewSession(f"{RUN}.{number}"), backend=BACKEND, cwd=Path("/srv"))  # fmt: skip
    attempt = AttemptId(RUN, number, 1)
    ledger.submit(attempt, payload.request_to_json(request), payload.PROTOCOL, __version__)


# What is simulated. Each yields the seconds until it goes on, so that one thread is enough for many.

Doing = Generator[float, None, None]


class Clock:
    """Runs the simulated slots: each goes on when the pause that it asked for is over."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Doing]] = []
        self._numbers = count()

    def add(self, doing: Doing) -> None:
        heapq.heappush(self._due, (time.monotonic(), next(self._numbers), doing))

    def run(self, stop: Any) -> None:
        for number in count():
            if number % 100 == 0 and stop.is_set():
                return
            at, _, doing = heapq.heappop(self._due)
            if (wait := at - time.monotonic()) > 0:
                time.sleep(wait)
            with suppress(StopIteration):
                pause = next(doing)
                heapq.heappush(self._due, (time.monotonic() + pause, next(self._numbers), doing))


class Wire:
    """A connection that sends what was recorded."""

    def __init__(self, url: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", parse(url).port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        self.socket.sendall(request)
        answer = self.socket.recv(1 << 16)
        while not answer.endswith(b"\r\n"):
            answer += self.socket.recv(1 << 16)
        if answer.startswith(b"-"):
            raise RuntimeError(answer.decode())
        return answer


def pack(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


class SimulatedWorker:
    """A node with some slots."""

    def __init__(self, url: str, number: int, clock: Clock, steps: list[list[bytes]]) -> None:
        self.url = url
        self.name = NODE[:-5] + str(10_000 + number)
        self.clock = clock
        self.steps = steps
        # A slot has a connection for the ledger, and one for the session.
        self.free = [(Wire(url), Wire(url)) for _ in range(SLOTS_OF_WORKER)]
        clock.add(self.report())
        clock.add(self.deliver())

    def report(self) -> Doing:
        """Of `clinvk worker`."""
        client = connect_to(parse(self.url))
        ledger, nodes = Ledger(client, KEYS), Nodes(client, KEYS)
        facts = Node(
            name=self.name, slots={BACKEND: SLOTS_OF_WORKER}, host=self.name, pid=os.getpid(),
            version=__version__, clis={BACKEND: Cli("2.1", "yes")},
        )  # fmt: skip
        while True:
            ledger.say_alive(self.name, [BACKEND], 10)
            nodes.write(facts)
            yield HEARTBEAT

    def deliver(self) -> Doing:
        """Of Celery: take a message, note it, hand it to a free slot, forget it."""
        take, note = Wire(self.url), Wire(self.url)
        take.socket.setblocking(False)
        queues = [
            (KEYS.waiting(name) + priority).encode()
            for priority in ("", "\x06\x163", "\x06\x166", "\x06\x169")
            for name in (queue_of(BACKEND), queue_of(BACKEND, self.name))
        ]
        index, unacked = f"{KEYS.prefix}unacked_index".encode(), f"{KEYS.prefix}unacked".encode()
        while True:
            while not self.free:
                yield 0.02
            take.socket.sendall(pack(b"BRPOP", *queues, b"1"))
            answer = b""
            while not answer.endswith(b"\r\n"):
                with suppress(BlockingIOError):
                    answer += take.socket.recv(1 << 16)
                if not answer:
                    yield 0.02
            if (found := MESSAGE.search(answer)) is None:
                continue
            number, message = found[1], answer[answer.index(b"{") : -2]
            note.ask(b"".join((
                pack(b"MULTI"), pack(b"ZADD", index, b"%f" % time.time(), number),
                pack(b"HSET", unacked, number, message), pack(b"EXEC"),
            )))  # fmt: skip
            self.clock.add(self.work(number, *self.free.pop()))
            note.ask(b"".join((
                pack(b"MULTI"), pack(b"ZREM", index, number), pack(b"HDEL", unacked, number), pack(b"EXEC"),
            )))  # fmt: skip

    def work(self, number: bytes, ledger: Wire, store: Wire) -> Doing:
        """Of a process of the pool."""
        sample, node, name = b"%d" % (FIRST - 1), NODE.encode(), self.name.encode()
        for step in self.steps:
            for request in step:
                wire = ledger if KEYS.prefix.encode() in request else store
                wire.ask(request.replace(sample, number).replace(node, name))
            yield BEAT
        self.free.append((ledger, store))


def run_workers(url: str, numbers: range, steps: list[list[bytes]], stop: Any) -> None:
    """In a process of its own."""
    clock = Clock()
    made = [SimulatedWorker(url, number, clock, steps) for number in numbers]
    clock.run(stop)
    del made


@contextmanager
def workers(url: str, shape: Shape) -> Iterator[None]:
    context, steps = get_context("fork"), record_turn(url, shape)
    requests = sum(map(len, steps))
    print(f"    a worker makes {requests} requests for a task of {shape.seconds:g} s", flush=True)
    stop, nodes = context.Event(), shape.slots // SLOTS_OF_WORKER
    made = [
        context.Process(target=run_workers, args=(url, range(n, nodes, shape.processes), steps, stop))
        for n in range(shape.processes)
    ]  # fmt: skip
    for process in made:
        process.start()
    try:
        yield
    finally:
        stop.set()
        for process in made:
            process.join(60)


# What a submitter does.


def submit(url: str, shape: Shape) -> None:
    """Put all tasks into the ledger and the queue."""
    client, wire, number = connect_to(parse(url)), Wire(url), FIRST - 3
    ledger, app = Ledger(client, KEYS), apps.create_app(parse(url))
    submit_one(ledger, number - 1)
    with recording() as sent:
        submit_one(ledger, number)
        request = sent[-1]
    apps.send(app, AttemptId(RUN, number, 1), "sample")
    app.close()
    message = client.lpop(KEYS.waiting("sample"))
    client.delete(*[KEYS.attempt(AttemptId(RUN, n, 1)) for n in (number - 1, number)])
    push = pack(b"LPUSH", KEYS.waiting(queue_of(BACKEND)).encode(), message)  # type: ignore[arg-type]
    for n in range(FIRST, FIRST + shape.tasks):
        wire.ask(request.replace(b"%d" % number, b"%d" % n))
        wire.ask(push.replace(b"%d" % number, b"%d" % n))
    client.close()


def follow(url: str, shape: Shape, said: Any) -> None:
    """Read the news, as the submitter does; in a process of its own. Says how many there were, and how
    much time they took it on a processor."""
    client = connect_to(parse(url))
    ledger, position, ended, seen = Ledger(client, KEYS), "0-0", 0, 0
    while ended < shape.tasks:
        news = ledger.read_news(RUN, position, wait=0.2)
        for each in news:
            if each.kind == "event":
                payload.event_from_json_line(each.data)
            elif each.kind == "ended":
                payload.result_from_json(each.data)
                ended += 1
        seen += len(news)
        position = news[-1].id if news else position
    said.put((seen, time.process_time()))
    client.close()


def probe(url: str, stop: Any, said: Any) -> None:
    """How long a claim takes that is made ten times a second, in a process of its own."""
    ledger, took = Ledger(connect_to(parse(url)), KEYS), []
    for number in count(1):
        if stop.wait(0.1):
            break
        attempt = AttemptId("probe", number, 1)
        ledger.submit(attempt, b"{}", payload.PROTOCOL, "1")
        began = time.perf_counter()
        ledger.claim(Owner(attempt, "probe", "probe", BACKEND), payload.PROTOCOL)
        took.append(time.perf_counter() - began)
    said.put(took)


# What Redis says about itself.


class Figures:
    """The difference that something made."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        client.config_resetstat()
        self.before, self.began = self._read(), time.monotonic()

    def _read(self) -> dict[str, float]:
        info = self.client.info("everything")
        return {
            "cpu": info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"],
            "memory": info["used_memory"], "commands": info["total_commands_processed"],
        }  # fmt: skip

    def stop(self) -> Figures:
        after = self._read()
        self.seconds = time.monotonic() - self.began
        self.cpu = after["cpu"] - self.before["cpu"]
        self.memory = after["memory"] - self.before["memory"]
        self.commands = after["commands"]
        self.stats = self.client.info("commandstats")
        self.latency = self.client.info("latencystats")
        return self

    def say(self, what: str, count: int) -> None:
        print(
            f"{what}: {self.seconds:.0f} s, {self.commands / self.seconds:,.0f} commands/s "
            f"({self.commands / count:.1f} each), Redis {self.cpu / self.seconds:.0%} of a core "
            f"({self.cpu / count * 1e6:.0f} µs each), memory {self.memory / count:+,.0f} bytes each",
            flush=True,
        )

    def say_commands(self) -> None:
        found = sorted(self.stats.items(), key=lambda item: -item[1]["usec"])
        for key, each in found[:12]:
            name = key.removeprefix("cmdstat_")
            times = self.latency.get(f"latency_percentiles_usec_{name}", {})
            print(f"    {name:<18} {each['calls']:>10,} calls, {each['usec_per_call']:6.1f} µs each; "
                  f"p50 {times.get('p50', 0):.0f}, p99 {times.get('p99', 0):.0f}, "
                  f"p99.9 {times.get('p99.9', 0):.0f} µs")  # fmt: skip


def simulate(shape: Shape) -> None:
    """All tasks, through one server."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder), "--appendfsync", "everysec", "--maxclients", "20000")
        server.start()
        client = redis.Redis.from_url(server.url)
        try:
            _simulate(server.url, client, shape)
        finally:
            client.close()
            server.kill()


def _simulate(url: str, client: redis.Redis, shape: Shape) -> None:
    context = get_context("fork")
    found = Figures(client)
    submit(url, shape)
    found.stop().say(f"{shape.tasks:,} tasks queued", shape.tasks)
    said, times, stop = context.Queue(), context.Queue(), context.Event()
    helpers = [
        context.Process(target=follow, args=(url, shape, said)),
        context.Process(target=probe, args=(url, stop, times)),
    ]
    found = Figures(client)
    with workers(url, shape):
        for process in helpers:
            process.start()
        news, cpu = said.get()
        found.stop().say(f"{shape.tasks:,} tasks run by {shape.slots:,} slots, load {os.getloadavg()[0]:.0f}", shape.tasks)  # fmt: skip
        found.say_commands()
        stop.set()
        took = sorted(times.get())
        print(f"    {client.info('clients')['connected_clients']:,} connections; {news:,} news, "
              f"which take their reader {cpu / news * 1e6:.0f} µs each")  # fmt: skip
        print(f"    a claim, as a client sees it: p50 {took[len(took) // 2] * 1e3:.1f} ms, "
              f"p99 {took[int(len(took) * 0.99)] * 1e3:.1f} ms, worst {took[-1] * 1e3:.1f} ms")  # fmt: skip
        found = Figures(client)
        time.sleep(10)
        found.stop().say(f"the same workers, idle (each of {shape.slots // SLOTS_OF_WORKER})", shape.slots // SLOTS_OF_WORKER)  # fmt: skip
    for process in helpers:
        process.join()
    _say_sizes(client, shape)


def _say_sizes(client: redis.Redis, shape: Shape) -> None:
    """What the kinds of keys take."""
    attempt = AttemptId(RUN, FIRST + shape.tasks // 2, 1)
    session = f"{RUN}.{attempt.task}"
    for what, names, attempts in (
        ("an attempt that has ended", [KEYS.attempt(attempt), KEYS.task(attempt), KEYS.home(session)], 1),
        ("the news about an attempt", [KEYS.news(RUN)], shape.tasks),
        ("a session", [f"clinvk:session:{session}", f"clinvk:said:{session}", f"clinvk:writes:{session}"], 1),
    ):  # fmt: skip
        size = sum(client.memory_usage(name, samples=0) or 0 for name in names)
        print(f"    {what}: {size / attempts:,.0f} bytes")


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench cluster_scale")
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--slots", type=int, default=1_000)
    parser.add_argument("--events", type=int, default=10, help="of a task")
    parser.add_argument("--seconds", type=float, default=2.0, help="that a task takes")
    parser.add_argument("--processes", type=int, default=4, help="that simulate the slots")
    simulate(Shape(**vars(parser.parse_args(args or []))))
