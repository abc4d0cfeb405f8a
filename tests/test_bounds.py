"""What is handed in has limits that are met before it costs anything."""

import itertools
import json
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.config.keys import parse_value
from clinvk.process.pipes import LONGEST, LineSplitter
from clinvk.text import json_input, yaml
from tests.conftest import READ, START, CommandLine, Home, python, say, wait_for

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = f"a: &a {'x' * 10_000}\nb: [{', '.join(['*a'] * 2_000)}]\n"
HUGE = [
    ("a: " + "9" * 5_000, "a number with more than 4,300 digits"),
    ("a: -" + "9" * 5_000 + ".5", "a number with more than 4,300 digits"),
    ("a: 0x" + "f" * 5_000, "a number with more than 4,300 digits"),
    ("[" * 100_000, "nested too deeply"), ("[" * 150 + "]" * 150, "nested too deeply"),
    ("{a: " * 150, "nested too deeply"), ("- " * 20_000 + "x", "nested too deeply"),
    ("? " * 20_000, "nested too deeply"),
    (BOMB, "its aliases would make more than 100,000 values"),
    (TEXTS, "its aliases would make more than 100,000 values"),
    ("x: &a {b: [*a]}", "*a refers to itself"),
    ("a: 2026-02-31", "not a value"), ("a: !!timestamp x", "a tag that does not fit"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), HUGE, ids=[text[:12] for text, _ in HUGE])
def test_yaml_that_is_too_much_is_refused_in_words_of_ours(text: str, said: str):
    with pytest.raises(yaml.YamlError) as caught:
        yaml.load(text)
    assert said in str(caught.value)


def test_aliases_are_counted_without_being_expanded():
    began = time.process_time()
    with pytest.raises(yaml.YamlError):
        yaml.load(BOMB)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
def test_yaml_in_any_encoding_is_loaded_and_bounded(encoding: str):
    text = "a: &x [1]\nb: *x\nc: 'a & b, *c*'\n"
    assert yaml.load(text.encode(encoding)) == {"a": [1], "b": [1], "c": "a & b, *c*"}
    with pytest.raises(yaml.YamlError, match="its aliases would make more than"):
        yaml.load(BOMB.encode(encoding))


@pytest.mark.parametrize(
    "text", [BOMB.replace(", ", ","), "{" + BOMB.replace(": ", ":\n").replace("]\n", "],") + "}",
             BOMB.replace(": ", ":\t"), "- " + BOMB.replace("\n", "\n  ")],
)  # fmt: skip
def test_aliases_are_bounded_wherever_they_are(text: str):
    with pytest.raises(yaml.YamlError, match="its aliases would make more than"):
        yaml.load(text)


def test_a_prompt_in_markdown_is_parsed_once(monkeypatch: pytest.MonkeyPatch):
    def count(_: str) -> None:
        raise AssertionError("it has no alias")

    monkeypatch.setattr(yaml, "_count", count)
    prompt = "Make **bold** and `a && b` of *this* & that; 2*3, f(&x), \n  * item"
    text = "".join(f"- prompt: |\n    {line}\n" for line in prompt.split("\n"))
    assert len(yaml.load(text)) == 2


def test_aliases_of_a_usual_size_stay_what_they_are():
    text = "defaults: &d {model: m, tags: [a, b]}\ntasks:\n" + "- {<<: *d, prompt: x}\n" * 2_000
    assert yaml.load(text)["tasks"][-1] == {"model": "m", "tags": ["a", "b"], "prompt": "x"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deeply"), ("[" * 150 + "]" * 150, "nested too deeply"),
        ('{"a":' * 150 + "1" + "}" * 150, "nested too deeply"),
        ("9" * 5_000, "a number with more than 4,300 digits"), ("{", "not JSON"),
    ],
)  # fmt: skip
def test_json_that_is_too_much_is_refused(text: str, said: str):
    with pytest.raises(json_input.JsonError) as caught:
        json_input.load(text)
    assert said in str(caught.value)
    assert json_input.load("[" * 90 + "]" * 90)


@pytest.mark.parametrize("name", ["t.yaml", "t.json", "t.jsonl", "t", "s.json"])
@pytest.mark.parametrize("value", ["9" * 5_000, "[" * 500 + "]" * 500])
def test_every_file_of_tasks_is_bounded(clinvk: CommandLine, home: Home, name: str, value: str):
    task = '{"prompt": "x", "meta": VALUE}'.replace("VALUE", value)
    if name == "s.json":
        (home.work / name).write_text(value)
        task, name = '{"prompt": "x", "schema": "s.json"}', "t.json"
    (home.work / name).write_text(task if name == "t.jsonl" else f'{{"tasks": [{task}]}}')
    done = clinvk("parallel", name, "-b", "echo", "--dry-run")
    assert done.returncode == 3, done
    assert "digits" in done.stderr or "nested too deeply" in done.stderr


def test_every_yaml_of_a_user_is_bounded(clinvk: CommandLine, home: Home):
    home.config(BOMB)
    assert "aliases" in clinvk("config", "show").stderr
    home.config("")
    home.manifest("mine", BOMB)
    assert "aliases" in clinvk("backends", "show", "mine").stderr
    (home.path / "templates").mkdir()
    (home.path / "templates" / "mine.yaml").write_text(BOMB)
    assert "aliases" in clinvk("templates", "show", "mine").stderr


def test_a_value_that_is_no_yaml_is_a_text():
    assert parse_value("backends.echo.model", "9" * 5_000) == "9" * 5_000


def test_a_line_that_is_nested_without_end_is_not_read(clinvk: CommandLine, home: Home):
    deep = json.dumps({"type": "text"})[:-1] + ', "text": ' + "[" * 20_000 + "]" * 20_000 + "}"
    (home.path.parent / "deep").write_text(deep + "\n")
    home.backend("deep", f"cat >/dev/null; cat {home.path.parent}/deep\n")
    done = clinvk("-b", "deep", "hi")
    assert "exited without reporting success or failure" in done.stderr


# What programs print.


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=8), st.integers(0, 9))
def test_lines_that_are_too_long_are_skipped_however_they_come(
    data: bytes, cuts: list[int], longest: int
):
    data = data.translate(bytes.maketrans(b"\x00\x01\x02\x03", b"\n\n\n\n"))
    lines, found = LineSplitter(longest), []
    at = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(at):
        found += lines.feed(data[start:end]) if start < end else []
    found += lines.finish()
    whole = data.split(b"\n") if not data.endswith(b"\n") else data.split(b"\n")[:-1]
    whole = [] if not data else whole
    # Within one piece a line costs nothing more, so it may be kept.
    assert [line for line in found if len(line) <= longest] == [
        x for x in whole if len(x) <= longest
    ]
    assert lines.skipped + len(found) == len(whole)


def test_a_line_without_an_end_costs_no_more_than_the_limit(clinvk: CommandLine, home: Home):
    home.backend("endless", python("""
        import sys
        sys.stdin.read()
        for _ in range(400):
            sys.stdout.write("x" * 1_000_000)
        print(); print('{"type": "end", "text": "It is done."}')
    """))  # fmt: skip
    script = (
        "import resource, subprocess, sys; "
        "code = subprocess.run([sys.executable, '-m', 'clinvk', '-b', 'endless', 'hi']).returncode; "
        "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [clinvk.program[0], "-c", script], env=home.env, cwd=home.work, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    *answer, last = done.stdout.splitlines()
    code, most = map(int, last.split())
    assert (code, answer) == (0, ["It is done."]), done
    assert "a line of more than 268,435,456 bytes was skipped" in done.stderr
    assert most * (1 if sys.platform == "darwin" else 1024) < 2 * LONGEST


# Patterns of a user's own manifest.

SLOW = "(a+)+$"
TEMPTING = "a" * 5_000 + "b"


def test_a_pattern_of_errors_that_never_ends_leaves_the_failure_as_it_is(
    clinvk: CommandLine, home: Home
):
    errors = [{"kind": "limit", "match": SLOW}, {"kind": "auth", "status": [401]}]
    home.backend("slow", READ + START + say(type="end", error=TEMPTING) + "exit 1\n", errors=errors)
    done = clinvk("-b", "slow", "hi")
    assert done.returncode == 1, done
    assert "takes longer than 1 s" in done.stderr


def test_an_id_that_a_pattern_never_ends_with_is_refused(clinvk: CommandLine, home: Home):
    script = READ + say(type="start", id=TEMPTING) + say(type="end", text="x")
    remove = {"remove": [{"glob": "~/x/*", "owner": "id"}]}
    home.backend("slow", script, native_id="(a|aa)+", ephemeral=remove)
    done = clinvk("-b", "slow", "--ephemeral", "hi")
    assert (done.returncode, "takes longer than 1 s" in done.stderr) == (0, True), done
    assert clinvk("-b", "slow", "hi").returncode == 0
    done = clinvk("-c", "-b", "slow", "hi")
    assert (done.returncode, "takes longer than 1 s" in done.stderr) == (3, True), done


def test_a_prompt_that_a_pattern_never_ends_with_is_refused(clinvk: CommandLine, home: Home):
    home.backend("slow", prompt={"escape": [{"match": SLOW, "replace": "x"}]})
    done = clinvk("-b", "slow", TEMPTING)
    assert (done.returncode, "takes longer than 1 s" in done.stderr) == (3, True), done
    assert clinvk("-b", "slow", "hi").returncode == 0


def test_a_signal_is_heard_though_a_pattern_never_ends(clinvk: CommandLine, home: Home):
    errors = [{"kind": "limit", "match": SLOW}] * 30
    home.backend("slow", READ + START + say(type="end", error=TEMPTING) + "exit 1\n", errors=errors)
    with clinvk.start("-b", "slow", "hi") as running:
        wait_for(home.ids, "a session", 60)
        running.terminate()
        running.communicate(timeout=60)
    assert running.returncode in (1, 7)


def test_the_manifests_that_come_with_clinvk_need_no_other_engine(clinvk: CommandLine):
    code = (
        "import sys; from clinvk.backend.patterns import Patterns; from clinvk.config.paths import built_in_manifests; "
        "Patterns(str(built_in_manifests() / 'gemini.yaml')).fullmatch('a', 'a'); print('regex' in sys.modules)"
    )
    done = subprocess.run(
        [clinvk.program[0], "-c", code],
        env=clinvk.home.env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
