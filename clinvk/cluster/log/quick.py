"""The ids of runs for a shell that completes a word: quickly, or not at all."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import cast

from clinvk.cluster.address import open_client, parse
from clinvk.cluster.keys import Keys
from clinvk.cluster.log.runs import valid_ids

MOST = 200  # ids


def ids_within(url: str, seconds: float) -> list[str]:
    """The ids of the newest runs; empty if the server does not answer within so many seconds. Raises `ConfigError` for an invalid address."""
    found: list[str] = []
    address = parse(url)
    client = open_client(address, None)  # it has not connected yet

    def read() -> None:
        with suppress(Exception), client:  # a completing shell has no place for it
            ids = client.zrevrange(Keys.of(address.name).runs(), 0, MOST - 1)
            found.extend(valid_ids(cast("list[bytes]", ids)))

    # Looking up a name has no timeout of its own. The process does not wait for this thread.
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(seconds)
    return list(found)
