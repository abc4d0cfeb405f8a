"""Secrets are taken out of what is stored; all that only looks a little like one stays."""

import hashlib
import subprocess
import sys
import time
import uuid
from base64 import b64encode
from collections.abc import Iterable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.text.redact import RULES, SHORT, everywhere, redact
from clinvk.text.redact import _redact as search
from tests.conftest import CommandLine, Home

# Every key is put together here, so that no scanner takes this file for a leak.
ALNUM = "aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA"
LONG = ALNUM * 4
HEX = hashlib.sha256(b"clinvk").hexdigest()
BASE32 = "QWERTY234567ASDF"
PEM = "\n".join(b64encode(hashlib.sha512(bytes([n])).digest()).decode()[:64] for n in range(8))
DASHES = "-" * 5
JWT = ".".join(["ey" + "J" + LONG[:30], "ey" + "J" + LONG[:60], LONG[:43]])

KEYS = {
    "anthropic key": ["sk-" + "ant-api03-" + LONG[:93] + "AA", "sk-" + "ant-oat01-" + LONG[:80]],
    "openai key": ["sk-" + "proj-" + LONG[:74] + "T3Blb" + "kFJ" + ALNUM, "sk-" + LONG[:48],
                   "sk-" + "svcacct-" + LONG[:60], "sk-" + HEX[:32]],
    "openrouter key": ["sk-" + "or-v1-" + HEX],
    "google key": ["AI" + "za" + LONG[:35]],
    "google token": ["ya" + "29." + LONG],
    "github token": ["gh" + f"{c}_" + LONG[:36] for c in "pousr"]
    + ["github_" + "pat_" + LONG[:22] + "_" + LONG[:59]],
    "gitlab token": ["gl" + "pat-" + LONG[:20]],
    "aws access key": ["AK" + "IA" + BASE32, "AS" + "IA" + BASE32],
    "slack token": ["xo" + "xb-123456789012-1234567890123-" + LONG[:24],
                    "xa" + "pp-1-A0123-456-" + HEX],
    "stripe key": ["sk_" + "live_" + LONG[:24], "rk_" + "live_" + LONG[:99]],
    "npm token": ["np" + "m_" + LONG[:36]],
    "pypi token": ["py" + "pi-AgEIcHlwaS5vcmc" + LONG[:100]],
    "hugging face token": ["h" + "f_" + LONG[:34]],
    "groq key": ["gs" + "k_" + LONG[:52]],
    "xai key": ["xa" + "i-" + LONG[:80]],
    "sendgrid key": ["S" + "G." + LONG[:22] + "." + LONG[:43]],
    "digitalocean token": ["do" + "p_v1_" + HEX],
    "age key": ["AGE-" + "SECRET-KEY-1" + (BASE32 * 4)[:58]],
    "vault token": ["hv" + "s." + LONG[:90], "hv" + "b." + LONG[:90]],
    "databricks token": ["da" + "pi" + HEX[:32], "da" + "pi" + HEX[:32] + "-2"],
    "replicate token": ["r" + "8_" + LONG[:37]],
    "perplexity key": ["pp" + "lx-" + LONG[:48]],
    "nvidia key": ["nv" + "api-" + LONG[:64]],
    "langsmith key": ["ls" + "v2_pt_" + HEX[:32] + "_" + HEX[:10]],
    "google client secret": ["GOC" + "SPX-" + LONG[:28]],
    "sentry token": ["sn" + "tryu_" + HEX, "sn" + "trys_eyJ" + LONG[:80]],
    "supabase key": ["sb" + "p_" + HEX[:40], "sb_" + "secret_" + LONG[:31]],
    "linear key": ["li" + "n_api_" + LONG[:40]],
    "notion token": ["nt" + "n_" + LONG[:46]],
    "shopify token": ["sh" + "pat_" + HEX[:32]],
    "stripe webhook secret": ["wh" + "sec_" + LONG[:32]],
    "postman key": ["PM" + "AK-" + HEX[:24] + "-" + HEX[:34]],
    "grafana token": ["gl" + "sa_" + LONG[:32] + "_" + HEX[:8]],
    "tailscale key": ["ts" + "key-auth-" + LONG[:17] + "-" + LONG[:32]],
    "pulumi token": ["pu" + "l-" + HEX[:40]],
    "planetscale token": ["ps" + "cale_tkn_" + LONG[:43]],
    "atlassian token": ["AT" + "ATT3" + LONG[:120]],
    "doppler token": ["d" + "p.st." + LONG[:43]],
    "figma token": ["fi" + "gd_" + LONG[:40]],
    "1password token": ["op" + "s_eyJ" + LONG + LONG],
    "jwt": [JWT],
    "private key": [
        f"{DASHES}BEGIN {kind}PRIVATE KEY{DASHES}\n{PEM}\n{DASHES}END {kind}PRIVATE KEY{DASHES}"
        for kind in ("", "RSA ", "OPENSSH ", "EC ")
    ] + [f"{DASHES}BEGIN PRIVATE KEY{DASHES}\\n" + PEM.replace("\n", "\\n")
         + f"\\n{DASHES}END PRIVATE KEY{DASHES}"],
}  # fmt: skip

# (what is written, the part of it that has to go, the label)
AROUND = [
    (f"Authorization: Bearer {LONG[:40]}", LONG[:40], "authorization"),
    (f'-H "authorization: bearer {HEX}"', HEX, "authorization"),
    ("Authorization: Basic " + "dXNlcjpwYXNzd29yZDEyMw==", "dXNlcjpwYXNzd29yZDEyMw==",
     "authorization"),
    ("postgres://app:" + "h4rd2gues$s" + "@db.internal:5432/app", "h4rd2gues$s", None),
    ("https://me:" + "s3cr-et.99" + "@example.org/x.git", "s3cr-et.99", "password"),
    ("DB_PASSWORD=" + "Tr0ub4dor9x", "Tr0ub4dor9x", "password"),
    ('"password": "' + "x7Kq9Zt2Lm4w" + '",', "x7Kq9Zt2Lm4w", "password"),
    ('{\\"api_key\\": \\"' + LONG[:32] + '\\"}', LONG[:32], "secret"),
    (f"export SERVICE_TOKEN={HEX[:40]}", HEX[:40], "secret"),
    (f"x-api-key: {ALNUM}", ALNUM, "secret"),
    (f"?access_key={ALNUM}&page=2", ALNUM, "secret"),
    (f"aws_secret_access_key = {LONG[:20]}/+{LONG[:18]}", f"{LONG[:20]}/+{LONG[:18]}",
     "aws secret key"),
    ("redis://:" + "h4rdguess" + "@db.internal:6379/0", "h4rdguess", "password"),
    ("redis://:" + "12345" + "@db.internal:6379/0", "12345", "password"),
    ("amqp://app:" + "x@y9w@z" + "@mq.internal/v", "x@y9w@z", "password"),
    ("git clone https://" + LONG[:40] + "@git.example.org/x.git", LONG[:40], "token"),
    ("https://" + LONG[:40] + ":@git.example.org/x.git", LONG[:40], "token"),
    ('{"auths": {"registry.example": {"auth": "' + b64encode(b"me:h4rdguess").decode() + '"}}}',
     b64encode(b"me:h4rdguess").decode(), "docker login"),
    ('{\\"auth\\": \\"' + b64encode(b"me:h4rdguess").decode() + '\\"}',
     b64encode(b"me:h4rdguess").decode(), "docker login"),
    ("machine git.example.org login me password " + "h4rdguess" + "\n", "h4rdguess", "password"),
    ("machine git.example.org\n  login me\n  password " + "h4rdguess", "h4rdguess", "password"),
    ("machine git.example.org\\nlogin me\\npassword " + "h4rdguess\\n", "h4rdguess", "password"),
    ("machine git.example.org password " + "h4rdguess" + " login me", "h4rdguess", "password"),
    ("default login me password " + "h4rdguess", "h4rdguess", "password"),
    ("bot 1234567890:" + "AA" + LONG[:33], "AA" + LONG[:33], "telegram token"),
    ("https://discord.com/api/webhooks/123456789012345678/" + LONG[:68], LONG[:68],
     "discord webhook"),
    ("id abC8" + "Q~" + LONG[:34], LONG[:34], "azure client secret"),
    ("aB3dE6gH9jK2mN.atlasv1." + LONG[:67], LONG[:67], "terraform token"),
    ("Authorization: Token " + LONG[:28], LONG[:28], "authorization"),
    ("Authorization: Bearer " + "abcDEF123456ghiJKL7890mnop", "abcDEF123456ghiJKL7890mnop",
     "authorization"),
    ("authorization: " + LONG[:40], LONG[:40], "authorization"),
    (f"Authorization: ApiKey {uuid.UUID(HEX[:32])}", str(uuid.UUID(HEX[:32])), "authorization"),
    ('Authorization: Token token="' + ALNUM + '"', ALNUM, "authorization"),
    ("redis://bob:" + "Secr9xQ/xy#z" + "@host:6379/0", "Secr9xQ/xy#z", "password"),
    ("rediss://:" + "a@b?c/d" + "@host/0?client_name=a@b", "a@b?c/d", "password"),
    ("mysql --password " + "Zx8QmN4vRt2" + " app", "Zx8QmN4vRt2", "password"),
    ('x --api-key "' + ALNUM + '"', ALNUM, "secret"),
    ("x --auth-token " + ALNUM, ALNUM, "secret"),
    ("curl -u admin:" + "Zx8QmN4vRt2LpK" + " https://example.org", "Zx8QmN4vRt2LpK", "password"),
    ("curl --user 'admin:" + "Zx8QmN4vRt2LpK" + "' x", "Zx8QmN4vRt2LpK", "password"),
    (f"//registry.example/:_authToken={uuid.UUID(HEX[:32])}", str(uuid.UUID(HEX[:32])),
     "npm token"),
    ("https://a.blob.example/c?sv=2020-08-04&sig=" + LONG[:20] + "%2F" + LONG[:22] + "%3D&x=1",
     LONG[:20] + "%2F" + LONG[:22] + "%3D", "azure signature"),
    ("SECRET_KEY = 'django-" + "insecure-" + "x7$k9(" + LONG[:44] + "'", "x7$k9(" + LONG[:44],
     "django key"),
    ("API_TOKEN=" + "0123456789abcdefABCDEF012345", "0123456789abcdefABCDEF012345", "secret"),
    ("X-Api-Key: " + "0123456789abcdefABCDEF012345", "0123456789abcdefABCDEF012345", "secret"),
    (f"client_secret: '{uuid.UUID(HEX[:32])}'", str(uuid.UUID(HEX[:32])), "secret"),
]  # fmt: skip

UNTOUCHED = [
    "commit 615df56 and dcce7b7d6fa1d0b1a8c5b9f3e0a7c2d4e6f80912",
    f"sha256:{HEX}",
    "session 01a1fbfb-d5ad-7302-804c-c21153afa036 (codex)",
    "data:image/png;base64," + b64encode(hashlib.sha512(b"png").digest() * 40).decode(),
    "https://example.org/a/b?page=2&sort=name#frag-0123456789abcdef0123456789abcdef",
    "git clone https://git@github.com/owner/repo.git && ssh://git@host:22/x",
    "http://localhost:8080/@scope/pkg and https://host:443/a@b",
    "postgres://user:password@localhost/db and redis://:***@cache, amqp://u:${PASS}@mq",
    "pip install sk-learn scikit-learn task-1234567890abcdef sk-fading-circle",
    "ghp and gho_ are prefixes; ghp_short; the token begins with `ghp_`",
    "sk-ant-your-api-key-goes-here, sk-proj-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "npm_config_registry hf_hub_download hf_transfer npm_lifecycle_event pypi-server",
    "password=password, password: str | None = None, password=self.password_field1",
    "login(user, password=settings.DB_PASSWORD2, api_key=os.environ['API_KEY'])",
    "token = tokenizer.next_token(); secret = getSecretValue2(); api_key = load_key(path)",
    "api_key: <your-api-key-1234>  token: ${{ secrets.GITHUB_TOKEN }}  pwd=/home/me/a1b2c3d4",
    "PASSWORD=$DB_PASSWORD; export TOKEN=$(cat file); secret: {{ vault_secret_1 }}",
    "max_tokens=1234567890123 token_count: 98765432 tokens: 12,345",
    "Bearer authentication-is-a-scheme; Authorization: Bearer $TOKEN; Bearer <token>",
    f'if "{DASHES}BEGIN PRIVATE KEY{DASHES}" in text or "{DASHES}END PRIVATE KEY{DASHES}" in text:',
    f"{DASHES}BEGIN CERTIFICATE{DASHES}\n{PEM}\n{DASHES}END CERTIFICATE{DASHES}",
    f"{DASHES}BEGIN PUBLIC KEY{DASHES}\n{PEM}\n{DASHES}END PUBLIC KEY{DASHES}",
    "eyJhbGciOiJIUzI1NiJ9 is base64 of a header; AKIA is a prefix, AKIAX too",
    "docker://alpine:3.18@sha256:" + HEX + " and oci://a/b:1@sha256:" + HEX,
    "ssh://host:22@x and http://proxy:8080@, redis://bob:…@h, cvs://:pserver:anoncvs@h",
    "https://first.last@example.org ssh://some-long-user-name@host sftp://backup_user_2026@h",
    '"auth": "basic", "auth": "dXNlcg==", "auth": "bm90IGEgbG9naW4gYnV0IGxvbmdlcg=="',
    "a machine learning password model; the machine login page; by default login me password",
    "machine HOST login NAME password PASSWORD",
    "hvs.example dapi r8_ pplx-online lin_api_ ntn_ sbp_ dp.pt. age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j",
    "redis://cache:6379/0,me@example.org redis://h/0?client_name=a@b mysql --password <password>",
    "docker run -u 1000:1000 x; sort -u a:b; --token $TOKEN --password ${PASSWORD} --secret your-secret",
    "//registry.example/:_authToken=${NPM_TOKEN} ?sig=none&x django-insecure- is a prefix",
    'Authorization: Digest username="me", Authorization: Token <token>, authorization: required',
    "[redacted: github token] password=[redacted: password]",
    "ünï İstanbul 😀 \ud800 \x00",
]


EXAMPLES = [(label, key) for label, keys in KEYS.items() for key in keys]
FIRST_EXAMPLES = [(label, keys[0]) for label, keys in KEYS.items()]


def wrongly_redacted(expected: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Of these texts, each with what it has to become: the text, and what it becomes instead."""
    return [(text, got) for text, right in expected if (got := redact(text)) != right]


@pytest.mark.parametrize("around", ["{}", "see {} there", 'x="{}";', "({}),", "İé {}\n", "K={}"])
def test_a_key_is_named_and_gone(around: str):
    expected = [(around.format(k), around.format(f"[redacted: {label}]")) for label, k in EXAMPLES]
    assert wrongly_redacted(expected) == []


GITHUB = KEYS["github token"][0]
PREFIXES = ["我的令牌是", "トークンは", "ключ", "é", "\x1b[32m", "\x1b[1;38;5;200m", "\x9b0m", "\x1bM",
            r"\n", r"\r", r"\t", r"\\n", r"\u001b[0m", r"\x1b[0m", r"\033[1;31m", r"\e[0m", r"\u00e9",
            r"\u{1b}", "%20", "%3D"]  # fmt: skip


@pytest.mark.parametrize("behind", ["", "令"])
def test_a_key_is_found_behind_letters_and_escapes(behind: str):
    expected = [
        (f"so {prefix}{key}{behind}", f"so {prefix}[redacted: {label}]{behind}")
        for prefix in PREFIXES
        for label, key in FIRST_EXAMPLES
    ]
    assert wrongly_redacted(expected) == []


def test_what_is_within_a_word_is_no_key():
    texts = [prefix + GITHUB for prefix in ("a", "7", "_", "-", "x-", "n", "0m")]
    assert wrongly_redacted((text, text) for text in texts) == []


MARKS = ["> ", "| ", "+", "-", "# ", "// ", " * ", "\t", '    "', "12: ", "  7→"]
ENDS = ["\n", "\r\n", r"\n", r"\\n", '\\n"\n']


def test_a_quoted_private_key_without_its_end_is_gone():
    lines = [f"{DASHES}BEGIN RSA PRIVATE KEY{DASHES}", *PEM.split("\n"), "abcdEFGH12=="]
    for mark, end in product(MARKS, ENDS):
        text = redact("".join(f"{mark}{line}{end}" for line in lines))
        assert text.startswith(f"{mark}[redacted: private key]"), (mark, end)
        assert not any(line in text for line in lines[1:]), (mark, end)


def test_the_lines_in_front_of_an_encrypted_key_do_not_keep_it():
    about = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0123456789ABCDEF0123456789ABCDEF\n\n"
    text = f"{DASHES}BEGIN RSA PRIVATE KEY{DASHES}\n{about}{PEM}"
    assert redact(text) == "[redacted: private key]"


def test_the_text_behind_a_private_key_without_an_end_stays():
    key = f"{DASHES}BEGIN PRIVATE KEY{DASHES}\n{PEM}\n"
    assert redact(f"{key}\nThis is what I found.").endswith("This is what I found.")


@pytest.mark.parametrize("between", ["", "\n", "令"])
def test_keys_without_a_space_between_them_are_all_gone(between: str):
    for label in ("github token", "npm token", "aws access key", "hugging face token", "age key",
                  "xai key", "groq key"):  # fmt: skip
        key = KEYS[label][0]
        assert redact(between.join([key] * 3)) == between.join([f"[redacted: {label}]"] * 3)


def test_a_short_private_key_between_its_lines_is_gone():
    kind = "PGP PRIVATE KEY BLOCK"
    key = f"{DASHES}BEGIN {kind}{DASHES}\n\nlQOYBGabc123XYZ\n=abcd\n{DASHES}END {kind}{DASHES}"
    assert redact(f"a {key} b") == "a [redacted: private key] b"
    assert redact(key.replace("\n", "\\n")) == "[redacted: private key]"


@given(
    st.lists(st.sampled_from([GITHUB, *KEYS["slack token"], *KEYS["age key"], JWT, " ", "-", "a"]))
)
def test_keys_next_to_each_other_are_treated_alike_whatever_their_number(pieces: list[str]):
    text = "".join(pieces)
    assert redact(redact(text)) == redact(text)


def test_keys_of_mappings_are_redacted():
    data = {GITHUB: {"x": [GITHUB]}, "plain": 1, 2: GITHUB}
    note = "[redacted: github token]"
    assert everywhere(data, redact) == {note: {"x": [note]}, "plain": 1, 2: note}
    two = everywhere({GITHUB: 1, GITHUB[:-1] + "x": 2, f"{note} (2)": 3}, redact)
    assert two == {note: 1, f"{note} (3)": 2, f"{note} (2)": 3}


def test_what_stands_behind_its_name_is_gone():
    expected = [  # without a label it stays: a $ may be the beginning of a variable
        (text, text.replace(secret, f"[redacted: {label}]") if label else text)
        for text, secret, label in AROUND
    ]
    assert wrongly_redacted(expected) == []


def test_what_is_no_secret_stays():
    assert wrongly_redacted((text, text) for text in UNTOUCHED) == []


def test_every_shape_has_an_example():
    seen = {*KEYS, *(label for _, _, label in AROUND), "slack webhook"}
    assert {rule.label for rule in RULES} <= seen


def test_all_secrets_of_a_text_go_and_the_rest_stays():
    text = " and ".join(v for vs in KEYS.values() for v in vs)
    assert redact(text) == " and ".join(f"[redacted: {k}]" for k, vs in KEYS.items() for _ in vs)


PIECES = st.one_of(
    st.text(max_size=20),
    st.sampled_from([v for vs in KEYS.values() for v in vs]),
    st.sampled_from([text for text, _, _ in AROUND]),
    st.sampled_from([b for rule in RULES for b in rule.begins]),
    st.sampled_from(["=", ": ", '"', "@", "://u:", "[redacted: ", "]", "\n", "Bearer ", "token="]),
)


@given(st.lists(PIECES, max_size=8).map("".join))
def test_a_second_time_changes_nothing(text: str):
    once = redact(text)
    assert redact(once) == once


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_text_without_secrets_is_untouched(text: str):
    assert redact(text) == text


WORST = [
    "sk-" + "ant-", "ey" + "J", "password=", "token:token=", "://a:", "://", "://:", "xo" + "xb-aaa.",
    "bearer a1", "bearer a1b2/", "The quick brown fox. ", "AK" + "IA", "%20AK" + "IA", r"\n" + "AK" + "IA",
    f"{DASHES}BEGIN PRIVATE KEY{DASHES}" + "A" * 31 + "\n", f"{DASHES}BEGIN PRIVATE KEY{DASHES}\n",
    f"{DASHES}BEGIN PRIVATE KEY{DASHES}\nA: b\n" + "1:" * 8, "machine a login b ", '"auth": "YQ',
    "github_" + "pat_" + (LONG * 3)[:244], GITHUB, GITHUB + " ", JWT + "/", "password=" + LONG[:40] + " ",
    "password=" + LONG, "password='" + LONG + "' ", ":AA", "Q~", "://a:b@", "://" + LONG[:60], "\x1b[0",
    "eyJ" + "a" * 10 + "/", "secretsecretsecret: ",
    "redis://", "redis://a:", "redis://a:b@", "redis://a:/@", " -u a:", " -u ", "--user a:b1", "-password ",
    "-token aB3dE6gH", ":_authtoken=", "authorization: a ", "authorization: token a=", "?sig=", "?sig=" + LONG,
    "django-insecure-", "AGE-" + "SECRET-KEY-1", "AGE-" + "SECRET-KEY-1" + BASE32 * 8 + "_", GITHUB + "_",
    "gh" + "p_" + LONG[:36] + "x_", "sk-" + "a" * 40, "hf" + "_" + LONG,
    f"{DASHES}BEGIN PRIVATE KEY{DASHES}\na\n{DASHES}END PRIVATE KEY{DASHES}\n",
    f"{DASHES}BEGIN PRIVATE KEY{DASHES}" + "a\n" * 9000 + f"{DASHES}END PRIVATE KEY{DASHES}",
]  # fmt: skip


def test_no_text_takes_long():
    slow = []
    for piece in WORST:
        text = piece * (200_000 // len(piece))
        began = time.process_time()
        redact(text)
        took = time.process_time() - began
        slow += [(piece[:80], took)] if took >= 2 else []
    assert slow == []


def test_nothing_is_compiled_at_import():
    code = "import clinvk.text.redact as r; print(r._compile.cache_info().currsize)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


KEY = KEYS["github token"][0]


def test_what_is_stored_is_redacted_and_what_is_sent_is_not(clinvk: CommandLine, home: Home):
    done = clinvk("-b", "echo", "--title", f"with {KEY}", f"use {KEY} now")
    assert KEY in done.stdout
    clinvk("-c", "-b", "echo", f"again {KEY}")
    kept = b"".join(p.read_bytes() for f in ("sessions", "transcripts")
                    for p in (home.path / f).iterdir())  # fmt: skip
    assert KEY.encode() not in kept
    assert home.record()["title"] == "with [redacted: github token]"
    assert home.record()["prompt"] == "use [redacted: github token] now"
    assert [m["role"] for m in home.transcript()] == ["user", "assistant"] * 2
    assert all("[redacted: github token]" in m["content"] for m in home.transcript())


def test_the_options_of_a_session_are_redacted(clinvk: CommandLine, home: Home):
    home.backend("fake")
    (home.work / KEY).mkdir()
    asked = ("--system-prompt", f"use {KEY}", "--add-dir", KEY)
    assert clinvk("-b", "fake", *asked, "hello").returncode == 0
    kept = b"".join(p.read_bytes() for p in (home.path / "sessions").iterdir())
    assert KEY.encode() not in kept
    assert home.record()["options"]["system_prompt"] == "use [redacted: github token]"
    done = clinvk("-c", "-b", "fake", "--title", f"now {KEY}", "again")
    kept = b"".join(p.read_bytes() for p in (home.path / "sessions").iterdir())
    assert KEY.encode() not in kept
    assert "system_prompt" in done.stderr
    assert "stored without" in done.stderr


def test_an_error_is_redacted(clinvk: CommandLine, home: Home):
    clinvk("-b", "echo", "--option", f"fail=bad key {KEY}", "hello")
    assert KEY not in str(home.record()["error"])


def test_redaction_can_be_switched_off(clinvk: CommandLine, home: Home):
    home.config("session: {redact: false}")
    clinvk("-b", "echo", f"use {KEY} now")
    assert home.record()["prompt"] == f"use {KEY} now"


def test_many_keys_of_a_mapping_that_become_the_same_take_no_time():
    began = time.process_time()
    changed = everywhere({f"{n}": n for n in range(50_000)}, lambda _: "same")
    assert time.process_time() - began < 5
    assert len(changed) == 50_000


@given(
    st.sampled_from([key for keys in KEYS.values() for key in keys if len(key) < SHORT]),
    st.text(max_size=8),
    st.text(max_size=8),
)
def test_a_short_text_is_searched_like_a_long_one(key: str, before: str, after: str):
    for text in (key, key.upper(), key.replace("i", "İ"), before + key + after):
        assert redact(text) == search(text)
