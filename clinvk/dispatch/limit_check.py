"""What a turn does about remembered rate limits: it is refused, it reports one, or it disproves one.

Without any, each start looks at one directory that does not exist.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinvk.errors import ClinvkError, LimitError
from clinvk.model.result import Result
from clinvk.process.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clinvk.backend.manifest import Manifest
    from clinvk.config.schema import UnifiedFlags
    from clinvk.dispatch.remembered_limits import LimitStore, RememberedLimit
    from clinvk.dispatch.turn_plan import TurnPlan
    from clinvk.model.request import Request

LIMIT_HINT = (
    "wait for it with --on-limit wait, use another backend with --fallback BACKEND, or try anyway "
    "with --ignore-limit"
)
SAME_MODEL = "this model"  # in the message of a CLI: the one in use


def needs_limit_policy(request: Request, flags: UnifiedFlags) -> bool:
    """Whether a rate limit may not end the turn: see `limit_policy.policy_of`."""
    configured: Any = flags
    wanted = request.on_limit or configured.on_limit
    fallback = configured.fallback if request.fallback is None else request.fallback
    return bool(fallback) or wanted not in (None, "fail")


async def check_limit(plan: TurnPlan, home: Path) -> None:
    """Raise `LimitError` if the backend of the plan is at a rate limit that was remembered."""
    name, env = plan.manifest.name, plan.command.env
    if plan.request.ignore_limit or _existing_store(name, home) is None:
        return
    model = _requested_model(plan)
    limit = await in_thread(lambda: find_limit(name, plan.manifest, env, model, home))
    if limit is not None:
        raise limit_error(name, limit)


def find_limit(
    backend: str, manifest: Manifest, env: Mapping[str, str], model: str | None, home: Path
) -> RememberedLimit | None:
    """The remembered rate limit that a program with this environment would meet."""
    store = _existing_store(backend, home)
    if store is None:
        return None
    from clinvk.dispatch.account import find_account  # only if a rate limit is remembered

    return store.find(find_account(manifest, env), model)


def limit_error(backend: str, limit: RememberedLimit) -> LimitError:
    which = f" ({limit.window or limit.model})" if limit.window or limit.model else ""
    return LimitError(
        f"{backend} is at a rate limit{which} until {format_time(limit.until)}", LIMIT_HINT,
        backend=backend, retry_at=limit.until,
    )  # fmt: skip


def format_time(moment: datetime) -> str:
    """A time for people, in the time zone of this machine."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


async def remember_result(
    plan: TurnPlan, home: Path, result: Result, started_at: datetime
) -> list[str]:
    """Store the rate limit that a turn has met, or forget those that it has disproved; return
    notices about it."""
    try:
        if result.ok:
            store = _existing_store(plan.manifest.name, home)
            if store is not None:
                await in_thread(lambda: _forget(plan, store, result, started_at))
        elif result.error is not None and result.error.kind == "limit":
            return await in_thread(lambda: _remember(plan, home, result))
    except ClinvkError as error:
        return [f"the rate limit could not be remembered: {error}"]
    return []


def _forget(plan: TurnPlan, store: LimitStore, result: Result, started_at: datetime) -> None:
    from clinvk.dispatch.account import find_account  # only if a rate limit is remembered

    account = find_account(plan.manifest, plan.command.env)
    store.clear_after_success(account, (_requested_model(plan), result.model), started_at)


def _remember(plan: TurnPlan, home: Path, result: Result) -> list[str]:
    error = result.error
    if error is None or error.retry_at is None:
        return []
    # Only at a rate limit.
    from clinvk.dispatch.account import find_account
    from clinvk.dispatch.remembered_limits import LimitStore, RememberedLimit

    store = LimitStore(home)
    model = result.model if error.model == SAME_MODEL else error.model
    stored = store.record(
        find_account(plan.manifest, plan.command.env),
        RememberedLimit(
            until=error.retry_at, reported_at=store.now(), message=error.message,
            window=error.window, model=model,
            requested_model=_requested_model(plan) if model else None,
        ),
    )  # fmt: skip
    if stored is None or stored.reported_until is None:
        return []
    reported, kept = format_time(stored.reported_until), format_time(stored.until)
    name = plan.manifest.name
    return [
        f"{name} reported a rate limit until {reported}, which is not plausible; it is remembered until {kept}"
    ]


def _existing_store(backend: str, home: Path) -> LimitStore | None:
    """The store, if there may be limits of this backend."""
    if not os.path.isdir(f"{home}/limits"):
        return None
    from clinvk.dispatch.remembered_limits import LimitStore  # only if a rate limit is remembered

    store = LimitStore(home)
    return store if store.has_any(backend) else None


def _requested_model(plan: TurnPlan) -> str | None:
    setting = plan.settings.get("model")
    return str(setting.value) if setting else None
