"""CoQA's prompts and scores (S. Reddy et al., arXiv 1808.07042): an answer in words against every reference."""

from __future__ import annotations

import re
import string
from collections import Counter
from itertools import zip_longest
from typing import Any

ARTICLES = re.compile(r"\b(a|an|the)\b")
MARKS = str.maketrans("", "", string.punctuation)


def prompt(doc: dict[str, Any]) -> str:
    """The story and the conversation up to the last question, whose answer is asked for."""
    questions, given = doc["questions"]["input_text"], doc["answers"]["input_text"][:-1]
    turns = [
        f"Q: {asked}\n\nA:" + ("" if said is None else f" {said}")
        for asked, said in zip_longest(questions, given)
    ]
    return "\n\n".join([doc["story"], *turns])


def answers(doc: dict[str, Any]) -> list[str]:
    """Every reference of the last question."""
    more = doc.get("additional_answers") or {}
    found = [doc["answers"], *(said for said in more.values() if said)]
    return [said["input_text"][-1] for said in found]


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`em` and `f1` of words (P. Rajpurkar et al., arXiv 1606.05250): of the best reference, 0 to 1."""
    given, right = words(results[0]), [words(one) for one in answers(doc)]
    return {"em": float(given in right), "f1": max(overlap(given, one) for one in right)}


def words(text: str) -> list[str]:
    """The words of a text, without case, punctuation and articles."""
    return ARTICLES.sub(" ", text.lower().translate(MARKS)).split()


def overlap(given: list[str], right: list[str]) -> float:
    """The harmonic mean of precision and recall; of no words it is 1 where there are none to give."""
    common = sum((Counter(given) & Counter(right)).values())
    return 2 * common / (len(given) + len(right)) if given and right else float(given == right)
