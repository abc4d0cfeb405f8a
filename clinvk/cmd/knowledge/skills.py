"""`clinvk skills`: list, show, new."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinvk.cmd.knowledge.presets import Description, Kind, Preset, new_group, report_new
from clinvk.cmd.options import request as opt
from clinvk.sessions import skills
from clinvk.sessions.lookup import real_path


def _places(home: Path) -> list[Path]:
    return skills.skill_places(home, real_path(None))


def _load(home: Path, name: str) -> Preset:
    found = skills.load_skill(_places(home), name)
    return Preset(
        name,
        str(found.path),
        found.description,
        data={"text": found.text},
        text=found.text,
        notice=found.notice,
    )


SKILLS = Kind(
    "skill",
    lambda home: skills.skill_names(_places(home)),
    _load,
    opt.complete_skills,
    lambda _: "no skills; create one with: clinvk skills new NAME",
)
app = new_group(SKILLS, "List, show and create skills.")


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new skill.")],
    description: Description = "Say here when to use it.",
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Create a skill in ~/.clinvk/skills, to be edited, and print its path."""
    path = skills.new_skill(opt.load_config(config).home, name, description)
    report_new("skill", name, path, as_json=as_json)
