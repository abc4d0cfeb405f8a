"""An exception raised while a task was run, as a failure of that task."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from clinvk.errors import ClinvkError, LimitError
from clinvk.model.result import Failure

# Errors that may pass as soon as another program exits.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_THREAD = "can't start new thread"
MORE_ROOM = "run fewer tasks at a time (-j), or raise the limits: ulimit -n, ulimit -u"


def failure_of(error: Exception) -> Failure:
    """The failure that describes an exception; clinvk's own already have a message."""
    if isinstance(error, ClinvkError):
        hint = f"{error.hint}; {MORE_ROOM}" if error.hint else MORE_ROOM
        at = error.retry_at if isinstance(error, LimitError) else None
        return Failure(error.kind, error.message, hint if shortage(error) else error.hint, at)
    told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            told = f"{cause.filename}: {cause.strerror}" if cause.filename else cause.strerror
    if shortage(error):
        return Failure("error", f"the task could not be run: {told}", MORE_ROOM)
    hint = "the other tasks are not affected; if it happens again, please report it"
    return Failure("error", f"the task could not be run: {told}", hint)


def shortage(error: BaseException) -> str | None:
    """What was lacking: files, processes or memory; None if that is not the reason."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in SHORTAGES:
            return cause.strerror or str(cause)
        if isinstance(cause, MemoryError):
            return "not enough memory"
        if isinstance(cause, RuntimeError) and NO_THREAD in str(cause):
            return NO_THREAD
    return None


def lacks_room(error: BaseException) -> bool:
    """Whether a disk is full, or there are not enough files, processes or memory on this machine."""
    full = (isinstance(c, OSError) and c.errno in FULL for c in _causes(error))
    return shortage(error) is not None or any(full)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and its causes; for a group, those of each member."""
    found: BaseException | None = error
    for _ in range(20):  # a chain may be circular
        if found is None:
            return
        yield found
        if isinstance(found, BaseExceptionGroup):
            for member in found.exceptions:
                yield from _causes(member)
        found = found.__cause__
