"""The checklist for a manifest, run with the real CLI.

    trial = clinvk.try_backend("mine", on_check=print)
    print(trial.ok, [check.detail for check in trial.checks if check.state == "failed"])

Unlike `check_manifest`, this calls the model, which may cost money.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from msgspec import Struct

from clinvk.api.sync import blocking
from clinvk.backend.manifest import Manifest, capabilities
from clinvk.config.schema import Loaded
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ClinvkError, UsageError
from clinvk.model.events import Delta, Event, Text, Tool
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.model.usage import Usage, sum_costs
from clinvk.sessions.kept_state import with_their_state
from clinvk.store.files.store import FileStore

TIMEOUT = 180.0  # seconds for an answer
CANCEL_AFTER = 8.0  # seconds after which a turn is cancelled that has printed nothing yet
STOPPED_IN = 5.0  # seconds within which a turn has to be over once it was stopped
SEARCH_SECONDS = 20.0  # for files that an ephemeral run has left
SEARCHED_SIZE = 20_000_000  # bytes of a file that is searched
NUMBERS = 3000  # lines of the large answer
SYSTEM_TOKENS = 15_000  # of the instructions and tools that a CLI sends along, roughly

LONG_PROMPT = "Count from 1 to 2000 in words, one number per line. Do not use any tool."


class Check(Struct, frozen=True):
    """One item of the checklist. `state` is held, failed, unclear (it could not be told) or
    skipped (the backend does not support it)."""

    name: str
    state: str
    detail: str
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state,
            "detail": self.detail,
            "seconds": round(self.seconds, 1),
        }


class Trial(Struct, frozen=True):
    """The result of a checklist, and what it took."""

    backend: str
    checks: list[Check]
    prompts: int
    usage: Usage | None
    cost: float | None

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not any(check.state == "failed" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "ok": self.ok,
            "checks": [check.to_json() for check in self.checks],
            "prompts": self.prompts,
            "usage": self.usage.to_json() if self.usage else None,
            "cost": None if self.cost is None else {"usd": self.cost, "source": "reported"},
        }


def expected_cost(only: Iterable[str] = ()) -> str:
    """What the checks will take, roughly."""
    checks = _chosen(only)
    prompts = sum(check.prompts for check in checks)
    tokens = sum(check.tokens for check in checks)
    return (
        f"{prompts} prompts; roughly {prompts * SYSTEM_TOKENS:,} tokens in, most of them the CLI's "
        f"own instructions, and {tokens:,} out"
    )


async def atry_backend(
    name: str,
    *,
    model: str | None = None,
    only: Iterable[str] = (),
    cwd: str | os.PathLike[str] | None = None,
    on_check: Callable[[Check], object] = lambda _: None,
    dispatcher: Dispatcher | None = None,
) -> Trial:
    """Run the checklist with the CLI of this backend, in `cwd` or a temporary directory, and call
    `on_check` after each item. `only` are the names of checks. Its sessions are in no store, and
    what clinvk keeps for them is deleted. Raises `ClinvkError` if the backend cannot be used."""
    checks = _chosen(only)
    own = dispatcher or Dispatcher()
    choice = own.selector.select(name)
    with tempfile.TemporaryDirectory(prefix="clinvk-try-") as folder:
        work = Path(cwd) if cwd is not None else Path(folder) / "work"
        work.mkdir(exist_ok=True)
        store = FileStore(Path(folder) / "sessions")
        try:
            with Dispatcher(own.config, store=store, catalog=own.catalog, env=own.env) as inner:
                bench = _Bench(inner, choice.manifest, work, model)
                for check in checks:
                    done = await bench.carry_out(check)
                    bench.done.append(done)
                    on_check(done)
        finally:
            _forget(store, own.config)
    usage = sum((r.usage for r in bench.results if r.usage), Usage())
    return Trial(
        name, bench.done, len(bench.results), None if usage.is_unknown else usage,
        sum_costs([r.cost for r in bench.results]),
    )  # fmt: skip


try_backend = blocking(atry_backend)


class _Item(NamedTuple):
    name: str
    prompts: int
    tokens: int  # of the answers, roughly
    run: Callable[[_Bench], Awaitable[tuple[str, str]]]


class _Bench:
    """Where the checks run: they share one session and the results."""

    def __init__(
        self, dispatcher: Dispatcher, manifest: Manifest, work: Path, model: str | None
    ) -> None:
        self.dispatcher = dispatcher
        self.manifest = manifest
        self.work = work
        self.options = {"model": model} if model else {}
        self.can = capabilities(manifest)
        self.word = f"maple{os.urandom(3).hex()}"
        self.session: str | None = None  # of the first prompt
        self.results: list[Result] = []
        self.done: list[Check] = []

    async def carry_out(self, item: _Item) -> Check:
        began = time.monotonic()
        try:
            state, detail = await item.run(self)
        except ClinvkError as error:
            state, detail = "failed", error.message
        return Check(item.name, state, detail, time.monotonic() - began)

    async def ask(self, prompt: str, **more: Any) -> tuple[Result, list[Event]]:
        async with self.turn(prompt, **more) as turn:
            events = [event async for event in turn]
        return turn.result, events

    @asynccontextmanager
    async def turn(self, prompt: str, **more: Any) -> AsyncIterator[Any]:
        values = {"timeout": TIMEOUT, "options": self.options, "cwd": self.work, **more}
        request = Request(prompt=prompt, backend=self.manifest.name, **values)
        async with self.dispatcher.stream(request) as turn:
            yield turn
        self.results.append(turn.result)


def _problem(result: Result) -> tuple[str, str]:
    error = result.error
    hint = f" ({error.hint})" if error and error.hint else ""
    return "failed", f"{error.kind}: {error.message[:300]}{hint}" if error else "no answer"


async def _prompt(bench: _Bench) -> tuple[str, str]:
    result, _ = await bench.ask(f"Remember the word {bench.word}. Reply only with: ready")
    if not result.ok:
        return _problem(result)
    bench.session = result.session_id
    if not result.text.strip():
        return "failed", "it succeeded without an answer"
    if "resume" in bench.can and result.native_id is None:
        return "failed", "no native id was found, so the session cannot be resumed"
    missing = [
        what
        for what, value in (("model", result.model), ("usage", result.usage), ("cost", result.cost))
        if value is None
    ]
    return "held", f"not reported: {', '.join(missing)}" if missing else "model, usage and cost"


async def _second_turn(bench: _Bench) -> tuple[str, str]:
    if "resume" not in bench.can:
        return "skipped", "it cannot resume"
    if bench.session is None:
        return "skipped", "there is no first turn"
    question = "Which word did I ask you to remember? Reply only with that word."
    result, _ = await bench.ask(question, session=bench.session)
    if not result.ok:
        return _problem(result)
    if bench.word in result.text:
        return "held", "it remembers the first turn"
    return "failed", f"it does not remember the first turn: {result.text[:80]!r}"


async def _at_sign(bench: _Bench) -> tuple[str, str]:
    secret = f"birch{os.urandom(4).hex()}"
    path = bench.work / f"clinvk-try-{os.urandom(3).hex()}.txt"
    path.write_text(f"{secret}\n")
    try:
        prompt = (
            f"Do not open any file. What is in @{path.name} ? If you do not know, reply: unknown"
        )
        result, events = await bench.ask(prompt)
    finally:
        path.unlink(missing_ok=True)
    if not result.ok:
        return _problem(result)
    if secret not in result.text:
        return "held", "a file named with @ is not sent"
    if any(isinstance(event, Tool) for event in events):
        return "unclear", "the model opened the file itself"
    return "failed", "the CLI sends a file named with @; see prompt.escape and prompt.literal"


async def _slash(bench: _Bench) -> tuple[str, str]:
    return await _is_text(bench, "/help")


async def _dash(bench: _Bench) -> tuple[str, str]:
    return await _is_text(bench, "--version")


async def _is_text(bench: _Bench, word: str) -> tuple[str, str]:
    """Whether a prompt that begins with this word reaches the model."""
    wanted = f"cedar{os.urandom(3).hex()}"
    result, _ = await bench.ask(f"{word} is only a word here. Reply only with: {wanted}")
    if not result.ok:
        return _problem(result)
    if wanted in result.text:
        return "held", f"{word} at the beginning reaches the model"
    return "failed", f"{word} at the beginning did not reach the model: {result.text[:80]!r}"


async def _large_answer(bench: _Bench) -> tuple[str, str]:
    prompt = (
        f"Write the numbers from 1 to {NUMBERS}, one per line, and nothing else. Do not shorten it, "
        "and do not use any tool."
    )
    result, _ = await bench.ask(prompt, timeout=2 * TIMEOUT)
    if not result.ok:
        return _problem(result)
    lines = [line.strip() for line in result.text.splitlines() if line.strip()]
    size = f"{len(result.text.encode('utf-8', 'replace')):,} bytes"
    if lines and lines[-1].startswith(str(NUMBERS)) and len(lines) >= NUMBERS:
        return "held", f"{size}, complete"
    return "unclear", f"{size}, {len(lines):,} lines: shortened by the model, or truncated?"


async def _interrupt(bench: _Bench) -> tuple[str, str]:
    async with bench.turn(LONG_PROMPT) as turn:
        with anyio.move_on_after(CANCEL_AFTER):
            async for event in turn:
                if isinstance(event, (Delta, Text)):
                    break
        asked = time.monotonic()
        turn.cancel()
        async for _ in turn:
            pass
    took, result = time.monotonic() - asked, turn.result
    if result.error is None:
        return "unclear", "it answered before it was stopped"
    if result.error.kind != "cancelled":
        return _problem(result)
    if took > STOPPED_IN:
        return "failed", f"it took {took:.1f} s to stop after {bench.manifest.stop}"
    stopped = f"stopped in {took:.1f} s after {bench.manifest.stop}"
    if "resume" not in bench.can or not (result.native_id and result.session_id):
        return "held", f"{stopped}; the session cannot be resumed"
    after, _ = await bench.ask("Reply only with: ready", session=result.session_id)
    if after.ok:
        return "held", f"{stopped}; the session can be resumed"
    return (
        "unclear",
        f"{stopped}; resuming fails: {after.error.message[:200] if after.error else ''}",
    )


async def _timeout(bench: _Bench) -> tuple[str, str]:
    limit = 2.0
    result, _ = await bench.ask(LONG_PROMPT, timeout=limit)
    if result.error is None:
        return "unclear", f"it answered within {limit:g} s"
    if result.error.kind != "timeout":
        return _problem(result)
    if result.seconds > limit + STOPPED_IN:
        return "failed", f"it took {result.seconds - limit:.1f} s to stop"
    return "held", f"over after {result.seconds:.1f} s"


async def _ephemeral(bench: _Bench) -> tuple[str, str]:
    if "ephemeral" not in bench.can:
        return "skipped", "its manifest has no 'ephemeral'"
    word, began = f"aspen{os.urandom(5).hex()}", time.time()
    result, _ = await bench.ask(f"Reply only with: {word}", ephemeral=True)
    if not result.ok:
        return _problem(result)
    home = bench.dispatcher.selector.child_env(bench.manifest.name).get("HOME", "~")
    found, whole = await anyio.to_thread.run_sync(_files_with, home, word.encode(), began)
    if found:
        return "failed", f"the conversation is in {', '.join(map(str, found[:3]))}"
    if not whole:
        return "unclear", f"not all files below {home} could be searched in {SEARCH_SECONDS:g} s"
    return "held", f"no new file below {home} has the conversation"


def _files_with(home: str, word: bytes, since: float) -> tuple[list[Path], bool]:
    """The files in hidden directories that were written since then and contain the word; and whether
    all were searched."""
    found: list[Path] = []
    until = time.monotonic() + SEARCH_SECONDS
    for path in _hidden_files(Path(home).expanduser()):
        if time.monotonic() > until:
            return found, False
        with suppress(OSError):
            stat = path.stat()
            new = stat.st_mtime >= since - 1 and 0 < stat.st_size <= SEARCHED_SIZE
            if new and word in path.read_bytes():
                found.append(path)
    return found, True


def _hidden_files(home: Path) -> Iterator[Path]:
    for top in (*home.glob(".*"), home / "Library" / "Application Support"):
        if top.is_symlink():
            continue
        if top.is_file():
            yield top
        for folder, _, names in os.walk(top):
            yield from (path for name in names if (path := Path(folder, name)).is_file())


_ITEMS = (
    _Item("prompt", 1, 20, _prompt),
    _Item("second turn", 1, 20, _second_turn),
    _Item("@", 1, 50, _at_sign),
    _Item("/", 1, 20, _slash),
    _Item("-", 1, 20, _dash),
    _Item("large answer", 1, 3 * NUMBERS, _large_answer),
    _Item("interrupt", 2, 500, _interrupt),
    _Item("timeout", 1, 500, _timeout),
    _Item("ephemeral", 1, 20, _ephemeral),
)
CHECKS = tuple(item.name for item in _ITEMS)


def _chosen(only: Iterable[str]) -> list[_Item]:
    wanted = list(only)
    for name in wanted:
        if name not in CHECKS:
            raise UsageError(f"unknown check {name!r}", f"known: {', '.join(CHECKS)}")
    # The second turn needs the first one.
    also = ["prompt"] if "second turn" in wanted else []
    return [item for item in _ITEMS if not wanted or item.name in (*wanted, *also)]


def _forget(store: FileStore, config: Loaded) -> None:
    """Delete what clinvk keeps for the sessions of the trial."""
    ids = store.find_ids("", 100)

    def delete() -> None:
        for session_id in ids:
            store.delete(session_id)

    with suppress(ClinvkError):
        with_their_state(store, config.home, lambda: ids, delete)
    store.close()
