"""`python -m clinvk.echo`: a backend without a model.

A real program behind a real pipe: it reads the prompt from stdin, prints a JSON stream, keeps its
sessions below CLINVK_HOME and counts their turns, so that all of clinvk can be tried, scripted and
tested without a key or a network. It never pretends to be a model: its answers say what it is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

SHOWN = 400  # characters of a prompt that the answer repeats
MAX_DELAY = 3600  # seconds between words


def main() -> None:
    options = _options()
    prompt = sys.stdin.buffer.read().decode("utf-8", "replace")
    folder = Path(os.environ.get("CLINVK_HOME") or "~/.clinvk").expanduser() / "echo"
    session, turns = options.resume or os.urandom(8).hex(), []
    if options.resume:
        turns = _read(folder / f"{session}.json", session)
        if options.fork:
            session = os.urandom(8).hex()
    turns.append(prompt)
    if not options.ephemeral:
        _write(
            folder, session, turns
        )  # before the answer, so that an interrupted session can be resumed
    print_line(type="start", session=session, model=options.model)
    if options.fail:
        _fail(session, options.fail)
    text = answer(turns)
    for i, word in enumerate(text.split(" ")):
        if options.delay and i:
            time.sleep(options.delay)
        print_line(type="delta", text=word if i == 0 else f" {word}")
    usage = {"input": sum(map(len, turns)) // 4 + 1, "output": len(text) // 4 + 1}
    usage |= {"cached": 0, "cache_write": 0, "reasoning": 0}
    print_line(type="end", session=session, text=text, usage=usage)


def answer(turns: list[str]) -> str:
    """The answer of echo to the last of these prompts."""
    said = " ".join(turns[-1].split())
    said = said if len(said) <= SHOWN else f"{said[:SHOWN]}… ({len(turns[-1]):,} characters)"
    before = "" if len(turns) == 1 else f" | This began with: {' '.join(turns[0].split())[:SHOWN]}"
    return f"(echo, no model) Turn {len(turns)}. You said: {said}{before}"


def print_line(**line: Any) -> None:
    # UTF-8 as the prompt, whatever encoding the environment says. Halves of surrogate pairs, which
    # a variable or an argument may hold, stay escaped.
    text = json.dumps(line, ensure_ascii=False)
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace") + b"\n")
    sys.stdout.buffer.flush()


class _Parser(argparse.ArgumentParser):
    """Without the usage before an error: nobody types these flags, but `--option NAME=VALUE`."""

    def error(self, message: str) -> NoReturn:
        sys.exit(message.replace("argument --", "--option ", 1))


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) <= MAX_DELAY:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {MAX_DELAY}")


def _http_status(text: str) -> int:
    with suppress(ValueError):
        if 400 <= (status := int(text)) < 600:
            return status
    raise argparse.ArgumentTypeError(f"{text!r} is not an HTTP status of a failure, such as 429")


def _options() -> argparse.Namespace:
    parser = _Parser(prog="clinvk.echo", allow_abbrev=False)
    parser.add_argument("--resume")
    parser.add_argument("--fork", action="store_true")
    parser.add_argument("--ephemeral", action="store_true")
    parser.add_argument("--model", default="echo-1")
    parser.add_argument("--delay", type=_seconds, default=0, help="seconds between words")
    parser.add_argument("--fail", type=_http_status, help="fail with this HTTP status")
    # Accepted so that everything can be tried; there is nothing for them to change.
    for name in ("system-prompt-file", "max-turns", "max-tokens", "schema-file"):
        parser.add_argument(f"--{name}")
    for name in ("add-dir", "allowed-tools"):
        parser.add_argument(f"--{name}", action="append")
    return parser.parse_args()


def _read(path: Path, session: str) -> list[str]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        sys.exit(f"no such session: {session}")


def _write(folder: Path, session: str, turns: list[str]) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = folder / f".{session}.{os.urandom(8).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with open(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump(turns, file)
    os.replace(temporary, folder / f"{session}.json")


def _fail(session: str, status: int) -> NoReturn:
    print_line(
        type="end", session=session, error=f"echo was asked to fail with {status}", status=status
    )
    sys.exit(1)


if __name__ == "__main__":
    main()
