"""What git says if a remote cannot be used, with what to do about it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from clinvk.worktrees.git import GitError

# Failures of the network that may pass.
PASSING = re.compile(
    r"Could not resolve host|Connection (?:timed out|reset|refused|closed)|Temporary failure"
    r"|Operation timed out|early EOF|unexpected disconnect|The requested URL returned error: 5"
    r"|cannot lock ref",
    re.IGNORECASE,
)
_NO_ACCESS = re.compile(
    r"Permission denied|Authentication failed|could not read (?:Username|Password)|not found"
    r"|does not appear to be a git repository|Could not read from remote|returned error: 40[134]"
    r"|Host key verification failed|does not exist|unable to access",
    re.IGNORECASE,
)
_NEW_HOST = "Host key verification failed"
_CHANGED_HOST = "REMOTE HOST IDENTIFICATION HAS CHANGED"
_REFUSED_KEY = re.compile(r"Permission denied \([\w,-]*publickey")
_SCP_HOST = re.compile(r"(?:[^@/]+@)?([\w.-]+):")


def explained(error: GitError, what: str, place: str) -> GitError:
    """The error with the remote at `place`, an address without a password, and what to do."""
    output = error.output
    if "No space left" in output or "Disk quota" in output:
        return error
    if "shallow update not allowed" in output:
        message = f"{place} does not accept commits of a shallow clone"
        return GitError(message, "get the whole history: git fetch --unshallow", output=output)
    if "couldn't find remote ref" in output:
        ref = error.message.rpartition(" ")[2]
        message = f"{place} lacks {ref}: it was deleted, or never pushed"
        return GitError(message, "start a new run", output=output)
    if _NO_ACCESS.search(output) or PASSING.search(output):
        message = f"this machine cannot {what} {place}: {_reason(output)}"
        return GitError(message, _advice(output, place), output=output)
    return GitError(f"{place}: {error.message}", error.hint, output=output)


def _reason(output: str) -> str:
    """The first line that says why; git's own last words are the same for all causes."""
    if _CHANGED_HOST in output:
        return "the host key of the server has changed"
    if _NEW_HOST in output:
        return "the host key of the server is not known"
    lines = [line.strip() for line in output.splitlines()]
    found = [line for line in lines if _NO_ACCESS.search(line) or PASSING.search(line)]
    return found[0].removeprefix("fatal: ").removeprefix("ssh: ")


def _advice(output: str, place: str) -> str:
    host, port = _host_of(place)
    named = f"[{host}]:{port}" if port else host
    if _CHANGED_HOST in output:
        return f"find out why; if that is right, forget the old one: ssh-keygen -R {named!r}"
    if _NEW_HOST in output:
        words = f"-p {port} {host}" if port else host
        return f"compare it with that of the server, and add it: ssh-keyscan {words} >> ~/.ssh/known_hosts"
    if _REFUSED_KEY.search(output):
        return f"the server accepts no ssh key of this user: add one there; to try it: git ls-remote {place}"
    if PASSING.search(output) and "cannot lock ref" not in output:
        return f"check that the server runs, and can be reached from here; to try it: git ls-remote {place}"
    return f"give it access; to try it: git ls-remote {place}"


def _host_of(place: str) -> tuple[str, int | None]:
    if "://" in place:
        parts = urlsplit(place)
        return parts.hostname or place, parts.port
    found = _SCP_HOST.match(place)
    return (found.group(1) if found else place), None
