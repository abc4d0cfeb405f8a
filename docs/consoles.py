"""Run the commands of all `console` blocks in the README and in docs/, and compare their output.

python docs/consoles.py [PAGE]...            exit 1 if a command prints something else now
python docs/consoles.py --write [PAGE]...    put what the commands print into the pages

The commands of a page run in order, in ~/app of a new home, with made-up programs for claude, codex
and gemini. Ids and times are masked; an id in a command stands for the one that was printed above.
Two kinds of comments, which no reader sees, prepare what a page needs:

    <!-- setup            commands whose output does not matter
    mkdir -p ~/notes
    -->
    <!-- file: tasks.yaml -->      the next block is written to this file
"""

from __future__ import annotations

import difflib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parent.parent
HOME = "/home/ada"  # stands in the pages for the home of the user who runs this
PYTHON = f"{HOME}/.venv/bin/python3"
VERSIONS = {"claude": "2.1.329 (Claude Code)", "codex": "codex-cli 0.169.0", "gemini": "0.61.0"}
# A made-up CLI tells its version, and answers with the lines in a file, if there is one.
PROGRAM = """#!/bin/sh
case "$*" in --version) echo '{version}' ;; *) cat >/dev/null; cat ~/.answers/{name} ;; esac
"""
PART = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->$"
    r"|^<!-- file: (?P<file>\S+) -->\n+(?P<in>[ ]*)```\w*\n(?P<content>.*?)^(?P=in)```$"
    r"|^(?P<indent>[ ]*)```console\n(?P<console>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
ID = re.compile(r"\b(?:[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{16}|[0-9a-f]{10}|r[0-9a-f]{6})\b")
ID_IN_COMMAND = re.compile(r"\br?[0-9a-f]{4,16}\b")
# A line for each start and end, which a terminal shows as a board.
PROGRESS = re.compile(
    r"^clinvk: (\[\d+/\d+\] |\d+ of \d+ tasks? to run|\S.*: started on ).*\n", re.MULTILINE
)
MASKS = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?( ?Z| UTC)?"), "<time>"),
    (re.compile(r"(just now|\d+ ?[smh] ago) *"), "<when>"),
    (re.compile(r" *\b\d+\.\d+ s\b"), "<seconds>"),
    (re.compile(r'("\w*(?:seconds|_response_time|duration|score)": )[\d.e-]+'), r"\1<number>"),
    (re.compile(r"/tmp/clinvk-[\w-]+"), "<scratch>"),
    (ID, "<id>"),
    (re.compile(r" {2,}"), "  "),  # columns are as wide as what is in them
]


def main(args: list[str]) -> int:
    write = args[:1] == ["--write"]
    pages = [Path(arg) for arg in args[write:]]
    pages = pages or [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
    wrong = False
    for page in pages:
        text = page.read_text(encoding="utf-8")
        made = run_page(text)
        if made == text:
            continue
        if write:
            page.write_text(made, encoding="utf-8")
            continue
        wrong = True
        names = page.name, f"{page.name}, as it is now"
        print(
            "\n".join(difflib.unified_diff(text.split("\n"), made.split("\n"), *names, "", "", 1))
        )
    if wrong:
        print("hint: python docs/consoles.py --write", file=sys.stderr)
    return 1 if wrong else 0


def run_page(text: str) -> str:
    """The page with what its commands print. Output that differs only in ids and times stays."""
    with tempfile.TemporaryDirectory() as directory:
        shell = Shell(Path(directory).resolve())
        made, end = "", 0
        for part in PART.finditer(text):
            made += text[end : part.start()]
            made += shell.take(part)
            end = part.end()
    return made + text[end:]


class Shell:
    """A user's home, in which the commands of one page run."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "ada"
        self.app = self.home / "app"
        self.app.mkdir(parents=True)
        (self.home / ".answers").mkdir()
        self.env = {
            "PATH": f"{self.home}/.local/bin:{directory}/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "TERM": "dumb",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "PYTHONUNBUFFERED": "1",  # notices and answers in the order in which they come
        }
        self.ids: dict[str, str] = {}  # an id of the page, and the real one
        _program(directory / "bin/clinvk", f'#!/bin/sh\nexec {sys.executable} -m clinvk "$@"\n')
        self.env["PYTHONPATH"] = self.env["PROJECT"] = str(PROJECT)
        for name, version in VERSIONS.items():
            program = PROGRAM.format(name=name, version=version)
            _program(self.home / ".local/bin" / name, program)

    def take(self, part: re.Match[str]) -> str:
        """The text that belongs in the place of this part of a page."""
        if (script := part["setup"]) is not None:
            printed = self.run(f"set -e\n{script}")
            if self.failed:
                raise SystemExit(f"a hidden set-up failed:\n{script}{printed}")
        elif part["file"]:
            path = self.app / part["file"].replace("~", str(self.home), 1)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_shifted(part["content"], -len(part["in"])), encoding="utf-8")
            if part["content"].lstrip().startswith("#!"):
                path.chmod(0o755)
        else:
            indent = len(part["indent"])
            block = _shifted(part["console"], -indent)
            told = "".join(self.answer(*pair) for pair in _commands(block))
            return _shifted(f"```console\n{told}```", indent)
        return part[0]

    def answer(self, command: str, expected: str) -> str:
        """The command and what it prints, as far as that differs in more than ids and times."""
        printed = self.run(ID_IN_COMMAND.sub(self._real, command))
        shown, real = (list(dict.fromkeys(ID.findall(text))) for text in (expected, printed))
        if len(shown) == len(real):
            self.ids.update(zip(shown, real, strict=True))
        if _masked(printed) == _masked(expected):
            printed = expected
        else:
            for id_ in shown:  # a page keeps its ids
                printed = printed.replace(self.ids.get(id_, id_), id_)
            self.ids.update({id_: id_ for id_ in ID.findall(printed) if id_ not in self.ids})
        return f"$ {command}\n{printed}"

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command.replace(HOME, str(self.home))],
            cwd=self.app, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
        )  # fmt: skip
        self.failed = done.returncode != 0
        printed = done.stdout.replace(str(self.home), HOME)
        printed = PROGRESS.sub("", printed)
        printed = re.sub(r"(?<![\w/])/\S+/bin/python[\d.]*", PYTHON, printed)
        return printed if not printed or printed.endswith("\n") else f"{printed}\n"

    def _real(self, word: re.Match[str]) -> str:
        found = [real for shown, real in self.ids.items() if shown.startswith(word[0])]
        return found[-1][: len(word[0])] if found else word[0]


def _commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command of a block, with what stands below it."""
    for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = piece.partition("\n")
        yield command, output


def _masked(text: str) -> str:
    for pattern, mask in MASKS:
        text = pattern.sub(mask, text)
    return text


def _shifted(text: str, by: int) -> str:
    """The text with each line moved to the right, or to the left."""
    lines = text.split("\n")
    return "\n".join(" " * by + line if line and by > 0 else line[-by if by < 0 else 0 :] for line in lines)  # fmt: skip


def _program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)


if __name__ == "__main__":
    # Started in the background by a shell, the commands would be deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
