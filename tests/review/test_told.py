"""What a review says of a comparison."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dem_build.compare.metrics import Basis, MetricChange, RowCounts
from dem_build.compare.paired import Effect, SignificanceTest
from dem_build.report.comparison import COMPOSED
from dem_build.review.told import tell_metrics

UNPAIRED = Effect(0.1, 0.2, 0.6, SignificanceTest.UNPAIRED)
PAIRED = {"basis": Basis.DOCUMENTS, "change": Effect(0.1, 0.02, 0.01, SignificanceTest.PAIRED)}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({**PAIRED, "rows": RowCounts(9)}, "paired t"),
        # A question that is put otherwise is not the same question: who reads the table has to know.
        ({**PAIRED, "rows": RowCounts(9, 1, 0, 4)}, "paired t, 4 asked with another prompt"),
        ({**PAIRED, "change": Effect(0.1), "rows": RowCounts(9, 0, 0, 2)}, "2 asked with another prompt"),
        ({"basis": Basis.VALUES, "change": UNPAIRED, "note": "why"}, "unpaired"),
        ({"note": "measured on the second side alone"}, "measured on the second side alone"),
        ({"basis": Basis.SAME, "change": Effect(0.0, 0.0)}, "the same evaluation"),
    ],
)  # fmt: skip
def test_how_a_metric_was_compared(more, said):
    change = MetricChange(COMPOSED, "arc_easy", "acc", lower_is_better=False, **more)
    (found,) = tell_metrics(SimpleNamespace(metrics=[change]))
    assert found.test == said
