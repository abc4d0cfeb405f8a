"""The settings of a user: defaults, file, environment, each with its origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, defstruct, field

from clinvk.model.option_table import Approval, Option, Sandbox, options_in, turn_options_in

Format = Literal["text", "json", "stream-json"]

MASK = "…"  # shown in place of a value of `env`


def _option_fields(section: str) -> Any:
    """A struct with the keys of the options in this section."""
    found = (*options_in(section), *turn_options_in(section))
    fields = [_option_field(option, section) for option in found]
    return defstruct("OptionFields", fields, frozen=True, module=__name__)


def _option_field(option: Option, section: str) -> tuple[str, Any, Any]:
    if option.repeatable:
        return option.config_key, list[option.type], []  # type: ignore[name-defined]
    if option.type is bool:
        return option.config_key, bool, False
    if option.choices and section == "unified_flags":
        return option.config_key, option.type, "default"
    return option.config_key, option.type | None, None


class UnifiedFlags(_option_fields("unified_flags"), Struct, frozen=True):  # type: ignore[misc]
    """For every backend. A setting that one does not support is dropped with a notice; an approval
    or a sandbox is an error."""


class BackendConfig(_option_fields("backends"), Struct, frozen=True):  # type: ignore[misc]
    enabled: bool = True
    extra_flags: list[str] = []
    env: dict[str, str] = {}


class SessionConfig(Struct, frozen=True):
    auto_resume: bool = False
    retention_days: int = 30
    store_token_usage: bool = True
    store_messages: bool = True
    redact: bool = True
    default_tags: list[str] = []
    storage: str = "file"


class OutputConfig(Struct, frozen=True):
    format: Format = "text"
    show_tokens: bool = False
    show_timing: bool = False
    color: Literal["auto", "always", "never"] = "auto"
    render: bool = True  # answers on a terminal, as Markdown


class ParallelConfig(Struct, frozen=True):
    max_workers: int = 3
    max_parallel_per_backend: dict[str, int] = {}
    fail_fast: bool = False
    aggregate_output: bool = True


class ClusterConfig(Struct, frozen=True):
    url: str | None = None
    shared: list[str] = []
    git: str | None = None
    cache_gb: int = 20


class WorkerAllow(Struct, frozen=True):
    backends: list[str] = []
    directories: list[str] = []
    git: list[str] = []
    approval: Approval | None = None
    sandbox: Sandbox | None = None
    commands: bool | None = None
    env: list[str] = []


class WorkerConfig(Struct, frozen=True):
    allow: WorkerAllow = field(default_factory=WorkerAllow)


class Config(Struct, frozen=True):
    default_backend: str = "claude"
    unified_flags: UnifiedFlags = field(default_factory=UnifiedFlags)
    backends: dict[str, BackendConfig] = {}
    session: SessionConfig = field(default_factory=SessionConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)


class Loaded(Struct, frozen=True):
    """A configuration, its directory, and the source of each value that is not a default: a file,
    or the name of an environment variable."""

    config: Config
    home: Path
    path: Path
    origins: dict[str, str] = {}

    def origin(self, key: str) -> str:
        return self.origins.get(key, "default")

    def backend(self, name: str) -> BackendConfig:
        return self.config.backends.get(name) or BackendConfig()
