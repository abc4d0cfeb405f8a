"""A made-up CLI with a screen: it keeps its sessions where claude does, and answers each line that is typed.

Of the lines, some are commands: `quit N`, `stop` (as at Ctrl-Z), `clear` (start another session), `undo`
(forget the last turn), `crash`, and `raw` (switch modes of the terminal and stay).
"""

import json
import os
import signal
import sys
import termios
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

SAID = ("user", "assistant")


class Conversation:
    def __init__(self, session: str) -> None:
        folder = Path(os.environ["HOME"], ".claude", "projects", "p")
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"{session}.jsonl"
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.path = [json.loads(line)["uuid"] for line in lines]

    def add(self, kind: str, text: str) -> None:
        own = str(uuid.uuid4())
        line = {"type": kind, "uuid": own, "parentUuid": self.path[-1] if self.path else None,
                "timestamp": datetime.now(UTC).isoformat(), "cwd": os.getcwd(),
                "message": {"role": kind, "content": text, "model": "made-up"}}  # fmt: skip
        self.path.append(own)
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def main(words: list[str]) -> int:
    if words == ["--version"]:
        print("2.1.332")
        return 0
    resumed = "--resume" in words
    known = words[words.index("--resume" if resumed else "--session-id") + 1]
    conversation = Conversation(known)
    size = os.get_terminal_size()
    print(
        f"screen of {size.columns} columns, {len(conversation.path)} known, {words!r}", flush=True
    )
    while True:
        print("ready>", flush=True)
        line = sys.stdin.readline().strip()
        command, _, rest = line.partition(" ")
        if command == "quit":
            return int(rest or 0)
        if command == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif command == "stop-all":
            os.killpg(0, signal.SIGTSTP)
        elif command == "clear":
            conversation = Conversation(str(uuid.uuid4()))
        elif command == "undo":
            del conversation.path[-2:]
        elif command in ("crash", "raw"):
            modes = termios.tcgetattr(0)
            modes[3] &= ~(termios.ICANON | termios.ECHO)
            termios.tcsetattr(0, termios.TCSANOW, modes)
            print("\x1b[?1049h\x1b[?25lin raw mode", flush=True)
            if command == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        else:
            conversation.add("user", line)
            conversation.add("assistant", f"answer to {line}")
            print(f"answer to {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
