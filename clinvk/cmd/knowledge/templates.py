"""`clinvk templates`: list, show, new."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clinvk.cmd.knowledge.presets import Description, Kind, Preset, new_group, report_new
from clinvk.cmd.options import request as opt
from clinvk.sessions import templates


def _load(home: Path, name: str) -> Preset:
    found = templates.load_template(home, name)
    return Preset(
        name,
        templates.template_source(home, name),
        found.description,
        fields={
            "Metadata": _format_pairs(found.default_metadata),
            "Options": _format_pairs(found.suggested_parameters),
        },
        data={part: getattr(found, part) for part in found.__struct_fields__},
        text=found.system_message or "",
    )


TEMPLATES = Kind(
    "template", templates.template_names, _load, opt.complete_templates, lambda _: "no templates"
)
app = new_group(TEMPLATES, "List, show and create templates for new sessions.")


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new template.")],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME", help="Copy this template.",
                     autocompletion=opt.complete_templates),
    ] = None,
    description: Description = "",
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:  # fmt: skip
    """Create a template in ~/.clinvk/templates, to be edited, and print its path."""
    path = templates.new_template(opt.load_config(config).home, name, source, description)
    report_new("template", name, path, as_json=as_json)


def _format_pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "-"
