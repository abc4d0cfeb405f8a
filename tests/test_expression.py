"""A compiled expression means what jmespath says."""

import json
from typing import Any

import jmespath
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jmespath.exceptions import JMESPathError

from clinvk.backend.expression import ExpressionError, compile_expression, is_truthy
from clinvk.config.paths import built_in_manifests

KEYS = ["type", "text", "a", "b", "message", "content", "item", "delta", "event", "error", "usage"]
VALUES = st.sampled_from(["result", "text", "", "x", "assistant", "success", "item.completed"])

data = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, width=16) | VALUES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=20,
)
atoms = st.sampled_from(
    ["type", "a", "b", "@", "item.type", "event.delta.text", "message.content", "a[0]", "b[-1]", "a.b[1].a",
     "'result'", "''", "`1`", "`0`", "`true`", "`false`", "`null`", "`[]`", "`{}`", "length(text)",
     "not_null(a, b)", "content[].text", "max_by(content, &a)", "min_by(@, &b)",
     "sort_by(@, &text)", "map(&a, @)", "content[?type=='text'].text", "usage.{a: a, b: b}", "a || b", "a && b"]
)  # fmt: skip
STEPS = [".a", ".text", "[0]", " | a", " | [0]", " | type(@)", " | not_null(@, 'd')", " | 'x'", " | !@", ".type(@)",
         ".[a, b]", ".{a: a}"]  # fmt: skip

expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["==", "!=", "&&", "||", "<", ">="]), inner).map(
            lambda t: f"({t[0]}) {t[1]} ({t[2]})"
        ),
        inner.map(lambda e: f"!({e})"),
        st.tuples(inner, st.sampled_from(STEPS)).map(lambda t: f"({t[0]}){t[1]}"),
    ),
    max_leaves=6,
)


def from_manifests() -> list[str]:
    found: set[str] = set()

    def walk(rules: list[dict[str, Any]]) -> None:
        for rule in rules:
            found.update(filter(None, [rule.get("when"), rule.get("each")]))
            found.update(rule.get("set", {}).values())
            walk(rule.get("events", []))

    for path in built_in_manifests().glob("*.yaml"):
        walk(yaml.safe_load(path.read_text()).get("events", []))
    return sorted(found)


def by_jmespath(text: str, value: Any) -> Any:
    try:
        return jmespath.search(text, value)
    # `'text' < `1`` is an error of Python, not of JMESPath.
    except (JMESPathError, TypeError, ArithmeticError):
        return None


def same(a: Any, b: Any) -> bool:
    """As JSON: true is not 1, though in Python it is."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


@settings(max_examples=400)
@given(expressions, data)
def test_a_compiled_expression_gives_what_jmespath_gives(text: str, value: Any):
    assert same(compile_expression(text)(value), by_jmespath(text, value)), text


OF_MANIFESTS = from_manifests()


@settings(deadline=None)
@given(data)
def test_what_the_manifests_say_means_what_jmespath_says(value: Any):
    for text in OF_MANIFESTS:
        assert same(compile_expression(text)(value), by_jmespath(text, value)), text


def test_there_are_expressions_in_the_manifests():
    assert len(OF_MANIFESTS) > 80


@given(data)
def test_what_is_true_is_what_jmespath_takes_for_true(value: Any):
    assert is_truthy(value) is (jmespath.search("!(!(@))", value))


@pytest.mark.parametrize(
    "text", ["", "a ==", "a[", "foo(", "a b", "'x", "&", "a..b", "[?a", "no_such("]
)
def test_what_is_no_expression_is_refused(text: str):
    with pytest.raises(ExpressionError):
        compile_expression(text)


def test_a_text_that_is_compared_with_a_number_has_no_value():
    assert compile_expression("'result' < `1`")(None) is None
    assert by_jmespath("'result' < `1`", None) is None
