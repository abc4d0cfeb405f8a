"""Write the lock files beside this script, each the versions and hashes that a part of `make` installs.

`make lock` runs this. All files come from one resolution with the newest versions that pyproject.toml
allows, so that no two of them differ in a version. They hold for every supported Python and platform.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parent
EXTRAS = {"base": [], "test": ["test"], "dev": ["dev"], "docs": ["docs"]}

# A lock is the same wherever it is made: settings of one machine must not reach it.
LOCAL_SETTINGS = (
    "UV_BUILD_CONSTRAINT", "UV_CONSTRAINT", "UV_EXCLUDE_NEWER", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS",
    "UV_INDEX", "UV_OVERRIDE", "UV_PRERELEASE", "UV_RESOLUTION",
)  # fmt: skip


def main() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    # clinvk is installed without build isolation. So the locks hold its build backend too, and what
    # the backend asks for when the installation is editable.
    build = "\n".join([*project["build-system"]["requires"], "editables"])
    oldest = project["project"]["requires-python"].removeprefix(">=")
    with tempfile.TemporaryDirectory() as folder:
        everything = Path(folder, "everything.txt")
        everything.write_text(resolve(oldest, build, "--all-extras"))
        for name, extras in EXTRAS.items():
            chosen = [f"--extra={extra}" for extra in extras]
            text = resolve(oldest, build, "--constraints", str(everything), *chosen)
            (HERE / f"{name}.txt").write_text(text)


def resolve(oldest: str, build: str, *options: str) -> str:
    """The text of a lock file."""
    command = [
        sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config",
        "--universal", "--python-version", oldest, "--generate-hashes", "--no-annotate",
        "--no-emit-index-url", "--no-emit-find-links", "--custom-compile-command", "make lock",
        *options, "pyproject.toml", "-",
    ]  # fmt: skip
    env = {name: value for name, value in os.environ.items() if name not in LOCAL_SETTINGS}
    done = subprocess.run(
        command, cwd=PROJECT, env=env, input=build, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:  # uv has said why
        raise SystemExit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    main()
