"""The record of a new session."""

from __future__ import annotations

from clinvk.backend.options import stored_options
from clinvk.config import schema as configs
from clinvk.dispatch.planning.settings import setting_value
from clinvk.dispatch.recorder import with_native_env
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.model.session import Session, check_id, new_id
from clinvk.sessions.masking import redact_data_for_store, redact_for_store


def new_session(plan: TurnPlan, settings: configs.SessionConfig) -> Session:
    """The record of a new session, which is not stored yet. Raises `SessionError` for a name
    that cannot be one."""
    name = plan.request.chosen_id or plan.request.name
    return Session(
        id=check_id(name) if name else new_id(),
        backend=plan.manifest.name,
        model=setting_value(plan.settings, "model"),
        cwd=str(plan.command.cwd),
        started_in=str(plan.request.started_in) if plan.request.started_in else None,
        title=redact_for_store(plan.request.title, settings) if plan.request.title else None,
        tags=tuple(dict.fromkeys([*settings.default_tags, *plan.request.tags])),
        options=redact_data_for_store(
            stored_options(plan.settings), settings, plan.request.secrets
        ),
        began_with=plan.manifest.name,
        native_ids={plan.manifest.name: plan.command.new_id} if plan.command.new_id else {},
        native_env=with_native_env({}, plan) if plan.command.new_id else {},
        task=plan.request.task,
        template=plan.template,
        metadata=redact_data_for_store(plan.metadata, settings),
    )
