"""What clinvk makes of each recording, kept beside it as `expected.json`.

`python -m tests.recordings_expected` writes those files anew; read the difference before you keep it.
"""

import asyncio
import functools
import hashlib
import json
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from clinvk.config import loading
from clinvk.config.paths import built_in_manifests
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.model.session import Session
from tests.stores import keep

RECORDINGS = Path(__file__).parent / "recordings"
SHOWN = 300  # characters of a text that expected.json repeats
_ID = r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_RESUMED = re.compile(rf"(?:resume(?:=| (?:-\S+ )*)|--session ){_ID}")
_GOES_ON = re.compile(r" fork |--fork-session|--last|--continue")  # the id is only in the answer
_ANSWERED = re.compile(rf'"(?:session_id|thread_id)":"{_ID}"')


def cases() -> list[Path]:
    return sorted(p.parent for p in RECORDINGS.glob("*/*/stdout"))


def resumed(case: Path) -> str | None:
    """The native id that the recorded run went on with, if it did."""
    command = (case / "cmd.txt").read_text()
    if (found := _RESUMED.search(command)) and "--fork-session" not in command:
        return found.group(1)
    if _GOES_ON.search(command) and (found := _ANSWERED.search((case / "stdout").read_text())):
        return found.group(1)
    return None


def replay(case: Path, home: Path) -> dict[str, Any]:
    """The events and the outcome of a program that prints what the recorded one printed."""
    backend = case.parent.name
    code = int((case / "rc").read_text())
    last = f"exit {code}" if code >= 0 else f"kill -{-code} $$"
    manifest, newest = _manifest(backend)
    program = home / "program"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo {newest}; exit; fi\ncat >/dev/null\n'
        f"cat {shlex.quote(str(case / 'stdout'))}\ncat {shlex.quote(str(case / 'stderr'))} >&2\n{last}\n"
    )
    program.chmod(0o755)
    (home / "backends").mkdir()
    path = home / "backends" / f"{backend}.yaml"
    path.write_text(re.sub(r"(?m)^command:.*$", f"command: {program}", manifest))
    options = (
        {"schema": "{}", "schema_retries": 0} if "schema" in (case / "cmd.txt").read_text() else {}
    )
    replayed = asyncio.run(_replay(backend, home, resumed(case), options))
    chosen = replayed["kept"]["native_id"]
    if chosen and chosen not in (case / "cmd.txt").read_text() + (case / "stdout").read_text():
        # By clinvk, of a run that ended before the CLI named it: another one each time.
        replayed["kept"]["native_id"] = replayed["result"]["native_id"] = "chosen"
    return replayed


@functools.cache
def _manifest(backend: str) -> tuple[str, str]:
    """The text of a built-in manifest, and the newest version that it was tried with."""
    text = (built_in_manifests() / f"{backend}.yaml").read_text()
    return text, yaml.safe_load(text).get("versions", {}).get("newest", "")


async def _replay(
    backend: str, home: Path, native_id: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    env = {"CLINVK_HOME": str(home), "HOME": str(home), "PATH": "/usr/bin:/bin"}
    dispatcher = keep(Dispatcher(loading.load(env), env=env))
    if native_id is not None:
        session = Session(
            id="before", backend=backend, cwd=str(home), native_ids={backend: native_id}
        )
        dispatcher.store.create(session)
    request = Request(
        prompt="hello",
        backend=backend,
        session="before" if native_id else None,
        cwd=home,
        options=options,
    )
    async with dispatcher.stream(request) as run:
        events = [event.to_json() async for event in run]
    kept = dispatcher.store.get(run.result.session_id)
    return {
        "events": [_short(_steady(event)) for event in events],
        "result": _short(_outcome(run.result)),
        "kept": {"status": kept.status, "native_id": kept.native_id},
    }


def _outcome(result: Result) -> dict[str, Any]:
    data = {"ok": result.ok, **result.to_json()}
    for name in ("version", "session_id", "duration_seconds"):
        del data[name]
    if not data["unrecognized_lines"]:
        del data["unrecognized_lines"]
    if data["error"]:
        data["error"] = _steady(data["error"])
    return data


def _steady(data: dict[str, Any]) -> dict[str, Any]:
    """Without what depends on the moment of the replay."""
    data = {k: v for k, v in data.items() if k != "version"}
    if data.get("retry_at"):
        data["retry_at"] = "known"
    return data


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_short(v) for v in value]
    if isinstance(value, str) and len(value) > SHOWN:
        digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return f"{value[:SHOWN]}… ({len(value)} characters, sha256 {digest})"
    return value


def write(case: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        data = replay(case, Path(home))
    text = json.dumps(data, indent=1, ensure_ascii=False)
    (case / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    for case in cases():
        if not sys.argv[1:] or any(word in str(case) for word in sys.argv[1:]):
            write(case)
