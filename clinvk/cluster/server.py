"""Whether a Redis server is fit for a cluster: its version, and what it does to survive."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinvk.cluster.address import Address, open_client
from clinvk.cluster.keys import Keys
from clinvk.cluster.server_errors import explain
from clinvk.errors import ConfigError, SessionError

if TYPE_CHECKING:
    import redis

MINIMUM = (6, 2)  # users with rights of their own came with 6.0, the options of streams with 6.2
EVICTS = "it would delete tasks and their results when its memory is full"


def check_server(
    client: redis.Redis, address: Address, *, ca: Path | None = None, insecure: bool = False
) -> list[str]:
    """Warnings about the server, each with what to do. Raises `ConfigError` if it cannot be used, or if
    it needs no password on another machine and that is not `insecure`; `SessionError` if it does not
    answer, or is full."""
    if not (insecure or address.is_local) and accepts_everyone(address, ca):
        raise ConfigError(
            f"the cluster's redis at {address.place} accepts connections without a password, so that "
            "everyone who reaches it could run commands on the workers",
            "set requirepass there, or switch its default user off; if you trust the whole network: "
            "--insecure",
        )
    # 60 ms, and an extra.
    from redis import exceptions

    where = f"the cluster's redis at {address.place}"
    try:
        info: dict[str, Any] = dict(client.info())
    except exceptions.NoPermissionError:
        return [f"{where} was not checked: this user may not run INFO"]
    except exceptions.RedisError as error:
        raise explain(error, address.place, is_tls=address.is_tls) from error
    _check_version(info, where)
    _check_kind(info, where)
    _check_memory(info, where)
    return _warnings(client, info, where, address)


def identify(client: redis.Redis, address: Address) -> str:
    """The address, and what tells the cluster from another one that is reached there, or was before its
    server lost its data; "" if that is not known."""
    # 60 ms, and an extra.
    from redis import exceptions

    key = Keys.of(address.name).identity
    try:
        client.set(key, os.urandom(8).hex(), nx=True)
        found: Any = client.get(key)
    except exceptions.RedisError:
        return ""
    return f"{address.shown} {found.decode()}" if found else ""


def accepts_everyone(address: Address, ca: Path | None = None) -> bool:
    """Whether the server answers without a password."""
    # 60 ms, and an extra.
    from redis import exceptions

    with open_client(address.without_password, ca) as client:
        try:
            return bool(client.ping())
        except exceptions.RedisError:
            return False


def _check_version(info: dict[str, Any], where: str) -> None:
    version = str(info.get("redis_version", ""))
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and tuple(map(int, found.groups())) < MINIMUM:
        needed = ".".join(map(str, MINIMUM))
        raise ConfigError(f"{where} is too old: {version}", f"update it to {needed} or later")


def _check_kind(info: dict[str, Any], where: str) -> None:
    if info.get("redis_mode") == "cluster":
        raise ConfigError(
            f"{where} is part of a Redis Cluster, which spreads keys over several servers",
            "use a single server",
        )
    if info.get("role") == "slave":
        raise ConfigError(f"{where} is a read-only replica", "name the primary server")


def _check_memory(info: dict[str, Any], where: str) -> None:
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory") and policy != "noeviction":
        raise ConfigError(
            f"{where} has maxmemory and the policy {policy}: {EVICTS}",
            "set it there: CONFIG SET maxmemory-policy noeviction; and in redis.conf",
        )
    used = int(info.get("used_memory", 0)) - int(info.get("mem_not_counted_for_evict", 0))
    if 0 < int(info.get("maxmemory", 0)) < used:
        raise SessionError(
            f"{where}: its memory is full, and it accepts no writes", "raise maxmemory there"
        )


def _warnings(client: redis.Redis, info: dict[str, Any], where: str, address: Address) -> list[str]:
    found = []
    if not info.get("aof_enabled"):
        found.append(
            f"{where} has no append-only file: if it stops, the state of running tasks is lost; set "
            "there: appendonly yes"
        )
    elif _setting(client, "appendfsync") == "no":
        found.append(
            f"{where} leaves it to the kernel when its append-only file is written: up to 30 s may be "
            "lost; set there: appendfsync everysec"
        )
    if not (address.is_tls or address.is_local):
        found.append(
            f"the connection to {address.place} is not encrypted, and shows prompts and answers to the "
            "network; use rediss://, or a VPN"
        )
    return found


def _setting(client: redis.Redis, name: str) -> str | None:
    """A setting of the server; None if this user may not see it."""
    # 60 ms, and an extra.
    from redis import exceptions

    try:
        found: dict[str, str] = dict(client.config_get(name))  # type: ignore[arg-type]
    except exceptions.RedisError:
        return None
    return found.get(name)
