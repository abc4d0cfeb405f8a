"""`clinvk checkpoints list`, `show` and `delete`."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.holding import until_end
from clinvk.cmd.options.plan import complete_checkpoints
from clinvk.cmd.views import summary
from clinvk.errors import ClinvkError
from clinvk.terminal import printer, questions
from clinvk.text import duration

if TYPE_CHECKING:
    from clinvk.api.workflow import WorkflowManager

app = new_app(help="Manage checkpoints of resumable chains.", no_args_is_help=True)

VERSION = 1  # of the JSON that they print

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Checkpoint.", autocompletion=complete_checkpoints)
]
Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME...", help="Checkpoints.", autocompletion=complete_checkpoints),
]


@app.command("list")
def list_(as_json: opt.Json = False, config: opt.Config = None) -> None:
    """List checkpoints."""
    found = _workflow_manager(config).list_checkpoints()
    if as_json:
        printer.print_json({"version": VERSION, "checkpoints": found})
        return
    if not found:
        print(
            "no checkpoints; create one with: clinvk chain FILE --checkpoint NAME", file=sys.stderr
        )
        return
    rows = [
        [c["name"], c["state"], f"{c['completed']}/{c['steps']}",
         duration.format_age(datetime.fromisoformat(c["at"])) if c["at"] else "-", c["run"] or "-",
         c["source"] or "-"]
        for c in found
    ]  # fmt: skip
    printer.print_table(
        ["NAME", "STATE", "STEPS DONE", "STARTED", "RUN", "FROM"], rows,
        shrinks=["FROM"], spared=["FROM", "STARTED", "STEPS DONE", "RUN"],
    )  # fmt: skip


@app.command("show")
def show_(name: Name, as_json: opt.Json = False, config: opt.Config = None) -> None:
    """Show the progress of a chain and the answer of each step."""
    result = _workflow_manager(config).checkpoint(name)
    if as_json:
        printer.print_json({**result.to_json(), "checkpoint": name})
        return
    for outcome in result.answers:
        summary.print_answer(outcome)
    summary.print_summary(result)
    if result.state != "done":
        printer.Printer.for_errors().notice(f"resume with: clinvk chain --resume {name}")


@app.command("delete")
def delete(names: Names, yes: opt.Yes = False, config: opt.Config = None) -> int:
    """Delete checkpoints. Their runs are kept until they are cleaned up."""
    manager = _workflow_manager(config)
    code = 0
    for name in names:
        try:
            known = manager.checkpoints.exists(name)  # otherwise `delete` reports it
            if known and not yes and not questions.confirm_deletion(f"Delete checkpoint {name}?"):
                code = 4
                continue
            manager.checkpoints.delete(name)
            print(f"Checkpoint {name} deleted.")
        except ClinvkError as error:
            printer.Printer.for_errors().error(error.message, error.hint)
            code = error.exit_code
    return code


def _workflow_manager(config: opt.Config) -> WorkflowManager:
    # Only with a checkpoint.
    from clinvk.api.workflow import WorkflowManager
    from clinvk.dispatch.dispatcher import Dispatcher

    return WorkflowManager(until_end(Dispatcher(opt.load_config(config))))
