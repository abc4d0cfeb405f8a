"""What clinvk adds to the real CLIs: each with and without it, against our model server."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

from bench.measure import CLINVK, compare, table
from tests import clis
from tests.models import Models
from tests.real import conftest as real

# How a person would call each one to read its answer as it comes.
ALONE = {
    "claude": ["--print", "--output-format", "stream-json", "--verbose", "hello"],
    "codex": ["exec", "--json", "--skip-git-repo-check", "hello"],
    "gemini": ["--output-format", "stream-json", "--prompt", "hello"],
}
WANTED = {"claude": 1.25, "codex": 1.45, "gemini": 0.70}


def main(rounds: int = 9) -> None:
    print("real: wall with clinvk / without: claude <= 1.25, codex <= 1.45, gemini <= 0.70")
    programs = clis.install()
    with Models() as models, tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        env = real.environment(home, models.url)
        (home / "tmp").mkdir()
        (home / ".codex").mkdir()
        (home / ".codex" / "config.toml").write_text(real.CODEX.format(url=models.url))
        (home / ".gemini").mkdir()
        (home / ".gemini" / "settings.json").write_text(json.dumps(real.GEMINI))
        before = os.getcwd()
        os.chdir(home)
        subprocess.run(["git", "init", "-q"], check=True)
        for name, args in ALONE.items():
            alone, with_us = f"{name} alone", f"clinvk -b {name}"
            ours = [*CLINVK, "-b", name, "hello"]
            compare({alone: [str(programs[name]), *args], with_us: ours}, env, rounds=2)  # warm
            measured = compare({alone: [str(programs[name]), *args], with_us: ours}, env, rounds)
            table(measured, alone)
            ratio = measured[with_us][0] / measured[alone][0]
            print(f"{'':<28} {ratio:.2f} x, wanted {WANTED[name]:.2f} x")
        os.chdir(before)


if __name__ == "__main__":
    main()
