"""How long the worst texts take: through the text view, a Markdown report and redaction; and how
long a program waits for the SIGTERM that clinvk got meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import measure
from clinvk.model.outcome import Outcome, RunResult
from clinvk.reports import markdown
from clinvk.text.redact import redact

SIZE = 1_000_000  # characters
KEY = "ghp_" + "aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA1234"
DASHES = "-" * 5
PIECES = {
    "control characters": "\x9b",
    "strings that do not end": "\x90a",
    "sequences that do not end": "\x1b[0",
    "keys next to each other": KEY,
    "keys with spaces": KEY + " ",
    "private keys": f"{DASHES}BEGIN PRIVATE KEY{DASHES}\n" + "A" * 31 + "\n",
    "`://`": "://",
    "`://a:b@`": "://a:b@",
    "`password=`": "password=",
    "`token=` and a value": "token=aB3dE6gH9jK2 ",
    "prose": "The quick brown fox jumps over the lazy dog. ",
}


def main() -> None:
    print(
        "text: 1 MB of the worst texts in <= 1 s of CPU each; SIGTERM is heard within 0.2 s (wall)"
    )
    print(f"{'':<28} {'view':>8} {'report':>8} {'redact':>8} {'SIGTERM':>8}")
    for name, piece in PIECES.items():
        text = piece * (SIZE // len(piece))
        taken = (_view(text), _seconds(_report, text), _seconds(redact, text))
        print(f"{name:<28} {''.join(f'{s:8.2f} ' for s in (*taken, _sigterm(text)))}")
    print(
        f"{'deltas of one character':<28} {_view('x' * SIZE, deltas=True):8.2f} (1,000,000 events)"
    )


def _seconds(work: Callable[[str], object], text: str) -> float:
    began = time.process_time()
    work(text)
    return time.process_time() - began


def _report(text: str) -> str:
    outcome = Outcome(index=0, name="a", state="done", backend="b", output=text, attempts=1)
    result = RunResult(id=None, kind="parallel", state="done", results=(outcome,), seconds=1.0)
    return markdown.render(result)


# The events go to the viewer itself: reading a million lines of JSON is measured in `stream`.
VIEW = """
import os, sys, time, types
import anyio
from clinvk.cmd.options.request import OutputOptions
from clinvk.terminal.printer import Printer
from clinvk.cmd.views.viewers import create_turn_viewer
from clinvk.model.events import Delta, Text

async def main():
    text = open(sys.argv[1], encoding="utf-8").read()
    plan = types.SimpleNamespace(manifest=types.SimpleNamespace(name="b"), settings={})
    viewer = create_turn_viewer(OutputOptions(format="text"), Printer(sys.stderr, color=False), plan)
    events = [Delta(text=c) for c in text] if sys.argv[2] == "deltas" else []
    began = time.process_time()
    for i, event in enumerate((*events, Text(text=text))):
        await viewer.show(event)
        if i % 100 == 0:  # as many may come at once
            await viewer.out.flush()
    await viewer.out.flush()
    print(time.process_time() - began, file=sys.stderr)

anyio.run(main)
"""


def _view(text: str, *, deltas: bool = False) -> float:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        argv = [sys.executable, "-c", VIEW, file.name, "deltas" if deltas else "whole"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return float(done.stderr)


HEARD = """exec python3 -c '
import os, signal, sys, time
def heard(*_):
    open(sys.argv[1], "w").write(str(time.time()))
    os._exit(0)
signal.signal(signal.SIGTERM, heard)
sys.stdout.write(open(sys.argv[2]).read())
sys.stdout.flush()
open(sys.argv[1] + ".ready", "w").close()
time.sleep(60)
' "$(dirname "$0")/heard" "$(dirname "$0")/stream"
"""


def _sigterm(text: str) -> float:
    """The longest of a few waits of the program for its SIGTERM, sent to clinvk at several moments
    after the text was printed."""
    waits = []
    for delay in (0.0, 0.05, 0.2):
        with measure.home() as env:
            rules = [{"when": "type == 'text'", "emit": "text", "set": {"text": "text"}}]
            measure.backend(env, "worst", HEARD, events=rules)
            folder = Path(env["CLINVK_HOME"]) / "backends"
            (folder / "stream").write_text(json.dumps({"type": "text", "text": text}) + "\n")
            with subprocess.Popen(
                [*measure.CLINVK, "-b", "worst", "x"], env=env, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            ) as clinvk:  # fmt: skip
                while not (folder / "heard.ready").exists():
                    time.sleep(0.001)
                time.sleep(delay)
                sent = time.time()
                os.kill(clinvk.pid, signal.SIGTERM)
                clinvk.wait()
            waits.append(float((folder / "heard").read_text()) - sent)
    return max(waits)


if __name__ == "__main__":
    main()
