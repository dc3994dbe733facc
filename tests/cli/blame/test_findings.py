"""What is said of an item by what models made of it, without models."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dem_build.cli.blame import asking
from dem_build.cli.blame.findings import Asked, Blame
from dem_build.cli.blame.items import Items
from dem_build.errors import EvaluationError


@pytest.mark.parametrize(
    ("without", "sentence"),
    [
        (
            0.5,
            "composing changed nothing: base and composed are alike here, and so is every model that was asked",
        ),
        (0.25, "composing changed nothing: base and composed are alike here, and others are not"),
    ],
)
def test_where_composing_changed_nothing_it_is_said_whether_other_models_are_alike(without, sentence):
    items = Items("x", None, "f1", lower_is_better=False)
    asked = Asked("base", (), 0.5), Asked("composed", (), 0.5)
    assert Blame(items, 0, "", "", "", *asked, [Asked("composed", ("a",), without)]).sentence() == sentence


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_blames_nobody(value, monkeypatch):
    monkeypatch.setattr(asking, "_split", lambda *_: Path("rows"))
    monkeypatch.setattr(asking, "row_texts", lambda *_: {0: ("asks", "wanted")})
    monkeypatch.setattr("dem_build.actions.loss.run.row_loss", lambda *_: (value, 2))
    session: Any = SimpleNamespace(recipe=SimpleNamespace(compose=SimpleNamespace(dtype="float32")))
    row = asking._Row(session, Items("loss:x", "x", "loss", lower_is_better=True), 0, Path())
    live: Any = SimpleNamespace(model=None)
    with pytest.raises(EvaluationError, match="the loss of item 0 is not finite: without a"):
        row.ask("composed", ("a",), live)
