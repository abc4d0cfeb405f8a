"""Command lines of the guides that clinvk follows, as they are written there, each with its exit code.

Those of stored options are in `test_stored_options.py`."""

import json
import shlex

import pytest

from tests.conftest import CommandLine, Home

pytestmark = pytest.mark.once

# ID is the session used last.
PROMPTS = """\
0 chat "This command uses the defaults"
0 "implement the feature"
0 -c "now add tests"
0 -c "update the documentation"
0 resume --last "add error handling"
0 resume ID "continue with tests"
0 resume --here --last "again"
0 resume --backend echo --last "again"
0 --ephemeral "quick question that doesn't need history"
0 "What is Python?" --session learning
0 "How do I install it?" --session learning
0 session resume learning "go on"
0 "Remember my preferences" --session project --memory
0 "Search the docs" --session project --knowledge
0 -b echo --dry-run "Plan the implementation" --planning
0 "Review this PR" --session pr-review-123 --fast-context ./src
0 "Analyze this code" --auto-save my-saved
0 "Now refactor it" --auto-save my-saved
0 "Continue our discussion" --history 5
"""
SESSIONS = """\
0 sessions list
0 sessions list --backend claude
0 sessions list --limit 10
0 sessions list --status active
0 sessions list --backend claude --status active --limit 5
1 sessions list --status nope
0 sessions show ID
0 sessions clean --older-than 30d
0 sessions clean --older-than 7
0 sessions clean
0 session list
0 session create --title "My Session" --template coding
0 session create --title Bug --template coding --metadata '{"project": "webapp", "priority": "high"}'
0 ask "What's the next step?" --session named
0 session show named
0 session export named --format markdown --output chat.md
0 session export named --format json --include-metadata --include-tokens --output detailed_session.json
0 session search "next step" --limit 10
0 session stats named
0 session delete named --yes
0 session start my-project
0 session show my-project
0 session help
0 session delete my-project --yes
0 sessions delete ID --yes
4 sessions show ID
0 session list --storage-backend sqlite --storage-path sessions.db
0 session list --storage-backend file --storage-path s
3 session list --storage-backend bogus
"""


@pytest.mark.parametrize("lines", [PROMPTS, SESSIONS], ids=["prompts", "sessions"])
def test_every_documented_line_works(clinvk: CommandLine, home: Home, lines: str) -> None:
    home.config("default_backend: echo")
    (home.work / "src").mkdir()
    (home.work / "src" / "a.py").write_text("def parse(): pass\n")
    clinvk("the first prompt")
    last = json.loads(clinvk("sessions", "list", "--json").stdout)["sessions"][0]["id"]

    for line in lines.splitlines():
        code, *words = shlex.split(line)
        done = clinvk(*(last if word == "ID" else word for word in words))
        assert done.returncode == int(code), (line, done.stderr)
