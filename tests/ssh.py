"""A git remote that is reached with ssh: Debian's server on loopback, with keys of its own."""

import getpass
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.bound import bound
from tests.needs import lack, need
from tests.stores import free_port

SEPARATION = Path("/run/sshd")  # where the server wants to have an empty directory, as root


class SshServer:
    """Accepts this user with the key `user`, and nobody else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, key: str = "user", known: str = "known_hosts") -> str:
        """For GIT_SSH_COMMAND."""
        return (
            f"ssh -F /dev/null -i {self.folder / key} -o IdentitiesOnly=yes -o BatchMode=yes "
            f"-o UserKnownHostsFile={self.folder / known}"
        )

    def url(self, path: Path) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{path}"

    def start(self) -> None:
        for name in ("host", "user", "stranger"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)],
                check=True,
            )
        host = (self.folder / "host.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host}")
        stranger = (self.folder / "stranger.pub").read_text()
        (self.folder / "known_others").write_text(f"[127.0.0.1]:{self.port} {stranger}")
        (self.folder / "authorized_keys").write_text((self.folder / "user.pub").read_text())
        (self.folder / "config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder / 'host'}\n"
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}\nPidFile none\nUsePAM no\n"
            "StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "PermitRootLogin prohibit-password\nMaxStartups 100\n"
        )
        if os.geteuid() == 0:
            SEPARATION.mkdir(mode=0o755, exist_ok=True)
        with open(self.folder / "log", "wb") as log:
            self.process = bound(
                subprocess.Popen(
                    [need("sshd"), "-D", "-e", "-f", str(self.folder / "config")], stderr=log
                )
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                lack(f"sshd does not start: {(self.folder / 'log').read_text().strip()}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection,
        ):
            return connection.recv(4).startswith(b"SSH-")
        return False


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """One for all tests of a process."""
    need("sshd")
    need("ssh-keygen")
    server = SshServer(tmp_path_factory.mktemp("ssh"))
    try:
        server.start()
        yield server
    finally:
        server.stop()
