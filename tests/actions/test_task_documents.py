"""What a task recorded of each document, as both of its readers take it: a comparison, and blame."""

from __future__ import annotations

import json

import pytest

from dem_build.actions.task.read import metric_names, read_documents
from dem_build.cli.blame.items import _of_samples, _of_single_items
from dem_build.compare.observed import ScoredDocuments
from dem_build.json_text import MALFORMED


def line(place, filtered, **metrics):
    return {
        "doc_id": place, "doc": {"q": str(place)}, "target": 1, "prompt": f"Q: {place}", "filter": filtered,
        "responses": [[-1.0, False], [-0.5, True]], "metrics": metrics,
    }  # fmt: skip


LINES = [
    line(0, "strict", acc=True, words=["a"]),
    line(1, "strict", acc=False, words=["b"]),
    line(0, "loose", acc=1.0, words=2.0),
    line(1, "loose", acc=1.0, words=3.0),
]


def data(lines):
    return "\n".join(map(json.dumps, lines)).encode()


def test_comparison_and_blame_read_the_same_of_a_metric_and_its_filter():
    documents, scored = read_documents(data(LINES)), ScoredDocuments.of_samples(data(LINES))
    names = {
        "acc": ("acc", "strict"), "acc@loose": ("acc", "loose"),
        "words": ("words", "strict"), "words@loose": ("words", "loose"),
    }  # fmt: skip
    assert metric_names(documents) == names
    assert [*_of_single_items(documents)] == ["acc", "acc@loose", "words@loose"]
    for name, values in {"acc": [1.0, 0.0], "acc@loose": [1.0, 1.0], "words@loose": [2.0, 3.0]}.items():
        items = dict(_of_samples(documents, name))
        assert [items[place].value for place in (0, 1)] == values
        assert items[0].margin == pytest.approx(0.5)
        metric, found = scored.of_metric(name)
        assert [(one.place, float(one.metrics[metric])) for one in found] == [*enumerate(values)]
    assert scored.of_metric("f1") == ("f1", [])


@pytest.mark.parametrize(
    "lost",
    [
        *({**LINES[0], "metrics": x} for x in (None, 1)),
        {**LINES[0], "prompt": 3},
        {},
        [],
        {**LINES[0], "responses": 1},
    ],
)
def test_what_has_another_shape_is_read_by_neither(lost):
    for read in (read_documents, ScoredDocuments.of_samples):
        with pytest.raises(MALFORMED):
            read(data([lost]))
