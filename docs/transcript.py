"""The README's transcript, made by running it.

python docs/transcript.py            print it
python docs/transcript.py --write    put it into README.md
python docs/transcript.py --check    exit 1 where the commands print something else now
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- transcript: begin -->", "<!-- transcript: end -->"
COMMANDS = (
    'clinvk -b echo "fix the bug"',
    'clinvk -c "now add tests"',
    "clinvk sessions list",
    'clinvk resume {id} "and docs"',
    'clinvk -b echo --option fail=429 "one more"; echo "exit $?"',
)
ID = re.compile(r"\b[0-9a-f]{10}\b")
SHOWN = 4  # digits of an id that are enough


def main(args: list[str]) -> int:
    if not args:
        print(transcript())
        return 0
    text = README.read_text(encoding="utf-8")
    made = with_transcript(text, transcript())
    if args == ["--write"]:
        README.write_text(made, encoding="utf-8")
        return 0
    if args != ["--check"]:
        sys.exit(__doc__)
    if masked(made) != masked(text):
        print("README.md: its transcript is not what the commands print now", file=sys.stderr)
        print("  hint: python docs/transcript.py --write", file=sys.stderr)
        return 1
    return 0


def with_transcript(readme: str, transcript: str) -> str:
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n```console\n{transcript}\n```\n{END}{after}"


def masked(text: str) -> str:
    """The text without what differs from run to run."""
    text = re.sub(r"(?<=resume )[0-9a-f]{4}\b", "<id>", ID.sub("<id>", text))
    return re.sub(r"just now|\ds ago {2}", "<when>", text)


def transcript() -> str:
    """The commands, each with what it printed."""
    told = ""
    with tempfile.TemporaryDirectory() as home:
        env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": home,
            "CLINVK_HOME": f"{home}/.clinvk",
            "TERM": "dumb",
            "LANG": "C.UTF-8",
        }
        for line in COMMANDS:
            ids = ID.findall(told)
            command = line.format(id=ids[-1][:SHOWN]) if "{id}" in line else line
            done = subprocess.run(
                ["sh", "-c", command], cwd=home, env=env, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            )  # fmt: skip
            told += f"$ {command}\n{done.stdout}"
    return told.rstrip("\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
