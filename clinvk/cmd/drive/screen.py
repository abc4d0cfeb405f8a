"""`--native`: the CLI's own screen, on a session of clinvk."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import asdict

from clinvk.cmd.options import reading as opt
from clinvk.cmd.options.prompt_flags import PromptFlags
from clinvk.errors import UsageError
from clinvk.model.option_table import OWN_OPTIONS
from clinvk.model.session_ref import SessionRef
from clinvk.terminal.printer import Printer

if TYPE_CHECKING:
    from clinvk.config.schema import Loaded
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.dispatch.screen.opening import Screen
    from clinvk.dispatch.screen.record import Added
    from clinvk.model.request import Request

# The flags that also mean something in the screen; the others are about a prompt, or about an answer
# that clinvk shows.
OF_SCREENS = {"backend", "workdir", "dry_run", "options", "option", "lenient", "no_wait", "title", "tag"}  # fmt: skip
SPELLED = {"as_json": "--json"}


def check_native(flags: PromptFlags, others: Mapping[str, object], words: list[str] | None) -> None:
    """Raise `UsageError` if `--native` cannot be used with these flags, `others` with their values,
    or here."""
    if words:
        raise UsageError(
            "--native takes no prompt: it is typed in the screen of the backend",
            "leave out the prompt, or --native",
        )
    opt.check_directory_stays(flags, "the screen of a backend")
    given = [
        SPELLED.get(name) or flag_name(name)
        for name, value in asdict(flags).items()
        if value and name not in OF_SCREENS
    ]
    given += [flag for flag, value in others.items() if value]
    if given:
        raise UsageError(
            f"{given[0]} and --native cannot be used together: the backend's own screen has no such "
            "option",
            f"leave out {given[0]}",
        )
    if not (flags.dry_run or (sys.stdin.isatty() and sys.stdout.isatty())):
        raise UsageError("--native needs a terminal", 'send a prompt instead: clinvk "your prompt"')


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def open_native(loaded: Loaded, ref: SessionRef, flags: PromptFlags, args: list[str]) -> int:
    """Open the screen of the backend, add what was said to the session, and return the exit code
    of the program. Raises `ClinvkError` before anything is started."""
    # Only once the flags are valid: it is a third of the start.
    import anyio

    # Only once the flags are valid: it is a third of the start.
    from clinvk.cmd.options.holding import until_end
    from clinvk.dispatch.dispatcher import Dispatcher
    from clinvk.dispatch.screen.opening import UNSENT, ScreenCatalog
    from clinvk.process.groups import unwrap_single_exception

    request = opt.build_request(UNSENT, args, ref, flags)
    dispatcher = until_end(Dispatcher(loaded, catalog=ScreenCatalog(loaded.home)))
    with unwrap_single_exception():
        return anyio.run(_open, dispatcher, request, flags)


async def _open(dispatcher: Dispatcher, request: Request, flags: PromptFlags) -> int:
    # Only once the flags are valid: it is a third of the start.
    from clinvk.dispatch.off_loop import StoreCalls
    from clinvk.dispatch.screen.opening import hold_screen, plan_screen
    from clinvk.process.foreground import run_on_terminal

    printer = Printer.for_errors(dispatcher.config.config.output.color)
    if flags.dry_run or dispatcher.config.config.unified_flags.dry_run:
        plan = await plan_screen(dispatcher, request, StoreCalls(dispatcher.store))
        print(plan.command)
        return 0
    async with hold_screen(dispatcher, request, printer.notice) as screen:
        for notice in screen.plan.notices:
            printer.notice(notice)
        for name in OWN_OPTIONS:
            if name in screen.plan.settings and screen.plan.settings[name].value:
                printer.notice(
                    f"{name.replace('_', ' ')} does not apply in the screen of the backend"
                )
        code = run_on_terminal(screen.plan.command, screen.marker)
        added = screen.record.add()
        with suppress(OSError):  # the terminal may be gone
            _report(screen, added, code, printer)
    return code if code >= 0 else 128 - code


def _report(screen: Screen, added: Added, code: int, printer: Printer) -> None:
    if code < 0:
        printer.warning(f"{screen.plan.manifest.name} was ended by signal {-code}")
    for problem in added.problems:
        printer.warning(problem)
    count, session = added.messages, screen.session.id
    if count:
        said = f"{count} message{'s' * (count > 1)} added to session {session}"
    elif screen.record.is_used:
        said = f"no messages added to session {session}"
    else:
        printer.notice("nothing was said, so no session was created")
        return
    printer.notice(f'{said}; resume it with: clinvk resume {session} "your prompt"')
