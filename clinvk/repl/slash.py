"""The slash commands: one table, which the help and the completion read."""

from __future__ import annotations

from clinvk.repl import slash_chat, slash_sessions
from clinvk.repl.project import slash as project
from clinvk.repl.project import slash_worktree
from clinvk.repl.sitting import CommandTable, SlashCommand

COMMANDS = (
    SlashCommand(
        "backend", "[NAME]", "Show the backends, or use another one from the next message on.",
        slash_chat.backend, slash_chat.offer_backends,
    ),
    SlashCommand(
        "model", "[NAME]", "Show the model, or use another one; `default` is the backend's own.",
        slash_chat.model, slash_chat.offer_models,
    ),
    SlashCommand(
        "to", "BACKEND [MESSAGE]", "Hand the conversation over to another backend.",
        slash_chat.to, slash_chat.offer_backends,
    ),
    SlashCommand(
        "new", "[TITLE]", "Start a new session with the next message.", slash_sessions.new
    ),
    SlashCommand(
        "resume", "[ID]", "Resume another session; without ID, pick one.",
        slash_sessions.resume, slash_sessions.offer_sessions,
    ),
    SlashCommand("sessions", "[OPTIONS]", "List the sessions.", slash_sessions.sessions),
    SlashCommand(
        "branch", "[TITLE]", "Copy the conversation, and continue in the copy.",
        slash_sessions.branch,
    ),
    SlashCommand(
        "diff", "[--stat] [PATH…]",
        "Show what the last turn changed, from git; in a worktree, all that was changed there.",
        project.diff, project.offer_changed,
    ),
    SlashCommand(
        "apply", "[--check] [OPTIONS]",
        "Apply the changes in the worktree to your files; --check only says what would happen.",
        slash_worktree.apply, slash_worktree.offer_apply,
    ),
    SlashCommand(
        "drop", "[--yes]", "Remove the worktree with its changes, after a question.",
        slash_worktree.drop, lambda *_: [("--yes", "without the question")],
    ),
    SlashCommand(
        "undo", "", "Continue from before the last turn, in a copy; files are only listed.",
        project.undo,
    ),
    SlashCommand(
        "native", "", "Open the screen of the backend's own CLI on this session.", project.native
    ),
    SlashCommand(
        "memory", "[add TEXT|forget ID|on|off]", "Show or change the notes of this directory.",
        project.memory, project.offer_memory,
    ),
    SlashCommand(
        "compare", "[-b A,B] MESSAGE", "Send a message to several backends, outside of this session.",
        slash_chat.compare,
    ),
    SlashCommand(
        "export", "[FORMAT] [FILE]", "Write the conversation to a file, or to the screen.",
        slash_sessions.export, slash_sessions.offer_formats,
    ),
    SlashCommand(
        "copy", "[code]", "Copy the last answer, or its last block of code, to the clipboard.",
        slash_chat.copy, lambda *_: [("code", "its last block of code")], at_once=True,
    ),
    SlashCommand("edit", "[TEXT]", "Write the message in an editor.", slash_chat.edit),
    SlashCommand(
        "options", "[OPTIONS]", "Show or store options, as `clinvk session` does.",
        slash_chat.options,
    ),
    SlashCommand(
        "cost", "", "Show the tokens and the cost of this session.", slash_chat.cost, at_once=True
    ),
    SlashCommand(
        "thinking", "[on|off]", "Show what the model thinks, or only that it does.",
        slash_chat.thinking,
        lambda *_: [("on", "show it"), ("off", "show a line only")], at_once=True,
    ),
    SlashCommand("clear", "", "Clear the screen; the session stays.", slash_chat.clear, at_once=True),
    SlashCommand("help", "[COMMAND]", "Show this.", slash_chat.help_, slash_chat.offer_help, at_once=True),
    SlashCommand("exit", "", "Leave, as Ctrl-D does.", slash_chat.exit_),
)  # fmt: skip
ALIASES = {"quit": "exit", "q": "exit", "?": "help", "switch": "backend", "models": "model",
           "backends": "backend"}  # fmt: skip
TABLE = CommandTable(COMMANDS, ALIASES)
