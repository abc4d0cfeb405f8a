"""One CLI for every AI coding agent, and the same from Python.

    import clinvk

    answer = clinvk.run("explain this directory", backend="claude")
    print(answer.text)
    print(clinvk.run("now in one sentence", session=answer.session_id).text)

The names below load on first use, so that the command line starts quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from clinvk.api.agent import Agent, MemoryConfig
    from clinvk.api.backends import (
        ManifestCheck,
        alist_workers,
        aprobe_backends,
        check_manifest,
        list_workers,
        probe_backends,
    )
    from clinvk.api.chat_objects import ChatCompletion, ChatCompletionChunk
    from clinvk.api.client import AsyncClient, Client
    from clinvk.api.prompt import arun, run
    from clinvk.api.results import aapply_run, adrop_run, apply_run, arun_diff, drop_run, run_diff
    from clinvk.api.runs import (
        acancel_run,
        afollow_run,
        asubmit_chain,
        asubmit_compare,
        asubmit_run,
        cancel_run,
        clean_runs,
        delete_run,
        follow_run,
        submit_chain,
        submit_compare,
        submit_run,
    )
    from clinvk.api.sessions.manager import SessionManager
    from clinvk.api.tasks import (
        Comparison,
        PlanRun,
        achain,
        acompare,
        aparallel,
        aresume,
        aretry_run,
        chain,
        compare,
        parallel,
        plan_of,
        resume_run,
        retry_run,
    )
    from clinvk.api.trial import Check, Trial, atry_backend, try_backend
    from clinvk.api.workflow import AgentFlowManager, WorkflowManager
    from clinvk.backend.catalog import Catalog
    from clinvk.backend.probe import BackendStatus
    from clinvk.config.loading import load
    from clinvk.config.schema import Loaded
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.dispatch.turn import Turn as Run
    from clinvk.dispatch.turn_plan import TurnPlan
    from clinvk.errors import (
        ClinvkError,
        ConfigError,
        LimitError,
        NotInstalledError,
        SessionError,
        SessionNotFound,
        UsageError,
    )
    from clinvk.model.checks.check import CheckResult
    from clinvk.model.events import (
        Checked,
        Checking,
        Delta,
        Denied,
        Event,
        Failed,
        Finished,
        Notice,
        RateLimit,
        Round,
        Started,
        Text,
        Thinking,
        Tool,
        ToolResult,
    )
    from clinvk.model.outcome import Outcome, RunResult
    from clinvk.model.plan import Plan, Task
    from clinvk.model.progress import Change
    from clinvk.model.request import Request
    from clinvk.model.result import Denial, Failure, Result, TurnError
    from clinvk.model.session import Message, MessageRole, Session
    from clinvk.model.usage import Usage
    from clinvk.plans.comparison import Verdict
    from clinvk.worktrees.results.applied import Applied, TaskApplied
    from clinvk.worktrees.results.commits import CommitError
    from clinvk.worktrees.results.diff import FileChange, TaskDiff
    from clinvk.worktrees.results.dropped import Dropped
    from clinvk.worktrees.results.merge import ConflictError
    from clinvk.worktrees.results.target import BlockedError

_WHERE = {
    "api.agent": ("Agent", "MemoryConfig"),
    "api.backends": (
        "ManifestCheck", "alist_workers", "aprobe_backends", "check_manifest", "list_workers",
        "probe_backends",
    ),
    "api.chat_objects": ("ChatCompletion", "ChatCompletionChunk"),
    "api.client": ("AsyncClient", "Client"),
    "api.prompt": ("arun", "run"),
    "api.results": (
        "aapply_run", "adrop_run", "apply_run", "arun_diff", "drop_run", "run_diff",
    ),
    "api.runs": (
        "acancel_run", "afollow_run", "asubmit_chain", "asubmit_compare", "asubmit_run",
        "cancel_run", "clean_runs", "delete_run", "follow_run", "submit_chain", "submit_compare",
        "submit_run",
    ),
    "api.trial": ("Check", "Trial", "atry_backend", "try_backend"),
    "backend.catalog": ("Catalog",),
    "backend.probe": ("BackendStatus",),
    "config.loading": ("load",),
    "config.schema": ("Loaded",),
    "dispatch.dispatcher": ("Dispatcher",),
    "dispatch.turn_plan": ("TurnPlan",),
    "errors": (
        "ClinvkError", "ConfigError", "LimitError", "NotInstalledError", "SessionError",
        "SessionNotFound", "UsageError",
    ),
    "model.checks.check": ("CheckResult",),
    "model.events": (
        "Checked", "Checking", "Delta", "Denied", "Event", "Failed", "Finished", "Notice",
        "RateLimit", "Round", "Started", "Text", "Thinking", "Tool", "ToolResult",
    ),
    "model.request": ("Request",),
    "model.result": ("Denial", "Failure", "Result", "TurnError"),
    "plans.comparison": ("Verdict",),
    "api.tasks": (
        "Comparison", "PlanRun", "achain", "acompare", "aparallel", "aresume", "aretry_run",
        "chain", "compare", "parallel", "plan_of", "resume_run", "retry_run",
    ),
    "api.sessions.manager": ("SessionManager",),
    "model.outcome": ("Outcome", "RunResult"),
    "model.plan": ("Plan", "Task"),
    "model.progress": ("Change",),
    "model.session": ("Message", "MessageRole", "Session"),
    "model.usage": ("Usage",),
    "api.workflow": ("AgentFlowManager", "WorkflowManager"),
    "worktrees.results.applied": ("Applied", "TaskApplied"),
    "worktrees.results.commits": ("CommitError",),
    "worktrees.results.diff": ("FileChange", "TaskDiff"),
    "worktrees.results.dropped": ("Dropped",),
    "worktrees.results.merge": ("ConflictError",),
    "worktrees.results.target": ("BlockedError",),
}  # fmt: skip
_MODULES = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Agent", "AgentFlowManager", "Applied", "AsyncClient", "BackendStatus", "BlockedError", "Catalog", "Change",
    "ChatCompletion", "ChatCompletionChunk", "Check", "CheckResult", "Checked", "Checking", "Client", "ClinvkError", "CommitError", "Comparison", "ConfigError", "ConflictError",
    "Delta", "Denial", "Denied", "Dispatcher", "Dropped", "Event", "Failed", "Failure", "FileChange", "Finished",
    "LimitError", "Loaded", "ManifestCheck", "MemoryConfig", "Message", "MessageRole",
    "NotInstalledError", "Notice", "Outcome", "Plan",
    "PlanRun", "RateLimit", "Request", "Result", "Round", "Run", "RunResult", "Session", "SessionError",
    "SessionManager", "SessionNotFound", "Started", "Task", "TaskApplied", "TaskDiff", "Text", "Thinking", "Tool", "ToolResult", "Trial", "TurnError",
    "TurnPlan", "Usage", "UsageError", "Verdict", "WorkflowManager", "aapply_run", "acancel_run", "achain",
    "acompare", "adrop_run", "afollow_run", "alist_workers", "aparallel", "apply_run", "aprobe_backends", "aresume", "aretry_run", "arun", "arun_diff",
    "asubmit_chain", "asubmit_compare", "asubmit_run", "atry_backend",
    "cancel_run", "chain", "check_manifest", "clean_runs", "compare", "delete_run", "drop_run", "follow_run", "list_workers", "load", "parallel",
    "plan_of", "probe_backends", "resume_run", "retry_run", "run", "run_diff",
    "submit_chain", "submit_compare", "submit_run", "try_backend",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "Run":
        return import_module("clinvk.dispatch.turn").Turn
    if name not in _MODULES:
        raise AttributeError(f"module 'clinvk' has no attribute {name!r}")
    return getattr(import_module(f"clinvk.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
