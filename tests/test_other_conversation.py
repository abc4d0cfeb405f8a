"""A CLI that answers from another session than the one that was to be resumed."""

import json

from tests.conftest import READ, CommandLine, Home, say

TOTALS = {"input": 120, "output": 9}


def script(*answers: tuple[str, str, int]) -> str:
    """A CLI whose answers come from these sessions, with these totals of input tokens."""
    lines = READ + "n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) > n\ncase $n in\n"
    for turn, (native_id, text, total) in enumerate(answers):
        lines += f"{turn})\n" + say(type="start", id=native_id) + say(type="text", text=text)
        usage = {"input": total, "output": 9 * (turn + 1)}
        lines += say(type="end", id=native_id, text=text, usage_total=usage) + ";;\n"
    return lines + "esac\n"


def test_its_totals_do_not_count_and_its_answer_is_not_shown(clinvk: CommandLine, home: Home):
    home.backend(
        "fake",
        script(("n1", "first", 120), ("n2", "of another", 1080), ("n1", "third", 300),
               ("n2", "of another", 50), ("n1", "fifth", 400)),
    )  # fmt: skip
    used = []
    for turn in range(5):
        words = ("-b", "fake") if turn == 0 else ("-c",)
        data = json.loads(clinvk(*words, "-o", "json", "hello").stdout)
        used.append(data["usage"] and data["usage"]["input"])
        assert data["exit_code"] == (4 if turn in (1, 3) else 0)
        assert "of another" not in data["content"]
    assert used == [120, None, 180, None, 100]
    record = home.record()
    assert record["usage"]["input"] == 400
    assert "of another" not in json.dumps(home.transcript())


def test_its_answer_is_not_on_stdout(clinvk: CommandLine, home: Home):
    home.backend("fake", script(("n1", "first", 120), ("n2", "of another", 1080)))
    clinvk("-b", "fake", "hello")
    for words in (("-c", "and now?"),):
        done = clinvk(*words)
        assert (done.returncode, done.stdout) == (4, "")
        assert "resume n1, and it answered from n2" in done.stderr


def test_a_cli_that_gives_new_ids_can_be_continued(clinvk: CommandLine, home: Home):
    answers = [("n1", "one", 10), ("n2", "two", 20), ("n3", "three", 30)]
    home.backend("fake", script(*answers), new_id_on_resume=True)
    for words in (("-b", "fake"), ("-c",), ("-c",)):
        assert clinvk(*words, "hello").returncode == 0
    assert home.record()["native_ids"] == {"fake": "n3"}


def test_a_release_may_give_new_ids(clinvk: CommandLine, home: Home):
    asked = '[ "$1" = --version ] && echo "fake $(cat version)" && exit\n'
    home.backend(
        "fake", asked + script(("n1", "one", 10), ("n2", "two", 20), ("n3", "three", 30)),
        by_version=[{"below": "2.0.0", "new_id_on_resume": True}],
    )  # fmt: skip
    (home.work / "version").write_text("1.0.120")
    assert [clinvk(*w, "hello").returncode for w in (("-b", "fake"), ("-c",))] == [0, 0]
    assert home.record()["native_ids"] == {"fake": "n2"}
