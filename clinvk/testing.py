"""For tests of programs that use clinvk: executors and backends that answer as you say.

    from clinvk.testing import FakeExecutor

    fake = FakeExecutor({"a": "yes", "b": clinvk.Failure("server", "overloaded")})
    result = clinvk.parallel(["a", "b"], backend="echo", executor=fake)

`FakeExecutor` starts no process. `fake_backend` writes a small program that clinvk starts as it
starts any AI CLI, so that it also works with `clinvk.run` and the command line.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from clinvk.backend.catalog import Catalog
from clinvk.engine.executor import Reporter, RunningRequest
from clinvk.errors import UsageError
from clinvk.model.events import (
    Delta,
    Denied,
    Event,
    Notice,
    Text,
    Thinking,
    Tool,
    ToolResult,
)
from clinvk.model.option_table import CHOICES
from clinvk.model.request import Request
from clinvk.model.result import Failure, Result, exit_code
from clinvk.model.usage import Usage

__all__ = ["FakeBackend", "FakeExecutor", "Reply", "fake_backend", "temporary_home"]

ANY = "*"  # the key of the answer to all other prompts
SHOWN_EVENTS = (Delta, Text, Thinking, Tool, ToolResult, Denied, Notice)
STATUS = {"auth": 401, "denied": 403, "session": 404, "config": 422, "limit": 429, "server": 529}
FILE_OPTIONS = ("schema", "system_prompt")
NATIVE_ID = "[0-9a-f]{16}"


class Reply(Struct, frozen=True, kw_only=True):
    """An answer with everything that can be said about it. With `failure`, it is one."""

    text: str = ""
    failure: Failure | None = None
    delay: float = 0.0  # seconds until it ends; math.inf: only once it is cancelled
    events: tuple[Event, ...] = ()  # before its end
    usage: Usage | None = None
    cost: float | None = None  # US dollars
    structured: Any = None


Answer = str | Failure | Reply | Result | Exception
Answers = Answer | Sequence[Answer] | Mapping[str, Answer | Sequence[Answer]]


class FakeExecutor:
    """Answers requests without starting anything: pass it as `executor=` to `clinvk.parallel`,
    `chain`, `compare` and `resume_run`, to their async versions, and to `PlanRun`.

    `answers` is one answer for all requests; a list of answers, one for each request in order, the
    last of which is repeated; a mapping from the name or the prompt of a task to either of these
    (`"*"`: all other tasks); or a function of the request that returns an answer. Without it, each
    task answers with its prompt. An answer is a text, a `Failure`, a `Reply`, a `Result`, or an
    exception, which is raised as if the program could not be started.

    `requests` are those that were run, in order, and `max_running` is how many ran at the same time
    at most."""

    def __init__(self, answers: Answers | Callable[[Request], Answer] | None = None) -> None:
        self.requests: list[Request] = []
        self.max_running = 0
        self._running = 0
        self._answers = answers
        self._counts: dict[str, int] = {}

    async def describe(self, request: Request) -> str:
        return f"{_backend_of(request)} (fake)"

    async def run(self, request: Request, reporter: Reporter) -> Result:
        # 45 ms, and not needed for a fake backend.
        import anyio

        self.requests.append(request)
        answer = self._answer(request)
        if isinstance(answer, Exception):
            raise answer
        scope, reasons = anyio.CancelScope(), ["cancelled"]

        def cancel(reason: str = "cancelled", *, now: bool = False) -> None:  # noqa: ARG001
            reasons.insert(-1, reason)
            scope.cancel()

        session_id = None if request.ephemeral else request.session or request.chosen_id
        running = RunningRequest(cancel=cancel, session_id=session_id, cwd=request.cwd)
        self._running += 1
        self.max_running = max(self.max_running, self._running)
        try:
            reporter.on_started(running)
            reply = answer if isinstance(answer, Reply) else Reply()
            with scope:
                for event in reply.events:
                    await reporter.on_event(event)
                await (
                    anyio.sleep_forever() if reply.delay == math.inf else anyio.sleep(reply.delay)
                )
        finally:
            self._running -= 1
        if scope.cancelled_caught:
            answer = Failure("cancelled", reasons[0])
        return _result_of(answer, request, session_id)

    def _answer(self, request: Request) -> Answer:
        if self._answers is None:
            return request.prompt
        if callable(self._answers):
            return self._answers(request)
        scripted = _by_prompt(self._answers)
        names = (request.title or request.prompt, request.prompt, ANY)
        key = next((name for name in names if name in scripted), None)
        if key is None:
            raise UsageError(
                f"the fake executor has no answer to {request.prompt!r}",
                f"add it to answers, or add {ANY!r} for all other tasks",
            )
        count = self._counts[key] = self._counts.get(key, 0) + 1
        return scripted[key][min(count, len(scripted[key])) - 1]


class FakeBackend(Struct, frozen=True):
    """A backend that `fake_backend` has written."""

    name: str
    manifest: Path
    program: Path

    @property
    def calls(self) -> list[dict[str, Any]]:
        """How it was called, in order: `prompt`, `args` (the words after the program) and `cwd`."""
        try:
            lines = self.program.with_suffix(".jsonl").read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    @property
    def prompts(self) -> list[str]:
        return [call["prompt"] for call in self.calls]


def fake_backend(
    home: str | os.PathLike[str], name: str = "fake", answers: Answers | None = None
) -> FakeBackend:
    """Write a backend into `home`, the directory that CLINVK_HOME names: a manifest and a program.

    The name may be that of a built-in backend, whose place it takes, with the same options.
    `answers` are those of `FakeExecutor`, but only texts, failures of the kinds auth, backend,
    config, denied, limit, server and session, and replies, by the prompt as the program gets it.
    Raises `UsageError` for other answers, and `OSError` if the files cannot be written."""
    folder = Path(home).resolve()
    replies = None
    if answers is not None:
        replies = {k: [_to_line(a) for a in v] for k, v in _by_prompt(answers).items()}
    program = folder / "fakes" / f"{name}.py"
    manifest = folder / "backends" / f"{name}.yaml"
    data = _manifest(name, program)
    for path, text in (
        (program, PROGRAM),
        (program.with_suffix(".json"), json.dumps(replies)),
        (manifest, json.dumps(data, indent=1)),  # which is YAML, too
    ):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    program.with_suffix(".jsonl").unlink(missing_ok=True)
    return FakeBackend(name, manifest, program)


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A new, empty CLINVK_HOME, in the environment until the end of the block, and deleted then."""
    before = os.environ.get("CLINVK_HOME")
    with tempfile.TemporaryDirectory(prefix="clinvk-") as folder:
        os.environ["CLINVK_HOME"] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["CLINVK_HOME"]
            else:
                os.environ["CLINVK_HOME"] = before


def _by_prompt(answers: Answers) -> dict[str, list[Answer]]:
    """The answers to each prompt, in order."""
    found = answers if isinstance(answers, Mapping) else {ANY: answers}
    listed = {k: [v] if isinstance(v, Answer) else list(v) for k, v in found.items()}
    if empty := [key for key, each in listed.items() if not each]:
        raise UsageError(f"answers[{empty[0]!r}] is empty", "give at least one answer")
    return listed


def _backend_of(request: Request) -> str:
    return request.to or request.backend or "fake"


def _result_of(answer: Any, request: Request, session_id: str | None) -> Result:
    if isinstance(answer, Result):
        return answer
    hint = "use a text, a Failure, a Reply, a Result or an exception"
    answer = _to_reply(answer, "the fake executor", hint)
    failure = answer.failure
    return Result(
        ok=failure is None, text=answer.text, backend=_backend_of(request), session_id=session_id,
        exit_code=exit_code(failure.kind, None) if failure else 0, error=failure,
        usage=answer.usage, cost=answer.cost, structured=answer.structured, seconds=answer.delay,
    )  # fmt: skip


def _to_reply(answer: Any, who: str, hint: str) -> Reply:
    if isinstance(answer, str):
        return Reply(text=answer)
    if isinstance(answer, Failure):
        return Reply(failure=answer)
    if not isinstance(answer, Reply):
        raise UsageError(f"{who} cannot answer with {type(answer).__name__}", hint)
    return answer


def _to_line(answer: Answer) -> dict[str, Any]:
    """An answer as the program reads it: the lines that it prints, and when."""
    answer = _to_reply(answer, "a fake backend", "use a text, a Failure or a Reply")
    end: dict[str, Any] = {
        "type": "end", "text": answer.text, "cost": answer.cost, "structured": answer.structured,
        "usage": answer.usage.to_json() if answer.usage else None,
    }  # fmt: skip
    if (failure := answer.failure) is not None:
        if failure.kind not in (*STATUS, "backend"):
            raise UsageError(
                f"a fake backend cannot fail with the kind {failure.kind!r}",
                f"use one of: {', '.join(sorted([*STATUS, 'backend']))}",
            )
        retry_at = failure.retry_at.isoformat() if failure.retry_at else None
        end |= {
            "error": failure.message or failure.kind, "status": STATUS.get(failure.kind),
            "retry_at": retry_at,
        }  # fmt: skip
    events = [event.to_json() for event in answer.events]
    return {"events": events, "delay": min(answer.delay, 1e9), "end": end}


def _manifest(name: str, program: Path) -> dict[str, Any]:
    """The manifest of a fake backend, with the options of the built-in one of its name."""
    nowhere = Path(os.devnull)  # a home without manifests
    catalog = Catalog(nowhere)
    built_in = catalog.load(name if name in catalog.names() else "echo")
    native = {"native_id": "session"}
    figures = {"usage": "usage", "cost": "cost"}
    failed = {"message": "error", "status": "status", "retry_at": "retry_at"}
    return {
        "name": name,
        "command": "$python",
        "argv": {
            "run": ["-P", str(program), "$options"],
            "resume": ["-P", str(program), "--resume", "$native_id", "$options"],
        },
        "ephemeral": {"argv": []},
        "options": {option: _option(option) for option in built_in.options},
        "native_id": NATIVE_ID,
        "events": [
            {"when": "type == 'start'", "emit": "started", "set": native},
            *(
                {
                    "when": f"type == '{event.type}'",
                    "emit": event.type,
                    "set": {field: field for field in event.__struct_fields__ if field != "raw"},
                }
                for event in SHOWN_EVENTS
            ),
            {"when": "type == 'end' && error", "emit": "failed", "set": native | figures | failed},
            {
                "when": "type == 'end'",
                "emit": "finished",
                "set": native | figures | {"text": "text", "structured": "structured"},
            },
        ],
        "errors": [{"kind": kind, "status": [status]} for kind, status in STATUS.items()],
    }


def _option(name: str) -> Any:
    flag = f"--{name.replace('_', '-')}"
    if name in CHOICES:
        return {choice: [flag, choice] for choice in CHOICES[name]}
    return [flag, "$file" if name in FILE_OPTIONS else "$value"]


PROGRAM = '''\
"""A made-up AI CLI, written by clinvk.testing. Its answers are in the .json file beside it."""

import fcntl
import json
import os
import sys
import time

base = sys.argv[0].removesuffix(".py")
args = sys.argv[1:]
prompt = sys.stdin.buffer.read().decode("utf-8", "replace")


def show(**line):
    print(json.dumps(line), flush=True)


with open(base + ".json", encoding="utf-8") as file:
    replies = json.load(file)
with open(base + ".jsonl", "a+", encoding="utf-8") as log:
    fcntl.flock(log, fcntl.LOCK_EX)  # others may be called at the same time
    log.seek(0)
    before = [json.loads(line)["prompt"] for line in log]
    log.write(json.dumps({"prompt": prompt, "args": args, "cwd": os.getcwd()}) + "\\n")

session = args[args.index("--resume") + 1] if "--resume" in args else os.urandom(8).hex()
show(type="start", session=session)
if replies is None:
    answers, count = [{"events": [], "delay": 0, "end": {"type": "end", "text": prompt}}], 0
elif prompt in replies:
    answers, count = replies[prompt], before.count(prompt)
else:
    answers, count = replies.get("*"), sum(text not in replies for text in before)
if not answers:
    show(type="end", session=session, error=f"the fake backend has no answer to {prompt!r}")
    sys.exit(1)
reply = answers[min(count, len(answers) - 1)]
for event in reply["events"]:
    show(**event)
time.sleep(reply["delay"])
show(session=session, **reply["end"])
sys.exit(1 if reply["end"].get("error") else 0)
'''
