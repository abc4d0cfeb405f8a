"""From what a model was shown to what it shall answer, whatever the wire format."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Said = tuple[Literal["user", "tool"], str]  # who, and the text

# One bill for all three, so that a test may expect the same total of each.
FRESH, CACHE_READ, CACHE_WRITE, THOUGHT, SPOKEN = 70, 30, 20, 2, 7
INPUT, OUTPUT = FRESH + CACHE_READ + CACHE_WRITE, THOUGHT + SPOKEN

# Texts that the CLIs send in the user's name although no user wrote them.
NOISE = re.compile(
    r"\s*(<(local-command|command-|total_tokens)|\[(Request interrupted|structured-output-enforce"
    r"|Your previous response had no)"  # claude
    r"|<(environment_context|user_instructions|permissions|skills|turn_aborted|apps_|plugins_"
    r"|recommended|collaboration_mode)|# AGENTS\.md"  # codex
    r"|<session_context|This is the Gemini CLI|System: Potential loop|--- End of content)"  # gemini
)
# Of claude too, and of copilot, alone or inside a text that somebody did write.
REMINDER = re.compile(r"<(system-reminder|current_datetime)>.*?</\1>", re.DOTALL)
WORDS = re.compile(r"<<(\w+)((?: [\w./-]+)*)>>")
CALL = re.compile(r"<<(tool|loop) ([\w.-]+) (?=\{)")

ODD = (
    "h\u00e9 \u4f60\u597d \U0001f680 \U0001f468\u200d\U0001f469\u200d\U0001f466 a\u030a "
    "\x1b[1;32mgreen\x1b[0m \x1b]2;a new title\x1b\\ \x1b]52;c;aGk=\x07 \x1b[3J "
    "ring\x07 over\rwritten back\x08 nul\x00 del\x7f c1\x9b1m "
    "line\u2028paragraph\u2029next\x85form\x0cfeed right\u202eto left\u202c zero\u200bwidth \ufeffbom\tend\n"
)


class Tool(NamedTuple):
    name: str
    input: dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """What a request shows to the model."""

    model: str
    system: str
    tools: list[str]
    users: list[str]  # without the noise
    result: str | None  # of a tool, when that is what came last
    schema: Mapping[str, Any] | None  # asked of the answer

    @property
    def last(self) -> str:
        return self.users[-1] if self.users else ""


@dataclass(frozen=True)
class Answer:
    """What the model says to it, and how that goes wrong."""

    text: str
    tool: Tool | None
    words: Mapping[str, list[str]]  # of the directives: {"status": ["429", "after", "30"]}

    def __contains__(self, directive: str) -> bool:
        return directive in self.words

    def number(self, directive: str) -> float:
        """Its first word as a number, 0 where it was not given."""
        return float(self.words.get(directive, ["0"])[0])

    @property
    def pieces(self) -> list[str]:
        """The text as it is streamed: three pieces, or more of 16 KB."""
        size = min(16_384, len(self.text) // 3 + 1)
        return [self.text[at : at + size] for at in range(0, len(self.text), size)]


class Event(NamedTuple):
    """One event of a stream; what goes wrong does so after the first that is a piece."""

    data: dict[str, Any]
    piece: bool = False


def conversation(
    said: Iterable[Said],
    *,
    model: str,
    system: str,
    tools: list[str],
    schema: Mapping[str, Any] | None,
) -> Conversation:
    """The conversation with the noise taken out."""
    cleaned = ((who, REMINDER.sub("", text).strip()) for who, text in said)
    real = [
        (who, text) for who, text in cleaned if who == "tool" or (text and not NOISE.match(text))
    ]
    users = [text for who, text in real if who == "user"]
    result = real[-1][1] if real and real[-1][0] == "tool" else None
    return Conversation(model, system, tools, users, result, schema)


def plan(shown: Conversation, times: int = 1, said: str | None = None) -> Answer:
    """What the last text of the user asks for, when it is asked for the `times`th time; or what
    is to be `said` in any case, with the directives in that."""
    directed = shown.last if said is None else said
    words = {name: rest.split() for name, rest in WORDS.findall(directed)}
    if "first" in words and times > int(words["first"][0]):
        words = {}
    if said is not None:
        return Answer(said, None, words)
    return Answer(_text(shown, words), _tool(shown), words)


def _tool(shown: Conversation) -> Tool | None:
    calls = list(CALL.finditer(shown.last))
    # One text may be for several CLIs, whose tools differ.
    found = next((c for c in calls if c[2] in shown.tools), calls[0] if calls else None)
    if not found or (found[1] == "tool" and shown.result is not None):
        return None
    # Not by the regular expression: the JSON may well contain `>>`.
    value, _ = json.JSONDecoder().raw_decode(shown.last, found.end())
    return Tool(found[2], value)


def _text(shown: Conversation, words: Mapping[str, list[str]]) -> str:
    if shown.schema is not None:
        return json.dumps(sample(shown.schema))
    if "empty" in words:
        return ""
    if "odd" in words:
        return ODD
    if "size" in words:
        return filler(int(words["size"][0]))
    if shown.result is not None:
        return f"answer {len(shown.users)} with the result: {shorten(shown.result)}"
    first = shown.users[0] if shown.users else ""
    return f"answer {len(shown.users)} to: {shorten(shown.last)} | began with: {shorten(first)}"


def shorten(text: str, limit: int = 300) -> str:
    """The text, or its beginning and its length."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def filler(size: int) -> str:
    """A text of exactly that many bytes that never repeats itself: gemini stops one that does."""
    numbers = range(size // 66 + 1)  # of lines that have at least 67 bytes
    lines = (f"{number} {hashlib.sha256(b'%d' % number).hexdigest()}\n" for number in numbers)
    return "".join(lines)[:size]


def sample(schema: Mapping[str, Any]) -> Any:
    """The plainest value a JSON schema allows, as far as the CLIs' own questions need it."""
    if "enum" in schema:
        return schema["enum"][0]
    match str(schema.get("type", "object")).lower():  # Google shouts its types
        case "object":
            parts = schema.get("properties", {})
            return {name: sample(part) for name, part in parts.items()}
        case "array":
            return []
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return False
        case _:
            return "sample"
