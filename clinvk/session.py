"""Sessions, messages and their manager, under the published names.

    from clinvk.session import Message, Session, SessionManager

Nothing inside clinvk imports this module.
"""

from __future__ import annotations

from clinvk.api.sessions.manager import SessionManager
from clinvk.model.session import Message, MessageRole, Session

__all__ = ["Message", "MessageRole", "Session", "SessionManager"]
