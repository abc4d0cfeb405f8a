"""The settings of a turn, and what its session may permit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from clinvk.backend import permissions
from clinvk.backend.manifest import Manifest
from clinvk.backend.options import Setting, resolve_settings, settle_planning
from clinvk.config import schema as configs
from clinvk.model.request import Request
from clinvk.model.session import Session
from clinvk.sessions.masking import redact_data_for_store

if TYPE_CHECKING:
    from clinvk.dispatch.answer_schema import AnswerSchema


def wanted_settings(
    request: Request,
    session: Session | None,
    manifest: Manifest,
    config: configs.Loaded,
    is_own: Callable[[str], bool],
    of_template: Mapping[str, Any],
    created: Mapping[str, Any],
) -> tuple[dict[str, Setting], list[str]]:
    """The settings of a turn, with notices about those by which its session permits more than
    the user does: they are dropped if others can write the session's record, which `is_own` tells.
    `created` has the permissions that the session was started with by this process."""
    backend = manifest.name
    wanted = resolve_settings(request, session, config, backend, of_template)
    settle_planning(wanted, manifest)
    if session is None:
        return wanted, []
    own = {
        name: s.value
        for name, s in wanted.items()
        if s.origin == "session" and (name not in created or s.value != created[name])
    }
    granted = resolve_settings(request, None, config, backend, of_template)
    more = permissions.elevated(own, {name: s.value for name, s in granted.items()})
    if not more:
        return wanted, []
    said = permissions.describe(more)
    if session.options_trusted and is_own(session.id):
        told = f"session {session.id} runs with {said} (set when it was created)"
        return wanted, [told]
    for name in more:
        left = permissions.without(name, own[name], more)
        if left is not None:
            wanted[name] = Setting(left, "session")
        elif name in granted:
            wanted[name] = granted[name]
        else:
            del wanted[name]
    can = "can" if session.options_trusted else "could"
    told = (
        f"session {session.id} asks for {said}, which was dropped, since others {can} write "
        f"its record; to grant it: {permissions.flags(more)}"
    )
    return wanted, [told]


def begun_with(
    session: Session, wanted: Mapping[str, Setting], settings: configs.SessionConfig
) -> dict[str, Any]:
    """The options that the native session was started with. A value that was stored without its
    secret is replaced by the requested one if that would be stored the same way."""
    return {
        name: wanted[name].value
        if name in wanted and redact_data_for_store(wanted[name].value, settings) == value
        else value
        for name, value in session.options.items()
    }


def lacking_notices(settings: Mapping[str, Setting]) -> list[str]:
    """Notices about settings of a session that were stored without their secret."""
    return [
        f"{name} was stored without what looks like a key; pass it again with --{name.replace('_', '-')}"
        for name, setting in settings.items()
        if setting.origin == "session" and "[redacted: " in str(setting.value)
    ]


def setting_value(settings: Mapping[str, Setting], name: str) -> Any:
    return settings[name].value if name in settings else None


def read_schema(schema: Any) -> AnswerSchema:
    """The schema, which Python may pass as data."""
    # 0.1 s, and only with a schema.
    from clinvk.dispatch.answer_schema import AnswerSchema
    from clinvk.plans.loops.findings import find_schema

    schema = find_schema(schema) or schema
    return AnswerSchema(schema if isinstance(schema, str) else json.dumps(schema))
