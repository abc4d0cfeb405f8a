"""`clinvk resume [ID] [PROMPT]`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from clinvk.cmd import options as opt
from clinvk.cmd.lazy import LITERAL, new_app
from clinvk.errors import SessionError, UsageError

app = new_app()
SHOWN = 20  # sessions in the list to pick from


@app.command(context_settings={"allow_extra_args": True})
def resume(
    ctx: typer.Context,
    id: opt.SessionId = None,  # noqa: A002 - the field's name
    words: opt.Prompt = None,
    last: Annotated[bool, typer.Option("--last", help="The session used last, anywhere.")] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Pick from a list.")
    ] = False,
    here: Annotated[bool, typer.Option("--here", help="Only sessions of this folder.")] = False,
    backend: opt.Backend = None,
    with_tag: Annotated[
        str | None, typer.Option("--tag", help="Only sessions with this tag.")
    ] = None,
    model: opt.Model = None,
    workdir: opt.Workdir = None,
    file: opt.File = None,
    output_format: opt.Format = None,
    raw: opt.Raw = False,
    dry_run: opt.DryRun = False,
    ephemeral: opt.Ephemeral = False,
    timeout: opt.Timeout = None,
    approval: opt.Approval = None,
    sandbox: opt.Sandbox = None,
    system_prompt: opt.SystemPrompt = None,
    add_dir: opt.AddDir = None,
    max_turns: opt.MaxTurns = None,
    allowed_tools: opt.AllowedTools = None,
    schema: opt.Schema = None,
    option: opt.Option = None,
    fail_on_denied: opt.FailOnDenied = False,
    lenient: opt.Lenient = False,
    expand: opt.Expand = False,
    no_wait: opt.NoWait = False,
    verbose: opt.Verbose = False,
    config: opt.Config = None,
) -> int:
    """Go on with a session: by its id, the beginning of it, or the backend's own id.

    With --last there is no ID, and the first word is the prompt. Without ID and --last there is a
    list to pick from."""
    from clinvk.cmd.run import start
    from clinvk.dispatcher import Dispatcher

    given = {k: v for k, v in ctx.params.items() if k not in ("id", "words", "file", "config")}
    if ephemeral:
        raise UsageError(
            "resume and --ephemeral exclude each other: an ephemeral run has no session",
            "leave out --ephemeral",
        )
    loaded = opt.load(config)
    words = list(words or [])
    if id is not None and (last or (interactive and not words)):
        words.insert(0, id)  # the first word is the prompt, since the session is known
        id = None  # noqa: A001
    dispatcher = Dispatcher(loaded)
    found = _find(dispatcher, id.removeprefix(LITERAL) if id else None, last=last, here=here,
                  backend=backend, tag=with_tag, interactive=interactive)  # fmt: skip
    behind = opt.behind_dashes(ctx)
    asked = bool(words or file or behind)
    prompt, args = opt.prompt_of(words, file, behind) if asked else (_ask(found.id), [])
    request = opt.request(prompt, args, found.id, {**given, "tag": None, "backend": backend})
    return start(request, loaded, given)


def _find(
    dispatcher: Any, id_: str | None, *, last: bool, interactive: bool, **filters: Any
) -> Any:
    """The session that is meant. Raises `SessionError`."""
    import os

    from clinvk.store import Query

    if id_ is not None:
        return dispatcher.lookup(id_)
    cwd = os.path.realpath(os.getcwd()) if filters["here"] else None
    limit = 1 if last and not interactive else SHOWN + 1
    query = Query(cwd=cwd, backend=filters["backend"], tag=filters["tag"], limit=limit)
    matches = dispatcher.resumable(query)
    if not matches:
        raise SessionError(
            "there is no session to go on with", "see them all: clinvk sessions list"
        )
    if last and not interactive:
        return matches[0]
    return _pick(matches[:SHOWN], more=len(matches) > SHOWN)


def _pick(sessions: list[Any], *, more: bool) -> Any:
    """The one that a person picks from a numbered list. Away from a terminal the list is shown,
    and that is an error: nobody could answer."""
    from clinvk.clean import one_line
    from clinvk.cmd.show import ago

    for i, s in enumerate(sessions, 1):
        line = f"{i:>3}  {s.id}  {s.backend or '-':<8} {ago(s.updated_at):>9}  {one_line(s.label)[:60]}"
        print(line, file=sys.stderr)
    if more:
        print("     … and more: clinvk sessions list", file=sys.stderr)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise SessionError(
            "which session? There is no terminal to pick one at",
            'name it: clinvk resume ID "prompt", or take the newest: clinvk resume --last "prompt"',
        )
    while True:
        print(
            f"Which one? [1-{len(sessions)}, empty gives up] ", end="", file=sys.stderr, flush=True
        )
        answer = sys.stdin.readline().strip()
        if not answer:
            raise typer.Abort
        if answer.isdigit() and 1 <= int(answer) <= len(sessions):
            return sessions[int(answer) - 1]


def _ask(id_: str) -> str:
    """The prompt that a person types, or that is piped in. Raises `UsageError`."""
    if not sys.stdin.isatty():
        prompt, _ = opt.prompt_of(None, None, [])
        if prompt.strip():
            return prompt
        raise UsageError("there is no prompt", f'say something: clinvk resume {id_} "go on"')
    print(f"{id_} > ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline()
