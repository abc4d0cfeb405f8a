"""The account that a CLI uses: its configuration directory, and a hash of its login or key."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from clinvk.backend.command.environment import expand_home
from clinvk.backend.files.login_lock import login_files
from clinvk.backend.manifest import Manifest
from clinvk.disk.opening import open_named

MAX_SIZE = 32 * 1024 * 1024  # bytes of a file of the CLI that are read
HASH_LENGTH = 16  # hexadecimal digits


class Account(Struct, frozen=True):
    """`id` is a hash from which no login can be found."""

    backend: str
    id: str
    folder: str | None  # the configuration directory of the CLI, if it has one

    @property
    def file_name(self) -> str:
        return f"{self.backend}.{self.id}.json"


def find_account(manifest: Manifest, env: Mapping[str, str]) -> Account:
    """The account that the CLI uses with this environment. A different directory of the CLI is a
    different account, and so are different keys in the environment and values of the manifest's
    `login.account`; without any of these, a login file with different content."""
    # Only if there is a rate limit to remember.
    from hashlib import sha256

    folder = next((os.path.dirname(path) for path in login_files(manifest, env)), None)
    keys = [f"{name}={env[name]}" for name in manifest.login.env if env.get(name)]
    variables, values = _named_values(manifest, env)
    if not values and not keys:  # the token of a login changes when it is renewed
        hashes = (_content_hash(path) for path in login_files(manifest, env))
        values = [value for value in hashes if value][:1]
    parts = [manifest.name, folder or "", *keys, *variables, *values]
    digest = sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
    return Account(manifest.name, digest[:HASH_LENGTH], folder)


def _named_values(manifest: Manifest, env: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """What the manifest names: the variables that are set, and the first value in a file."""
    variables: list[str] = []
    values: list[str] = []
    for text in manifest.login.account:
        path, _, expression = text.partition("#")
        if not expression:
            name = text.removeprefix("$")
            variables += [f"{name}={env[name]}"] if env.get(name) else []
        elif not values:
            values = list(_value_in_file(path, expression, env))
    return variables, values


def _value_in_file(path: str, expression: str, env: Mapping[str, str]) -> Iterator[str]:
    from clinvk.backend.expression import compile_expression  # jmespath: only for a rate limit

    if path.startswith("$"):
        variable, _, rest = path[1:].partition("/")
        if not env.get(variable):
            return
        path = f"{env[variable]}/{rest}"
    with suppress(ValueError, RecursionError):
        found: Any = compile_expression(expression)(
            json.loads(_read(expand_home(path, env)) or b"")
        )
        if found:
            yield json.dumps(found, sort_keys=True)


def _content_hash(path: str) -> str | None:
    # Only if there is a rate limit to remember.
    from hashlib import sha256

    data = _read(path)
    return sha256(data).hexdigest() if data else None


def _read(path: str) -> bytes | None:
    """The content of a file of the CLI; None if it cannot be read."""
    with suppress(OSError):
        fd = open_named(Path(path), os.O_RDONLY)
        with os.fdopen(fd, "rb") as file:
            return file.read(MAX_SIZE)
    return None
