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
    from clinvk.comparison import Verdict
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
    from clinvk.fanout import (
        Comparison,
        achain,
        acompare,
        aparallel,
        aresume,
        chain,
        compare,
        parallel,
        plan_of,
        resume_run,
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
    from clinvk.outcome import Outcome, RunResult
    from clinvk.plan import Plan, Task
    from clinvk.planrun import PlanRun
    from clinvk.running import Run
    from clinvk.scheduler import Change
    from clinvk.session import Message, MessageRole, Session
    from clinvk.usage import Usage
    from clinvk.workflow import AgentFlowManager, WorkflowManager

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
    "comparison": ("Verdict",),
    "fanout": (
        "Comparison", "achain", "acompare", "aparallel", "aresume", "chain", "compare", "parallel",
        "plan_of", "resume_run",
    ),
    "manager": ("SessionManager",),
    "outcome": ("Outcome", "RunResult"),
    "plan": ("Plan", "Task"),
    "planrun": ("PlanRun",),
    "scheduler": ("Change",),
    "session": ("Message", "MessageRole", "Session"),
    "usage": ("Usage",),
    "workflow": ("AgentFlowManager", "WorkflowManager"),
}  # fmt: skip
_MODULES = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "AgentFlowManager", "Catalog", "Change", "ClinvkError", "Comparison", "ConfigError", "Delta",
    "Denial", "Denied", "Dispatcher", "Event", "Failed", "Failure", "Finished", "Loaded",
    "Message", "MessageRole", "NotInstalledError", "Notice", "Outcome", "Plan", "PlanRun",
    "Request", "Result", "Run", "RunResult", "Session", "SessionError", "SessionManager",
    "SessionNotFound", "Started", "Task", "Text", "Thinking", "Tool", "ToolResult", "TurnPlan",
    "Usage", "UsageError", "Verdict", "WorkflowManager", "achain", "acompare", "aparallel",
    "aresume", "arun", "chain", "compare", "load", "parallel", "plan_of", "resume_run", "run",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "Run":
        return import_module("clinvk.running").Run
    if name not in _MODULES:
        raise AttributeError(f"module 'clinvk' has no attribute {name!r}")
    return getattr(import_module(f"clinvk.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
