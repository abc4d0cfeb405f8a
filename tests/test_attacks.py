"""Hostile files and names, kills, stops and races: what does no harm, and has to stay so."""

import json
import os
import random
import re
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clinvk.errors import ConfigError, UsageError
from clinvk.model.session import Message, Session
from clinvk.plans import formats, parse
from clinvk.plans.taskfile.defaults import Defaults
from clinvk.sessions import export
from clinvk.store import open_store
from tests.conftest import END, READ, START, CommandLine, Home, is_alive, pid_in, wait_for
from tests.stores import RedisServer, keep

ECHO = ("-b", "echo")

# Files

HOSTILE = [
    ("t.yaml", "!!python/object/apply:os.system ['touch RAN']"),
    ("t.yaml", "- !!python/object/new:subprocess.Popen [[touch, RAN]]"),
    ("t.yaml", "- prompt: !!python/name:os.system x"),
    ("t.yaml", "- prompt: !include /etc/passwd"),
    ("t.yaml", "a: &a [x, *a]\ntasks: *a"),
    ("t.yaml", "tasks: &a\n- *a"),
    ("t.yaml", "tasks: [{<<: [1, 2], prompt: x}]"),
    ("t.yaml", "tasks: {__class__: x, __init__: y}"),
    ("t.yaml", "tasks:\n- prompt: x\n  __proto__: {approval: none}"),
    ("t.yaml", "? [a, b]\n: x"),
    ("t.yaml", "tasks: [x]\n---\ntasks: [y]"),
    ("t.yaml", "tasks: [x]\n...\ngarbage: ["),
    ("t.yaml", "%YAML 9.9\n---\n[[["),
    ("t.yaml", "tasks: [\x00]"),
    ("t.yaml", "tasks: [" * 3000),
    ("t.yaml", "tasks:\n- prompt: x\n  max_turns: .inf"),
    ("t.yaml", "tasks:\n- prompt: x\n  timeout: .nan"),
    ("t.yaml", "tasks:\n- prompt: x\n  matrix: {a: [{b: c}]}"),
    ("t.yaml", "tasks:\n- name: x\n  prompt_file: /proc/self/mem"),
    ("t.yaml", "tasks:\n- name: x\n  prompt_file: /"),
    ("t.json", '{"tasks": [NaN]}'),
    ("t.json", "[" * 100_000),
    ("t.json", '{"tasks": "x"'),
    ("t.json", "\ufeff["),
    ("t.jsonl", '{"prompt": "x"}\n{"prompt"\n'),
    ("t.jsonl", "null\n[]\n3\n"),
    ("t.csv", 'prompt\n"never closed'),
    ("t.csv", "prompt\na,b,c,d\n"),
    ("t.csv", ",,,\n,,,\n"),
]  # fmt: skip


def refusal(name: str, text: str) -> str | None:
    """What is said against such a file of tasks; nothing where it is accepted."""
    try:
        data, form = formats.parse_text(name, text, None)
        parse.parse_plan(data, name, "parallel", Defaults(), text if form == "yaml" else "")
    except ConfigError as error:
        return error.message
    return None


def test_a_hostile_file_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name, text in HOSTILE:
        message = refusal(name, text)
        assert message is not None, f"accepted: {text[:200]}"
        assert len(message) < 2000, text[:200]
        assert list(tmp_path.iterdir()) == [], text[:200]


NAMES = [
    "../../escaped", "/etc/passwd", "..", ".", "-rf", "--yes", "a/b/../../../c", "\\..\\..\\x", "con", "a\0b", "a\nb",
    "a\rb", "\x1b]0;x\x07", "\u202egnp.exe", "é" * 200, "🚀" * 100, "x" * 300, " ", "~root", "$(touch RAN)", "`touch RAN`", "%s%n",
    "{{x}}", "<b>", "a|b", "*", "?", "results", "results.json", "a.md", "A.md", ".hidden", "last",
]  # fmt: skip


def test_no_name_of_a_task_leaves_the_directories_of_a_run(clinvk: CommandLine, home: Home):
    names = [n for n in NAMES if "{{" not in n and "\0" not in n and n.strip()]
    tasks = [{"name": name, "prompt": "x", "backend": "echo"} for name in names]
    before = set(home.path.parent.rglob("*"))
    done = clinvk("parallel", "-q", "-j", "4", "--output-dir", "out", "--report", "r.md", "--junit", "r.xml",
                  stdin=json.dumps(tasks))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    new = set(home.path.parent.rglob("*")) - before
    allowed = (home.path, home.work / "out", home.work / "r.md", home.work / "r.xml")
    assert [p for p in new if not any(p == a or a in p.parents for a in allowed)] == []
    assert len([p for p in (home.work / "out").iterdir() if p.suffix == ".md"]) == len(names)


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ [].__class__.__base__.__subclasses__() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os.popen('touch RAN') }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('touch RAN').read() }}",
    "{{ range.__self__ }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ ('{0.__cla' ~ 'ss__}').format(session) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ session.update({'a': 1}) }}",
    "{{ messages.clear() }}",
    "{% import '/etc/passwd' as x %}",
    "{% extends '/etc/passwd' %}",
    "{% set x = messages.__class__ %}{{ x.mro() }}",
    "{{ dict.__base__ }}",
    "{% for x in range(999999999) %}x{% endfor %}",
]  # fmt: skip


def exported(session: Session, template: str, home: Path) -> str:
    """What the template makes of it; nothing where it is refused."""
    try:
        export.register_template(home, "bad", template)
        return export.export_session(session, "bad", export.read_options(), home)
    except UsageError:
        return ""


def test_no_template_reaches_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for n, template in enumerate(ESCAPES):
        session = Session(id="s", messages=[Message("user", "hi")])
        text = exported(session, template, tmp_path / f"home{n}")
        assert not any(part in text for part in ("class", "root:", "os")), (template, text)
        assert all(p.name.startswith("home") for p in tmp_path.iterdir()), template
        assert len(session.messages) == 1, template


# Private


@pytest.mark.parametrize("umask", [0o000, 0o277])
def test_everything_below_the_home_is_private_whatever_the_umask(
    clinvk: CommandLine, home: Home, umask: int
):
    """`0o277` would make a directory that its own user cannot write to."""
    steps = {"name": "c", "steps": [{"name": "one", "prompt": "x", "backend": "echo"}]}
    (home.work / "chain.yaml").write_text(yaml.safe_dump(steps))
    calls = [
        (*ECHO, "--session", "one", "hello"),
        ("chain", "chain.yaml", "-q"),
        ("sessions", "start", "--title", "new", *ECHO),
        ("sessions", "branch", "one"),
        ("config", "set", "output.color", "never"),
        ("sessions", "migrate", "--to", f"sqlite:///{home.path}/other.db"),
        ("sessions", "export", "one", "--output", str(home.path / "out.html"), "--format", "html"),
    ]
    before = os.umask(umask)
    try:
        done = [clinvk(*call) for call in calls]
    finally:
        os.umask(before)
    assert [d.returncode for d in done] == [0] * len(calls), [d.stderr for d in done]
    modes = {p: stat.S_IMODE(p.lstat().st_mode) for p in [home.path, *home.path.rglob("*")]}
    wrong = {str(p): oct(m) for p, m in modes.items() if m & 0o077 or not m & 0o400}
    assert wrong == {}
    assert len(modes) > 20


# Kills


def killed_at_random(
    clinvk: CommandLine, calls: list[tuple[str, ...]], timed: tuple[str, ...], seed: int
) -> None:
    """Kill each of these at a random moment; `timed` takes about as long as one of them."""
    chance = random.Random(seed)
    began = time.monotonic()
    assert clinvk(*timed).returncode == 0
    took = time.monotonic() - began
    for call in calls:
        with clinvk.start(*call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(took * (0.4 + 0.6 * chance.random()))
            process.kill()


def filled(home: Home, count: int = 12) -> Any:
    store = keep(open_store("file", home.path))
    for n in range(count):
        texts = [
            Message("user" if i % 2 == 0 else "assistant", f"{n}-{i} " + "x" * 2000)
            for i in range(20)
        ]
        store.create(Session(id=f"s{n}", title=f"about {n}", backend="echo"), texts)
    return store


def sound(clinvk: CommandLine, home: Home) -> list[str]:
    """The ids, once it is sure that every record and transcript is whole and found."""
    listed = clinvk.json("sessions", "list", "--json")["sessions"]
    assert [s["id"] for s in listed if "problem" in s] == []
    assert sorted(s["id"] for s in listed) == home.ids()
    store = keep(open_store("file", home.path))
    for id_ in home.ids():
        store.get(id_), store.messages(id_)
        path = home.path / "transcripts" / f"{id_}.jsonl"
        if path.exists():
            assert all(json.loads(line) for line in path.read_bytes().splitlines())
    assert clinvk(*ECHO, "afterwards").returncode == 0
    return home.ids()


def test_a_killed_config_set_leaves_the_old_file_or_the_new(clinvk: CommandLine, home: Home):
    seed = random.randrange(10_000)
    path = home.config("# mine\n" + "# a comment\n" * 5000 + "session: {retention_days: 1}\n")
    calls = [("config", "set", "session.retention_days", str(n)) for n in range(2, 7)]
    killed_at_random(clinvk, calls, calls[0], seed)
    data = yaml.safe_load(path.read_text())
    assert data["session"]["retention_days"] in range(1, 7), seed
    assert path.read_text().count("# a comment") == 5000, seed
    assert clinvk("config", "set", "session.retention_days", "9").returncode == 0, seed


def test_killed_branches_and_merges_leave_whole_sessions(clinvk: CommandLine, home: Home):
    seed = random.randrange(10_000)
    store = filled(home)
    before = {id_: store.messages(id_) for id_ in home.ids()}
    calls = [call for n in range(3) for call in (("sessions", "branch", f"s{n}"),
                                                 ("sessions", "merge", f"s{n}", f"s{n + 1}"))]  # fmt: skip
    killed_at_random(clinvk, calls, ("sessions", "branch", "s4"), seed)
    ids = sound(clinvk, home)
    store = keep(open_store("file", home.path))
    assert {id_: store.messages(id_) for id_ in before} == before, seed
    made = [id_ for id_ in ids if id_ not in before]
    lengths = {len(store.messages(id_)) for id_ in made if store.get(id_).parents}
    assert lengths <= {20, 40}, seed


def test_a_killed_migration_is_completed_by_the_next(clinvk: CommandLine, home: Home):
    seed = random.randrange(10_000)
    store = filled(home, 60)
    target = f"sqlite:///{home.path.parent}/there.db"
    call = ("sessions", "migrate", "--to", target)
    killed_at_random(clinvk, [call] * 4, (*call, "--dry-run"), seed)
    done = clinvk("sessions", "migrate", "--to", target, "--json")
    assert done.returncode == 0, (seed, done.stderr)
    there = keep(open_store(target, home.path))
    for id_ in home.ids():
        assert there.messages(id_) == store.messages(id_), seed


def test_a_killed_clean_deletes_whole_sessions_only(clinvk: CommandLine, home: Home):
    seed = random.randrange(10_000)
    filled(home, 60)
    clinvk(*ECHO, "--session", "fresh", "hi")
    for path in (home.path / "sessions").glob("s*.json"):
        record = json.loads(path.read_text())
        record["updated_at"] = "2020-01-01T00:00:00.000Z"
        (path.parent / "new").write_text(json.dumps(record))
        (path.parent / "new").replace(path)
    call = ("sessions", "clean", "--older-than", "30d")
    killed_at_random(clinvk, [call] * 4, (*call, "--dry-run"), seed)
    assert "fresh" in sound(clinvk, home), seed
    assert clinvk("sessions", "clean", "--older-than", "30d").returncode == 0
    assert [id_ for id_ in home.ids() if id_.startswith("s")] == [], seed
    left = [p.name for p in (home.path / "transcripts").glob("s*.jsonl")]
    assert left == [], seed


def test_a_killed_import_adopts_each_session_once(clinvk: CommandLine, home: Home):
    seed = random.randrange(10_000)
    folder = Path(home.env["HOME"]) / ".claude" / "projects" / "-work"
    folder.mkdir(parents=True)
    for n in range(60):
        id_ = f"00000000-0000-4000-8000-{n:012d}"
        line = {"type": "user", "sessionId": id_, "uuid": f"u{n}", "parentUuid": None, "cwd": "/work",
                "timestamp": "2026-03-01T12:00:00.000Z", "message": {"role": "user", "content": f"ask {n}"}}  # fmt: skip
        answer = {**line, "type": "assistant", "uuid": f"a{n}", "parentUuid": f"u{n}",
                  "message": {"role": "assistant", "model": "m", "content": [{"type": "text", "text": f"answer {n}"}]}}  # fmt: skip
        (folder / f"{id_}.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(answer) + "\n")
    call = ("sessions", "import", "--yes")
    killed_at_random(clinvk, [call] * 4, (*call, "--dry-run"), seed)
    done = clinvk("sessions", "import", "--yes", "--json")
    assert done.returncode == 0, (seed, done.stderr)
    store = keep(open_store("file", home.path))
    ids = [i for i in sound(clinvk, home) if store.get(i).native_ids.get("claude")]
    native = sorted(store.get(id_).native_ids["claude"] for id_ in ids)
    assert len(native) == len(set(native)) == 60, seed
    assert {len(store.messages(id_)) for id_ in ids} == {2}, seed


# Races


def test_resuming_deleting_and_moving_at_once_damages_nothing(clinvk: CommandLine, home: Home):
    filled(home, 6)
    target = f"sqlite:///{home.path.parent}/there.db"
    calls = [
        *[(*ECHO, "--session", f"s{n}", f"turn {i}") for n in range(2) for i in range(2)],
        ("sessions", "reindex"),
        ("sessions", "delete", "s2", "--yes"),
        ("sessions", "delete", "s2", "--yes"),
        (*ECHO, "--session", "s2", "is it there?"),
        ("sessions", "migrate", "--to", target),
        ("sessions", "list", "--json"),
    ]
    running = [clinvk.start(*call) for call in calls]
    ends = [(p.communicate(timeout=60), p.returncode) for p in running]
    for call, ((_, err), code) in zip(calls, ends, strict=True):
        assert code in (0, 4), (call, err)
        assert "unexpected" not in err
        assert "Traceback" not in err
    assert [code for _, code in ends[:4]] == [0] * 4, [e for e, _ in ends[:4]]
    ids = sound(clinvk, home)
    assert {"s0", "s1", "s3"} <= {*ids}
    store = keep(open_store("file", home.path))
    for n in range(2):
        asked = [m.content for m in store.messages(f"s{n}") if m.content.startswith("turn")]
        assert sorted(asked) == ["turn 0", "turn 1"]


# Processes


def test_a_program_that_is_stopped_is_ended_by_its_timeout(
    clinvk: CommandLine, home: Home, ended: Callable[[str], Path]
):
    stopped = ended("stopped")
    home.backend("fake", READ + START + f"echo $$ >{stopped}; kill -STOP $$\n" + END)
    done = clinvk("-b", "fake", "--timeout", "1", "x")
    assert done.returncode == 6, done.stderr
    assert not is_alive(pid_in(stopped))


def test_a_clinvk_that_is_stopped_continues_and_loses_nothing(clinvk: CommandLine, home: Home):
    process = clinvk.start(*ECHO, "--option", "delay=0.05", "one two three four five six seven")
    wait_for(home.ids, "the session")
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: "T" in Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1][:3])
    time.sleep(0.3)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.count("seven")) == (0, 1), err
    assert home.record()["turns"] == 1


# A server that forgets


def test_a_server_that_forgets_its_scripts_and_its_clients_loses_no_turn(
    own_server: RedisServer, clinvk: CommandLine, home: Home
):
    home.config(f"session: {{storage: '{own_server.url}'}}\ndefault_backend: echo\n")
    stop = threading.Event()
    harassed: list[int] = []

    def asked() -> int:
        found = re.search(rb"total_commands_processed:(\d+)", own_server.say("INFO", "stats"))
        return int(found[1]) if found else 0

    def harass() -> None:
        # A client that is cut off again at each of its retries gives up, rightly.
        before = 0
        while not stop.wait(0.3):
            if asked() - before > 30:
                own_server.say("SCRIPT", "FLUSH")
                own_server.say("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                harassed.append(before := asked())

    thread = threading.Thread(target=harass)
    thread.start()
    try:
        turns = [clinvk("--session", "s", "--option", "delay=0.02", f"turn {n}") for n in range(3)]
        tasks = [{"prompt": f"task {n}", "name": f"t{n}"} for n in range(4)]
        run = clinvk("parallel", "-q", stdin=json.dumps(tasks))
    finally:
        stop.set()
        thread.join()
    assert harassed
    assert [t.returncode for t in turns] == [0, 0, 0], [t.stderr for t in turns]
    assert run.returncode == 0, run.stderr
    store = keep(open_store(own_server.url, home.path))
    prompts = [m.content for m in store.messages("s") if m.role == "user"]
    assert prompts == ["turn 0", "turn 1", "turn 2"]
    assert store.get("s").turns == 3
