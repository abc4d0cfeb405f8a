"""What an address shows, and that nothing shows more."""

import json
import time
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.errors import ConfigError
from clinvk.store.redis.client import RedisClient
from clinvk.text import addresses
from clinvk.text.addresses import is_encoded, mask_password, problem, without_passwords
from tests.conftest import CommandLine, Home

SECRETS = ["pl4in", "SecretPartAbc/xyz", "Sec?ret", "Sec#ret", "Secr@tPart", "Se:cr/e@t", "a/b@c?d#e:f",
           "/first", "?first", "@first", "12345/x", "my Secret", "qu'ote\"d", "a&b=c/d"]  # fmt: skip
SCHEMES = ["redis", "rediss", "REDIS", "Rediss", "redis+cluster", "cluster", "unknown"]


@pytest.mark.parametrize("user", ["", "bob"])
def test_all_of_a_password_is_hidden(user: str):
    for scheme, secret in product(SCHEMES, SECRETS):
        shown = f"{scheme}://{user}:…@h:6379/0"
        address = f"{scheme}://{user}:{secret}@h:6379/0"
        assert mask_password(address) == shown
        assert mask_password(shown) == shown
        assert without_passwords(f"see ({address}) there") == f"see ({shown}) there"
        assert without_passwords(f"'{address}': no\n{address}") == f"'{shown}': no\n{shown}"


def test_what_can_be_a_secret_is_hidden():
    for address, shown in [
        ("redis://secret@h", "redis://…@h"),
        ("redis://bob%3Asecret%40x@h", "redis://…@h"),
        ("redis://bob:secret%40h:6379/0", "redis://bob:…%40h:6379/0"),
        ("redis://bob:secret/xyz", "redis://bob:…"),
        ("redis://:secret", "redis://:…"),
        ("redis:bob:secret@h", "redis:bob:…@h"),
        ("redis:/bob:sec/ret@h", "redis:/bob:…@h"),
        ("//bob:secret@h", "…@h"),
        ("cluster://u:secret@h1:1,v:secret@h2:2/0", "cluster://u:…@h2:2/0"),
        ("redis://h?password=secret&db=1", "redis://h?password=…&db=1"),
        ("redis://h?PassWord=se&cret&db=1", "redis://h?PassWord=…&db=1"),
        ("redis://h?p%61ssword=secret", "redis://h?p%61ssword=…"),
        ("redis://h?username=bob&password=se#cr?et", "redis://h?username=bob&password=…"),
        ("sqlite://bob:secret@h/x", "sqlite://bob:…@h/x"),
        ("https://bob:sec/ret@h/x", "https://bob:…@h/x"),
        ("https://secrettoken@h/x", "https://…@h/x"),
    ]:
        assert mask_password(address) == shown
        assert "secret" not in shown
        assert mask_password(shown) == shown, address


def test_an_address_without_credentials_is_shown_whole():
    for text in (
        "file", "file:///home/me@work/x", "sqlite:////home/me@work/x.db", "redis://h:6379/0",
        "redis://[::1]:6379/0", "redis+cluster://h1:1,h2:2/0", "redis://h?db=1&socket_timeout=3",
    ):  # fmt: skip
        assert mask_password(text) == without_passwords(text) == text


def test_what_is_no_password_stays_in_a_text():
    for text in (
        "see https://registry.example/@scope/x", "http://localhost:8080/@x and a@b", "git@host:x/y",
        "https://git@host.example/x.git", "C://x", "://", "a://", "nothing",
    ):  # fmt: skip
        assert without_passwords(text) == text


@given(st.text(alphabet="ab:/?#@%&= \n'.1[]", max_size=40))
def test_a_second_time_hides_nothing_more(text: str):
    for hide in (mask_password, without_passwords):
        once = hide(f"redis://{text}")
        assert hide(once) == once


@given(st.text(alphabet="aZ19:/?#@%&=+ '\"…", min_size=3, max_size=20))
def test_no_password_is_shown_whatever_is_in_it(noise: str):
    secret = f"xqj{noise}jqx"
    shown = mask_password(f"redis://bob:{secret}@host:6379/0")
    assert "xqj" not in shown
    assert "jqx" not in shown


def test_no_text_takes_long():
    for text in ("://", "a://b:c@d ", "redis://a:b@", "redis://a:b ", "https://"):
        began = time.process_time()
        without_passwords(text * (200_000 // len(text)))
        without_passwords(text * (200_000 // len(text)) + "@")
        assert time.process_time() - began < 8, text


def test_a_malformed_address_is_a_problem():
    for secret in ("SecretPartAbc/xyz", "Sec?ret", "Sec#ret", "12345/x"):
        assert problem(f"redis://bob:{secret}@h:6379/0"), secret


def test_a_sound_address_is_none():
    for address in ("redis://bob:a%2Fb@h/0", "redis://h?client_name=a@b", "file"):
        assert problem(address) is None, address
        assert is_encoded(address), address


BROKEN = {
    "redis://localhost:6379x/0": "what follows the host is not a port",
    "redis://[::1]:abc": "what follows the host is not a port",
    "redis://bob:secret@[::1/0": "a bracket of the host is not closed",
    "redis://::1]/0": "a ] has no [",
    "redis://::1:6379/0": "several colons, and an IPv6 address needs brackets",
    "redis://h:99999/0": "the port is greater than 65535",
    "rediss://bob:secret@[::1]:65536": "the port is greater than 65535",
    "redis://h:1,h:70000/0": "the port is greater than 65535",
    "redis://h:123456/0": "what follows the host is not a port",
}


@pytest.mark.parametrize("address", BROKEN)
def test_a_broken_host_is_not_taken_for_a_password(clinvk: CommandLine, home: Home, address: str):
    calls = [("config", "set", "session.storage", address), ("sessions", "list")]
    for call in calls:
        if call is calls[1]:
            home.config(f"session: {{storage: '{address}'}}\n")
        done = clinvk(*call)
        assert done.returncode == 3, done
        assert BROKEN[address] in done.stderr
        assert "redis://localhost:6379/0" in done.stderr
        assert "encode" not in done.stderr
        assert "secret" not in done.stderr


def test_a_sound_host_is_no_problem():
    for address in ("redis://h:65535", "redis://[::1]", "redis://65536/0"):
        assert problem(address) is None, address


def test_config_set_refuses_a_password_that_is_not_encoded(clinvk: CommandLine, home: Home):
    for secret in ("Sec/ret", "Sec?ret", "Sec#ret", "Sec@ret", "Sec:ret"):
        done = clinvk("config", "set", "session.storage", f"redis://bob:{secret}@h:6379/0")
        assert done.returncode == 3, done
        assert "percent-encode / ? # @ and :" in done.stderr
        assert "Sec" not in done.stdout + done.stderr
        assert "ret@" not in done.stdout + done.stderr
        assert not (home.path / "config.yaml").exists(), secret


@pytest.mark.parametrize("secret", ["SecretPartAbc/xyz", "Sec?ret", "Secr@tPart", "my Secret"])
def test_no_command_shows_the_password_of_the_store(clinvk: CommandLine, home: Home, secret: str):
    url = f"redis://bob:{secret}@127.0.0.1:1/0"
    home.config(f"session: {{storage: {json.dumps(url)}}}")
    for args in (
        ("config", "show"), ("config", "show", "--origin"), ("config", "show", "--json"),
        ("config", "get", "session.storage"), ("config", "get", "session"), ("config", "check"),
        ("config", "set", "output.color", "never"), ("sessions", "list"), ("doctor",),
        ("sessions", "migrate", "--to", "file", "--json"), ("-b", "echo", "-o", "json", "hi"),
        ("sessions", "migrate", "--from", "file", "--to", url, "--json"),
        ("sessions", "list", "--storage-backend", url), ("sessions", "list", url),
        ("sessions", "list", "--storage-backend", f"unknown{url}", "--storage-path", "x"),
        ("sessions", "list", "--storage-backend", f"unknown{url}"), (url, "x", "y"),
    ):  # fmt: skip
        done = clinvk(*args, env={"CLINVK_DEBUG": "1"})
        for part in ("Secr", "PartAbc", "xyz", "Sec?", "tPart@"):
            assert part not in done.stdout + done.stderr, args


def test_no_setting_shows_the_password_of_an_address(clinvk: CommandLine, home: Home):
    home.config('backends: {claude: {extra_flags: ["--proxy=http://me:Secr3t@h"]}}')
    home.backend("fake", env={"PROXY": "http://me:Secr3t@h"})
    for args in (
        ("config", "show"), ("config", "get", "backends.claude.extra_flags"),
        ("config", "get", "backends.claude"), ("config", "get", "backends"),
        ("-b", "fake", "--dry-run", "x", "--", "--proxy=http://me:Secr3t@h"),
        ("-b", "fake", "--dry-run", "-o", "json", "x", "--", "--proxy=http://me:Secr3t@h"),
    ):  # fmt: skip
        done = clinvk(*args)
        assert done.returncode == 0, done
        assert "Secr3t" not in done.stdout + done.stderr
        assert "me:" in done.stdout


def test_an_unknown_parameter_of_a_redis_address_is_named():
    pytest.importorskip("redis")
    for query in ("foo=x", "db=1&Foo=x", "ssl_keyfile=/x", "foo", "timeout=3"):
        with pytest.raises(ConfigError, match="unknown parameter") as told:
            RedisClient(f"redis://:secret@h/0?{query}")
        assert "secret" not in str(told.value), query
        assert "client_name" in str(told.value.hint), query


def test_an_invalid_value_of_a_parameter_is_a_problem_of_the_configuration():
    pytest.importorskip("redis")
    for query in ("socket_timeout=soon", "db=one"):
        with pytest.raises(ConfigError, match="invalid value"):
            RedisClient(f"redis://:secret@h/0?{query}")


def test_addresses_that_can_hold_no_password_are_not_taken_apart(monkeypatch: pytest.MonkeyPatch):
    def hide(_scheme: str, rest: str) -> str:
        raise AssertionError(rest)

    monkeypatch.setattr(addresses, "_hidden", hide)
    text = "a:// b://c https://example.org/a/b-c.html\nhttp://h:80/ file:///x/y redis://localhost:6379/0"
    assert addresses.without_passwords(text) == text
    with pytest.raises(AssertionError):
        addresses.without_passwords("redis://:p@h")
