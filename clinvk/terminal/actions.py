"""Text in a log of GitHub Actions or Azure Pipelines, which execute commands found in the
output."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping


def is_log_obeyed(env: Mapping[str, str]) -> bool:
    """Whether the output is a CI log that is searched for commands."""
    return is_on_github(env) or env.get("TF_BUILD", "").lower() == "true"


def is_on_github(env: Mapping[str, str]) -> bool:
    """Whether this is a step of GitHub Actions."""
    return env.get("GITHUB_ACTIONS") == "true"


def literal(text: str) -> str:
    """`text` with a space in each command: `::add-mask::` at the beginning of a line, even after
    white space, and `##[group]` or `##vso[…]` anywhere."""
    if "##" in text:
        text = re.sub(r"##(?=\[|[A-Za-z]{1,20}\[)", "# #", text)
    return re.sub(r"(?m)^(\s*):(?=:)", r"\1: ", text) if "::" in text else text


def inert_json(text: str) -> str:
    """JSON with the same meaning, in which a CI log finds no `##[command]`."""
    if "##" not in text or not is_log_obeyed(os.environ):
        return text
    return text.replace("##", "#\\u0023")


def is_step_log(fd: int) -> bool:
    """Whether this output of a step of GitHub Actions is the step's log, and not a file or a pipe to
    another program. The log is a pipe, too: it is the one that a process above this one has as its
    own output, such as the shell of the step."""
    try:
        ours = os.fstat(fd)
    except OSError:
        return False
    if stat.S_ISREG(ours.st_mode):
        return False
    if not stat.S_ISFIFO(ours.st_mode):
        return True
    outputs = list(_outputs_above())
    if not outputs or _is_started_by_runner():  # the runner reads what its steps print
        return True
    return any(os.path.samestat(ours, theirs) for theirs in outputs)


def _is_started_by_runner() -> bool:
    """Whether a shell has replaced itself with this process, or none was needed."""
    try:
        with open(f"/proc/{os.getppid()}/comm") as file:
            return file.read().startswith("Runner.Worker")
    except OSError:
        return False


def _outputs_above() -> Iterator[os.stat_result]:
    """The stdout and stderr of the processes above this one, as far as they can be examined."""
    pid = os.getppid()
    for _ in range(32):
        try:
            yield os.stat(f"/proc/{pid}/fd/1")
            yield os.stat(f"/proc/{pid}/fd/2")
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return
        if pid <= 0:
            return


def stop_token(fd: int) -> str | None:
    """A random word with which to stop the commands of GitHub Actions, if this output is the log of
    a step."""
    if not is_on_github(os.environ) or not is_step_log(fd):
        return None
    return os.urandom(16).hex()


def without_commands(text: str, fd: int) -> str:
    """The text as it may be written to this output: in the log of a step, no command in it is
    obeyed."""
    token = stop_token(fd)
    return f"::stop-commands::{token}\n{text}::{token}::\n" if token else text
