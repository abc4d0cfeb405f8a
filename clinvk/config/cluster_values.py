"""What the keys `cluster` and `worker` of the configuration may be: addresses, remotes and directories."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from clinvk.config.paths import backend_names
from clinvk.config.schema import Config
from clinvk.text import addresses
from clinvk.text.addresses import mask_password
from clinvk.text.typed import ShapeError, unknown_key

Problem = tuple[str, str]  # what is wrong, and what to do

# Messages hide what stands before an @ in an address.
PLACE = "write redis://HOST:6379/0, with :PASSWORD@ before HOST; or rediss://… for TLS"
DEFAULT_NAME = "default"  # of a cluster
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_HIDDEN = re.compile(rf"{addresses.HIDDEN}(?=@|\Z)|[=#]{addresses.HIDDEN}")

REMOTE = "use ssh://HOST/PATH, USER@HOST:PATH, https://…, file:///… or an absolute path"
_SCHEME = re.compile(r"(file|git|https?|ssh)://.", re.IGNORECASE)
_SCP = re.compile(r"(?:[\w.+-]+@)?[\w.-]+:(?!:).+")  # user@host:path
_REMOTE_NAME = re.compile(r"[\w.][\w./+@-]*")
_VARIABLES = re.compile(r"[A-Za-z_*?\[][A-Za-z0-9_*?\[\]!-]*")  # a pattern of their names


def address_problem(url: str) -> Problem | None:
    """Why this cannot be the address of a cluster, without its password; None if it can."""
    scheme, mark, rest = url.strip().partition("://")
    scheme = scheme.lower()
    if not mark or scheme not in ("redis", "rediss"):
        return "it is not one of a Redis server", PLACE
    if why := addresses.problem(f"{scheme}://{rest}"):
        return why, addresses.ENCODE if "character that ends" in why or "#" in why else PLACE
    known = addresses.PARAMETERS + (addresses.TLS_PARAMETERS if scheme == "rediss" else ())
    for key, value in parameters(url):
        if key == "name":
            if not _NAME.fullmatch(unquote(value)):
                return (
                    f"invalid name of a cluster: {unquote(value)!r}",
                    "use up to 40 letters, digits, - and _, such as ?name=build",
                )
        elif key not in known:
            what = unknown_key(key, ("name", *known)).replace("key", "parameter", 1)
            if key in addresses.TLS_PARAMETERS:
                what += ", which is only valid with rediss://"
            return what, f"known: name, {', '.join(known)}"
    return None


def parameters(url: str) -> list[tuple[str, str]]:
    """What follows the `?` in an address, as it is written."""
    found = (part.partition("=") for part in filter(None, url.partition("?")[2].split("&")))
    return [(key, value) for key, _, value in found]


def is_remote_url(text: str) -> bool:
    """Whether git would use this as a URL or a path, not as the name of a remote."""
    if text.startswith(("/", "~/")) or _SCHEME.match(text):
        return True
    return "://" not in text and "::" not in text and bool(_SCP.fullmatch(text))


def remote_problem(url: str) -> Problem | None:
    """Why this may not be the URL of the git remote of a cluster, which goes to all workers; None if it
    may."""
    shown = show_remote(url)
    if not is_remote_url(url) or url.startswith("-"):
        return f"{shown!r} is not a URL that git can use here", REMOTE
    if "://" in url:
        parts = urlsplit(url)
        if (parts.hostname or "").startswith("-"):  # an option of ssh
            return f"{shown!r} has no valid host", "correct the URL"
        is_web = parts.scheme.lower() in ("http", "https")
        if parts.password or (is_web and parts.username):
            return (
                f"{shown!r} contains a password, which would go to Redis",
                "leave it out, and give each machine access with ssh keys or a git credential helper",
            )
    return None


def show_remote(url: str) -> str:
    """The URL without a password."""
    return mask_password(url) if "://" in url else url


def check_cluster_values(config: Config, home: Path) -> None:
    """Raise `ShapeError` for a value that no command could use."""
    cluster, allow = config.cluster, config.worker.allow
    if cluster.url:
        _check_address(cluster.url)
    if cluster.git is not None:
        _check_remote(cluster.git)
    _check_directories(("cluster", "shared"), cluster.shared)
    _check_directories(("worker", "allow", "directories"), allow.directories)
    for i, pattern in enumerate(allow.git):
        if not pattern.strip():
            raise ShapeError(
                ("worker", "allow", "git", i), "is empty; write a pattern of URLs, or * for all"
            )
    for i, pattern in enumerate(allow.env):
        if not _VARIABLES.fullmatch(pattern):
            raise ShapeError(
                ("worker", "allow", "env", i),
                f"{pattern!r} is not the name of a variable, or a pattern such as MY_*",
            )
    known = backend_names(home) if allow.backends else ()
    for i, name in enumerate(allow.backends):
        if name not in known:
            what = unknown_key(name, known).replace("key", "backend", 1)
            raise ShapeError(("worker", "allow", "backends", i), what)


def _check_address(url: str) -> None:
    found = address_problem(url)
    if found is None and _HIDDEN.search(url):
        found = (
            f"the password is hidden: {addresses.HIDDEN} stands for it",
            "type the password itself",
        )
    if found is not None:
        problem, hint = found
        raise ShapeError(
            ("cluster", "url"), f"malformed address {mask_password(url)!r}: {problem}", hint
        )


def _check_remote(setting: str) -> None:
    if _REMOTE_NAME.fullmatch(setting):
        return
    if found := remote_problem(setting):
        problem, hint = found
        raise ShapeError(
            ("cluster", "git"), problem, f"{hint}, or the name of a remote such as origin"
        )


def _check_directories(place: tuple[str, ...], given: list[str]) -> None:
    """Raise `ShapeError` for a relative path, which would depend on where a command is started."""
    for i, path in enumerate(given):
        if not path.startswith(("/", "~")):
            raise ShapeError((*place, i), f"{path!r} is not an absolute path")
