"""A CLI with sessions that does what its prompt says: `list` streams a list, which does not end while
there is a file `hold`, `tools` calls some, `wait` says something and waits to be stopped, `fail` fails,
`long` prints 300 lines, `size` counts what it was sent. It remembers how many turns each session had."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

here = os.path.dirname(os.path.abspath(sys.argv[0]))
mode, *rest = sys.argv[1:]
native_id = rest[0] if mode == "resume" else f"native-{os.getpid()}-{time.time_ns()}"
counter = os.path.join(here, f"turns-{native_id}")
prompt = sys.stdin.read()
turn = 1 + (int(Path(counter).read_text()) if os.path.exists(counter) else 0)
Path(counter).write_text(str(turn))
model = rest[rest.index("--model") + 1] if "--model" in rest else "made-up-1"


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


say(type="start", id=native_id, model=model)
asked = prompt.rstrip().splitlines()[-1] if prompt.strip() else ""
if asked.startswith("list"):
    for i in range(1, 21):
        say(type="delta", text=f"- item **{i}**\n")
        time.sleep(0.05)
        while i == 19 and os.path.exists(os.path.join(here, "hold")):
            time.sleep(0.05)
elif asked.startswith("tools"):
    say(type="thinking", text="I should look first.")
    say(type="text", text="I look at *it* first.")
    say(type="tool", id="1", name="Read", input={"file_path": "src/parser.py"})
    say(type="result", id="1", ok=True, output="def parse(): ...")
    say(type="tool", id="2", name="Bash", input={"command": "make test"})
    say(type="result", id="2", ok=False, output="make: no rule\nmore")
elif asked.startswith("wait"):
    tool = subprocess.Popen(["sleep", "77"])
    Path(here, "tool").write_text(str(tool.pid))
    say(type="delta", text="I am waiting")
    time.sleep(60)
elif asked.startswith("long"):
    say(type="delta", text="".join(f"line {i}  \n" for i in range(1, 301)))
elif asked.startswith("fail"):
    say(type="end", error="it broke")
    sys.exit(1)
elif asked.startswith("size"):
    say(type="text", text=f"{len(prompt)} characters")
last = f"turn {turn} on {os.path.basename(sys.argv[0])}"
if asked.startswith(("list", "long")):
    say(type="delta", text=f"\n{last}")
elif asked.startswith(("tools", "size")):
    say(type="text", text=last)
say(type="end", text=last, cost=0.01,
    usage={"input": 1000, "output": 100, "cached": 0})  # fmt: skip
