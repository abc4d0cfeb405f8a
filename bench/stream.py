"""How fast a stream is read, and what it takes of memory: through the dispatcher, with claude's
own rules, from a child that prints as fast as it can."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import measure

MB = 1_000_000


def main() -> None:
    print("stream: 100 MB of 1 KB lines at >= 40 MB/s, peak <= 60 MB; one 50 MB line in <= 2 s")
    with tempfile.TemporaryDirectory() as folder:
        many, one = Path(folder) / "many", Path(folder) / "one"
        lines = _write(many, size=1000, count=100_000)
        _write(one, size=50 * MB, count=1)
        for label, path in (("100 MB of 1 KB lines", many), ("one 50 MB line", one)):
            bare = _reference(path)
            seconds, peak, events = _through(path)
            mb = path.stat().st_size / MB
            print(f"{label:<24} {seconds:6.2f} s {mb / seconds:7.1f} MB/s  peak {peak:6.1f} MB  "
                  f"({events:,} events; `cat` into Python's json alone: {bare:.2f} s)")  # fmt: skip
        assert lines == 100_000


def _write(path: Path, size: int, count: int) -> int:
    """A recording of claude's shape: tool results of that many bytes a line."""
    end = {"type": "result", "result": "done", "session_id": "0" * 8}
    block = {"type": "tool_result", "tool_use_id": "t", "content": ""}
    line = {"type": "user", "message": {"content": [block]}}
    block["content"] = "x" * (size - len(json.dumps(line)) - 1)
    text = json.dumps(line) + "\n"
    with path.open("w") as file:
        for _ in range(count):
            file.write(text)
        file.write(json.dumps(end) + "\n")
    return count


def _reference(path: Path) -> float:
    code = "import json, sys\nfor line in sys.stdin.buffer: json.loads(line)"
    began = time.perf_counter()
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
        subprocess.run([sys.executable, "-c", code], stdin=cat.stdout, check=True)
    return time.perf_counter() - began


READ = """
import anyio, time
from pathlib import Path
from clinvk import Dispatcher, Request

async def main():
    count, began = 0, time.perf_counter()
    with Dispatcher() as dispatcher:
        async with dispatcher.stream(Request(prompt="x", backend="pour")) as run:
            async for event in run:
                count += 1
    assert run.result.ok, run.result
    # ru_maxrss would begin with the size of the process that forked this one.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1000
    print(time.perf_counter() - began, peak, count)

anyio.run(main)
"""


def _through(path: Path) -> tuple[float, float, int]:
    """(seconds, peak MB of clinvk, events)."""
    import yaml

    from clinvk.config.paths import built_in_manifests

    rules = yaml.safe_load((built_in_manifests() / "claude.yaml").read_text())["events"]
    with measure.home() as env:
        measure.backend(env, "pour", f"exec cat {path}", events=rules)
        done = subprocess.run(
            [sys.executable, "-c", READ], env=env, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, peak, count = done.stdout.split()
    return float(seconds), float(peak), int(count)


if __name__ == "__main__":
    main()
