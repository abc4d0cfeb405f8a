"""`clinvk sessions search`."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from clinvk.cmd.app import CommandModule
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.storage import with_storage_options
from clinvk.cmd.sessions.common import VERSION, open_configured_store, session_data
from clinvk.errors import UsageError
from clinvk.model.session import MessageRole
from clinvk.store.base import Hit
from clinvk.terminal import printer as show
from clinvk.text import duration
from clinvk.text.sanitize import one_line

app = CommandModule()
ROLES = tuple(role.value for role in MessageRole)


@app.command("search")
@with_storage_options
def search(
    words: Annotated[
        list[str], typer.Argument(metavar="WORD...", help="Words that a match has to contain.")
    ],
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, metavar="N", help="Show at most N.")
    ] = 20,
    role: Annotated[
        str | None,
        typer.Option(
            "--role",
            metavar="ROLE",
            help=f"Only messages of this role: {', '.join(ROLES)}.",
            autocompletion=opt.complete_words(ROLES),
        ),
    ] = None,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> int:
    """Search titles, prompts and messages; the best match first. Exits with 1 if there is none."""
    if role is not None and role not in ROLES:
        raise UsageError(f"--role: {role!r} is not one of: {', '.join(ROLES)}")
    query = " ".join(words)
    hits = open_configured_store(opt.load_config(config)).search(query, role=role, limit=limit)
    if as_json:
        rows = [_row(hit) for hit in hits]
        show.print_json({"version": VERSION, "query": query, "hits": rows})
        return 0 if hits else 1
    if not hits:
        print("nothing found", file=sys.stderr)
        return 1
    printer = show.Printer(sys.stdout, color=show.wants_color(sys.stdout))
    for hit in hits:
        s = hit.session
        head = f"{s.id}  {s.backend or '-'}  {duration.format_age(s.updated_at)}  {one_line(s.label)[:60]}"
        print(printer.paint(head, show.BOLD))
        print(f"    {hit.role or 'title'}: {_highlight(hit, printer)}")
    return 0


def _row(hit: Hit) -> dict[str, object]:
    session = {k: v for k, v in session_data(hit.session).items() if k in ("id", "backend", "status",
               "title", "prompt", "cwd", "updated_at")}  # fmt: skip
    return {**session, "role": hit.role, "text": hit.text, "score": round(hit.score, 3)}


def _highlight(hit: Hit, printer: show.Printer) -> str:
    text = one_line(hit.text)
    pattern = "|".join(re.escape(word) for word in hit.words)
    return re.sub(pattern, lambda m: printer.paint(m.group(), show.RED), text, flags=re.IGNORECASE)
