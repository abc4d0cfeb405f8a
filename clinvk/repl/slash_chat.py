"""Slash commands about the next message, the last answer, and the prompt itself."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from contextlib import suppress

from clinvk.errors import ClinvkError, UsageError
from clinvk.model.option_table import ALL_OPTIONS
from clinvk.model.session import Session
from clinvk.model.usage import format_count
from clinvk.repl.actions import Action, Exit, Fill, OnTerminal, Send
from clinvk.repl.command_lines import Offer
from clinvk.repl.sitting import Sitting
from clinvk.store.base import Query
from clinvk.terminal import printer as show

_CODE = re.compile(
    r"^( {0,3})(`{3,}|~{3,})[^\n]*\n(.*?)^ {0,3}\2[`~]*\s*$", re.MULTILINE | re.DOTALL
)
_WORD = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|\S)+""")  # it may contain quoted spaces
# Options of `compare` alone that have a value.
WITH_VALUE = ("-b", "--backends", "--judge", "--score", "--html", "-w", "--workdir", "--option",
              "--tag", "--title", "--base")  # fmt: skip
DEFAULT = "default"  # the model that the backend chooses


def backend(sitting: Sitting, argument: str) -> Action | None:
    conversation = sitting.conversation
    if not argument:
        sitting.say(f"backend: {conversation.backend}")
        return sitting.command_line(["backends", "list"])
    before = conversation.backend
    handed = conversation.switch_backend(argument)
    name = conversation.backend
    if name == before:
        sitting.say(f"the backend is {name} already")
    elif handed:
        sitting.say(f"the next message goes to {name}, with the conversation so far")
    else:
        sitting.say(f"the next message goes to {name}")
    return None


def offer_backends(sitting: Sitting, words: list[str]) -> Iterable[Offer]:
    if words:
        return
    catalog = sitting.conversation.dispatcher.catalog
    current = sitting.conversation.backend
    for name in catalog.names():
        yield name, "in use" if name == current else ""


def to(sitting: Sitting, argument: str) -> Action | None:
    name, _, message = argument.partition(" ") if " " in argument else argument.partition("\n")
    if not name:
        raise UsageError("/to needs a backend", "use e.g. /to codex")
    backend(sitting, name)
    return Send(message.strip()) if message.strip() else None


def model(sitting: Sitting, argument: str) -> Action | None:
    conversation = sitting.conversation
    if argument:
        conversation.set_model(None if argument == DEFAULT else argument)
        chosen = argument if argument != DEFAULT else f"the default of {conversation.backend}"
        sitting.say(f"the next message uses the model {chosen}")
        return None
    sitting.say(f"model: {conversation.model or f'the default of {conversation.backend}'}")
    if known := [name for name, _ in offer_models(sitting, []) if name != DEFAULT]:
        sitting.say(f"used before: {', '.join(known)}", show.DIM)
    return None


def offer_models(sitting: Sitting, words: list[str]) -> Iterable[Offer]:
    """The models of the configuration, and of sessions with the backend."""
    if words:
        return
    name = sitting.conversation.backend
    found = dict.fromkeys(
        s.model
        for s in sitting.conversation.dispatcher.store.select(Query(limit=200, backend=name))
        if isinstance(s, Session) and s.model
    )
    if configured := sitting.config.backend(name).model:
        found = {configured: None} | found
    for known in found:
        yield str(known), ""
    yield DEFAULT, f"what {name} chooses"


def compare(sitting: Sitting, argument: str) -> Action | None:
    if not argument:
        raise UsageError("/compare needs a message", 'use e.g. /compare -b claude,codex "why?"')
    if not argument.startswith("-"):
        return sitting.command_line(["compare", argument], f"/compare {argument}")
    options, message = _split_options(argument)
    words = [*options, message] if message else options
    return sitting.command_line(["compare", *words], f"/compare {argument}")


def _split_options(argument: str) -> tuple[list[str], str]:
    """The options with their values, and the message as it was typed, which needs no quotes."""
    options: list[str] = []
    rest = argument
    while rest.startswith("-"):
        option, rest = _take_word(rest)
        options.append(option)
        if _takes_value(option) and rest:
            value, rest = _take_word(rest)
            options.append(value)
        if option == "--":
            break
    return options, _unquoted(rest)


def _takes_value(option: str) -> bool:
    """Whether the next word is its value."""
    known = next((one for one in ALL_OPTIONS if option in (one.flag, one.short)), None)
    if known is None:
        return option in WITH_VALUE
    return known.type is not bool and not known.optional_value


def _take_word(text: str) -> tuple[str, str]:
    """The first word, without its quotes, and the rest."""
    found = _WORD.match(text)
    assert found is not None  # noqa: S101 - there is one
    return _unquoted(found.group()), text[found.end() :].lstrip()


def _unquoted(text: str) -> str:
    """The text, without quotes if it is one word of a shell."""
    with suppress(ValueError):
        words = shlex.split(text)
        if len(words) == 1:
            return words[0]
    return text


def copy(sitting: Sitting, argument: str) -> Action | None:
    # Only to copy something.
    from clinvk.repl.clipboard import copy_text

    text = sitting.answer
    if not text:
        raise UsageError("there is no answer to copy yet")
    what = "the answer"
    if argument == "code":
        blocks = [found.group(3) for found in _CODE.finditer(text)]
        if not blocks:
            raise UsageError("the last answer has no block of code", "to copy all of it: /copy")
        text, what = blocks[-1], "the last block of code"
    elif argument:
        raise UsageError(f"/copy: unknown {argument!r}", "use /copy or /copy code")
    how = copy_text(text, sitting.printer.stream)
    sitting.say(f"copied {what} ({len(text):,} characters) {how}")
    return None


def edit(sitting: Sitting, argument: str) -> Action | None:
    def run() -> Action | None:
        try:
            return Fill(sitting.lines.edit(argument))
        except ClinvkError as error:
            sitting.report(error)
            return Fill(argument)

    return OnTerminal(run, "/edit")


def options(sitting: Sitting, argument: str) -> Action | None:
    conversation = sitting.conversation
    if conversation.options and not argument:
        told = ", ".join(f"{name}: {value}" for name, value in conversation.options.items())
        sitting.say(f"of this prompt: {told}")
    try:
        words = shlex.split(argument)
    except ValueError as error:
        raise UsageError(f"/options: {error}") from error
    return sitting.command_line(["sessions", "options", *words], f"/options {argument}".strip())


def cost(sitting: Sitting, _argument: str) -> Action | None:
    conversation = sitting.conversation
    session = conversation.session
    if session is None:
        sitting.say("nothing was used yet")
        return None
    used = session.usage or conversation.used
    sitting.say(
        f"session {session.id}: {_describe_turns(session)}{format_count(used.input, '?')} tokens in "
        f"({format_count(used.cached, '?')} cached), {format_count(used.output, '?')} out"
    )
    dollars = conversation.dollars
    known = f"${dollars:.4f} as reported" if dollars is not None else "not reported"
    sitting.say(f"cost: {known}")
    return None


def _describe_turns(session: Session) -> str:
    """`2 turns, `; of a copy, those before it were paid for in another session."""
    copied = session.counts.get("user", 0) - session.turns if session.parents else 0
    count = session.turns + max(0, copied)
    turns = f"{count} turn{'s' * (count != 1)}"
    return f"{turns}, {copied} of them copied; since then " if copied > 0 else f"{turns}, "


def thinking(sitting: Sitting, argument: str) -> Action | None:
    if argument not in ("", "on", "off"):
        raise UsageError(f"/thinking: unknown {argument!r}", "use on or off")
    sitting.shows_thinking = argument == "on" or (not argument and not sitting.shows_thinking)
    if not sitting.shows_thinking:
        sitting.say("thinking is shown as one line")
        return None
    sitting.say("thinking is shown")
    if sitting.thoughts:
        sitting.say(sitting.thoughts, show.DIM)
    return None


def clear(sitting: Sitting, _argument: str) -> Action | None:
    if sitting.front is not None:
        sitting.front.clear()
    return None


def exit_(_sitting: Sitting, _argument: str) -> Action | None:
    return Exit()


KEYS = (
    ("Enter", "send; while an answer streams, after it"),
    ("Alt-Enter", "add a line"),
    ("Tab", "complete commands, sessions, backends, models and @files"),
    ("Up, Ctrl-R", "earlier messages, search them"),
    ("Ctrl-C", "stop the answer, twice: at once; or clear the line"),
    ("Ctrl-D", "leave; the session stays"),
    ("!COMMAND", "run it in the shell; !! sends its output with the next message"),
)


def help_(sitting: Sitting, argument: str) -> Action | None:
    if argument:
        found = sitting.table.find(argument.removeprefix("/"))
        sitting.say(f"/{found.name} {found.argument}".rstrip())
        sitting.say(f"  {found.help}")
        return None
    rows = [(f"/{c.name} {c.argument}".rstrip(), c.help) for c in sitting.table.commands]
    width = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        for line in sitting.printer.wrap(f"  {name:<{width}}", text):
            sitting.say(line)
    sitting.say("")
    for name, text in KEYS:
        for line in sitting.printer.wrap(f"  {name:<{width}}", text):
            sitting.say(line)
    sitting.say("")
    for line in sitting.printer.wrap(
        "", "Commands of clinvk work as in a shell: sessions list, session --temperature 0.5, "
        "help parallel. Anything else is a message; so is a line that begins with a space.",
    ):  # fmt: skip
        sitting.say(line)
    return None


def offer_help(sitting: Sitting, words: list[str]) -> Iterable[Offer]:
    return [] if words else [(c.name, c.help) for c in sitting.table.commands]
