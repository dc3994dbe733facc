"""Builds of recipes that pack and validate: what the language says reaches the training."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from project import RECIPE, Project, fresh, ran, vector_of

if TYPE_CHECKING:
    from pathlib import Path

ADD = RECIPE.replace("[datasets.copy]", "[datasets.add.train]\n{train}\n\n[datasets.copy]")


def provenance(project: Project, action: str) -> dict[str, object]:
    shown = json.loads(project.call("show", "tiny.toml", action, "--json").stdout)
    found: dict[str, object] = shown["provenance"]
    return found


def test_packing_and_validation_of_a_recipe_reach_the_training(tmp_path: Path, tiny_base: Path) -> None:
    """Looking on trains nothing again; choosing and packing do, and prepare nothing again."""
    project = fresh(tmp_path, tiny_base)
    project.build(ADD.format(train="eval_steps = 2"), "--jobs", "2")
    watched = provenance(project, "vector:add")
    assert watched["machine"]["jobs"] == 2  # type: ignore[index]
    assert [step for step, _ in watched["validation"]["curve"]] == [2, 4]  # type: ignore[index]
    vector = vector_of(project, "add")
    assert ran(project.build(ADD.format(train="eval_steps = 1"))) == []
    chosen = "eval_steps = 1\nload_best_model_at_end = true\npacking = true"
    again = ran(project.build(ADD.format(train=chosen)))
    assert "vector:add" in again
    assert not {"data:add", "vector:copy"} & set(again)
    packed = provenance(project, "vector:add")
    assert packed["sequences"] < packed["rows"]  # type: ignore[operator]
    assert vector_of(project, "add") != vector
