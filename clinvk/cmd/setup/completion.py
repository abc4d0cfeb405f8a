"""`clinvk completion bash|zsh|fish`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.options.completions import complete_words
from clinvk.errors import UsageError

app = new_app()
SHELLS = ("bash", "zsh", "fish")


@app.command()
def completion(
    shell: Annotated[
        str | None,
        typer.Argument(
            metavar="[SHELL]",
            help="bash, zsh or fish (default: from $SHELL).",
            autocompletion=complete_words(SHELLS),
        ),
    ] = None,
) -> None:
    """Print a shell completion script.

    bash: eval "$(clinvk completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc, after compinit;
    fish: clinvk completion fish > ~/.config/fish/completions/clinvk.fish"""
    # Only this command needs it.
    from typer._completion_shared import get_completion_script

    shell = shell or os.path.basename(os.environ.get("SHELL", ""))
    if shell not in SHELLS:
        raise UsageError(f"no completion for {shell!r}", f"use one of: {', '.join(SHELLS)}")
    script = get_completion_script(prog_name="clinvk", complete_var="_CLINVK_COMPLETE", shell=shell)
    print(_keep_order(script))


def _keep_order(script: str) -> str:
    """The script, changed so that the shell keeps the order of values, such as newest first."""
    script = script.replace("complete -o default", "complete -o nosort -o default")
    return script.replace("complete --command clinvk", "complete --command clinvk --keep-order")
