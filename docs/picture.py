"""Make `docs/picture.svg`: the real command line at work, in a terminal of 80 columns.

`make picture` runs it. What is in the picture is what the commands printed just then.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 80
COMMANDS = (
    'clinvk -b echo "fix the bug"',
    'clinvk -c "now add tests"',
    "printf 'lexer\\nparser\\n' | clinvk parallel -b echo -q --prompt 'review {{line}}'",
    "clinvk sessions list",
    "clinvk -b echo --timeout 1 --option delay=0.4 'rewrite it all'; echo \"exit $?\"",
)
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
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "app"
        folder.mkdir()
        env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": home,
            "CLINVK_HOME": f"{home}/.clinvk",
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
        }
        for command in COMMANDS:
            console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
            if printed := in_terminal(command, folder, env):
                console.print(Text.from_ansi(printed))
    svg = console.export_svg(title="clinvk", code_format=PAGE, unique_id="clinvk")
    Path(__file__).with_name("picture.svg").write_text(re.sub(r"[ \t]+\n", "\n", svg))


def in_terminal(command: str, folder: Path, env: dict[str, str]) -> str:
    """What a shell command prints when a terminal is at its other end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    with subprocess.Popen(
        ["sh", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=env
    ):
        os.close(theirs)
        printed = b""
        try:
            while piece := os.read(ours, 65_536):
                printed += piece
        except OSError:  # Linux says so when the last writer has gone
            pass
    os.close(ours)
    lines = printed.decode().replace("\r\n", "\n").replace("\r\x1b[K", "").split("\n")
    # A status line is drawn over itself: what counts is what stood there last.
    return "\n".join(line.rsplit("\r", 1)[-1] for line in lines).rstrip("\n")


if __name__ == "__main__":
    main()
