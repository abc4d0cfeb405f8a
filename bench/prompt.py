"""The interactive prompt: how soon it is there, echoes keys, starts backends and shows answers, and
how much memory it takes."""

from __future__ import annotations

import os
import pty
import select
import statistics
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

import psutil

from bench.measure import BARE, CLINVK, backend, home

ROUNDS = 15
MESSAGES = 40
TURNS = 200
PROMPT = "› ".encode()
# bash knows the time without starting a program.
EVENTS = [
    {"when": "type == 'start'", "emit": "started", "set": {"native_id": "id"}},
    {"when": "type == 'delta'", "emit": "delta", "set": {"text": "text"}},
    {"when": "type == 'end'", "emit": "finished", "set": {"text": "text"}},
]
# bash knows the time without starting a program.
STAMP = """echo $EPOCHREALTIME >"$0.began"
cat >/dev/null
echo '{"type":"start","id":"'${1:-$$}'"}'
"""
FIRST = f"""{STAMP}
echo $EPOCHREALTIME >"$0.said"
echo '{{"type":"delta","text":"answer"}}'
sleep 0.1
echo '{{"type":"end"}}'
"""
STREAM = """
import json, sys
words = "some words of an answer that is **rendered** and goes on, with `code` and more of it. "
text = (words * 3 + "\\n\\n") * 4
count = 5_000_000 // len(text)
for _ in range(count):
    print(json.dumps({"type": "delta", "text": text}))
print(json.dumps({"type": "delta", "text": "It is complete.\\n"}))
print(json.dumps({"type": "end"}))
"""


class Terminal:
    def __init__(self, argv: list[str], env: Mapping[str, str]) -> None:
        main, other = pty.openpty()
        ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        env = {**env, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        self.fd = main
        self.is_complete = False  # the end of the long answer was shown
        self._tail = b""
        self.process = subprocess.Popen(
            argv, stdin=other, stdout=other, stderr=other, env=env, start_new_session=True
        )
        os.close(other)

    def read(self, seconds: float = 0.0) -> bytes:
        if not select.select([self.fd], [], [], seconds)[0]:
            return b""
        try:
            piece = os.read(self.fd, 1 << 16)
        except OSError:
            return b""
        self._tail = (self._tail + piece)[-(1 << 16) - 20 :]
        self.is_complete = self.is_complete or b"It is complete" in self._tail
        return piece

    def wait_for(self, text: bytes, seconds: float = 60) -> float:
        """The time at which the text was there."""
        until, seen = time.time() + seconds, b""
        while text not in seen:
            if time.time() > until:
                raise SystemExit(f"no {text!r} in {seen[-400:]!r}")
            seen = seen[-len(text) :] + self.read(1)
        return time.time()

    def send(self, text: str) -> float:
        os.write(self.fd, text.encode())
        return time.time()

    def settle(self, seconds: float = 0.15) -> None:
        """Read until there is nothing more for this long."""
        while self.read(seconds):
            pass

    def close(self) -> None:
        self.send("\x04")
        deadline = time.time() + 10
        while self.process.poll() is None and time.time() < deadline:
            self.read(0.05)
        self.process.kill()
        self.process.wait()
        os.close(self.fd)


@contextmanager
def opened(env: Mapping[str, str], name: str) -> Iterator[Terminal]:
    terminal = Terminal([*CLINVK, "repl", "-b", name], env)
    terminal.wait_for(PROMPT)
    terminal.settle(0.5)
    yield terminal
    terminal.close()


def main() -> None:
    print("the prompt: ready <= 25 x bare Python, Enter to the backend <= 30 ms, first character "
          "<= 30 ms (p95), echo <= 50 ms (p99) while 5 MB stream, <= 120 MB after 200 turns")  # fmt: skip
    print(f"load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with home() as env:
        folder = Path(env["CLINVK_HOME"]) / "backends"
        folder.mkdir(parents=True, exist_ok=True)
        script = folder / "stream.py"
        script.write_text(STREAM)
        _program(env, "first", FIRST)
        _program(env, "long", f"{STAMP}exec {sys.executable} {script}\n")
        ready(env)
        messages(env)
        echo(env)
        memory(env)


def _program(env: Mapping[str, str], name: str, text: str) -> None:
    """A backend that is a bash script."""
    backend(env, name, "", events=EVENTS)
    (Path(env["CLINVK_HOME"]) / "backends" / f"{name}.sh").write_text(f"#!/bin/bash\n{text}")


def ready(env: Mapping[str, str]) -> None:
    bare, prompt = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        subprocess.run(BARE, env=env, check=True)
        bare.append(time.perf_counter() - began)
        began = time.time()
        terminal = Terminal([*CLINVK, "repl", "-b", "first"], env)
        prompt.append(terminal.wait_for(PROMPT) - began)
        terminal.settle(0.3)
        terminal.close()
    one, other = statistics.median(prompt), statistics.median(bare)
    print(f"ready after                  {one * 1000:8.1f} ms {one / other:6.1f} x bare Python")


def messages(env: Mapping[str, str]) -> None:
    folder = Path(env["CLINVK_HOME"]) / "backends"
    starts, shown = [], []
    with opened(env, "first") as terminal:
        for i in range(MESSAGES):
            mark = chr(0x100 + i)
            terminal.send(f"message {mark}")
            terminal.wait_for(mark.encode())
            terminal.settle()
            sent = terminal.send("\r")
            at = terminal.wait_for(b"answer")
            starts.append(float((folder / "first.sh.began").read_text()) - sent)
            shown.append(at - float((folder / "first.sh.said").read_text()))
            terminal.settle(0.4)
    _report("Enter to the backend's start", starts, 0.5)
    _report("first character on screen", shown, 0.95)


def echo(env: Mapping[str, str]) -> None:
    taken = []
    with opened(env, "long") as terminal:
        terminal.send("go")
        terminal.settle()
        began = terminal.send("\r")
        terminal.wait_for(b"some words")
        for i in range(2000):
            mark = chr(0x100 + i)
            sent = terminal.send(mark)
            at = terminal.wait_for(mark.encode())
            taken.append(at - sent)
            until = at + 0.02
            while (left := until - time.time()) > 0:
                terminal.read(left)
            if terminal.is_complete or time.time() - began > 60:
                break
        print(f"5 MB were shown in           {time.time() - began:8.1f} s, with {len(taken)} keys")
        terminal.send("\x03")
        terminal.settle(0.5)
    _report("key echo", taken, 0.99)


def memory(env: Mapping[str, str]) -> None:
    _program(env, "instant", STAMP + """echo '{"type":"end","text":"hi, **you**"}'""")
    with opened(env, "instant") as terminal:
        for i in range(TURNS):
            mark = chr(0x100 + i)
            terminal.send(f"message {mark}")
            terminal.wait_for(mark.encode())
            terminal.send("\r")
            terminal.wait_for(b"hi, ")
            terminal.settle(0.02)
        size = psutil.Process(terminal.process.pid).memory_info().rss
    print(f"memory after {TURNS} turns       {size / 1e6:8.1f} MB")


def _report(what: str, values: list[float], share: float) -> None:
    ordered = sorted(values)
    at = ordered[min(len(ordered) - 1, int(share * len(ordered)))]
    name = {0.5: "median", 0.95: "p95", 0.99: "p99"}[share]
    print(f"{what:<28} {at * 1000:8.1f} ms ({name} of {len(values)}; "
          f"median {statistics.median(values) * 1000:.1f}, most {ordered[-1] * 1000:.1f})")  # fmt: skip
