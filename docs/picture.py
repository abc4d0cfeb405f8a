"""Make `docs/picture.svg`: claude and codex at work, on a terminal of 80 columns.

`make picture` runs it. It starts the real CLIs, as the tests do (tests/clis.py installs them), in a
real terminal (tmux), and the picture is what was on that screen while the run was under way. Only
the model is made up: a server on loopback gives the answers below.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT))

from tests import clis  # noqa: E402
from tests.models import Models  # noqa: E402
from tests.models.answer import Conversation  # noqa: E402
from tests.real.conftest import CODEX, GEMINI, environment  # noqa: E402

COLUMNS, ROWS = 80, 15
COMMANDS = (
    'clinvk -b claude "why is the lexer slow?"',
    'clinvk -c --to codex "do you agree?"',
    "clinvk parallel review.yaml",
)
TASKS = """\
max_parallel: 3
tasks:
  - {name: lexer, backend: claude, prompt: review lexer.py}
  - {name: parser, backend: gemini, prompt: review parser.py}
  - {name: printer, backend: claude, prompt: review printer.py}
  - {name: sum up, backend: codex, prompt: "Sum up: {{tasks.lexer.output}}"}
  - {name: docs, backend: claude, prompt: review the docs, needs: [parser]}
"""
ANSWERS = {
    "why is the lexer slow?": "It compiles its pattern again for every token. Compile it once.",
    "do you agree?": "Yes, and the token list is copied in next_token(): use an iterator.",
    "review lexer.py": "Looks good, apart from the pattern.",
    # The rest of these comes after the picture was taken.
    "review parser.py": "The error messages lack the line number. <<pause 60>>",
    "review printer.py": "print_list() walks the list twice, and the second pass is not needed: "
    "it only counts what the first one could have counted already. <<pause 60>>",
    "Sum up": "One thing to fix, and two to improve in the next release. <<pause 60>>",
}
RUNNING = r"(?s)(?=.*✓ lexer)(?=.*sum up +codex)(?=.*error messages)(?=.*twice)"
WAIT = 60  # seconds for something to appear on the screen
# Rich's own page asks a server for a font; a picture in a README has to do with what is there.
PAGE = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
    font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font-family: system-ui, sans-serif; font-size: 18px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">
{matrix}
</g>
</g>
</svg>
"""


def main() -> None:
    clis.install()
    holder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # the run is cut short
    with holder as directory, Models() as models, models.saying(answer):
        home = Path(directory) / "ada"
        app = home / "app"
        app.mkdir(parents=True)
        (home / "tmp").mkdir()
        (home / ".codex").mkdir()
        # A model that codex knows; it has something to say about others.
        config = CODEX.format(url=models.url).replace("gpt-5-codex", "gpt-5.5")
        (home / ".codex/config.toml").write_text(config)
        (home / ".gemini").mkdir()
        (home / ".gemini/settings.json").write_text(json.dumps(GEMINI))
        (home / ".claude.json").write_text(json.dumps({"hasCompletedOnboarding": True}))
        (app / "review.yaml").write_text(TASKS)
        (home / "bin").mkdir()
        program = home / "bin/clinvk"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m clinvk "$@"\n')
        program.chmod(0o755)
        env = environment(home, models.url)
        env |= {"PATH": f"{home}/bin:{env['PATH']}", "PYTHONPATH": str(PROJECT)}
        screen = photograph(app, env)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(screen))
    svg = console.export_svg(title="clinvk", code_format=PAGE, unique_id="clinvk")
    Path(__file__).with_name("picture.svg").write_text(re.sub(r"[ \t]+\n", "\n", svg))


def answer(shown: Conversation) -> str | None:
    """What the model says."""
    for question, text in ANSWERS.items():
        if question in shown.last.rsplit("\n\n", 1)[-1]:
            return text
    return "Done."


def photograph(app: Path, env: dict[str, str]) -> str:
    """The screen, with its colors, while the last command runs."""
    server = ["tmux", "-f", os.devnull, "-L", f"clinvk-picture-{os.getpid()}"]

    def tmux(*words: str) -> str:
        return subprocess.run(
            [*server, *words], env={**env, "TERM": "xterm-256color"}, stdout=subprocess.PIPE,
            text=True, check=True,
        ).stdout  # fmt: skip

    settings = {key: value for key, value in env.items() if key != "TERM"}
    prompt = r"PS1='\[\e[1;32m\]$\[\e[0m\] '"
    shell = "env -i " + " ".join(f"{k}={shlex.quote(v)}" for k, v in settings.items())
    shell += f" TERM=tmux-256color {prompt} bash --noprofile --norc"
    tmux("new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), "-c", str(app), shell)
    try:
        wait_for(tmux, r"\A\$")
        for command in COMMANDS:
            tmux("send-keys", "-l", command)
            tmux("send-keys", "Enter")
            wait_for(tmux, RUNNING if command == COMMANDS[-1] else r"\n\$\s*\Z")
        return tmux("capture-pane", "-e", "-p").rstrip("\n")
    finally:
        tmux("kill-server")


def wait_for(tmux: object, pattern: str) -> None:
    deadline = time.monotonic() + WAIT
    time.sleep(1)
    while not re.search(pattern, screen := tmux("capture-pane", "-p")):  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise SystemExit(f"the picture is not there yet; the screen:\n{screen}")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
