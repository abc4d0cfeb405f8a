"""`clinvk templates`: list, show."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.options import request as opt
from clinvk.errors import ClinvkError
from clinvk.sessions import templates
from clinvk.terminal import printer

app = new_app(no_args_is_help=True, help="List and show templates for new sessions.")
VERSION = 1  # of the JSON


@app.command("list")
def list_(as_json: opt.Json = False, config: opt.Config = None) -> int:
    """List templates, built in or in ~/.clinvk/templates."""
    home = opt.load_config(config).home
    rows, code = [], 0
    for name in templates.template_names(home):
        try:
            found = templates.load_template(home, name)
            rows.append({"name": name, "description": found.description,
                         "source": templates.template_source(home, name)})  # fmt: skip
        except ClinvkError as error:
            printer.Printer.for_errors().error(error.message, error.hint)
            code = error.exit_code
    if as_json:
        printer.print_json({"version": VERSION, "templates": rows})
    else:
        cells = [[r["name"], r["source"], r["description"] or "-"] for r in rows]
        headers = ["NAME", "TEMPLATE", "WHAT FOR"]
        printer.print_table(headers, cells, shrinks=["WHAT FOR", "TEMPLATE"], spared=["TEMPLATE"])
    return code


@app.command("show")
def show_(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Template.", autocompletion=opt.complete_templates)
    ],
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Show what a template adds to a session."""
    home = opt.load_config(config).home
    found, source = templates.load_template(home, name), templates.template_source(home, name)
    if as_json:
        parts = {part: getattr(found, part) for part in found.__struct_fields__}
        printer.print_json({"version": VERSION, "name": name, "source": source, **parts})
        return
    printer.print_fields(
        {
            "Name": name,
            "Template": source,
            "What For": found.description or "-",
            "Metadata": _format_pairs(found.default_metadata),
            "Options": _format_pairs(found.suggested_parameters),
        }
    )
    if found.system_message:
        print(f"\n{printer.safe(found.system_message).rstrip()}")


def _format_pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "-"
