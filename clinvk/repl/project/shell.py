"""`!COMMAND`: a command of the shell, whose output can go with the next message."""

from __future__ import annotations

from clinvk.errors import UsageError
from clinvk.repl.actions import CANCELLED, Action, Exit, OnTerminal
from clinvk.repl.project.output import run_command
from clinvk.repl.sitting import Sitting
from clinvk.text.values import os_problem


def run_shell(sitting: Sitting, command: str) -> Action | None:
    """What `!COMMAND` does; `!!` adds the output of the last one to the next message, or takes it
    away again."""
    if command == "!":
        _attach(sitting)
        return None
    if not command:
        raise UsageError("! needs a command", "use e.g. !git status")
    if problem := os_problem(command):
        raise UsageError(f"the command has {problem}", "remove it")

    def run() -> Action | None:
        output = run_command(command, sitting.conversation.directory)
        if output.is_ended:
            return Exit(CANCELLED)
        sitting.shell_output = output
        failed = f"exit code {output.code}" if output.code else ""
        hint = f"{output.size}; !! sends the output with the next message" if output.text else ""
        if told := "; ".join(filter(None, (failed, hint))):
            sitting.printer.notice(told)
        return None

    return OnTerminal(run, f"!{command}")


def _attach(sitting: Sitting) -> None:
    output, conversation = sitting.shell_output, sitting.conversation
    if output is None or not output.text:
        raise UsageError("there is no output to send yet", "run a command first: !git status")
    if conversation.attached is not None:
        conversation.attached = None
        sitting.say(f"{output.title} is not sent")
        return
    conversation.attached = output.for_prompt()
    sitting.say(f"{output.title} ({output.size}) will be sent with the next message; !! removes it")
