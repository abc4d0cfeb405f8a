"""`python -m bench`: every measurement, one after the other (`make bench`); `python -m bench NAME`
runs only the named ones."""

from __future__ import annotations

import sys

from bench import (
    apply_faults,
    board,
    checks,
    cluster_cost,
    cluster_faults,
    cluster_figures,
    cluster_scale,
    crashes,
    drivers,
    faults,
    fuzz,
    many,
    prompt,
    real,
    render,
    start,
    stream,
    tasks,
    text,
    turn,
    worktrees,
)

PARTS = {
    "start": start,
    "turn": turn,
    "checks": checks,
    "stream": stream,
    "fuzz": fuzz,
    "text": text,
    "render": render,
    "real": real,
    "many": many,
    "tasks": tasks,
    "board": board,
    "prompt": prompt,
    "faults": faults,
    "crashes": crashes,
    "drivers": drivers,
    "worktrees": worktrees,
    "apply_faults": apply_faults,
    "cluster_cost": cluster_cost,
    "cluster_figures": cluster_figures,
    "cluster_faults": cluster_faults,
    "cluster_scale": cluster_scale,
}
WITH_OPTIONS = {
    "fuzz": fuzz,
    "cluster_cost": cluster_cost,
    "cluster_figures": cluster_figures,
    "cluster_faults": cluster_faults,
    "cluster_scale": cluster_scale,
}


def main(names: list[str]) -> None:
    if names[:1] and names[0] in WITH_OPTIONS:
        WITH_OPTIONS[names[0]].main(names[1:])
        return
    if unknown := [name for name in names if name not in PARTS]:
        sys.exit(f"unknown benchmark {unknown[0]!r}; known: {', '.join(PARTS)}")
    for name in names or PARTS:
        PARTS[name].main()


if __name__ == "__main__":
    main(sys.argv[1:])
