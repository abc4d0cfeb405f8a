"""What a test of the real CLIs needs: the CLIs, a model server, and a home that knows of it."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import clis as real_clis
from tests.forked import Server
from tests.models import Models
from tests.needs import lack, need

if TYPE_CHECKING:
    from tests.real.user import User

CODEX = """\
model = "gpt-5-codex"
model_provider = "loopback"
check_for_update_on_startup = false

[model_providers.loopback]
name = "loopback"
base_url = "{url}/v1"
env_key = "LOOPBACK_API_KEY"
wire_api = "responses"
request_max_retries = 1
stream_max_retries = 1

[analytics]
enabled = false
"""

GEMINI = {
    "security": {"auth": {"selectedType": "gemini-api-key"}},
    # Without a fixed model each prompt is preceded by a call that chooses one.
    "model": {"name": "gemini-2.5-flash"},
    "general": {
        "enableAutoUpdate": False,
        "maxAttempts": 1,
        # By default a resumed session may be lost to the next cleaning.
        "sessionRetention": {"enabled": False},
    },
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
}


@dataclass(frozen=True)
class Home:
    """A user whom the machine has not met before."""

    path: Path
    project: Path  # an empty git repository
    env: dict[str, str]  # all that a program of this user needs; nothing else comes through


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory on the disk: in its sandbox codex has a /dev of its own, and the directories in
    memory are below /dev."""
    with tempfile.TemporaryDirectory(prefix="clinvk-real-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def models() -> Iterator[Models]:
    with Models() as server:
        yield server


@pytest.fixture(scope="session")
def clis() -> dict[str, Path]:
    """Where the CLIs are; without them the test is skipped, but not in CI."""
    need("git")
    try:
        return real_clis.install(retry_after=real_clis.RETRY_AFTER)
    except real_clis.InstallError as reason:
        lack(str(reason))


@pytest.fixture
def home(tmp_path: Path, models: Models, clis: dict[str, Path]) -> Home:
    """A fresh home in which all three CLIs talk to the model server, its requests forgotten."""
    models.requests.clear()
    project = tmp_path / "project"
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    return new_home(tmp_path / "home", project, models.url)


def new_home(path: Path, project: Path, url: str) -> Home:
    """A home on one more machine."""
    _write(path / ".codex" / "config.toml", CODEX.format(url=url))
    _write(path / ".gemini" / "settings.json", json.dumps(GEMINI))
    (path / "tmp").mkdir()
    return Home(path, project, environment(path, url))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(text)


def environment(home: Path, url: str) -> dict[str, str]:
    return {
        "PATH": real_clis.path(),
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),  # gemini leaves a report of every error there
        "CLINVK_HOME": str(home / ".clinvk"),
        "TERM": "dumb",
        "LANG": "C.UTF-8",
        "ANTHROPIC_API_KEY": "sk-fake",
        "ANTHROPIC_BASE_URL": url,
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
        "LOOPBACK_API_KEY": "sk-fake",
        "GEMINI_API_KEY": "sk-fake",
        "GOOGLE_GEMINI_BASE_URL": url,
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
        "GEMINI_TELEMETRY_ENABLED": "false",
        "NODE_COMPILE_CACHE": str(real_clis.DEFAULT / "compiled"),  # shared by all homes
    }


@pytest.fixture(params=["claude", "codex", "gemini"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param not in real_clis.PACKAGES:
        pytest.skip("only the older claude is tested")
    return str(request.param)


@pytest.fixture
def user(home: Home, models: Models, backend: str, loaded_clinvk: Server) -> "User":
    """Somebody who uses clinvk with that backend."""
    from tests.real.user import User  # which needs the names above

    return User(home, models, backend, loaded_clinvk)
