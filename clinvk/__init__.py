"""One command over the AI coding CLIs, and the same from Python.

    import clinvk

    answer = clinvk.run("explain this folder", backend="claude")
    print(answer.text)
    print(clinvk.run("now in one sentence", session=answer.session_id).text)

The names below load on first use, so that the command line starts quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from clinvk.api import arun, run
    from clinvk.catalog import Catalog
    from clinvk.config import Loaded, load
    from clinvk.dispatcher import Dispatcher, TurnPlan
    from clinvk.errors import (
        ClinvkError,
        ConfigError,
        NotInstalledError,
        SessionError,
        SessionNotFound,
        UsageError,
    )
    from clinvk.manager import SessionManager
    from clinvk.messages import (
        Delta,
        Denial,
        Denied,
        Event,
        Failed,
        Failure,
        Finished,
        Notice,
        Request,
        Result,
        Started,
        Text,
        Thinking,
        Tool,
        ToolResult,
    )
    from clinvk.running import Run
    from clinvk.session import Message, MessageRole, Session
    from clinvk.usage import Usage

_WHERE = {
    "api": ("arun", "run"),
    "catalog": ("Catalog",),
    "config": ("Loaded", "load"),
    "dispatcher": ("Dispatcher", "TurnPlan"),
    "errors": (
        "ClinvkError", "ConfigError", "NotInstalledError", "SessionError", "SessionNotFound",
        "UsageError",
    ),
    "messages": (
        "Delta", "Denial", "Denied", "Event", "Failed", "Failure", "Finished", "Notice", "Request",
        "Result", "Started", "Text", "Thinking", "Tool", "ToolResult",
    ),
    "manager": ("SessionManager",),
    "session": ("Message", "MessageRole", "Session"),
    "usage": ("Usage",),
}  # fmt: skip
_MODULES = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Catalog", "ClinvkError", "ConfigError", "Delta", "Denial", "Denied", "Dispatcher", "Event",
    "Failed", "Failure", "Finished", "Loaded", "Message", "MessageRole", "NotInstalledError",
    "Notice", "Request", "Result", "Run", "Session", "SessionError", "SessionManager",
    "SessionNotFound", "Started", "Text", "Thinking", "Tool", "ToolResult", "TurnPlan", "Usage",
    "UsageError", "arun", "load", "run",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "Run":
        return import_module("clinvk.running").Run
    if name not in _MODULES:
        raise AttributeError(f"module 'clinvk' has no attribute {name!r}")
    return getattr(import_module(f"clinvk.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
