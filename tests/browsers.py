"""Pages in a real browser, and what they ask a server for."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tests.needs import lack, missing

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
]  # fmt: skip


def need_chromium() -> str:
    """The program. Skips where there is none, and fails in CI."""
    return next(filter(None, map(shutil.which, NAMES)), None) or lack(missing("chromium"))


@contextmanager
def served(pages: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """The address of a server of these pages on loopback, and the paths that it is asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = pages.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write((body or "").encode("utf-8", "replace"))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def dom(address: str, profile: Path) -> str:
    """The document at this address once its scripts have run."""
    profile.mkdir()
    done = subprocess.run(
        [need_chromium(), *FLAGS, f"--user-data-dir={profile}", "--virtual-time-budget=4000",
         "--dump-dom", address],
        env={"PATH": os.environ["PATH"], "HOME": str(profile), "LANG": "C.UTF-8"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


class Tab:
    """One page of a browser of its own, driven over a pipe: navigate, resize, run scripts."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int) -> None:
        self._process, self._write, self._read = process, write, read
        self._buffer = b""
        self._last_id = 0
        self._session = ""
        self.problems: list[str] = []  # console errors, exceptions and failed loads, as they came
        self.requested: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """The browser's answer to a command of its DevTools protocol."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._last_id:
            self._note(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def open(self, address: str) -> None:
        """Navigate, and wait until the page and its scripts have loaded."""
        self.call("Page.navigate", url=address)
        while True:
            event = self._next()
            self._note(event)
            if event.get("method") == "Page.loadEventFired":
                return

    def look(self, width: int, scheme: str) -> None:
        """Take the width in pixels, and the color scheme that the user prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True,
                         awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(b64decode(self.call("Page.captureScreenshot")["data"]))

    def _next(self) -> Any:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], 60)
            data = os.read(self._read, 65_536) if ready else b""
            assert data, "the browser does not answer"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def _note(self, event: Any) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert", "warning"):
                self.problems.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.problems.append(json.dumps(params["entry"]))
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])
            case _:
                pass


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """A tab of a new headless browser, which is ended afterwards."""
    profile.mkdir()
    to_browser, from_us = os.pipe()
    to_us, from_browser = os.pipe()
    script = 'exec "$@" 3<&"$IN" 4>&"$OUT"'  # the numbers that the browser wants
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", need_chromium(), *FLAGS, f"--user-data-dir={profile}",
         "--remote-debugging-pipe", "about:blank"],
        env={"PATH": os.environ["PATH"], "HOME": str(profile), "LANG": "C.UTF-8",
             "IN": str(to_browser), "OUT": str(from_browser)},
        pass_fds=[to_browser, from_browser], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Tab(process, from_us, to_us)
    finally:
        os.close(from_us)  # the browser ends when nobody can tell it anything
        os.close(to_us)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
