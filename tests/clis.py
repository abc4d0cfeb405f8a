"""The real CLIs from npm, for the tests, below a folder of the project's own.

`python -m tests.clis` installs them; so do the tests that need them. They take some 900 MB. To raise
a version: change it here, run the tests in `tests/real`, and record anew what they now print
differently (`tests/recordings/README.md`).
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGES = {
    "claude": ("@anthropic-ai/claude-code", "2.1.329"),
    "codex": ("@openai/codex", "0.169.0"),
    "gemini": ("@google/gemini-cli", "0.61.0"),
}
# With an older one npm quietly takes releases of the packages that are a year behind.
NODE = 22

PROJECT = Path(__file__).parent.parent
DEFAULT = Path(os.environ.get("CLINVK_TEST_CLIS") or PROJECT / ".cache" / "clis")
PATIENCE = 900  # seconds for one package


class InstallError(Exception):
    """The CLIs could not be installed; the message says why."""


def install(folder: Path = DEFAULT) -> dict[str, Path]:
    """Where each CLI is, installed by now; quick when nothing has to be done."""
    programs = {name: folder / "node_modules" / ".bin" / name for name in PACKAGES}
    with _alone(folder):
        if not _is_current(folder, programs):
            _install_node(folder)
            for package, version in PACKAGES.values():
                _npm(folder, f"{package}@{version}", {**os.environ, "PATH": _node_first(folder)})
            _stamp(folder).write_text(json.dumps(PACKAGES))
    return programs


def path(folder: Path = DEFAULT) -> str:
    """The PATH with which the CLIs run: nothing else of this machine gets in before them."""
    return f"{_node(folder).parent}:{folder / 'node_modules' / '.bin'}:/usr/bin:/bin"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time; the others wait, and then find the work done."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _stamp(folder: Path) -> Path:
    return folder / "installed.json"


def _is_current(folder: Path, programs: Mapping[str, Path]) -> bool:
    wanted = json.loads(json.dumps(PACKAGES))  # tuples become lists
    with contextlib.suppress(OSError, ValueError):
        if json.loads(_stamp(folder).read_text()) == wanted:
            return all(map(os.path.exists, [_node(folder), *programs.values()]))
    return False


def _node(folder: Path) -> Path:
    """Alone in its folder: beside the machine's node there may be another claude."""
    return folder / "node" / "bin" / "node"


def _node_first(folder: Path) -> str:
    return f"{_node(folder).parent}:{os.environ.get('PATH', '')}"


def _install_node(folder: Path) -> None:
    """Link to the machine's node, or to a newer one from npm when that is too old."""
    found = shutil.which("node")
    if not found or _major(found) < NODE:
        _npm(folder / "node", f"node@{NODE}", os.environ)
        found = str(folder / "node" / "node_modules" / "node" / "bin" / "node")
    link = _node(folder)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(Path(found).absolute())


def _major(node: str) -> int:
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return int(version.removeprefix("v").partition(".")[0])


def _npm(folder: Path, package: str, env: Mapping[str, str]) -> None:
    if not shutil.which("npm"):
        raise InstallError("npm is not on PATH: install Node.js, which brings it, and try again")
    print(f"installing {package} …", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--prefix", str(folder), "--no-fund", "--no-audit", package]
    try:
        subprocess.run(
            command, env=env, capture_output=True, text=True, check=True, timeout=PATIENCE
        )
    except subprocess.CalledProcessError as failure:
        raise InstallError(f"npm could not install {package}: {failure.stderr[-2000:]}") from None
    except subprocess.TimeoutExpired:
        raise InstallError(f"npm took more than {PATIENCE} s to install {package}") from None


if __name__ == "__main__":
    if "--if-npm" in sys.argv and not os.environ.get("CI") and not shutil.which("npm"):
        print("no npm here: the tests of the real CLIs will be skipped")
        raise SystemExit(0)
    try:
        for name, program in install().items():
            print(f"{name}: {program}")
    except InstallError as reason:
        raise SystemExit(f"tests.clis: {reason}") from None
