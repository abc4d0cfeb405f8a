"""What a start imports: nothing that the command does not need, since each module takes time."""

import subprocess
import sys

import pytest

REPORT = """
import sys
from clinvk.cmd.main import main
main(sys.argv[1:])
print("modules:", *sorted(sys.modules))
"""


def imported(tmp_path, *argv):
    ran = subprocess.run(
        [sys.executable, "-c", REPORT, *argv],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
    )
    return set(ran.stdout.rpartition("modules:")[2].split())


NEEDLESS = {
    "version": "clinvk.text.addresses msgspec socket sqlite3",
    "sessions list": "clinvk.terminal.rendering markdown_it anyio clinvk.dispatch clinvk.process.note socket",
    "-b echo --ephemeral hi": "clinvk.engine clinvk.runs psutil",
    "-b echo hi": "clinvk.terminal.rendering markdown_it pygments clinvk.engine clinvk.model.outcome clinvk.model.plan clinvk.runs psutil",
}


@pytest.mark.parametrize("command", NEEDLESS)
def test_a_command_starts_without_modules_that_it_does_not_need(tmp_path, command):
    assert imported(tmp_path, *command.split()) & {*NEEDLESS[command].split()} == set()
