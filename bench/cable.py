"""A network of its own for a process, with a cable to this machine that can be cut. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

HERE, THERE = "10.213.77.1", "10.213.77.2"  # the two ends


class Cable:
    def __init__(self) -> None:
        self.name = f"clinvk{os.getpid()}"
        self.near, self.far = f"cn{os.getpid()}", f"cf{os.getpid()}"

    @property
    def prefix(self) -> list[str]:
        """What runs a command at the far end."""
        return ["ip", "netns", "exec", self.name]

    def cut(self) -> None:
        """From now on each packet is lost, and no connection is closed."""
        _ip("link", "set", self.near, "down")

    def reconnect(self) -> None:
        _ip("link", "set", self.near, "up")


@contextmanager
def cable() -> Iterator[Cable]:
    """Raises `SystemExit` if this machine does not allow it."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        raise SystemExit("a network that can be cut needs root, and ip (iproute2)")
    made = Cable()
    _ip("netns", "add", made.name)
    try:
        _ip("link", "add", made.near, "type", "veth", "peer", "name", made.far, "netns", made.name)
        _ip("address", "add", f"{HERE}/30", "dev", made.near)
        _ip("link", "set", made.near, "up")
        _ip("-n", made.name, "address", "add", f"{THERE}/30", "dev", made.far)
        _ip("-n", made.name, "link", "set", made.far, "up")
        _ip("-n", made.name, "link", "set", "lo", "up")
        yield made
    finally:
        _ip("netns", "delete", made.name)  # with the cable


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"ip {' '.join(words)}: {done.stderr.strip()}")
