"""The version of an installed program, without starting it for each prompt.

A program from npm has its version in a file beside it. Any other is asked once, and the answer is
kept until its file changes, but for a day at most: what is started may be a shim whose file stays
the same."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from clinvk.backend.command.prompt_text import escape_prompt
from clinvk.backend.manifest import Manifest, VersionChange
from clinvk.backend.reading.variants import for_change, for_version, prompt_after
from clinvk.backend.versions.number import find_version, is_older
from clinvk.disk.reading import read_file

MAX_AGE = 24 * 3600.0  # seconds for which an answer is kept
MAX_UP = 4  # directories above a program that are searched for its package
MOST = 200  # programs in the file


class Known(Struct, frozen=True):
    """What is known of a program: its version, or None if it does not tell."""

    version: str | None


_memory: dict[tuple[str, tuple[int, ...]], tuple[float, str | None]] = {}


def known_version(program: str, home: Path) -> Known | None:
    """The version of the program at this path; None if it has to be asked."""
    if version := _package_version(program):
        return Known(version)
    key = (program, _state(program))
    now = time.time()
    if key not in _memory and (kept := _read(home).get(program)) and kept[0] == list(key[1]):
        _memory[key] = kept[1], kept[2]
    asked_at, version = _memory.get(key, (0.0, None))
    return Known(version) if 0 <= now - asked_at < MAX_AGE else None


def remember_version(program: str, printed: str | None, home: Path) -> str | None:
    """Keep what the program printed when it was asked; return the version in it."""
    version = find_version(printed) if printed else None
    state, now = _state(program), time.time()
    if len(_memory) >= MOST:
        _memory.clear()
    _memory[program, state] = now, version
    if not home.is_dir():
        return version
    # Only after a program was asked.
    from clinvk.disk.atomic import replace_file

    kept = {k: v for k, v in _read(home).items() if k != program}
    kept = dict(list(kept.items())[-MOST:]) | {program: [list(state), now, version]}
    with suppress(OSError):  # it is asked again
        replace_file(home / "versions.json", json.dumps(kept).encode(), durable=False)
    return version


def fitting_manifest(
    manifest: Manifest,
    program: str,
    home: Path,
    *,
    options: Mapping[str, Any],
    prompt: str,
    ephemeral: bool,
    expand: bool,
    resumes: bool = False,
) -> Manifest:
    """The manifest as it applies to the installed version. Raises `VersionNeeded` if this turn
    depends on the version, and the program has to be asked."""
    if not any(
        (resumes and (change.new_id_on_resume is not None or change.sums_per_run is not None))
        or _concerns(manifest, change, options, prompt, ephemeral=ephemeral, expand=expand)
        for change in manifest.by_version
    ):
        return manifest
    known = known_version(program, home)
    if known is None:
        raise VersionNeeded(manifest, program)
    return for_version(manifest, known.version) if known.version else _cautious(manifest)


def _cautious(manifest: Manifest) -> Manifest:
    """The manifest for a program that does not tell its version: prompts are escaped for the oldest
    one, so that nothing is expanded by surprise."""
    for i, change in enumerate(manifest.by_version):
        if change.below and change.prompt:
            manifest = for_change(manifest, VersionChange(change.below, prompt=change.prompt), i)
    return manifest


class VersionNeeded(Exception):  # noqa: N818 - it is no error
    """A turn depends on the version of this program."""

    def __init__(self, manifest: Manifest, program: str) -> None:
        super().__init__(program)
        self.manifest = manifest
        self.program = program


def _concerns(
    manifest: Manifest,
    change: VersionChange,
    options: Mapping[str, Any],
    prompt: str,
    *,
    ephemeral: bool,
    expand: bool,
) -> bool:
    """Whether a turn with these options and this prompt is different with the change."""
    if change.argv or change.env or (change.ephemeral and ephemeral):
        return True
    if any(name in options for name in change.options):
        return True
    if not change.prompt or expand:
        return False
    spec = prompt_after(manifest, change)
    if replace(spec, escape=[]) != replace(manifest.prompt, escape=[]):
        return True
    texts = [escape_prompt(s, prompt, manifest.source)[0] for s in (spec, manifest.prompt)]
    return texts[0] != texts[1]


def describe_range(manifest: Manifest, version: str | None) -> str | None:
    """A sentence if the manifest was not tested with this version; None if it was."""
    oldest, newest = manifest.versions.oldest, manifest.versions.newest
    if version is None:
        return None
    name = f"{manifest.name} {version}"
    update = f"; update it: {manifest.install}" if manifest.install else ""
    if oldest and is_older(version, oldest):
        return f"{name} is older than {oldest}, the oldest that its manifest supports{update}"
    whys = [c.why for c in manifest.by_version if c.applies_to(version) and c.why]
    if whys:
        return f"{name} differs from newer versions: {'; '.join(whys)}{update}"
    if newest and is_older(newest, version):
        return f"{name} is newer than {newest}, which its manifest was tested with"
    return None


def _package_version(program: str) -> str | None:
    """The version in the `package.json` that names this file as its program."""
    path = Path(os.path.realpath(program))
    for folder in list(path.parents)[:MAX_UP]:
        with suppress(OSError, ValueError):
            package = json.loads(read_file(folder / "package.json"))
            programs = package.get("bin") or {}
            programs = [programs] if isinstance(programs, str) else programs.values()
            if any(os.path.realpath(folder / one) == str(path) for one in programs):
                return find_version(str(package.get("version")))
    return None


def _state(program: str) -> tuple[int, ...]:
    """A value that changes when the program's file is written or replaced."""
    try:
        stat = os.stat(program)
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _read(home: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(read_file(home / "versions.json"))
        return {
            k: v for k, v in data.items()
            if isinstance(v, list) and len(v) == 3 and isinstance(v[1], (int, float))
            and isinstance(v[2], str | None)
        }  # fmt: skip
    except (OSError, ValueError, AttributeError):
        return {}
