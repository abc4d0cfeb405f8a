"""Addresses such as `redis://user:password@host:6379/0`, without the credentials in them.

A malformed address is masked at least as much as a valid one: a password that is not
percent-encoded may contain any character, so everything that could be part of it is masked.
"""

from __future__ import annotations

import re
from functools import cache

HIDDEN = "…"
ENCODE = (
    "percent-encode / ? # @ and : in the user name and the password: "
    "%2F for /, %3F for ?, %23 for #, %40 for @, %3A for :"
)
PLACE = (
    "write the host, the port and the database: redis://localhost:6379/0 or redis://[::1]:6379/0"
)
LAST_PORT = 65535
STORES = "known: file, sqlite:////absolute/path, redis://host:6379/0, rediss://…"
_LOCAL = ("file", "sqlite")  # a path after three slashes, and no credentials
# Schemes whose paths may contain an @, such as https://registry.example/@scope/package.
_WEB = ("http", "https", "ws", "wss", "ftp", "git", "ssh", "git+ssh", "git+https", "docker", "oci")
_SECRET = ("pass", "pwd", "secret", "token", "auth", "key", "credential")  # in a parameter's name
_LONGEST_SCHEME = 32
# What may follow `://` and cannot contain credentials, whatever the scheme is.
_HARMLESS = r"[\w.-]*+(?::[0-9]{1,5})?+(?:/[\w./-]*+)?+(?=\s|\Z)"

_KNOWN = rf"""(?:[\w.+%-]*:)?{HIDDEN}(?=[@%'"`),;]|\Z)"""
_REDIS = ("redis", "rediss")

# What may follow the `?` in the address of a Redis server; the second ones only with TLS.
PARAMETERS = (
    "db", "username", "password", "client_name", "socket_timeout", "socket_connect_timeout",
    "socket_keepalive", "retry_on_timeout", "health_check_interval",
)  # fmt: skip
TLS_PARAMETERS = (
    "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password",
    "ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version", "ssl_ciphers",
)  # fmt: skip


def mask_password(address: str) -> str:
    """The address, which is the whole text, with its credentials masked."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        scheme, mark, rest = _without_slashes(address)
    return scheme + mark + _hidden(scheme, rest)


def without_passwords(text: str) -> str:
    """The text with the credentials in all of its addresses masked."""
    if "://" not in text:
        return text
    harmless = _compile(_HARMLESS)
    pieces: list[str] = []
    done = copied = 0
    while (mark := text.find("://", done)) >= 0:
        if found := harmless.match(text, mark + 3):  # most are, and a long text may contain many
            done = found.end()
            continue
        begin = _begin(text, mark, done)
        done = _end(text, mark + 3, text[begin:mark].lower())
        pieces += [text[copied : mark + 3], _hidden(text[begin:mark], text[mark + 3 : done])]
        copied = done
    return "".join([*pieces, text[copied:]])


def problem(address: str) -> str | None:
    """Why a server's address cannot be used, in words without its credentials; None if it can."""
    found = _find_problem(address)
    return found and found[0]


def store_problem(address: str) -> tuple[str, str] | None:
    """(why no store is at this address, what to do); None if there may be one."""
    if "://" in address and re.search(rf"{HIDDEN}(?=@|\Z)|[=#]{HIDDEN}", address):
        return f"the password is hidden: {HIDDEN} stands for it", "type the password itself"
    if found := _find_problem(address):
        return found
    kind, mark, place = address.partition("://")
    kind = kind.lower()
    known = address == "file" or (
        place.startswith("/") if kind == "file" else
        bool(place.strip("/")) if kind == "sqlite" else
        kind in _REDIS and bool(mark)
    )  # fmt: skip
    return None if known else ("unknown store", STORES)


def _find_problem(address: str) -> tuple[str, str] | None:
    scheme, mark, rest = address.partition("://")
    scheme = scheme.lower()
    if not mark or scheme in _LOCAL:
        return None
    authority = _authority(rest)
    path, _, query = rest[len(authority) :].partition("?")
    fragment = rest.partition("#")[2]
    if "@" in path + fragment or any(map(_is_misplaced, query.split("&"))):
        return "the user name or the password contains a character that ends it", ENCODE
    for host in authority.rpartition("@")[2].split(","):
        if found := _host_problem(host):
            return found, PLACE
    if "#" in rest:
        return "a # has no meaning in it", f"leave out the # and what follows, or {ENCODE}"
    if scheme in _REDIS and not re.fullmatch(r"/?[0-9]{0,9}/?", path):
        return "the database, after the host, is not a number", PLACE
    return None


def _host_problem(text: str) -> str | None:
    """Why this cannot be `host` or `host:port`."""
    if text.count("[") != text.count("]"):
        return "a bracket of the host is not closed" if "[" in text else "a ] has no ["
    if not _is_host(text):
        if "[" not in text and text.count(":") > 1:
            return "the host has several colons, and an IPv6 address needs brackets"
        return "what follows the host is not a port"
    port = text.rpartition("]")[2].rpartition(":")[2]
    if port.isdecimal() and ":" in text and int(port) > LAST_PORT:
        return f"the port is greater than {LAST_PORT}"
    return None


def is_encoded(address: str) -> bool:
    """Whether no character of the user name and the password has to be percent-encoded. Some are
    understood as they are."""
    scheme, mark, rest = address.partition("://")
    if not mark or scheme.lower() in _LOCAL:
        return True
    credentials = _authority(rest).rpartition("@")[0]
    return problem(address) is None and "@" not in credentials and credentials.count(":") <= 1


def _is_misplaced(parameter: str) -> bool:
    """Whether it contains an `@` that is not part of the value of a known parameter."""
    return "@" in parameter and parameter.partition("=")[0] not in PARAMETERS + TLS_PARAMETERS


def _authority(rest: str) -> str:
    """The part before the path: `user:password@host:6379`."""
    return _compile("[/?#]").split(rest, maxsplit=1)[0]


def _without_slashes(address: str) -> tuple[str, str, str]:
    """Of an address whose `://` is missing or mistyped: (scheme, what follows it, the rest)."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)(:/?)(?=.*(?:@|%40))", address, re.DOTALL)
    if found and found.group(1).lower().startswith(("redis", "sqlite", "file")):
        return found.group(1), found.group(2), address[found.end() :]
    return "", "", address


def _begin(text: str, mark: int, least: int) -> int:
    """The start of the scheme before `://`."""
    begin = mark
    while begin > max(least, mark - _LONGEST_SCHEME) and (
        text[begin - 1].isascii() and (text[begin - 1].isalnum() or text[begin - 1] in "+.-")
    ):
        begin -= 1
    return begin


def _end(text: str, at: int, scheme: str) -> int:
    """Where an address in a text ends: at white space; one of the web at a quotation mark as well,
    since a password may hold one."""
    if scheme in _WEB or scheme in _LOCAL:
        return _find(r"""[\s"'`<>]""", text, at, len(text))
    end = _find(r"\s", text, at, len(text))
    if "@" not in text[at:end] and not _is_host(_authority(text[at:end])):
        # A password may hold a space, too.
        line_end = _find(r"\n|://", text, end, len(text))
        end = max(end, _find(r"\s", text, text.rfind("@", end, line_end), line_end))
    return end


def _find(pattern: str, text: str, at: int, end: int) -> int:
    if at < 0:
        return at
    found = _compile(pattern).search(text, at, end)
    return found.start() if found else end


def _hidden(scheme: str, rest: str) -> str:
    """The part after `://`, with its credentials masked."""
    scheme = scheme.lower()
    if not scheme and "@" not in rest and "%40" not in rest and "=" not in rest:
        return rest
    if scheme in _LOCAL and rest.startswith("/"):
        return rest
    known = HIDDEN in rest and _compile(_KNOWN).match(rest)
    if known:  # it was hidden before
        return known.group() + _without_secret_parameters(rest[known.end() :])
    credentials, at, host = _split(scheme, rest)
    if scheme in _REDIS:  # an address of a server has no fragment, so it is a part of a password
        place, mark, fragment = _without_secret_parameters(host).partition("#")
        fragment = fragment if fragment.startswith(HIDDEN) else mark and HIDDEN
        return _user(credentials) + at + place + mark + fragment
    return _user(credentials) + at + _without_secret_parameters(host)


def _split(scheme: str, rest: str) -> tuple[str, str, str]:
    """(credentials, `@`, all that follows); without an `@`, what looks like a password where a
    port should be is a part of the credentials."""
    authority = _authority(rest)
    if scheme in _WEB and _is_host(authority.rpartition("@")[2]):
        credentials, at, host = authority.rpartition("@")
        return credentials, at, host + rest[len(authority) :]
    for at in ("@", "%40"):
        if at in rest:
            return rest.rpartition(at)
    return ("", "", rest) if _is_host(authority) else (rest, "", "")


def _is_host(text: str) -> bool:
    """Whether it can be `host`, `host:port` or several of those."""
    one = _compile(r"(?:[^:\[\]]*|\[[^\[\]]*\])(?::\d{0,5})?")
    return all(map(one.fullmatch, text.split(",")))


def _user(credentials: str) -> str:
    """The masked credentials: the user name, if it is certain to be one."""
    if not credentials or credentials == "git":
        return credentials
    user, colon, _ = credentials.partition(":")
    return f"{user}:{HIDDEN}" if colon and _compile(r"[\w.+%-]{0,64}").fullmatch(user) else HIDDEN


def _without_secret_parameters(text: str) -> str:
    """`host?password=p&db=1` as `host?password=…&db=1`. What follows a secret parameter and is no
    known one belongs to it, since a password may hold an `&`."""
    place, mark, query = text.partition("?")
    if "=" not in query:
        return text
    shown: list[str] = []
    hiding = False
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if equals and _is_secret(name) and not value.startswith(HIDDEN):
            hiding = True
            shown.append(f"{name}={HIDDEN}")
        elif not hiding or name in PARAMETERS + TLS_PARAMETERS:
            hiding = False
            shown.append(part)
    return place + mark + "&".join(shown)


def _is_secret(name: str) -> bool:
    # 3 ms, and few addresses have parameters.
    from urllib.parse import unquote

    return any(word in unquote(name).lower() for word in _SECRET)


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
