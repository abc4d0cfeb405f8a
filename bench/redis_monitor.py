"""Count what a Redis server is asked, by what it is for."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any, Self

import redis

SESSIONS = ("session:", "said:", "writes:", "turn:", "lease:", "native:", "used", "ids", "turns")
LEDGER = ("attempt:", "task:", "leases:", "news:", "run:", "busy:", "home:")
NODES = ("nodes", "node:", "live:")
LIMITS = ("limits",)
LAST = "clinvk bench ends"


class Monitor:
    """What was asked while the block ran: for each part, the number of requests, and of commands, which
    includes those within scripts. Adding events to the stream of a run, and reading it, is `events`."""

    def __init__(self, url: str) -> None:
        self.counts: dict[str, tuple[int, int]] = {}
        self._seen: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._client = redis.Redis.from_url(url)
        self._thread = threading.Thread(target=self._listen)
        self._is_listening = threading.Event()
        self._part = ""  # of the script that runs

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_listening.wait()
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.echo(LAST)
        self._thread.join()
        self._client.close()
        self.counts = {part: (a, b) for part, (a, b) in self._seen.items()}

    def _listen(self) -> None:
        with self._client.monitor() as monitor:
            self._is_listening.set()
            for said in monitor.listen():
                if LAST in said["command"]:
                    return
                self._count(said)

    def _count(self, said: dict[str, Any]) -> None:
        words = said["command"].split(" ")
        if said["client_type"] == "lua":
            is_event = words[0] == "XADD" and " k event " in said["command"]
            self._seen["events" if is_event else self._part][1] += 1
            return
        self._part = _part(words)
        self._seen[self._part][0] += 1
        self._seen[self._part][1] += 1


_PARTS = {"ledger": LEDGER, "sessions": SESSIONS, "nodes": NODES, "limits": LIMITS}


def _part(words: list[str]) -> str:
    if words[0] == "XREAD":
        return "events"
    keys = words[3:] if words[0] in ("EVALSHA", "EVAL") else words[1:2]
    names = [key.removeprefix("clinvk:").removeprefix("default:") for key in keys]
    for part, starts in _PARTS.items():
        if names and names[0].startswith(starts):
            return part
    return (
        "other"
        if words[0] in ("TIME", "PING", "HELLO", "CLIENT", "SCRIPT", "INFO", "CONFIG")
        else "Celery"
    )
