"""Slash commands that take the changes in the worktree of a conversation, or remove them."""

from __future__ import annotations

from collections.abc import Iterable

from clinvk.errors import UsageError
from clinvk.repl.actions import Action, OnTerminal
from clinvk.repl.command_lines import Offer
from clinvk.repl.project.slash import split_words
from clinvk.repl.project.worktree import ConversationWorktree
from clinvk.repl.sitting import Sitting

PREVIEW = "--dry-run"
CHECK = "--check"  # alone, as of `git apply`: a preview; with a command, as of `clinvk runs apply`


def apply(sitting: Sitting, argument: str) -> Action | None:
    worktree, run = _worktree_with_run(sitting, "apply")
    words = split_words("/apply", argument)
    if words[-1:] == [CHECK]:
        words[-1] = PREVIEW
    text = f"/apply {argument}".strip()

    def apply_saved() -> Action | None:
        worktree.save()  # also what was not changed by a turn
        last = sitting.conversation.last
        if last is not None and last.check is not None and not last.check.ok:
            sitting.printer.notice("the last check failed")
        # The conversation continues in the worktree.
        argv = ["runs", "apply", run, *worktree.task(), "--keep", *words]
        return sitting.command_line(argv, text).run()

    return OnTerminal(apply_saved, text)


def offer_apply(_sitting: Sitting, _words: list[str]) -> Iterable[Offer]:
    return [
        (PREVIEW, "say what would be applied; change nothing"),
        ("--commit", "also commit"),
        ("--branch", "commit to a new branch"),
        ("--resolve", "let a backend resolve conflicts"),
        (CHECK, "take it back if this command fails; without one, as --dry-run"),
    ]


def drop(sitting: Sitting, argument: str) -> Action | None:
    worktree, run = _worktree_with_run(sitting, "drop")
    words = split_words("/drop", argument)
    text = f"/drop {argument}".strip()

    def drop_released() -> Action | None:
        worktree.save()
        worktree.release()
        try:
            following = sitting.command_line(
                ["runs", "drop", run, *worktree.task(), *words], text
            ).run()
        finally:
            worktree.hold()
        if not worktree.exists:
            sitting.say("the next message begins with a new worktree")
        return following

    return OnTerminal(drop_released, text)


def _worktree_with_run(sitting: Sitting, doing: str) -> tuple[ConversationWorktree, str]:
    """The worktree of the conversation, and the id of the run that it belongs to. Raises
    `UsageError`."""
    worktree = sitting.conversation.worktree
    if worktree.place is not None:
        return worktree, worktree.place.run
    if worktree.wanted is not None:
        raise UsageError(
            f"there is nothing to {doing} yet: the worktree is created by the first message",
            "send a message first",
        )
    raise UsageError(
        f"there is nothing to {doing}: this conversation works in your files, not in a worktree",
        "to work in one: clinvk repl --worktree, also with a session; see what has changed: /diff",
    )
