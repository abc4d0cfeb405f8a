"""Run commands side by side, in turn, and compare their medians."""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

CLINVK = [sys.executable, "-c", "from clinvk.__main__ import main; main()"]
BARE = [sys.executable, "-c", "pass"]


def once(argv: list[str], env: Mapping[str, str], stdin: str | None = None) -> tuple[float, float]:
    """Seconds of wall and of CPU (the program's and its children's). Raises where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        argv, env=env, input=stdin or "", text=True, capture_output=True, check=False
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{argv}: exit {done.returncode}\n{done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def compare(
    commands: Mapping[str, list[str]], env: Mapping[str, str], rounds: int = 21
) -> dict[str, tuple[float, float]]:
    """The median (wall, CPU) of each command in seconds; the runs are interleaved, so that what
    else the machine does falls on all of them alike."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, argv in commands.items():
            seen[name].append(once(argv, env))
    return {name: _medians(runs) for name, runs in seen.items()}


def _medians(runs: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(r[0] for r in runs), statistics.median(r[1] for r in runs)


def table(measured: Mapping[str, tuple[float, float]], reference: str) -> None:
    """Print each against the reference."""
    wall, cpu = measured[reference]
    for name, (w, c) in measured.items():
        print(f"{name:<28} wall {w * 1000:8.1f} ms {w / wall:6.2f} x   "
              f"CPU {c * 1000:8.1f} ms {c / cpu:6.2f} x")  # fmt: skip


@contextmanager
def home() -> Iterator[dict[str, str]]:
    """An environment with a CLINVK_HOME of its own, and our modules compiled, as an installed
    package has them."""
    import compileall

    compileall.compile_dir(Path(__file__).parent.parent / "clinvk", quiet=1)
    folder = Path(tempfile.mkdtemp(prefix="clinvk-bench-"))
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "CLINVK_HOME": str(folder / "clinvk")}
    try:
        yield env
    finally:
        shutil.rmtree(folder)


CLAUDE_ID = "%08x-d9cb-469f-a165-70867728950e"  # a new one in each run of the stub
CLAUDE_LINES = "\n".join(
    json.dumps({"session_id": CLAUDE_ID, **line})
    for line in (
        {"type": "system", "subtype": "init", "model": "a-model", "tools": []},
        {
            "type": "assistant",
            "message": {"model": "a-model", "content": [{"type": "text", "text": "done"}]},
        },
        {
            "type": "result", "subtype": "success", "is_error": False, "result": "done",
            "total_cost_usd": 0.01, "usage": {"input_tokens": 3, "output_tokens": 2},
        },
    )
)  # fmt: skip


def claude_stub(env: dict[str, str], program: str) -> Path:
    """The path of a shell script that answers as claude does, and is found as `claude`, so that
    clinvk runs it by claude's own manifest. `program` may contain $LINES for the arguments with
    which `printf` prints an answer."""
    folder = Path(env["HOME"], "bin")
    folder.mkdir(exist_ok=True)
    script = folder / "claude"
    script.write_text(
        "#!/bin/sh\n" + program.replace("$LINES", f"'{CLAUDE_LINES}\n' $$ $$ $$") + "\n"
    )
    script.chmod(0o755)
    env["PATH"] = f"{folder}{os.pathsep}{env['PATH']}"
    return script


def backend(env: Mapping[str, str], name: str, program: str, **more: object) -> None:
    """Make `program`, a shell script, known as a backend."""
    folder = Path(env["CLINVK_HOME"]) / "backends"
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / f"{name}.sh"
    script.write_text(f"#!/bin/sh\n{program}\n")
    script.chmod(0o755)
    manifest = {
        "name": name,
        "command": str(script),
        "argv": {"run": ["$options"], "resume": ["$native_id"]},
        "events": [
            {"when": "type == 'start'", "emit": "started", "set": {"native_id": "id"}},
            {"when": "type == 'end'", "emit": "finished", "set": {"text": "text"}},
        ],
        **more,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(manifest))
