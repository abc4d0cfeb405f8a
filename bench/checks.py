"""What a check that passes adds to a turn, beside its own time and one `git status`.

Turns of one made-up CLI, in a repository of 5,000 files, in one process: with a check and without,
alternating. The fastest of each, of `git status` and of the command alone are compared: on a busy
machine, all else measures the others."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from clinvk.checks.changes import STATUS
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.model.request import Request

FILES = 5_000
ROUNDS = 40
WANTED = 20.0  # milliseconds
CHECK = "true"
BOOT = 0.3  # seconds: what claude takes until its first line, and more than the status takes

MANIFEST = """\
name: stub
command: {program}
argv: {{run: []}}
events:
  - {{when: "type == 'end'", emit: finished, set: {{text: text}}}}
"""
STUB = """\
#!/bin/sh
cat >/dev/null
sleep {boot}
date +%N > changed
echo '{{"type": "end", "text": "Done."}}'
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work, home = _prepare(Path(folder))
        status = _fastest(lambda: _run(["git", "-C", str(work), *STATUS]))
        alone = _fastest(lambda: _run(["/bin/sh", "-c", CHECK]))
        for boot in (0.0, BOOT):
            _write_stub(home, boot)
            plain, checked = anyio.run(_turns, work, home)
            added = 1000 * (checked - plain - status - alone)
            print(
                f"{FILES:,} files, a CLI that takes {boot:g} s: turn {1000 * plain:.1f} ms, with a "
                f"check {1000 * checked:.1f} ms; git status {1000 * status:.1f} ms, the check "
                f"{1000 * alone:.1f} ms; added {added:.1f} ms (wanted: {WANTED:g})"
            )


async def _turns(work: Path, home: Path) -> tuple[float, float]:
    """The fewest seconds of a turn without a check, and with one."""
    taken: dict[bool, list[float]] = {False: [], True: []}
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "CLINVK_HOME": str(home), "HOME": str(home)}
    with Dispatcher(loading.load(env), env=env) as dispatcher:
        for number in range(2 * ROUNDS):
            has_check = number % 2 == 1
            request = Request(
                prompt="x", backend="stub", cwd=work, ephemeral=False,
                options={"check": [CHECK]} if has_check else {},
            )  # fmt: skip
            began = time.perf_counter()
            result = await dispatcher.run(request)
            taken[has_check].append(time.perf_counter() - began)
            assert result.ok, result.error
    return min(taken[False]), min(taken[True])


def _prepare(folder: Path) -> tuple[Path, Path]:
    work, home = folder / "work", folder / "clinvk"
    for number in range(FILES):
        path = work / f"d{number % 50}" / f"f{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n")
    git = ["git", "-C", str(work), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "1"]):
        subprocess.run([*git, *words], check=True)
    return work, home


def _write_stub(home: Path, boot: float) -> None:
    program = home / "stub"
    (home / "backends").mkdir(parents=True, exist_ok=True)
    program.write_text(STUB.format(boot=boot))
    program.chmod(0o755)
    (home / "backends" / "stub.yaml").write_text(MANIFEST.format(program=program))


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def _fastest(work: Callable[[], None]) -> float:
    taken = []
    for _ in range(15):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


if __name__ == "__main__":
    main()
