"""Code in colors."""

from __future__ import annotations

from functools import cache
from typing import Any

from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Generic, Keyword, Name, Number, Operator, String, Token
from pygments.util import ClassNotFound

from clinvk.terminal.rendering.lines import Span, clean

LONGEST_LINE = 1_000  # characters; code with longer lines is generated, and slow to highlight

# Colors of the terminal's own scheme, so that they are legible on its background.
STYLES: dict[Any, str] = {
    Comment: "2",
    Comment.Preproc: "35",
    Keyword: "35",
    Keyword.Constant: "36",
    Keyword.Type: "36",
    Operator.Word: "35",
    Name.Builtin: "36",
    Name.Builtin.Pseudo: "",
    Name.Class: "1;34",
    Name.Decorator: "33",
    Name.Exception: "36",
    Name.Function: "34",
    Name.Namespace: "",
    Name.Tag: "34",
    Name.Attribute: "36",
    Name.Variable: "36",
    Number: "36",
    String: "32",
    String.Escape: "36",
    String.Interpol: "36",
    Generic.Deleted: "31",
    Generic.Inserted: "32",
    Generic.Heading: "1",
    Generic.Subheading: "36",
    Generic.Prompt: "2",
    Generic.Output: "",
    Generic.Error: "31",
}


def highlight(lines: list[str], language: str, context: tuple[str, ...] = ()) -> list[list[Span]]:
    """The lines in color, highlighted as if they followed `context`; plain if the language is
    unknown."""
    lines = [clean(line) for line in lines]
    long = [i for i, line in enumerate(context, 1) if len(line) > LONGEST_LINE]
    context = context[long[-1] :] if long else context
    lexer = _find_lexer(language)
    if lexer is None or any(len(line) > LONGEST_LINE for line in lines):
        return [[Span(line)] for line in lines]
    colored: list[list[Span]] = [[]]
    code = "\n".join([*context, *lines, ""])
    for kind, text in lexer.get_tokens(code):
        style = _style(kind)
        for i, part in enumerate(text.split("\n")):
            if i:
                colored.append([])
            if part:
                colored[-1].append(Span(part, style))
    found = colored[len(context) : len(context) + len(lines)]
    if ["".join(span.text for span in line) for line in found] != lines:
        return [[Span(line)] for line in lines]  # the lexer changed the text
    return found


@cache
def _find_lexer(language: str) -> Any:
    if not language or len(language) > 40:
        return None
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


@cache
def _style(kind: Any) -> str:
    """The style of a token type, or of its nearest parent that has one."""
    while kind is not Token and kind not in STYLES:
        kind = kind.parent
    return STYLES.get(kind, "")
