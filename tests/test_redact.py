"""Secrets are taken out of what is stored; all that only looks a little like one stays."""

import hashlib
import subprocess
import sys
import time
import uuid
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.redact import RULES, redact
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
    "[redacted: github token] password=[redacted: password]",
    "ünï İstanbul 😀 \ud800 \x00",
]


@pytest.mark.parametrize(("label", "key"), [(k, v) for k, vs in KEYS.items() for v in vs])
@pytest.mark.parametrize("around", ["{}", "see {} there", 'x="{}";', "({}),", "İé {}\n", "K={}"])
def test_a_key_is_named_and_gone(label: str, key: str, around: str):
    assert redact(around.format(key)) == around.format(f"[redacted: {label}]")


@pytest.mark.parametrize(("text", "secret", "label"), AROUND)
def test_what_stands_behind_its_name_is_gone(text: str, secret: str, label: str | None):
    if label is None:  # a $ may be the beginning of a variable
        assert redact(text) == text
    else:
        assert redact(text) == text.replace(secret, f"[redacted: {label}]")


@pytest.mark.parametrize("text", UNTOUCHED)
def test_what_is_no_secret_stays(text: str):
    assert redact(text) == text


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


@pytest.mark.parametrize(
    "piece",
    ["sk-" + "ant-", "ey" + "J", "password=", "token:token=", "://a:", "xo" + "xb-aaa.", "bearer a1",
     f"{DASHES}BEGIN PRIVATE KEY{DASHES}" + "A" * 31 + "\n", "The quick brown fox. "],
)  # fmt: skip
def test_no_text_takes_long(piece: str):
    text = piece * (200_000 // len(piece))
    began = time.perf_counter()
    redact(text)
    assert time.perf_counter() - began < 2


def test_nothing_is_compiled_at_import():
    code = "import clinvk.redact as r; print(r._compiled.cache_info().currsize)"
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


def test_an_error_is_redacted(clinvk: CommandLine, home: Home):
    clinvk("-b", "echo", "--option", f"fail=bad key {KEY}", "hello")
    assert KEY not in str(home.record()["error"])


def test_redaction_can_be_switched_off(clinvk: CommandLine, home: Home):
    home.config("session: {redact: false}")
    clinvk("-b", "echo", f"use {KEY} now")
    assert home.record()["prompt"] == f"use {KEY} now"
