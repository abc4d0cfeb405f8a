"""The shapes of keys and passwords, which `redact` looks for.

Only shapes that are always secrets are here: a hash, a UUID or an image in base64 is kept, and so
is `password=` followed by a variable.
"""

from __future__ import annotations

import re
from binascii import Error, a2b_base64
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

from msgspec import Struct

Check = Callable[[str], bool]
EXAMINED = 256  # characters of a value that decide whether it is random


def _is_mixed(value: str) -> bool:
    """Whether it may be a key rather than a name or `sk-xxxxxxxx`."""
    digits = any(c.isdigit() for c in value)
    cases = value.lower() != value != value.upper()
    return (digits or cases) and len(set(value)) >= 8


def _is_random(value: str) -> bool:
    """Whether a value is random rather than written: its characters change their kind all the time,
    while those of a path or a name do so between words."""
    word = max(re.split(r"[._:/-]", value), key=len)[:EXAMINED]
    digits = sum(c.isdigit() for c in word)
    if len(word) < 8 or not 2 <= digits < len(word):
        return False
    # From a capital to a small letter is not a change, since words start that way.
    changes = sum(a != b and (a != "A" or b != "a") for a, b in pairwise(map(_kind, word)))
    return changes >= 0.3 * (len(word) - 1)


def _is_drawn(value: str) -> bool:
    """The same, or a mixture of letters and digits too long to be a word or a name."""
    if _is_random(value):
        return True
    word = value.rstrip("=")[:EXAMINED]
    digits = sum(c.isdigit() for c in word)
    letters = sum(c.isalpha() for c in word)
    return min(digits, letters) >= 6 and digits + letters == len(word) >= 24


def _is_credential(value: str) -> bool:
    """Whether it is a key if one is expected, as after `Authorization:`."""
    return (
        _is_drawn(value)
        or re.fullmatch(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", value.lower()) is not None
    )


@lru_cache(maxsize=1024)
def _kind(character: str) -> str:
    if character.isdigit():
        return "0"
    return "A" if character.isupper() else "a" if character.isalpha() else "-"


def _is_assigned_secret(value: str) -> bool:
    """Whether it is not a path, a variable, a call or a placeholder."""
    return value[0] not in "/~.$%<{[(" and not set(value) & set("(){}[]<>$") and _is_drawn(value)


def _is_password(value: str) -> bool:
    """Whether it is not a placeholder of a manual for a password."""
    plain = value.strip("*xX.…").lower()
    return plain not in ("", "pass", "passwd", "password", "pwd", "secret", "token", "changeme")


def _is_block(value: str) -> bool:
    """Whether it is not only the two lines around a key, in a program that looks for them."""
    if re.search(r"[A-Za-z0-9+/=]{32}", value):
        return True
    lines = re.split(r"\n|\\{1,2}[nr]", value)[1:-1]  # without those two
    return any(map(_is_base64_line, lines))


def _is_base64_line(line: str) -> bool:
    """Whether it may be a line of a short key, ignoring quotation."""
    line = line.strip(" \t\r>|#*'\"`,;:\\")
    digits = any(c.isdigit() for c in line)
    return digits and re.fullmatch(r"[A-Za-z0-9+/]{8,}={0,2}", line) is not None


def _is_no_port(value: str) -> bool:
    """Whether it is a password in an address, not the part after the host."""
    return _is_password(value) and not (value.isdigit() and len(value) <= 5)


def _is_login(value: str) -> bool:
    """Whether it is `user:password` in base64."""
    try:
        user, colon, password = a2b_base64(value.encode()).decode("ascii").partition(":")
    except (Error, ValueError):
        return False
    return bool(user and colon and password) and (user + password).isprintable()


class Rule(Struct, frozen=True):
    """A shape: one of `begins` is found first, then the expression has to match there. Its named
    group is removed, otherwise all of it."""

    label: str
    begins: tuple[str, ...]
    pattern: str
    check: Check = _is_mixed
    folded: bool = False  # ignore case in `begins`
    behind: str = "_-"  # characters that it cannot follow, in addition to letters and digits


# The end of a key that has no separator in it: of its word, or where another key begins. What is in
# front of it is matched lazily, since the beginning of the other one may look like a part of it.
_END = (
    r"(?:(?![A-Za-z0-9_])|(?=gh[pousr]_[A-Za-z0-9]{36}|github_pat_|npm_[A-Za-z0-9]{36}|hf_[A-Za-z0-9]{30}"
    r"|gsk_[A-Za-z0-9]{40}|xai-[A-Za-z0-9]{40}|sk-[A-Za-z0-9]{20}|sk-(?:ant|or|proj)-|A[KS]IA[A-Z2-7]{16}|AGE-SECRET-KEY-1"
    r"|eyJ[\w-]{10,64}\.eyJ|xox[abeoprs]-|glpat-))"
)
# White space, or an escape that stands for it in a string.
_SPACE = r"(?:\s|\\{1,2}[nrt])"
# What is in front of the lines of a key that is quoted: in a letter, a diff, a comment, a listing
# with line numbers, a string for each line.
_QUOTE = rf"""(?:{_SPACE}|[>|#*'"`,;:.+-]|→|\\["']?|//|[0-9]{{1,6}}(?=[\s:|→.)-]))"""
_BLANK = r"(?:\s*\n\s*\n|(?:\\{1,2}[nr]){2})"  # an empty line
_VALUE = (
    r"""\\?["']?\s{0,3}(?:=>|:=|[:=])\s{0,3}"""
    r"""(?:\\?["'`](?P<secret>[^\s"'`\\]{8,512}+)\\?["'`]|(?P<bare>[^\s"'`\\,;&]{8,512}+)(?![^\s"'`\\,;&]))"""
)
# More specific ones come first: of two that start at the same place, the first is used.
RULES = (
    Rule("private key", ("-----BEGIN ",),
         r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
         r"(?:(?:[^-]|-(?!----)){0,20000}+-----END [A-Z ]{1,60}-----"
         rf"|(?:{_QUOTE}{{0,16}}+[A-Za-z-]{{3,20}}: [^\n\\]{{1,100}}+){{0,5}}+"
         rf"(?:{_QUOTE}{{0,16}}+[A-Za-z0-9+/=]{{20,20000}}+){{1,2000}}+(?:(?!{_BLANK}){_QUOTE}{{1,16}}+[A-Za-z0-9+/]{{1,19}}={{0,2}}(?=\s*(?:[\"'`,;\\\\\n]|\Z)))?)",
         _is_block, behind=""),
    Rule("age key", ("AGE-SECRET-KEY-1",), r"AGE-SECRET-KEY-1[0-9A-Z]{20,100}?" + _END),
    Rule("anthropic key", ("sk-ant-",), r"sk-ant-[\w-]{20,}"),
    Rule("openrouter key", ("sk-or-",), r"sk-or-[\w-]{20,}"),
    Rule("openai key", ("sk-",), r"sk-(?:(?:proj|svcacct|admin|None)-[\w-]{20,}|[A-Za-z0-9]{32,}?" + _END + ")"),
    Rule("google key", ("AIza",), r"AIza[\w-]{35}(?![\w-])"),
    Rule("google token", ("ya29.",), r"ya29\.[\w-]{30,}"),
    Rule("github token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[pousr]_[A-Za-z0-9]{36,255}?" + _END),
    Rule("github token", ("github_pat_",), r"github_pat_\w{40,255}"),
    Rule("gitlab token", ("glpat-", "gldt-", "glrt-", "glcbt-", "glptt-"), r"gl(?:pat|dt|rt|cbt|ptt)-[\w-]{20,}(?:\.[\w-]{2,20}\.[\w-]{5,20})?"),
    Rule("aws access key", ("AKIA", "ASIA"), r"A(?:KIA|SIA)[A-Z2-7]{16}" + _END),
    Rule("aws secret key", ("secret",),
         r"""(?i:secret_?access_?key)\\?["']?\s{0,3}[:=]\s{0,3}\\?["']?(?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])""",
         folded=True, behind=""),
    Rule("slack token", ("xox", "xapp-"), r"(?:xox[abeoprs]|xapp)-[\w.-]{16,}"),
    Rule("slack webhook", ("hooks.slack.com/",), r"hooks\.slack\.com/(?P<secret>(?:services|workflows|triggers)/[\w/]{20,})", behind=""),
    Rule("stripe key", ("sk_live_", "rk_live_"), r"[sr]k_live_[A-Za-z0-9]{16,}"),
    Rule("npm token", ("npm_",), r"npm_[A-Za-z0-9]{36}" + _END),
    Rule("pypi token", ("pypi-AgE",), r"pypi-AgE[\w-]{50,}"),
    Rule("hugging face token", ("hf_",), r"hf_[A-Za-z0-9]{30,}?" + _END),
    Rule("groq key", ("gsk_",), r"gsk_[A-Za-z0-9]{40,}?" + _END),
    Rule("xai key", ("xai-",), r"xai-[A-Za-z0-9]{40,}?" + _END),
    Rule("sendgrid key", ("SG.",), r"SG\.[\w-]{22}\.[\w-]{43}(?![\w-])"),
    Rule("digitalocean token", ("doo_v1_", "dop_v1_", "dor_v1_"), r"do[opr]_v1_[0-9a-f]{64}" + _END),
    Rule("vault token", ("hvs.", "hvb.", "hvr."), r"hv[sbr]\.[\w-]{24,}"),
    Rule("databricks token", ("dapi",), r"dapi[0-9a-f]{32}(?:-[0-9]{1,2})?" + _END),
    Rule("replicate token", ("r8_",), r"r8_[A-Za-z0-9]{37}" + _END),
    Rule("perplexity key", ("pplx-",), r"pplx-[A-Za-z0-9]{40,}?" + _END),
    Rule("nvidia key", ("nvapi-",), r"nvapi-[\w-]{60,}"),
    Rule("langsmith key", ("lsv2_",), r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}" + _END),
    Rule("google client secret", ("GOCSPX-",), r"GOCSPX-[\w-]{28}(?![\w-])"),
    Rule("azure client secret", ("Q~",), r"(?<=[0-9])Q~(?P<secret>[\w.~-]{31,34})(?![\w.~-])", behind=""),
    Rule("sentry token", ("sntrys_", "sntryu_"), r"sntry(?:s_eyJ[\w=+/-]{40,}|u_[0-9a-f]{64})"),
    Rule("supabase key", ("sbp_", "sb_secret_"), r"(?:sbp_[0-9a-f]{40}|sb_secret_[\w-]{30,})" + _END),
    Rule("linear key", ("lin_api_", "lin_oauth_"), r"lin_(?:api|oauth)_[A-Za-z0-9]{32,}?" + _END),
    Rule("notion token", ("ntn_",), r"ntn_[A-Za-z0-9]{40,}?" + _END),
    Rule("telegram token", (":AA",), r"(?<=[0-9]{8}):(?P<secret>AA[\w-]{33})(?![\w-])", behind=""),
    Rule("discord webhook", ("/api/webhooks/",), r"/api/webhooks/[0-9]{15,21}/(?P<secret>[\w-]{60,80})(?![\w-])", behind=""),
    Rule("shopify token", ("shpat_", "shpca_", "shppa_", "shpss_"), r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}" + _END),
    Rule("stripe webhook secret", ("whsec_",), r"whsec_[A-Za-z0-9+/]{32,}"),
    Rule("postman key", ("PMAK-",), r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}" + _END),
    Rule("grafana token", ("glsa_",), r"glsa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}" + _END),
    Rule("tailscale key", ("tskey-",), r"tskey-[a-z]{3,10}-[A-Za-z0-9]{8,32}-[A-Za-z0-9]{20,}?" + _END),
    Rule("pulumi token", ("pul-",), r"pul-[0-9a-f]{40}" + _END),
    Rule("planetscale token", ("pscale_",), r"pscale_(?:tkn|pw|oauth)_[\w.=-]{32,}"),
    Rule("atlassian token", ("ATATT3",), r"ATATT3[\w=-]{100,}"),
    Rule("doppler token", ("dp.pt.", "dp.st.", "dp.ct."), r"dp\.[psc]t\.[\w.-]{40,}"),
    Rule("figma token", ("figd_",), r"figd_[\w-]{38,}"),
    Rule("1password token", ("ops_eyJ",), r"ops_eyJ[\w+/=-]{200,}"),
    Rule("terraform token", (".atlasv1.",), r"\.atlasv1\.(?P<secret>[\w-]{60,70})(?![\w-])", behind=""),
    Rule("jwt", ("eyJ",), r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{16,}", behind="_-."),
    Rule("authorization", ("bearer ",), r"(?i:bearer) {1,3}(?P<secret>[\w.~+/-]{16,4096}={0,2})", _is_drawn, folded=True),
    Rule("authorization", ("authorization",),
         r"""(?i:authorization\\?["']?\s{0,3}[:=]\s{0,3}\\?["']?basic) {1,3}(?P<secret>[A-Za-z0-9+/]{8,4096}={0,2})""",
         folded=True, behind=""),
    Rule("authorization", ("authorization",),
         r"""(?i:authorization)\\?["']?\s{0,3}[:=]\s{0,3}\\?["']?(?:[A-Za-z][A-Za-z0-9-]{1,20} {1,3}(?:[a-z]{1,16}=\\?["']?)?)?(?P<secret>[\w.~+/-]{16,4096}={0,2})""",
         _is_credential, folded=True, behind=""),
    # An address of Redis whose password is not percent-encoded; all until the last @ belongs to it,
    # but for parameters.
    Rule("password", ("redis://", "rediss://"),
         r"""(?i:rediss?)://[^\s/:@"'<>\[\]]{0,100}:(?![0-9]{1,5}(?:/[0-9]{0,5})?(?:[,;)|@]|\Z))"""
         r"""(?P<secret>(?:[^\s?"'<>\[\]{}$]|\?(?![a-z_]{2,24}=)){1,200})@""",
         _is_password, folded=True, behind=""),
    Rule("password", ("://",), r"""://[^\s/:@"'<>\[\]]{1,100}:(?P<secret>[^\s/"'<>\[\]{}$]{1,200})@(?!sha[0-9]{3}:)""",
         _is_no_port, behind=""),
    Rule("password", ("://:",), r"""://:(?!pserver:|ext:)(?P<secret>[^\s/"'<>\[\]{}$]{1,200})@""", _is_password, behind=""),
    Rule("token", ("://",), r"""://(?P<secret>[\w.~%+-]{16,255}):?@""", _is_random, behind=""),
    Rule("password", ("machine ", "default ", "machine\n", "machine\\n"),
         rf"(?:machine{_SPACE}{{1,8}}[^\s\\]{{1,255}}|default){_SPACE}{{1,8}}"
         rf"(?:login{_SPACE}{{1,8}}[^\s\\]{{1,255}}{_SPACE}{{1,8}}(?:account{_SPACE}{{1,8}}[^\s\\]{{1,255}}{_SPACE}{{1,8}})?password{_SPACE}{{1,8}}(?P<secret>(?![\[<({{$%])[^\s\\\"']{{1,255}})"
         rf"|password{_SPACE}{{1,8}}(?P<bare>(?![\[<({{$%])[^\s\\\"']{{1,255}})(?={_SPACE}{{1,8}}login{_SPACE}))",
         _is_password),
    Rule("docker login", ('"auth', "'auth", '\\"auth'),
         r"""\\?["']auth\\?["']\s{0,3}:\s{0,3}\\?["'](?P<secret>[A-Za-z0-9+/]{8,4096}={0,2})\\?["']""", _is_login, behind=""),
    Rule("password", (" -u ", "--user ", "--user=", "--proxy-user "),
         r"""(?: -u|--user|--proxy-user)[ =]\s{0,3}["']?[^\s:"'\\]{1,100}:(?P<secret>[^\s"'\\]{8,200})""",
         _is_assigned_secret, behind=""),
    Rule("password", ("-password ", "-passwd ", "-passphrase "),
         r"""-(?:password|passwd|passphrase) {1,3}\\?["']?(?P<secret>[^\s"'\\]{8,512})""", _is_assigned_secret, behind=""),
    Rule("secret", ("-token ", "-secret ", "-api-key ", "-apikey ", "-access-key ", "-secret-key "),
         r"""-(?:token|secret|api-?key|access-key|secret-key) {1,3}\\?["']?(?P<secret>[^\s"'\\]{8,512})""",
         _is_assigned_secret, behind=""),
    Rule("npm token", (":_authtoken", ":_password", ":_auth"),
         r""":_(?i:authtoken|password|auth)\s{0,3}=\s{0,3}["']?(?P<secret>[\w.~+/-]{8,512}={0,2})""", folded=True, behind=""),
    Rule("azure signature", ("sig=",), r"(?<=[?&;])sig=(?P<secret>(?:[A-Za-z0-9+/]|%2[BbFf]){40,60}(?:=|%3[Dd]))", behind=""),
    Rule("django key", ("django-insecure-",), r"django-insecure-(?P<secret>[\w!@#$%^&*()=+-]{20,100})", behind="_"),
    Rule("password", ("passw", "pwd"), r"(?i:passw(?:or)?d|pwd)" + _VALUE, _is_assigned_secret, folded=True, behind=""),
    Rule("secret", ("secret", "token", "api", "access", "accountkey"),
         r"(?i:secret(?:[_-]?(?:access[_-]?)?key)?|token|api[_-]?(?:key|secret)|access[_-]?key|accountkey)" + _VALUE,
         _is_assigned_secret, folded=True, behind=""),
)  # fmt: skip
