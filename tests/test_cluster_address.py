"""The address of a cluster, and whether its server is fit for one: with real servers."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import OutOfMemoryError

import clinvk
from clinvk.cluster import address, server
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import ClinvkError, ConfigError, SessionError
from tests.clusters import Cluster
from tests.conftest import CommandLine, Home
from tests.needs import need
from tests.stores import RedisServer, free_port, keep

SECRET = "s3cr3t-pass"
Start = Callable[..., RedisServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers with these arguments."""
    need("redis-server")
    started: list[RedisServer] = []

    def start(*args: str) -> RedisServer:
        folder = tmp_path / f"redis-{len(started)}"
        folder.mkdir()
        started.append(server := RedisServer(folder, *args))
        server.start()
        return server

    yield start
    for each in started:
        each.kill()


def checked(url: str, **more: object) -> list[str]:
    found = address.parse(url)
    client = keep(address.connect(url, **more))  # type: ignore[arg-type]
    return server.check_server(client, found)


def all_said(error: pytest.ExceptionInfo[ClinvkError]) -> str:
    """What is shown of an error, with what led to it."""
    parts, cause = [], error.value
    while cause is not None:
        parts += [str(cause), str(getattr(cause, "hint", ""))]
        cause = cause.__cause__  # type: ignore[assignment]
    return "\n".join(parts)


def test_the_name_of_the_cluster_is_part_of_the_address_and_not_for_redis():
    found = address.parse("rediss://me:pw@redis.example:6380/2?name=build&socket_timeout=9")
    assert (found.name, found.host, found.port, found.is_tls) == (
        "build", "redis.example", 6380, True
    )  # fmt: skip
    assert found.url == "rediss://me:pw@redis.example:6380/2?socket_timeout=9"
    assert address.parse("REDIS://localhost").name == "default"
    assert address.parse("redis://localhost").port == 6379


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.8.7", "[::1]", "LOCALHOST"])
def test_a_server_on_this_machine_needs_no_password(host: str):
    assert address.parse(f"redis://{host}:6379/0").is_local


@pytest.mark.parametrize(
    "host", ["redis.example", "10.0.0.7", "[fe80::1]", "0.0.0.0", "127.0.0.1.example"]
)
def test_a_server_elsewhere_needs_a_password_or_insecure(host: str):
    with pytest.raises(ConfigError, match="has no password") as error:
        address.parse(f"redis://{host}:6379/0")
    assert "--insecure" in str(error.value.hint)
    with pytest.raises(ConfigError, match="has no password"):
        address.connect(f"redis://me@{host}:6379/0")
    assert address.parse(f"redis://{host}:6379/0", insecure=True).host
    assert address.parse(f"redis://:pw@{host}:6379/0").host
    assert address.parse(f"redis://{host}:6379/0?password=pw").host


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "not one of a Redis server"),
        ("localhost:6379", "not one of a Redis server"),
        (f"amqp://me:{SECRET}@host/", "not one of a Redis server"),
        (f"redis:/me:{SECRET}@host:6379", "not one of a Redis server"),
        (f"redis://me:{SECRET}/x@host:6379/0", "contains a character that ends it"),
        (f"redis://me:{SECRET}@host:99999/0", "the port is greater than"),
        (f"redis://me:{SECRET}@host:6379/zero", "is not a number"),
        (f"redis://me:{SECRET}@localhost:6379/0?nmae=x", "did you mean 'name'"),
        (f"redis://me:{SECRET}@localhost/0?ssl_ca_certs=x", "only valid with rediss://"),
        (f"redis://me:{SECRET}@localhost/0?name=a%20b", "invalid name of a cluster"),
        (f"redis://me:{SECRET}@localhost/0?name=", "invalid name of a cluster"),
        (f"redis://me:{SECRET}@localhost/0?socket_timeout=soon", "has an invalid parameter"),
    ],
)
def test_an_address_that_cannot_be_used_is_explained_without_its_password(url: str, words: str):
    with pytest.raises(ConfigError, match=words) as error:
        address.connect(url)
    assert SECRET not in all_said(error)  # type: ignore[arg-type]
    assert error.value.hint


def test_a_server_with_all_that_it_needs_gives_no_warning(redis_url: str):
    assert checked(redis_url) == []


def test_the_password_is_checked_and_never_shown(start: Start):
    running = start("--requirepass", SECRET)
    good = f"redis://:{SECRET}@127.0.0.1:{running.port}/0"
    assert checked(good) == []
    with pytest.raises(SessionError, match="the server wants a password") as error:
        address.connect(running.url)
    assert "add it to the address: :PASSWORD@" in str(error.value.hint)
    with pytest.raises(SessionError, match="rejects the user or the password") as error:
        address.connect(good.replace(SECRET, f"{SECRET}-wrong"))
    assert SECRET not in all_said(error)  # type: ignore[arg-type]
    assert "check those in the address" in str(error.value.hint)


def test_a_server_that_accepts_everyone_is_noticed_though_the_address_has_a_password(
    redis_url: str, start: Start
):
    """Redis accepts any password for a user who needs none."""
    url = redis_url.replace("127.0.0.1", f":{SECRET}@127.0.0.1")
    assert server.accepts_everyone(address.parse(url))
    assert checked(url) == []  # since it is on this machine
    closed = start("--requirepass", SECRET)
    assert not server.accepts_everyone(address.parse(closed.url.replace("//", f"//:{SECRET}@")))


async def test_python_needs_a_password_or_insecure_wherever_a_cluster_is_named(
    redis_url: str, home: Home, anyio_backend: str
):
    """0.0.0.0 is no address of this machine as far as is known, and reaches it all the same."""
    url = redis_url.replace("127.0.0.1", "0.0.0.0")
    calls: list[Any] = [
        (clinvk.aparallel, [[]]), (clinvk.achain, [[]]), (clinvk.acompare, ["x", []]),
        (clinvk.aresume, ["r0"]), (clinvk.aretry_run, ["r0"]), (clinvk.asubmit_run, [[]]),
        (clinvk.asubmit_chain, [[]]), (clinvk.asubmit_compare, ["x", []]), (clinvk.acancel_run, ["r0"]),
        (clinvk.aapply_run, ["r0"]), (clinvk.arun_diff, ["r0"]), (clinvk.adrop_run, ["r0"]),
    ]  # fmt: skip
    for call, args in calls:
        given: Any = {"cluster": url, "dispatcher": keep(_dispatcher(home))}
        with pytest.raises(ConfigError, match="has no password"):
            await call(*args, **given)
        with pytest.raises(ClinvkError, match=r"there are no|at least two backends|no run 'r0'"):
            await call(*args, insecure=True, **given)
    assert await clinvk.alist_workers(url, insecure=True) == []


def test_python_needs_them_without_an_event_loop_too(redis_url: str, home: Home):
    url = redis_url.replace("127.0.0.1", "0.0.0.0")
    given: Any = {"cluster": url, "dispatcher": keep(_dispatcher(home))}
    with pytest.raises(ConfigError, match="has no password"):
        clinvk.clean_runs(**given)
    assert clinvk.clean_runs(insecure=True, **given) == []
    with pytest.raises(ConfigError, match="has no password"):
        clinvk.delete_run("r0", **given)
    with pytest.raises(SessionError, match="no run 'r0'"):
        clinvk.delete_run("r0", insecure=True, **given)
    with pytest.raises(ConfigError, match="has no password"):
        next(iter(clinvk.follow_run("r0", **given)))
    with pytest.raises(SessionError, match="no run 'r0'"):
        next(iter(clinvk.follow_run("r0", insecure=True, **given)))


def _dispatcher(home: Home) -> Dispatcher:
    return Dispatcher(loading.load(home.env), env=home.env)


def test_the_address_without_its_password_names_the_same_server():
    found = address.parse("redis://me:pw@[::1]:7000/3?password=other&socket_timeout=2")
    assert found.without_password.url == "redis://[::1]:7000/3?socket_timeout=2"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("redis://:pw@h:1/0?name=x", "redis://h:1/0?password=pw&name=x"),
        ("redis://me:pw@h:1/0", "redis://h:1/0?password=pw&username=me"),
        ("redis://a%40b:pw@h/0", "redis://h/0?username=a%40b&password=pw"),
        ("redis://:pw@h/0?socket_timeout=2", "redis://h/0?password=pw&socket_timeout=2"),
    ],
)
def test_an_address_is_shown_the_same_wherever_its_password_is(first: str, second: str):
    shown = address.parse(first, insecure=True).shown
    assert shown == address.parse(second, insecure=True).shown
    assert "pw" not in shown
    other = address.parse(f"{first}{'&' if '?' in first else '?'}name=other", insecure=True)
    assert other.shown != shown, "two clusters do not look alike"


def test_a_user_with_few_rights_is_told_what_was_not_checked(start: Start):
    running = start("--user", *["clinvk", "on", ">pw", "~clinvk:*", "-@all", "+ping", "+client"])
    url = f"redis://clinvk:pw@127.0.0.1:{running.port}/0"
    assert checked(url) == [
        f"the cluster's redis at 127.0.0.1:{running.port} was not checked: this user may not run INFO"
    ]


def test_what_would_lose_tasks_is_said(start: Start):
    running = start("--appendonly", "no")
    (warning,) = checked(running.url)
    assert "has no append-only file" in warning
    assert "appendonly yes" in warning
    running.say("CONFIG", "SET", "appendonly", "yes")
    running.say("CONFIG", "SET", "appendfsync", "no")
    (warning,) = checked(running.url)
    assert "appendfsync everysec" in warning


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_deletes_keys_when_it_is_full_is_refused(start: Start, policy: str):
    running = start("--maxmemory", "64mb", "--maxmemory-policy", policy)
    with pytest.raises(ConfigError, match=f"the policy {policy}: it would delete tasks") as error:
        checked(running.url)
    assert "maxmemory-policy noeviction" in str(error.value.hint)
    running.say("CONFIG", "SET", "maxmemory", "0")
    assert checked(running.url) == []


def test_a_replica_is_refused(start: Start, redis_server: RedisServer):
    running = start("--replicaof", f"127.0.0.1 {redis_server.port}")
    with pytest.raises(ConfigError, match="is a read-only replica"):
        checked(running.url)


def test_a_server_that_is_too_old_is_refused(redis_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "MINIMUM", (999, 0))
    with pytest.raises(ConfigError, match=r"is too old: \d+\.\d+") as error:
        checked(redis_url)
    assert error.value.hint == "update it to 999.0 or later"


def test_a_server_that_is_down_is_reported_at_once():
    with pytest.raises(SessionError, match="it cannot be reached") as error:
        address.connect(f"redis://:{SECRET}@127.0.0.1:{free_port()}/0")
    assert SECRET not in all_said(error)  # type: ignore[arg-type]


def test_a_restart_of_the_server_is_waited_for(own_server: RedisServer):
    client = keep(address.connect(own_server.url))
    client.set("clinvk:test", "kept")
    own_server.kill()
    own_server.start()
    assert client.get("clinvk:test") == b"kept"


def test_a_server_that_is_full_is_explained(start: Start):
    running = start("--maxmemory", "1mb")
    client = keep(address.connect(running.url))
    with pytest.raises(OutOfMemoryError) as full:
        client.set("clinvk:test", b"x" * 2_000_000)
        client.set("clinvk:test2", b"x" * 2_000_000)
    with pytest.raises(SessionError, match="its memory is full") as error:
        raise server.explain(full.value, "here")
    assert error.value.hint == "raise maxmemory there"


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority (ca.pem), a certificate of its for 127.0.0.1 (server.pem), and another authority."""
    need("openssl")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                # Python 3.13 asks for it.
                "-addext", "keyUsage=critical,keyCertSign,cRLSign",
                "-subj", f"/CN=test {name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
            "-keyout", "server.key", "-out", "server.csr")  # fmt: skip
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "server.pem")  # fmt: skip
    return folder


@pytest.fixture
def tls_url(start: Start, certificates: Path) -> str:
    port = free_port()
    try:
        start("--tls-port", str(port), "--tls-auth-clients", "no", "--requirepass", SECRET,
              "--tls-cert-file", str(certificates / "server.pem"),
              "--tls-key-file", str(certificates / "server.key"))  # fmt: skip
    except AssertionError:
        pytest.skip("this redis-server has no TLS")
    return f"rediss://:{SECRET}@127.0.0.1:{port}/0"


def test_a_server_with_tls_is_trusted_by_its_authority(tls_url: str, certificates: Path):
    ca = certificates / "ca.pem"
    assert checked(tls_url, ca=ca) == []
    assert checked(f"{tls_url}?ssl_ca_certs={ca}") == []
    for other in (None, certificates / "other.pem"):
        with pytest.raises(SessionError, match="its certificate is not trusted") as error:
            address.connect(tls_url, ca=other)
        assert SECRET not in all_said(error)  # type: ignore[arg-type]
        assert "ssl_ca_certs=FILE" in str(error.value.hint)


def test_tls_on_one_side_only_is_said(
    tls_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(address, "CONNECT_TIMEOUT", 1.0)
    monkeypatch.setattr(address, "ANSWER_TIMEOUT", 1.0)
    with pytest.raises(SessionError) as error:
        address.connect(tls_url.replace("rediss://", "redis://"))
    assert "if that port requires TLS, write rediss://" in str(error.value.hint)
    with pytest.raises(SessionError) as error:
        address.connect(redis_url.replace("redis://", "rediss://"))
    assert "if that port has no TLS, write redis://" in str(error.value.hint)


def test_an_authority_that_cannot_be_used_is_said(tls_url: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="does not exist"):
        address.connect(tls_url, ca=tmp_path / "none.pem")
    with pytest.raises(ConfigError, match="of no use without TLS"):
        address.connect("redis://localhost", ca=tmp_path / "none.pem")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pw@h:6379/0", "redis://:…@h:6379/0"),
        (" REDIS://:pw@h/0?name=default", "redis://:…@h/0"),
        ("rediss://:pw@h/0?name=b&ssl_ca_certs=/f", "rediss://:…@h/0?ssl_ca_certs=/f&name=b"),
    ],
)  # fmt: skip
def test_a_run_records_one_address_of_a_cluster_however_it_was_written(url: str, shown: str):
    assert address.parse(url).shown == shown


def test_a_run_goes_through_tls_with_an_authority_of_ones_own(
    tls_url: str, certificates: Path, home: Home, clinvk: CommandLine, tmp_path: Path
):
    server = RedisServer(tmp_path)  # only its address is needed; it runs already
    server.url = f"{tls_url}?ssl_ca_certs={certificates / 'ca.pem'}"
    with closing(Cluster(home, clinvk, tmp_path / "desk", server)) as cluster:
        worker = cluster.worker("w1", drive=1)
        path = cluster.file({"tasks": ["a"]})
        done = cluster.go("parallel", path, "--json")
        assert done.returncode == 0, (done, worker.said)
        run = cluster.go("parallel", path, "--detach", "-q").stdout.strip()
        assert cluster.go("runs", "watch", run, "-q").returncode == 0, worker.said
        assert SECRET not in done.stdout + done.stderr + worker.said
        unknown = cluster.clinvk("parallel", path, "--cluster", tls_url)
        assert unknown.returncode == 4
        assert "its certificate is not trusted" in unknown.stderr
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
