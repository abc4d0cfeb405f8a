"""Slash commands about the directory of a conversation."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable

from clinvk.errors import ClinvkError, SessionError, UsageError
from clinvk.model.session import MessageRole
from clinvk.repl.actions import Action, Fill, OnTerminal
from clinvk.repl.command_lines import Offer
from clinvk.repl.sitting import Sitting
from clinvk.terminal import printer as show

LISTED = 20  # files


def diff(sitting: Sitting, argument: str) -> Action | None:
    words = split_words("/diff", argument)
    options = [word for word in words if word.startswith("-")]
    if unknown := [word for word in options if word != "--stat"]:
        raise UsageError(f"/diff: unknown option {unknown[0]}", "use /diff [--stat] [PATH…]")
    paths = tuple(word for word in words if word not in options)
    conversation = sitting.conversation
    # In a worktree, what was changed there is what counts: all of it can be applied or dropped.
    in_worktree = (
        conversation.worktree.wanted is not None or conversation.worktree.place is not None
    )
    changes, subject = (
        (conversation.worktree, "no files were changed in the worktree")
        if in_worktree
        else (conversation.changes, "the last turn changed no files")
    )

    def run() -> None:
        # Only to show it.
        from clinvk.terminal.pager import show_lines

        text = changes.diff(*options, paths=paths)
        if not text:
            where = f" in {' '.join(paths)}" if paths else ""
            sitting.say(f"{subject}{where}")
            return
        paint = sitting.front.out.paint if sitting.front else _plain
        show_lines([_colored(show.safe(line), paint) for line in text.split("\n")[:-1]])

    return OnTerminal(run, f"/diff {argument}".strip())


def _colored(line: str, paint: Callable[[str, str], str]) -> str:
    """A line of a diff in the colors that git uses."""
    if line.startswith(("diff ", "index ", "--- ", "+++ ")):
        return paint(line, show.BOLD)
    codes = {"+": show.GREEN, "-": show.RED, "@": show.DIM}
    return paint(line, codes[line[0]]) if line[:1] in codes else line


def _plain(text: str, _code: str) -> str:
    return text


def offer_changed(sitting: Sitting, _words: list[str]) -> Iterable[Offer]:
    conversation = sitting.conversation
    in_worktree = conversation.worktree.place is not None
    try:
        files = (conversation.worktree if in_worktree else conversation.changes).files()
        return [(name, "") for name in files]
    except ClinvkError:
        return []


def undo(sitting: Sitting, argument: str) -> Action | None:
    if argument:
        raise UsageError(f"/undo: unexpected {argument!r}", "it undoes the last turn")
    # It waits for git, which takes long in a large repository.
    return OnTerminal(lambda: _undo(sitting), "/undo")


def _undo(sitting: Sitting) -> Action:
    # Only to branch.
    from clinvk.api.sessions.manager import SessionManager

    conversation = sitting.conversation
    session, store = conversation.session, conversation.dispatcher.store
    messages = store.messages(session.id) if session else []
    asked = [i for i, m in enumerate(messages) if m.role is MessageRole.USER]
    if session is None or not asked:
        raise SessionError("there is no turn to undo yet", "send a message first")
    changed = _changed_files(sitting)
    conversation.changes.forget()
    if asked[-1] == 0:
        conversation.start_new()
        sitting.say(f"the next message starts a new session; {session.id} stays as it is")
    else:
        manager = SessionManager(store, config=conversation.dispatcher.config)
        copied = manager.branch_session(session.id, asked[-1] - 1)
        conversation.resume(store.get(copied))
        sitting.say(f"now in {copied}, a copy of {session.id} before its last turn")
    if changed:
        sitting.say("the turn changed these files, which stay as they are:")
        for line in changed[:LISTED]:
            sitting.say(f"  {line}")
        if len(changed) > LISTED:
            sitting.say(f"  and {len(changed) - LISTED} more")
    return Fill(messages[asked[-1]].content, offered=True)


def _changed_files(sitting: Sitting) -> list[str]:
    """The files that the last turn changed, with a letter each; none if that is not known."""
    try:
        text = sitting.conversation.changes.diff("--name-status")
    except ClinvkError:
        return []
    return [line.replace("\t", "  ") for line in text.splitlines()]


def native(sitting: Sitting, argument: str) -> Action | None:
    conversation = sitting.conversation
    session, changes = conversation.session, conversation.changes
    argv = ["chat", "--native", "-b", conversation.backend]
    if session is not None and conversation.has_begun:
        argv = ["resume", session.id, "--native"]
    command = sitting.command_line([*argv, *split_words("/native", argument)])

    def run() -> Action | None:
        changes.begin(conversation.directory)
        changes.wait()
        try:
            return command.run()
        finally:
            changes.end()

    return OnTerminal(run, f"/native {argument}".strip())


def memory(sitting: Sitting, argument: str) -> Action | None:
    command, _, text = argument.partition(" ")
    conversation = sitting.conversation
    if argument in ("on", "off"):
        conversation.options.pop("memory", None)
        if argument == "on":
            conversation.options["memory"] = True
        sitting.say(f"the notes go {'with the next messages' if argument == 'on' else 'with none'}")
        return None
    if command == "add" and text.strip():  # a note needs no quotes
        argv = [
            "memory",
            "add",
            *(split_words("/memory", text) if text[0] in "'\"-" else [text.strip()]),
        ]
    else:
        argv = ["memory", *(split_words("/memory", argument) or ["list"])]
    return sitting.command_line(argv, f"/memory {argument}".strip())


def offer_memory(_sitting: Sitting, words: list[str]) -> Iterable[Offer]:
    if words:
        return ()
    return [
        ("list", "the notes of this directory"), ("add", "add one"), ("forget", "delete one"),
        ("on", "add them to the next messages"), ("off", "add none"),
    ]  # fmt: skip


def split_words(command: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{command}: {error}", "close the quotes") from error
