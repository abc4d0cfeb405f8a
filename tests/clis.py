"""The real CLIs from npm and PyPI, for the tests, in a directory of the project's own.

`python -m tests.clis` installs them; so do the tests that need them. They take some 2.3 GB. To raise
a version: change it here, run the tests in `tests/real`, and record again what they now print
differently (`tests/recordings/README.md`).
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from tests.needs import missing

PACKAGES = {
    "claude": ("@anthropic-ai/claude-code", "2.1.332"),
    "codex": ("@openai/codex", "0.171.0"),
    "gemini": ("@google/gemini-cli", "0.61.0"),
    "opencode": ("opencode-ai", "1.18.33"),
    "qwen": ("@qwen-code/qwen-code", "0.24.4"),
    "pi": ("@earendil-works/pi-coding-agent", "1.6.0"),
    "copilot": ("@github/copilot", "1.0.102"),
    "cline": ("cline", "3.0.65"),
}
OLDER = {"claude": ("@anthropic-ai/claude-code", "2.1.197")}  # `make test-older`
IS_OLDER = bool(os.environ.get("CLINVK_TEST_OLDER"))
if IS_OLDER:
    PACKAGES = OLDER
LLM = "llm==0.36"  # from PyPI
# With an older one npm quietly takes releases of the packages that are a year behind.
NODE = 22

PROJECT = Path(__file__).parent.parent
DEFAULT = Path(
    os.environ.get("CLINVK_TEST_CLIS")
    or PROJECT / ".cache" / ("clis-older" if IS_OLDER else "clis")
)

# In seconds. A slow network may take as long as it likes, as long as something arrives. The longest
# silence of one that works is that of a mirror which first fetches a package of 200 MB itself.
UNREACHABLE = 60
STALLED = 300
RETRY_AFTER = 600  # so that not every test waits for the same network again


class InstallError(Exception):
    """The CLIs could not be installed; the message says why."""


def install(folder: Path = DEFAULT, *, retry_after: float = 0) -> dict[str, Path]:
    """Where each CLI is, installed by now; quick if nothing has to be done.

    Raises `InstallError`; at once if that is what happened within the last `retry_after` seconds.
    """
    programs = {name: folder / "node_modules" / ".bin" / name for name in PACKAGES}
    programs["llm"] = _llm(folder)
    with _alone(folder) as lock:
        if not _is_current(folder, programs):
            _raise_recent_failure(folder, retry_after)
            try:
                _install_all(folder, lock)
            except InstallError as failure:
                _failure(folder).write_text(str(failure))
                raise
            _failure(folder).unlink(missing_ok=True)
            _stamp(folder).write_text(json.dumps(_wanted()))
    return programs


def path(folder: Path = DEFAULT) -> str:
    """The PATH with which the CLIs run: nothing else of this machine gets in before them."""
    own = [_node(folder).parent, folder / "node_modules" / ".bin", _llm(folder).parent]
    return ":".join([*map(str, own), "/usr/bin", "/bin"])


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """One process at a time; the others wait, and then find the work done. An npm that inherits the
    descriptor is waited for, too, when the process that started it was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _stamp(folder: Path) -> Path:
    return folder / "installed.json"


def _failure(folder: Path) -> Path:
    return folder / "failure.txt"


def _raise_recent_failure(folder: Path, seconds: float) -> None:
    with contextlib.suppress(FileNotFoundError):
        if time.time() - _failure(folder).stat().st_mtime < seconds:
            raise InstallError(_failure(folder).read_text())


def _is_current(folder: Path, programs: Mapping[str, Path]) -> bool:
    with contextlib.suppress(OSError, ValueError):
        if json.loads(_stamp(folder).read_text()) == _wanted():
            return all(map(os.path.exists, [_node(folder), *programs.values()]))
    return False


def _wanted() -> dict[str, str]:
    return {**{name: "@".join(package) for name, package in PACKAGES.items()}, "llm": LLM}


def _llm(folder: Path) -> Path:
    """A link, alone in its folder: beside the program itself there is another Python."""
    return folder / "bin" / "llm"


def _node(folder: Path) -> Path:
    """Alone in its folder: beside the machine's node there may be another claude."""
    return folder / "node" / "bin" / "node"


def _node_first(folder: Path) -> str:
    return f"{_node(folder).parent}:{os.environ.get('PATH', '')}"


def _install_all(folder: Path, lock: int) -> None:
    if not shutil.which("npm"):
        raise InstallError(missing("npm"))
    packages = [f"{package}@{version}" for package, version in PACKAGES.values()]
    _check_network(packages[0])
    _install_node(folder, lock)
    _npm_install(folder, packages, {**os.environ, "PATH": _node_first(folder)}, lock)
    _install_llm(folder)


def _install_node(folder: Path, lock: int) -> None:
    """Link to the machine's node, or to a newer one from npm when that is too old."""
    found = shutil.which("node")
    if not found or _major(found) < NODE:
        _npm_install(folder / "node", [f"node@{NODE}"], os.environ, lock)
        found = str(folder / "node" / "node_modules" / "node" / "bin" / "node")
    link = _node(folder)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(Path(found).absolute())


def _install_llm(folder: Path) -> None:
    """In an environment of its own. The machine's Python has pip and can make one, as `make` needs
    both, too."""
    print(f"installing {LLM} …", flush=True)
    venv, log = folder / "llm", folder / "pip.log"
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", LLM]
    with log.open("w") as out:
        for command in ([sys.executable, "-m", "venv", "--clear", venv], pip):
            if subprocess.run(command, stdout=out, stderr=out, check=False).returncode:
                _give_up(f"pip could not install {LLM}", log)
    _llm(folder).parent.mkdir(exist_ok=True)
    _llm(folder).unlink(missing_ok=True)
    _llm(folder).symlink_to(venv / "bin" / "llm")


def _major(node: str) -> int:
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return int(version.removeprefix("v").partition(".")[0])


def _check_network(package: str) -> None:
    """Ask npm's registry for one package, because `npm install` takes many minutes to give up."""
    # With an empty cache, so that the answer is not a stored one.
    with tempfile.TemporaryDirectory() as cache:
        command = [
            "npm", "view", package, "version",
            f"--cache={cache}", "--fetch-retries=1", f"--fetch-timeout={UNREACHABLE * 1000 // 3}",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=UNREACHABLE
            )
        except subprocess.TimeoutExpired:
            raise InstallError(f"npm's registry did not answer within {UNREACHABLE} s") from None
    if done.returncode:
        code = re.search("npm error code (.+)", done.stderr)
        detail = f" ({code[1]})" if code else ""
        raise InstallError(
            f"npm could not look up {package} in its registry{detail}\n{_end_of(done.stderr)}"
        )


def _npm_install(folder: Path, packages: list[str], env: Mapping[str, str], lock: int) -> None:
    print(f"installing {', '.join(packages)} …", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "npm.log"
    command = ["npm", "install", "--prefix", str(folder), "--no-fund", "--no-audit", "--loglevel=http",
               "--fetch-retries=1", *packages]  # fmt: skip
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
            pass_fds=[lock],
        )  # fmt: skip
        try:
            _wait_while_busy(process, folder)
        except BaseException as failure:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(failure, TimeoutError):
                raise
            _give_up(f"npm made no progress for {STALLED} s", log)
    if process.returncode:
        _give_up("npm could not install the CLIs", log)


def _wait_while_busy(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Until npm ends; `TimeoutError` if neither its files nor its log have grown for `STALLED` s."""
    size, since = -1, time.monotonic()
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=min(5, STALLED))
            return
        if (now := _size(folder)) != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since >= STALLED:
            raise TimeoutError


def _size(folder: Path) -> int:
    """Of all files below, in bytes; npm may be adding and removing some."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def _give_up(reason: str, log: Path) -> NoReturn:
    raise InstallError(f"{reason}\n{_end_of(log.read_text(errors='replace'))}")


def _end_of(log: str) -> str:
    errors = [line for line in log.splitlines() if line.startswith("npm error")]
    return "\n".join(errors or log.splitlines()[-10:])[-2000:]


def main() -> None:
    """Install the CLIs. `--for-tests`: outside of CI the tests run without them if that fails."""
    try:
        for name, program in install().items():
            print(f"{name}: {program}")
    except InstallError as failure:
        if "--for-tests" not in sys.argv or os.environ.get("CI"):
            raise SystemExit(f"tests.clis: {failure}") from None
        print(f"{str(failure).splitlines()[0]}: the tests of the real CLIs will be skipped")


if __name__ == "__main__":
    main()
