"""`clinvk skills`: list, show."""

from __future__ import annotations

from typing import Annotated

import typer

from clinvk.cmd.app import new_app
from clinvk.cmd.options import request as opt
from clinvk.errors import ClinvkError
from clinvk.sessions import skills
from clinvk.terminal import printer

app = new_app(no_args_is_help=True, help="List and show skills for new sessions.")
VERSION = 1  # of the JSON


@app.command("list")
def list_(as_json: opt.Json = False, config: opt.Config = None) -> int:
    """List the skills in ~/.clinvk/skills."""
    home = opt.load_config(config).home
    rows, code = [], 0
    for name in skills.skill_names(home):
        try:
            skill = skills.load_skill(home, name)
            rows.append({"name": name, "description": skill.description, "source": str(skill.path)})
        except ClinvkError as error:
            printer.Printer.for_errors().error(error.message, error.hint)
            code = error.exit_code
    if as_json:
        printer.print_json({"version": VERSION, "skills": rows})
    elif rows:
        cells = [[r["name"], r["source"], r["description"] or "-"] for r in rows]
        headers = ["NAME", "SKILL", "WHAT FOR"]
        printer.print_table(headers, cells, shrinks=["WHAT FOR", "SKILL"], spared=["SKILL"])
    elif code == 0:
        folder = skills.skills_directory(home)
        printer.Printer.for_errors().notice(f"no skills; add one as {folder}/NAME/{skills.FILE}")
    return code


@app.command("show")
def show_(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Skill.", autocompletion=opt.complete_skills)
    ],
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Show the instructions of a skill."""
    skill = skills.load_skill(opt.load_config(config).home, name)
    if as_json:
        data = {"name": name, "description": skill.description, "source": str(skill.path)}
        printer.print_json({"version": VERSION, **data, "text": skill.text})
        return
    printer.print_fields(
        {"Name": name, "Skill": str(skill.path), "What For": skill.description or "-"}
    )
    print(f"\n{printer.safe(skill.text)}")
