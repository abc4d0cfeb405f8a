"""YAML that is read without PyYAML means what it means to PyYAML."""

from pathlib import Path

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clinvk.backend import prepared
from clinvk.backend.catalog import Catalog, read_manifest
from clinvk.config.paths import built_in_manifests
from clinvk.text import yaml
from clinvk.text.yaml import plain

USUAL = """\
# How it is used here.
default_backend: claude  # or codex
session:
  retention_days: 30
  default_tags: [work, "two words", --x]
  auto_resume: true
  storage: sqlite:///home/someone/sessions.db
backends:
  claude:
    model: 'claude-opus-4-1'
    extra_flags:
    - --verbose
    - "off"
output: {format: json, color: never}
"""
MANIFEST = """\
name: mine
command: ~/bin/mine
argv:
  run: [--json, $options]
events:
  - when: type == 'start' && id
    emit: started
    set: {native_id: id}
  - when: type == 'end'
    emit: finished
    set:
      text: "text"
"""


def by_pyyaml(text: str):
    return pyyaml.load(text, yaml._loader())


def check_same(text: str) -> bool:
    found = plain.load(text)
    if found is not None:
        assert repr(found[0]) == repr(by_pyyaml(text)), text
    return found is not None


@pytest.mark.parametrize(
    "text", [USUAL, MANIFEST, '{"name": "x", "argv": {"run": ["a", 1, null]}}']
)
def test_usual_files_do_not_need_pyyaml(text: str):
    assert check_same(text)
    assert plain.load(text.encode()) == plain.load(text)


SCALARS = st.one_of(
    st.sampled_from(
        ["a", "two words", "yes", "null", "~", "--x", "x: y", "x #y", "it's", "- a", ""]
    ),
    st.text(max_size=8),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
)
KEYS = st.sampled_from(["a", "b-c", "d_e", "on", "two words", "1"])
DATA = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)


@given(DATA, st.sampled_from([None, False, True]), st.sampled_from([2, 4]))
def test_data_written_in_any_style_is_read_as_by_pyyaml(data, flow, indent):
    check_same(pyyaml.dump(data, default_flow_style=flow, indent=indent, allow_unicode=True))


PIECES = (
    *["a", "key", "a: b", "k: ", "yes", "on", "null", "~", "01", "1.5", "--x", "-x", "x == 'y'"],
    *["-", "- ", ":", ": ", "#", " # c", "\n", "\n  ", "\n    ", "\n- ", "\n  - ", "'", '"', "'q'"],
    *["[a, b]", "{k: v}", "[", "]", "{", "}", ", ", "&a", "*a", "!t", "|", ">", "?", "<<", "---"],
    *["2001-01-01", "1:30", "\t", " ", "\r", "\u2028", "\x85", "\ufeff", "é", "\\", "http://x"],
)


@settings(max_examples=500)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_text_of_any_kind_is_left_to_pyyaml_or_read_the_same_way(text):
    check_same(text)


@given(st.integers(0, len(USUAL) - 1), st.sampled_from(PIECES), st.integers(0, 2))
def test_a_file_with_a_typo_is_read_the_same_way(place, piece, removed):
    check_same(USUAL[:place] + piece + USUAL[place + removed :])


@pytest.mark.parametrize("name", sorted(p.stem for p in built_in_manifests().glob("*.yaml")))
def test_a_prepared_manifest_is_the_one_in_its_file(tmp_path: Path, name: str):
    path = built_in_manifests() / f"{name}.yaml"

    found = prepared.load_prepared(name, path.read_bytes(), path)
    assert found is not None, "the manifest has changed; run: make generated"
    assert found == read_manifest(path)
    assert Catalog(tmp_path).load(name) == read_manifest(path)


def test_a_manifest_that_was_changed_since_it_was_prepared_is_parsed():
    path = built_in_manifests() / "claude.yaml"

    assert prepared.load_prepared("claude", path.read_bytes() + b"\n# changed", path) is None
    assert prepared.load_prepared("unknown", path.read_bytes(), path) is None
