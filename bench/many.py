"""What 100,000 sessions cost, against the same command with 20."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.measure import CLINVK, backend, home, once

MANY, FEW, MESSAGES = 100_000, 20, 10
STUB = """echo "{\\"type\\":\\"start\\",\\"id\\":\\"${1:-$$}\\"}"; echo '{"type":"end","text":"hi"}' """
WORDS = [f"{a}{b}" for a in ("par", "lex", "tok", "syn", "ver", "dep", "cach", "rout", "sess", "quer")
         for b in ("er", "ing", "ed", "ion", "able", "ment", "less", "ish", "ize", "ory")]  # fmt: skip


def main(many: int = MANY) -> None:
    print(f"many: {many:,} sessions against {FEW}: commands <= 1.3 x; search <= 0.3 x ripgrep and "
          "< 1.5 x list; index from nothing <= 15 s; clean of half <= 5 s; peak <= 60 MB")  # fmt: skip
    with home() as small, home() as large:
        for env, count in ((small, FEW), (large, many)):
            backend(env, "stub", STUB)
            Path(env["CLINVK_HOME"], "config.yaml").write_text("session:\n  auto_resume: true\n")
            populate(Path(env["CLINVK_HOME"]), count)
        began = time.perf_counter()
        peak = _peak([*CLINVK, "sessions", "reindex"], large)
        print(
            f"{'index from nothing':<34} {time.perf_counter() - began:8.2f} s, peak {peak:.0f} MB"
        )
        once([*CLINVK, "sessions", "list", "-n", "20"], small)
        prefix = sorted(os.listdir(Path(large["CLINVK_HOME"], "sessions")))[many // 2][:8]
        few = sorted(os.listdir(Path(small["CLINVK_HOME"], "sessions")))[FEW // 2][:8]
        rows = {
            "list -n 20": (["sessions", "list", "-n", "20"],) * 2,
            "list --backend --status -n 20": (
                ["sessions", "list", "--backend", "claude", "--status", "active", "-n", "20"],
            ) * 2,
            "show PREFIX": (["sessions", "show", few], ["sessions", "show", prefix]),
            "resume --last --dry-run": (["resume", "--last", "--dry-run", "x"],) * 2,
            "prompt with auto_resume": (["-b", "stub", "hello"],) * 2,
        }  # fmt: skip
        listed = 0.0
        for name, (a, b) in rows.items():
            w1, w2 = _pair([*CLINVK, *a], small, [*CLINVK, *b], large)
            listed = listed or w2
            peak = _peak([*CLINVK, *b], large)
            print(f"{name:<34} {w1 * 1000:7.1f} ms -> {w2 * 1000:7.1f} ms {w2 / w1:6.2f} x, "
                  f"peak {peak:.0f} MB")  # fmt: skip
        _search(large, listed)
        began = time.perf_counter()
        peak = _peak([*CLINVK, "sessions", "clean", "--older-than", "500d"], large)
        print(f"{'clean of half':<34} {time.perf_counter() - began:8.2f} s, peak {peak:.0f} MB, "
              f"{len(os.listdir(Path(large['CLINVK_HOME'], 'sessions'))):,} left")  # fmt: skip


def populate(folder: Path, count: int) -> None:
    """That many sessions of ten messages each, over a thousand days."""
    chance = random.Random(1)
    for name in ("sessions", "transcripts"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    cwd = os.path.realpath(os.getcwd())
    for i in range(count):
        id_ = f"{chance.getrandbits(40):010x}"
        used = now - timedelta(days=1000 * (i + 0.5) / count)
        stamp = used.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        said = [" ".join(chance.choices(WORDS, k=20)) for _ in range(MESSAGES)]
        if i % 1000 == 0:
            said[3] += " needle in a haystack"
        record = {
            "version": 1, "id": id_, "backend": ("stub", "claude", "codex")[i % 3], "model": "m",
            "status": "active", "cwd": f"/p/{i % 100}" if i % 2 else cwd, "prompt": said[0],
            "native_ids": {("stub", "claude", "codex")[i % 3]: f"n{i}"}, "turns": MESSAGES // 2,
            "counts": {"user": MESSAGES // 2, "assistant": MESSAGES // 2},
            "created_at": stamp, "updated_at": stamp,
        }  # fmt: skip
        (folder / "sessions" / f"{id_}.json").write_text(json.dumps(record))
        lines = [
            json.dumps({"role": ("user", "assistant")[n % 2], "content": text, "timestamp": stamp})
            for n, text in enumerate(said)
        ]
        (folder / "transcripts" / f"{id_}.jsonl").write_text("\n".join(lines) + "\n")


def _pair(
    a: list[str], env_a: dict[str, str], b: list[str], env_b: dict[str, str]
) -> tuple[float, float]:
    runs = [(once(a, env_a)[0], once(b, env_b)[0]) for _ in range(15)]
    middle = len(runs) // 2
    return sorted(r[0] for r in runs)[middle], sorted(r[1] for r in runs)[middle]


def _peak(argv: list[str], env: dict[str, str]) -> float:
    """Peak resident MB of a command, asked of a small process so that ours does not count."""
    code = (
        "import resource, subprocess, sys; "
        "done = subprocess.run(sys.argv[1:], capture_output=True, stdin=subprocess.DEVNULL); "
        "sys.stderr.buffer.write(done.stderr); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000); "
        "sys.exit(done.returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{argv}: {done.stderr}")
    return float(done.stdout)


def _search(env: dict[str, str], listed: float) -> None:
    folder = Path(env["CLINVK_HOME"], "transcripts")
    for words in ("needle haystack", "paring"):
        ours, theirs = _pair([*CLINVK, "sessions", "search", words], env,
                             ["rg", "-l", words.split()[0], str(folder)], env)  # fmt: skip
        print(f"search {words!r:<27} {ours * 1000:7.1f} ms; ripgrep -l {theirs * 1000:7.1f} ms "
              f"{ours / theirs:6.2f} x; list {ours / listed:6.2f} x")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else MANY)
