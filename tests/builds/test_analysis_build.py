"""`dem build` with `[analysis]`: what runs after which edit, and what is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from project import RECIPE, Project, fresh, ran

ANALYSED = RECIPE.replace("max_steps = 4", "max_steps = 2") + "\n[analysis]\nresponse = [0.5, 1.0]\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Project:
    made = fresh(tmp_path_factory.mktemp("analysed"), tiny_base)
    made.build(ANALYSED)
    return made


def results(project: Project, name: str = "tiny") -> dict:
    return json.loads((project.home / "out" / name / "results.json").read_text())


def test_an_analysis_names_the_vectors(project):
    document = project.build(ANALYSED)
    assert ran(document) == []
    found = results(project)["analysis"]
    assert found == document["analysis"]
    whole = found["whole"]
    assert set(whole["norms"]) == {"add", "copy"}
    assert whole["cosines"]["add"]["add"] == pytest.approx(1.0)
    assert -1 <= whole["cosines"]["add"]["copy"] == whole["cosines"]["copy"]["add"] < 1
    assert set(found["layers"]) == set(found["distances"]["add"]) == {"embeddings", "0", "1", "final"}
    assert found["distances"]["copy"]["1"]["q_proj"] > 0
    assert "vectors: cosine " in project.call("build", "tiny.toml").stdout


def test_response_curves_name_datasets_and_vectors(project):
    found = project.build(ANALYSED)["response"]
    assert found["omega"] == {"add": 0.5, "copy": 0.5}
    assert set(found["model"]) == set(found["curves"]) == set(found["slopes"]) == {"add", "copy"}
    points = found["curves"]["add"]
    assert [p["omega"] for p in points] == [0.0, 0.5, 1.0]
    assert points[0]["losses"] == found["without"]["add"]
    assert points[1]["losses"]["copy"]["change"] == 0
    assert found["without"]["add"]["add"]["change"] > 0


def test_a_ladder_names_what_each_rung_adds(project):
    found = project.build(ANALYSED)["ladder"]
    first, last = found["rungs"]
    assert {*first["added"], *last["added"]} == {"add", "copy"}
    assert first["retuned"] is last["retuned"] is None
    assert last["frozen"]["omega"] == {"add": 0.5, "copy": 0.5}
    assert set(last["frozen"]["losses"]) == set(found["singles"]) == {"add", "copy"}
    assert last["frozen"]["mean_gain"] > found["base"]["mean_gain"] == 0


def test_a_map_has_a_place_for_each_validation_row(project):
    document = project.build(ANALYSED)
    found = document["tsne"]
    assert set(found) == {"add", "copy"}
    assert all(found.values())
    assert found == results(project)["tsne"]


def test_names_order_and_omega_analyse_nothing_again(project):
    head, add, copy = ANALYSED.partition("\n[compose]")[0].split("[datasets.")
    rest = ANALYSED.partition("\n[compose]")[2]
    swapped = f"{head}[datasets.{copy}\n[datasets.{add}\n[compose]{rest}"
    edited = swapped.replace("[datasets.add]", "[datasets.sum]").replace("omega = 0.5", "omega = 0.25", 1)
    document = project.build(edited)
    assert set(ran(document)) == {"model", "response", "ladder", "loss:composed:sum", "loss:composed:copy"}
    before = document["analysis"]["whole"]["norms"]
    assert before["copy"] == project.build(ANALYSED)["analysis"]["whole"]["norms"]["copy"]


def test_without_the_table_there_is_no_such_action(project):
    document = project.build(ANALYSED.partition("[analysis]")[0])
    assert not {"analysis", "response", "ladder", "tsne"} & {action["name"] for action in document["actions"]}
    assert not {"analysis", "response", "ladder", "tsne"} & set(document)


def test_another_vector_is_another_analysis(project):
    document = project.build(ANALYSED.replace("omega = 0.5", "omega = 0.5\ntrain = { seed = 7 }", 1))
    assert "analysis" in ran(document)


def test_splits_that_came_out_empty_leave_curves_and_ladder_out_and_it_is_said(project):
    head = ANALYSED.partition("\n[evaluate]")[0].replace("test = 0.2", "validation = 1e-6\ntest = 1e-6")
    document = project.build(head + "\n[evaluate]\nprompts = 0\n[analysis]\n")
    assert {"response", "ladder", "loss:composed:add"} <= set(ran(document))
    assert not {"response", "ladder"} & set(document)
    said = project.call("build", "tiny.toml").stdout
    assert "there are no held-out rows, so that there is no loss" in said
    assert "no dataset has validation rows to judge by" in said
    assert "no dataset has validation rows to order a ladder by" in said
