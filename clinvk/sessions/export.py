"""A conversation as text: Markdown, JSON, an HTML page, or by a template of the user.

Templates are Jinja, kept as `~/.clinvk/export/<name>.j2`. They are run in a sandbox, and see
`title`, `session` (the record and its messages), `messages` (as in the JSON) and `options`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from clinvk.config.extras import require_extra
from clinvk.disk.reading import read_file
from clinvk.errors import ConfigError, UsageError
from clinvk.model.session import Message, Session, check_id
from clinvk.model.usage import format_count, rfc3339
from clinvk.sessions.markdown import embed_message
from clinvk.text.json_output import dumps
from clinvk.text.typed import ShapeError, build_struct

VERSION = 1  # of the JSON
BUILT_IN = ("markdown", "json", "html")
THEMES = ("auto", "light", "dark")
DEFAULT_THEME = "default"  # another name of the first one

_RECORD_FIELDS = ("id", "title", "backend", "model", "status", "created_at", "updated_at")
_METADATA_FIELDS = ("cwd", "tags", "template", "parents", "turns", "usage", "cost", "metadata")
_TAG = re.compile(r"<[a-zA-Z!/?]")


class ExportOptions(Struct, frozen=True):
    """What an export includes besides the messages. By default (None), JSON includes everything,
    HTML the times, and Markdown nothing."""

    include_metadata: bool | None = None
    include_tokens: bool | None = None
    include_timestamps: bool | None = None
    include_css: bool = True  # HTML: without it, the page has no style of its own
    theme: str = "auto"  # HTML: light, dark, or auto, following the reader's system
    pretty_print: bool = True  # JSON: indented


def read_options(**given: Any) -> ExportOptions:
    """Options by their names. Raises `UsageError` for one that does not exist."""
    try:
        made = build_struct(ExportOptions, given)
    except ShapeError as error:
        known = ", ".join(ExportOptions.__struct_fields__)
        raise UsageError(f"export: {error}", f"known: {known}") from error
    if made.theme == DEFAULT_THEME:
        return replace(made, theme=THEMES[0])
    if made.theme not in THEMES:
        raise UsageError(f"theme: {made.theme!r} is not one of: {', '.join(THEMES)}")
    return made


def formats(home: Path) -> list[str]:
    """Every format, the registered ones last."""
    theirs = sorted(
        p.stem for p in _template_directory(home).glob("*.j2") if not p.name.startswith(".")
    )
    return [*BUILT_IN, *(name for name in theirs if name not in BUILT_IN)]


def export_session(session: Session, format_: str, options: ExportOptions, home: Path) -> str:
    """The session, with its messages, in a format. Raises `UsageError` for an unknown format and
    for a template that fails; `ClinvkError` if a template needs a missing package."""
    if format_ in _WRITERS:
        return _WRITERS[format_](session, options)
    if format_ not in formats(home):
        raise UsageError(
            f"unknown export format {format_[:100]!r}",
            f"known: {', '.join(formats(home))}; add one as {_template_directory(home)}/NAME.j2",
        )
    path = _template_directory(home) / f"{format_}.j2"
    try:
        text = read_file(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return _render_template(session, text, format_, options)


def register_template(home: Path, name: str, text: str) -> None:
    """Store a template as a format. Raises `UsageError` if it is invalid or has the name of a
    built-in format; `SessionError` for a name that is not valid as a file name."""
    # Only to write a file.
    from clinvk.disk.atomic import make_folder, replace_file

    check_id(name)
    if name in BUILT_IN:
        raise UsageError(f"the format {name!r} is built in", "choose another name")
    _parse_template(text, name)
    path = _template_directory(home) / f"{name}.j2"
    try:
        make_folder(path.parent)
        replace_file(path, text.encode(), durable=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def session_data(session: Session, options: ExportOptions) -> dict[str, Any]:
    """The session and its messages as JSON data."""
    record = session.to_json()
    said = _default(options.include_metadata, otherwise=True)
    names = (*_RECORD_FIELDS, *(_METADATA_FIELDS if said else ()))
    about = {"version": VERSION} | {name: record[name] for name in names}
    return about | {
        "messages": [_message_data(m, options, otherwise=True) for m in session.messages]
    }


def _message_data(message: Message, options: ExportOptions, *, otherwise: bool) -> dict[str, Any]:
    line: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if _default(options.include_timestamps, otherwise=otherwise):
        line["timestamp"] = rfc3339(message.timestamp)
    if _default(options.include_tokens, otherwise=otherwise):
        line["tokens"] = message.tokens
    if _default(options.include_metadata, otherwise=otherwise):
        line["metadata"] = message.metadata
    return line


def _json(session: Session, options: ExportOptions) -> str:
    indent = 2 if options.pretty_print else None
    return dumps(session_data(session, options), indent=indent, default=str) + "\n"


def _markdown(session: Session, options: ExportOptions) -> str:
    parts = [f"# {_title(session)}"]
    if options.include_metadata:
        parts.append(
            "\n".join(f"- {name}: {value}" for name, value in _describe_session(session).items())
        )
    for message in session.messages:
        parts.append(" · ".join([f"## {message.speaker}", *_message_notes(message, options)]))
        parts.append(embed_message(message.content))
    return "\n\n".join(parts) + "\n"


def _html(session: Session, options: ExportOptions) -> str:
    from clinvk.html import conversation  # only HTML needs what it imports

    messages = [
        {
            "role": message.role.value,
            "who": message.speaker,
            "notes": _message_notes(
                message, options, times=_default(options.include_timestamps, otherwise=True)
            ),
            "time": rfc3339(message.timestamp),
            "content": message.content,
        }
        for message in session.messages
    ]
    about = _describe_session(session) if options.include_metadata else {}
    return conversation.render(
        _title(session), about, messages, css=options.include_css, theme=options.theme
    )


_WRITERS: dict[str, Callable[[Session, ExportOptions], str]] = {
    "markdown": _markdown,
    "json": _json,
    "html": _html,
}


def _describe_session(session: Session) -> dict[str, str]:
    """The known facts about the session, as text."""
    known = {
        "Session": session.id,
        "Backend": session.backend,
        "Model": session.model,
        "Status": session.status,
        "Created": _in_words(session.created_at),
        "Last used": _in_words(session.updated_at),
        "Directory": session.cwd,
        "Template": session.template,
        "Parents": ", ".join(session.parents),
        "Tags": ", ".join(session.tags),
        "Tokens": format_count(session.usage.total) if session.usage else None,
        "Cost": f"${session.cost:.4f}" if session.cost is not None else None,
    }
    own = {k: v if isinstance(v, str) else json.dumps(v, default=str) for k, v in
           session.metadata.items()}  # fmt: skip
    return {k: " ".join(v.split()) for k, v in (known | own).items() if v}


def _message_notes(
    message: Message, options: ExportOptions, *, times: bool | None = None
) -> list[str]:
    """The notes beside a message's role."""
    notes = []
    if options.include_timestamps if times is None else times:
        notes.append(_in_words(message.timestamp))
    if options.include_tokens and message.tokens is not None:
        notes.append(f"{message.tokens:,} tokens")
    if options.include_metadata:
        notes += [f"{k}: {v}" for k, v in message.metadata.items()]
    return notes


def _in_words(moment: datetime) -> str:
    """UTC, since an export may be read anywhere."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _title(session: Session) -> str:
    return " ".join((session.label or f"Session {session.id}").split())


def _default(given: bool | None, *, otherwise: bool) -> bool:
    return otherwise if given is None else given


# Templates.


def _template_directory(home: Path) -> Path:
    return home / "export"


def _render_template(session: Session, text: str, name: str, options: ExportOptions) -> str:
    template = _parse_template(text, name)
    data: Mapping[str, Any] = session_data(session, ExportOptions())
    try:
        return str(
            template.render(
                title=_title(session),
                session={k: v for k, v in data.items() if k != "version"},
                messages=data["messages"],
                options={n: getattr(options, n) for n in ExportOptions.__struct_fields__},
            )
        )
    except Exception as error:  # a template can raise anything
        raise UsageError(f"export template {name}: {error}", "fix the template") from error


def _parse_template(text: str, name: str) -> Any:
    with require_extra("export", "an export by template"):
        # Only to write a file.
        from jinja2 import TemplateSyntaxError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

    # The type of a template's output is unknown: with a tag, it is HTML, unless its name says text.
    is_text = name.endswith((".md", ".txt"))
    is_page = not is_text and (name.endswith(("html", "xml")) or bool(_TAG.search(text)))
    try:
        return ImmutableSandboxedEnvironment(autoescape=is_page).from_string(text)
    except TemplateSyntaxError as error:
        raise UsageError(
            f"export template {name}: line {error.lineno}: {error.message}", "fix the template"
        ) from error
