"""The topics and the sentiment of a conversation."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from clinvk.config.extras import require_extra
from clinvk.errors import ClinvkError
from clinvk.model.session import Message, MessageRole, Session

MAX_TOPICS = 10  # at most
EXCERPT_LENGTH = 2_000  # characters of a message that are sent to a backend

_QUESTION = """Below is a conversation, as JSON: one object for each message. Do not continue it.
Answer with one JSON object and nothing else:
{{"topics": [at most {topics} short topics, the most important first],
 "sentiment": [for each of the {count} messages a number from -1 (negative) to 1 (positive)]}}

{messages}"""


def analyze_words(session: Session) -> dict[str, Any]:
    """`topics`, the most important first, and `sentiment_over_time`: a number from -1 to 1 for each
    message. Only looks at the words, which have to be English. Raises `ClinvkError` if the extra
    `analysis` is not installed."""
    with require_extra("analysis", "analysing a conversation"):  # slow to import: they bring numpy
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
        from yake import KeywordExtractor

    spoken = _dialogue(session)
    mood = SentimentIntensityAnalyzer().polarity_scores
    text = "\n\n".join(m.content for _, m in spoken)
    found = KeywordExtractor(n=2, top=MAX_TOPICS).extract_keywords(text)  # the lowest score is best
    scores = [float(mood(m.content)["compound"]) for _, m in spoken]
    return _analysis_result([phrase for phrase, _ in found], spoken, scores)


def analyze_with_model(session: Session, ask: Callable[[str], str]) -> dict[str, Any]:
    """Like `by_words`, but from a model: `ask` returns its answer to a prompt. Raises `ClinvkError`
    if the answer does not have the requested form."""
    spoken = _dialogue(session)
    lines = [
        json.dumps({"role": m.role, "content": m.content[:EXCERPT_LENGTH]}, ensure_ascii=False)
        for _, m in spoken
    ]
    answer = ask(_QUESTION.format(topics=MAX_TOPICS, count=len(spoken), messages="\n".join(lines)))
    try:
        found = json.loads(answer[answer.index("{") : answer.rindex("}") + 1])
        scores = [max(-1.0, min(1.0, float(n))) for n in found["sentiment"]]
        return _analysis_result([str(t) for t in found["topics"]][:MAX_TOPICS], spoken, scores)
    except (ValueError, KeyError, TypeError) as error:
        raise ClinvkError(f"the analysis cannot be read: {answer[:200]!r}", "try again") from error


def _dialogue(session: Session) -> list[tuple[int, Message]]:
    """The messages of users and models, with their indexes: instructions have no sentiment."""
    numbered = enumerate(session.messages)
    return [(i, m) for i, m in numbered if m.role is not MessageRole.SYSTEM]


def _analysis_result(
    topics: list[str], spoken: list[tuple[int, Message]], scores: list[float]
) -> dict[str, Any]:
    moods = [
        {"index": i, "role": m.role.value, "timestamp": m.timestamp, "sentiment": score}
        for (i, m), score in zip(spoken, scores, strict=True)
    ]
    mean = sum(scores) / len(scores) if scores else None
    return {"topics": topics, "sentiment_over_time": moods, "average_sentiment": mean}
