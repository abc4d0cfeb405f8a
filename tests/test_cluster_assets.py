"""The examples of the documentation: a server in a container, and a worker as a service."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from clinvk.cluster.address import connect_to, parse
from clinvk.cluster.server import accepts_everyone, check_server
from tests.bound import bound
from tests.conftest import CommandLine
from tests.needs import need
from tests.stores import RedisServer, free_port, keep

ASSETS = Path(__file__).parent.parent / "docs" / "assets" / "cluster"
COMPOSE, UNIT = ASSETS / "compose.yaml", ASSETS / "clinvk-worker.service"
PASSWORD = "of-the-owner"


def service() -> dict[str, Any]:
    (found,) = yaml.safe_load(COMPOSE.read_text())["services"].values()
    return dict(found)


def unit() -> configparser.ConfigParser:
    made = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    made.optionxform = str  # type: ignore[assignment,method-assign]  # names of units have capitals
    made.read(UNIT)
    return made


def test_the_file_for_docker_has_what_compose_knows():
    data = yaml.safe_load(COMPOSE.read_text())
    assert data.keys() <= {"name", "services", "volumes", "networks", "secrets", "configs"}
    found = service()
    assert found.keys() <= {
        "image",
        "restart",
        "command",
        "ports",
        "volumes",
        "environment",
        "healthcheck",
    }
    assert re.fullmatch(r"redis:\d+(\.\d+)?", found["image"])
    assert found["restart"] in ("no", "always", "on-failure", "unless-stopped")
    for words in ("command", "ports", "volumes"):
        assert all(isinstance(word, str) for word in found[words]), words
    assert found["ports"] == ["6379:6379"]
    named = {place.partition(":")[0] for place in found["volumes"]}
    assert named == data["volumes"].keys(), "each volume is declared"


def test_the_server_of_the_file_is_fit_for_a_cluster(tmp_path: Path):
    need("redis-server")
    program, *words = service()["command"]
    assert program == "redis-server"
    words = [re.sub(r"\$\{CLINVK_REDIS_PASSWORD:\?[^}]*\}", PASSWORD, word) for word in words]
    assert PASSWORD in words, "the file asks for a password"
    server = AsInTheFile(tmp_path, words)
    server.start()
    try:
        address = parse(f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0")
        assert not accepts_everyone(address)
        assert check_server(keep(connect_to(address)), address) == []
    finally:
        server.kill()


class AsInTheFile(RedisServer):
    """With the arguments of the file, and a port of its own."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        super().__init__(folder)
        self.words = words

    def start(self) -> None:
        self.port = free_port()
        self.process = bound(subprocess.Popen(
            [str(shutil.which("redis-server")), *self.words, "--port", str(self.port),
             "--bind", "127.0.0.1", "--dir", str(self.folder)],
            stdout=subprocess.DEVNULL,
        ))  # fmt: skip
        self.wait()


def test_systemd_accepts_the_unit(tmp_path: Path):
    analyze = need("systemd-analyze")
    text = UNIT.read_text().replace("%h/.local/bin/clinvk", sys.executable)
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run(  # noqa: PLW1510
        [analyze, "--user", "--man=no", "verify", str(tmp_path / UNIT.name)], text=True,
        capture_output=True, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    about_unit = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert about_unit == []
    assert done.returncode == 0 or not about_unit, done.stderr


def test_the_unit_has_what_systemd_knows():
    found = unit()
    assert found.sections() == ["Unit", "Service", "Install"]
    known = {
        "Description", "EnvironmentFile", "Environment", "ExecStart", "KillMode", "TimeoutStopSec", "Restart",
        "RestartSec", "WantedBy",
    }  # fmt: skip
    assert {key for section in found.sections() for key in found[section]} == known
    assert found["Service"]["KillMode"] == "mixed", "the first SIGTERM is for the worker alone"
    assert found["Service"]["Restart"] == "on-failure"
    assert found["Install"]["WantedBy"] == "default.target"


def test_the_command_of_the_unit_can_be_typed(clinvk: CommandLine):
    program, *words = shlex.split(unit()["Service"]["ExecStart"])
    assert program.endswith("/clinvk")
    assert "--cluster" not in words, "the address is not in the list of processes"
    nowhere = {"CLINVK_CLUSTER_URL": "redis://10.0.0.7"}
    words = [word.replace("claude=2,codex=1", "echo=1") for word in words]
    done = clinvk(*words, env=nowhere)
    assert "has no password" in done.stderr, (
        "its flags are valid, and the address is from the environment"
    )
    timeout = words[words.index("--drain-timeout") + 1]
    minutes = int(timeout.removesuffix("m"))
    assert int(unit()["Service"]["TimeoutStopSec"].removesuffix("min")) > minutes
