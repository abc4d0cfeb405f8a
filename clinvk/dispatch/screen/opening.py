"""Open the CLI's own screen on a session: the turn is held, and then recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from msgspec import Struct

from clinvk.backend.catalog import Catalog
from clinvk.backend.files import tempfiles
from clinvk.backend.manifest import Manifest, ScreenSpec
from clinvk.backend.permissions import INSTRUCTION, has_plan_mode
from clinvk.backend.reading.variants import for_screen
from clinvk.dispatch.dispatcher import Dispatcher, delete_session
from clinvk.dispatch.off_loop import StoreCalls
from clinvk.dispatch.planning.new_session import new_session
from clinvk.dispatch.screen.record import ScreenRecord
from clinvk.dispatch.start_turn import keep_state
from clinvk.dispatch.turn_lock import acquire_turn, release_turn
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.errors import SessionError, UsageError
from clinvk.knowledge.context import Context
from clinvk.model.option_table import OWN_OPTIONS
from clinvk.model.request import Request
from clinvk.model.session import Session
from clinvk.process.marker import new_marker
from clinvk.sessions.native.since import can_read

UNSENT = "(typed in the screen)"  # in place of a prompt, which no command line of a screen has


class ScreenCatalog(Catalog, frozen=True):
    """The manifests as they apply to the screens of the CLIs."""

    def load(self, name: str) -> Manifest:
        return for_screen(super().load(name))


class Screen(Struct, frozen=True):
    """A screen that can be opened now: the session, whose turn is held, and the program."""

    plan: TurnPlan
    session: Session
    marker: str
    record: ScreenRecord


@asynccontextmanager
async def hold_screen(
    dispatcher: Dispatcher, request: Request, notify: Callable[[str], None]
) -> AsyncIterator[Screen]:
    """The screen to open, on the session that the request continues or on a new one, which is
    deleted at the end if nothing was said in it. The dispatcher has a `ScreenCatalog`. Raises
    `ClinvkError`."""
    calls, marker = StoreCalls(dispatcher.store), new_marker(dispatcher.env)
    plan = await plan_screen(dispatcher, request, calls)
    new = plan.session is None
    session = plan.session or new_session(plan, dispatcher.config.config.session)
    if new:
        exact = request.name is not None
        session = await calls(partial(dispatcher.store.create, session, exact=exact))
    record = None
    try:
        turn = await acquire_turn(calls, session.id, marker, wait=request.wait, notify=notify)
        try:
            # Another turn may have changed the record while this one waited.
            session = await calls(partial(dispatcher.store.get, session.id))
            if not new:
                plan = await plan_screen(dispatcher, request, calls, session)
            with (
                tempfiles.temp_files(plan.command, dispatcher.env),
                keep_state(plan, dispatcher.config.home),
            ):
                settings = dispatcher.config.config.session
                record = ScreenRecord(dispatcher.store, plan, session.id, settings, is_new=new)
                yield Screen(plan, session, marker, record)
        finally:
            await release_turn(calls, turn.close)
    finally:
        if new and (record is None or not record.is_used):
            await delete_session(calls, session.id)


async def plan_screen(
    dispatcher: Dispatcher, request: Request, calls: StoreCalls, session: Session | None = None
) -> TurnPlan:
    """What would be opened. Raises `ClinvkError`."""
    if session is None:
        session = await calls(lambda: dispatcher.sessions.find(request))
    backend = request.backend or (session.backend if session else None)
    manifest = dispatcher.selector.select(backend).manifest
    _check_screen(manifest, session, request)
    plan = await dispatcher.planner.when_known(
        calls, request.replace(expand=True), session, Context([])
    )
    plain = [request.prompt, f"{INSTRUCTION}{request.prompt}" if has_plan_mode(manifest) else ""]
    if plan.command.stdin.decode() not in plain:
        raise UsageError(
            f"{manifest.name} would be told in the prompt what a stored template, a stored skill or "
            "--planning asks of it, and clinvk does not see the prompts in its screen",
            "leave out --native, or see: clinvk sessions options",
        )
    return plan


def _check_screen(manifest: Manifest, session: Session | None, request: Request) -> None:
    """Raise `ClinvkError` if there is no such screen, or if it would not know of what was said."""
    for name in (*OWN_OPTIONS, "schema"):
        if request.options.get(name) is not None:
            raise UsageError(
                f"{request.spelled.get(name, name)} and --native cannot be used together: clinvk sees "
                "neither the prompts nor the answers in the screen",
                f"leave out {request.spelled.get(name, name)}",
            )
    screen = manifest.interactive
    if screen is None:
        raise UsageError(
            f"{manifest.name}: its manifest does not say how its own screen is opened",
            f"add the key 'interactive' to {manifest.source}, or leave out --native",
        )
    native_id = session.native_ids.get(manifest.name) if session else None
    if native_id is None:
        _check_start(manifest, screen, session)
    elif screen.resume is None:
        raise UsageError(f"{manifest.name} cannot resume a session in its own screen")
    elif session and session.backend != manifest.name:
        raise SessionError(
            f"session {session.id} was continued on {session.backend}, which {manifest.name} has "
            "not seen",
            f'hand it over first: clinvk resume {session.id} --to {manifest.name} "your prompt"',
        )


def _check_start(manifest: Manifest, screen: ScreenSpec, session: Session | None) -> None:
    if session and sum(session.counts.values()):
        raise SessionError(
            f"session {session.id} has no session of {manifest.name} yet, so its screen would not "
            "know what was said",
            f'send a prompt first: clinvk resume {session.id} "your prompt"',
        )
    is_told = any("$new_id" in word for word in screen.start or ()) or manifest.state
    if screen.start is None or not (is_told or can_read(manifest.name)):
        raise UsageError(
            f"{manifest.name} cannot be told the id of a new session, so what is said in its screen "
            "would be lost",
            f'start the session with a prompt: clinvk -b {manifest.name} "your prompt"; then: '
            "clinvk resume --last --native",
        )
