"""An answer on a terminal, rendered: how soon, how cheaply, and what if it comes all at once."""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import select
import signal
import statistics
import struct
import sys
import termios
import time
from pathlib import Path

from bench import measure

ROUNDS = 20
BOOT = 0.3  # seconds until the backend says something

# The times are of the same clock in both processes.
SPEAK = """
import json, os, sys, time
sys.stdin.read()
def say(**event):
    sys.stdout.write(json.dumps(event) + "\\n"); sys.stdout.flush()
text = open({text!r}).read()
say(type="start", id="n" + str(os.getpid()))
time.sleep({boot})
began = time.monotonic()
for at in range(0, len(text), {piece}):
    say(type="delta", text=text[at : at + {piece}])
    if at == 0:
        first = time.monotonic()
    time.sleep({pause})
with open({times!r}, "w") as file:
    file.write(f"{{first}} {{time.monotonic() - began}}")
say(type="end", text=text)
"""
EVENTS = [
    {"when": "type == 'start'", "emit": "started", "set": {"native_id": "id"}},
    {"when": "type == 'delta'", "emit": "delta", "set": {"text": "text"}},
    {"when": "type == 'end'", "emit": "finished", "set": {"text": "text"}},
]
SECTION = """
## Part {n}

Some *prose* with `code`, **strong words** and a [link](https://example.org/{n}), long enough to be
wrapped on a terminal of any usual width, as answers are.

1. The first step is `make install`, and
2. the second one is to read what it printed.

| File | Change | Lines |
|---|---|--:|
| a{n}.py | an argument is checked | 12 |
| b.py | a test of that | 30 |

```python
def part_{n}(x: int) -> str:
    # One more than x.
    return f"{{x + {n}}}"
```
"""


def main() -> None:
    print("An answer rendered on a terminal of 100 columns")
    with measure.home() as env:
        warm_up(env)
        soon(env)
        small(env)
        steady(env)
        flood(env)


def text_of(size: int) -> str:
    text = ""
    n = 0
    while len(text) < size:
        n += 1
        text += SECTION.format(n=n)
    return text[:size]


def warm_up(env: dict[str, str]) -> None:
    run(env, "Hello.", 10, 0)


def soon(env: dict[str, str]) -> None:
    delays = []
    for _ in range(ROUNDS):
        seen = run(env, "Qx and more of it.", 100, 0, watch=b"Qx")
        delays.append(seen["delay"])
    delays.sort()
    p95 = delays[int(len(delays) * 0.95) - 1]
    print(f"first character on the screen   p50 {statistics.median(delays) * 1000:.1f} ms, p95 {p95 * 1000:.1f} ms")  # fmt: skip


def small(env: dict[str, str]) -> None:
    text = text_of(20_000)
    cpu = {
        flags: statistics.median(run(env, text, 200, 0.001, *flags)["cpu"] for _ in range(5))
        for flags in ((), ("--plain",))
    }
    print(f"20 KB                           {cpu[()] - cpu[('--plain',)]:.2f} s of CPU more than with --plain")  # fmt: skip


def steady(env: dict[str, str]) -> None:
    text = text_of(100_000)
    seen = run(env, text, 200, 0.01)
    base = run(env, "Hello.", 10, 0)
    rate = len(text) / seen["seconds"] / 1000
    share = (seen["cpu"] - base["cpu"]) / seen["seconds"]
    print(f"{rate:.0f} KB/s                         {share:.0%} of a core")


def flood(env: dict[str, str]) -> None:
    text = text_of(5_000_000)
    rendered = run(env, text, 2_000, 0)
    plain = run(env, text, 2_000, 0, "--plain")
    said = b"the rest is plain text" in rendered["output"]
    print(f"5 MB at once                    the backend writes for {rendered['seconds']:.2f} s "
          f"(--plain: {plain['seconds']:.2f} s), {rendered['peak']:.0f} MB"
          f"{'' if said else ', ALL RENDERED'}")  # fmt: skip


def run(
    env: dict[str, str], text: str, piece: int, pause: float, *flags: str, watch: bytes = b""
) -> dict:
    """What a run took: CPU of clinvk and the backend, seconds that the backend wrote, the peak of
    clinvk in MB, and the seconds from the first delta to `watch` on the screen."""
    folder = Path(env["HOME"])
    (folder / "text").write_text(text)
    program = SPEAK.format(
        text=str(folder / "text"), boot=BOOT, piece=piece, pause=pause, times=str(folder / "times")
    )
    (folder / "speak.py").write_text(program)
    measure.backend(env, "speak", f"exec {sys.executable} -IS {folder}/speak.py", events=EVENTS)
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        argv = [*measure.CLINVK, "-b", "speak", *flags, "x"]
        os.execve(argv[0], argv, {**env, "TERM": "xterm-256color"})
    output, seen_at = bytearray(), None
    while select.select([terminal], [], [], 60)[0]:
        try:
            output += os.read(terminal, 65_536)
        except OSError:
            break
        if watch and seen_at is None and watch[:1] in output:
            seen_at = time.monotonic()
    else:
        os.kill(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    os.close(terminal)
    if status:
        raise SystemExit(f"exit {status}: {bytes(output[-2000:]).decode('utf-8', 'replace')}")
    first, seconds = map(float, (folder / "times").read_text().split())
    return {
        "cpu": used.ru_utime + used.ru_stime,
        "seconds": seconds,
        "peak": used.ru_maxrss / (1 if sys.platform != "darwin" else 1000) / 1000,
        "delay": (seen_at or 0) - first,
        "output": output,
    }


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
