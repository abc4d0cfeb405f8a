"""The README's table of what each backend can do, made from the manifests.

python docs/backends_table.py            print it
python docs/backends_table.py --write    put it into README.md
python docs/backends_table.py --check    exit 1 where README.md holds another one
"""

from __future__ import annotations

import sys
from pathlib import Path

from clinvk.backend.catalog import Catalog
from clinvk.backend.command.effects import explain_unsupported
from clinvk.backend.manifest import Manifest
from clinvk.config.paths import built_in_manifests
from clinvk.model.option_table import BY_NAME, CHOICES, FLAGS

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- backends: begin -->", "<!-- backends: end -->"
ORDER = ("claude", "codex", "gemini", "opencode", "qwen", "copilot", "cline", "pi", "llm", "echo")
YES, NO = "yes", "–"


def main(args: list[str]) -> int:
    if not args:
        print(table())
        return 0
    text = README.read_text(encoding="utf-8")
    made = with_table(text)
    if args == ["--write"]:
        README.write_text(made, encoding="utf-8")
        return 0
    if args != ["--check"]:
        sys.exit(__doc__)
    if made != text:
        print("README.md: its table of backends is not that of the manifests", file=sys.stderr)
        print("  hint: python docs/backends_table.py --write", file=sys.stderr)
        return 1
    return 0


def with_table(readme: str) -> str:
    """The README with the table as it has to be."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def table() -> str:
    # Only our own manifests: a user's folder has no say in what the README tells.
    catalog = Catalog(built_in_manifests().parent / "no such folder")
    backends = [catalog.load(name) for name in ORDER]
    rows = [["", *(b.name for b in backends)]]
    rows.append(["continue, resume", *(_yes(b.resumes) for b in backends)])
    rows.append(["`--ephemeral`", *(_yes(b.ephemeral) for b in backends)])
    rows += [
        _row(f"`{flag}`", name, backends)
        for name, flag in FLAGS.items()
        if name not in CHOICES and not (BY_NAME[name].everywhere or BY_NAME[name].own)
    ]
    for name, choices in CHOICES.items():
        for choice in choices[1:]:  # every backend has its default
            can = [_yes(choice in b.options.get(name, ())) for b in backends]
            rows.append([f"`--{name} {choice}`", *can])
    others = dict.fromkeys(name for b in backends for name in b.options if name not in FLAGS)
    rows += [_row(f"`--option {name}=…`", name, backends) for name in others]
    rows.append(["longest prompt", *(_limit(b) for b in backends)])
    return _markdown(rows)


def _row(label: str, option: str, backends: list[Manifest]) -> list[str]:
    return [label, *(_yes(explain_unsupported(b, option, True) is None) for b in backends)]


def _yes(can: object) -> str:
    return YES if can else NO


def _limit(backend: Manifest) -> str:
    chars, size = backend.prompt.limit_chars, backend.prompt.limit_bytes
    if chars:
        return f"{chars / 1_000_000:.1f} M chars"
    return f"{size / 1_000_000:.1f} MB" if size else "any"


def _markdown(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    head, *body = [
        "| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([head, rule, *body])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
