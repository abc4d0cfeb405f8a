"""What a turn notes so that it can be ended by somebody else, and how that is done."""

from __future__ import annotations

from typing import Any

from clinvk import machine
from clinvk.errors import SessionError


def facts(marker: str) -> dict[str, Any]:
    """Who runs what, where, since when."""
    return {"run": marker, **machine.this_process()}


async def end(left: dict[str, Any], what: str, kept_in: str) -> str:
    """End what a clinvk left behind that was killed; the sentence that tells of it. `what` was cut
    off: "run r12", "the last turn of session 12".

    Raises `SessionError` where it was begun on another machine or in another container: from here
    nobody can say that it is dead."""
    here = machine.this_machine()
    if any(left.get(k) != here[k] for k in ("host", "namespace")):
        raise SessionError(
            f"{what} was started on {left.get('host')} and may be running there",
            f"make sure that it has ended, then delete {kept_in}",
        )
    told = f"{what} was cut off: its clinvk was killed"
    if left.get("boot") != here["boot"]:
        return told
    from clinvk.family import Family  # psutil, 10 ms: seldom

    family = Family.left_by(str(left.get("run")), float(left.get("since") or 0))
    count = len(family.alive)
    if count:
        await family.ask_and_end()
        told += f"; {count} process{'es' * (count > 1)} that it left running {'were' if count > 1 else 'was'} ended"
    return told


async def end_turn(left: dict[str, Any], id_: str, kept_in: str) -> str:
    """The same, of the last turn of a session."""
    return await end(left, f"the last turn of session {id_}", kept_in)
