"""A review as JUnit's XML, which CI servers show as tests: a suite for each recipe, a case for all that can fail."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.review.document import RecipeReview, Review

# What XML 1.0 has no way to write.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(review: Review) -> str:
    """The document: a failed gate is a failure, what nobody could review an error, what waits for training skipped."""
    suites = ET.Element("testsuites", name="dem ci")
    for recipe in review.recipes:
        suite = ET.SubElement(suites, "testsuite", name=_text(recipe.path))
        for name, outcome in _cases(recipe):
            case = ET.SubElement(suite, "testcase", classname=_text(recipe.path), name=_text(name))
            if outcome is not None:
                kind, message = outcome
                ET.SubElement(case, kind, message=_text(message))
        _count(suite)
    _count(suites)
    del suites.attrib["skipped"]  # which Jenkins's schema has of suites alone
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def _cases(recipe: RecipeReview) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """Name → what went wrong, as the element and its message."""
    trouble = recipe.trouble
    told = None
    if trouble is not None:
        places = [f"{m.file}:{m.line}: {m.key}: {m.what}" for m in trouble.mistakes]
        told = ("error", "\n".join(places) or trouble.what)
    yield "can be reviewed", told
    for weak in recipe.weakened:
        failed = ("failure", f"was {weak.was}, now {weak.now or 'removed'}; {weak.why}")
        yield f"gate as it was: {weak.gate}", failed if weak.passed is False else None
    for gate in recipe.gates:
        name = f"gate: {gate.metric} on {gate.task}"
        outcome = None if gate.passed else ("failure", f"must be {gate.why}; is {gate.value}")
        yield name, ("skipped", gate.why or "not judged") if gate.passed is None else outcome
    for action in recipe.actions:
        if action.state == "failed":
            yield f"action: {action.action}", ("failure", action.error)
        elif action.to_train:
            yield f"action: {action.action}", ("skipped", "to be trained first")


def _count(element: ET.Element) -> None:
    element.set("tests", str(len(list(element.iter("testcase")))))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(attribute, str(len(list(element.iter(tag)))))


def _text(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
