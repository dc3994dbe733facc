"""`dem build` of a matched recipe, and of one that chooses how to compose: what runs after which edit, what is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from project import Project, dataset, fresh, ran, recipe

SPLIT = {"validation": 0.2, "test": 0.2}
MATCHED = recipe(
    dataset("add", **SPLIT),
    dataset("copy", **SPLIT),
    '[compose]\nmethod = "match"\nrows = 16\n',
    '[evaluate]\nmodels = ["composed", "base"]\nprompts = 0\n',
    rate="3e-3",
)
LOSSES = {"loss:composed:add", "loss:composed:copy"}


@pytest.fixture(scope="module")
def matched(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Project:
    project = fresh(tmp_path_factory.mktemp("matched"), tiny_base)
    project.build(MATCHED)
    return project


def planned(project: Project, text: str) -> dict:
    project.write(text)
    return json.loads(project.call("plan", "tiny.toml", "--json").stdout)


def due(project: Project, text: str) -> set[str]:
    return {action["name"] for action in planned(project, text)["actions"] if action["status"] != "hit"}


def test_the_build_says_how_its_model_was_matched(matched):
    document = matched.build(MATCHED)
    assert ran(document) == []
    assert document["omega"] == {"add": 1.0, "copy": 1.0}
    vectors = document["matching"]["vectors"]
    told = {name: (v["importance"], v["rows"]) for name, v in vectors.items()}
    assert told == {"add": (1.0, 16), "copy": (1.0, 16)}
    assert all(0 < v["residual"] < 1 for v in vectors.values())
    out, results = matched.home / "out" / "tiny", document["results"]
    assert "Layers matched" in (out / "report.html").read_text()
    assert "`rows` is 16" in (out / "model" / "README.md").read_text()
    assert all(
        results["composed"][f"loss:{n}"]["loss"] < results["base"][f"loss:{n}"]["loss"] for n in vectors
    )


def test_names_and_order_of_datasets_match_nothing_anew(matched):
    head, add, copy = MATCHED.partition("[compose]")[0].split("[datasets.")
    swapped = f"{head}[datasets.{copy}[datasets.{add.replace('add]', 'sum]', 1)}"
    assert due(matched, swapped + MATCHED.removeprefix(MATCHED.partition("[compose]")[0])) == set()


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("[datasets.copy]", "[datasets.copy]\nomega = 2.0", "vector:copy, importance: 1.0 → 2.0"),
        ("rows = 16", "rows = 16\nridge = 0.1", "params.ridge: 2.0 → 0.1"),
    ],
)
def test_another_importance_or_key_composes_once_and_is_named(matched, old, new, why):
    changed = MATCHED.replace(old, new)
    assert due(matched, changed) == {"model", *LOSSES}
    assert why in matched.call("why", "tiny.toml", "model").stdout


def test_a_plan_says_what_matching_takes(matched):
    document = planned(matched, MATCHED.replace("rows = 16", "rows = 16\nridge = 0.1"))
    [model] = [estimate for estimate in document["estimates"] if estimate["name"] == "model"]
    shown = json.loads(matched.call("show", "tiny.toml", "data:add", "--json").stdout)["provenance"]
    lengths = shown["sample"]["lengths"]
    assert len(lengths) == shown["splits"]["train"]["rows"] > 16
    before = planned(matched, MATCHED.replace("rows = 16", "rows = 8"))
    [fewer] = [estimate for estimate in before["estimates"] if estimate["name"] == "model"]
    assert 2 * sum(lengths[:16]) < model["tokens"] < 2.5 * fewer["tokens"]
    assert model["memory"] > fewer["memory"] > 0
    assert model["seconds"] > 0
    assert model["disk"] > 0


def test_a_dataset_more_trains_one_vector_and_composes_once(matched):
    more = MATCHED.replace("[compose]", dataset("upper", **SPLIT) + "\n[compose]")
    new = {"data:upper", "vector:upper", "loss:base:upper", "loss:composed:upper"}
    assert due(matched, more) == {*new, "model", *LOSSES}


def test_saliency_is_taken_once_for_each_vector(matched):
    salient = MATCHED.replace("rows = 16", "rows = 16\nsaliency = true")
    document = matched.build(salient)
    assert set(ran(document)) == {"saliency:add", "saliency:copy", "model", *LOSSES}
    assert document["matching"]["saliency"]
    assert "a token weighs by its saliency" in (matched.home / "out" / "tiny" / "report.html").read_text()
    more = salient.replace("[compose]", dataset("upper", **SPLIT) + "\n[compose]")
    new = {"data:upper", "vector:upper", "saliency:upper", "loss:base:upper", "loss:composed:upper"}
    assert due(matched, more) == {*new, "model", *LOSSES}
    # An importance is no matter of it.
    assert due(matched, salient.replace("[datasets.copy]", "[datasets.copy]\nomega = 2.0")) == {
        "model",
        *LOSSES,
    }


def test_a_vector_from_elsewhere_is_said_to_have_no_rows(matched):
    more = MATCHED.replace("[compose]", '[vectors.same]\ncheckpoint = "base"\n\n[compose]')
    matched.write(more)
    told = " ".join(matched.call("plan", "tiny.toml").stdout.split())
    assert "from elsewhere and without `rows`, in the ridge's prior and not in the fit: same" in told


def test_a_vector_from_elsewhere_is_matched_on_the_rows_that_it_names(matched):
    matched.build(MATCHED)
    shutil.copytree(matched.home / "out" / "tiny" / "model", matched.home / "tuned")
    rows = 'rows = { path = "data/copy.jsonl", max_samples = 8 }'
    document = matched.build(
        MATCHED.replace("[compose]", f'[vectors.code]\ncheckpoint = "tuned"\n{rows}\n\n[compose]')
    )
    assert set(ran(document)) == {"data:code", "vector:code", "model", *LOSSES}
    assert document["matching"]["vectors"]["code"]["rows"] == 8


def test_importances_that_are_searched_are_recorded_with_all_that_was_tried(matched):
    text = MATCHED.replace("[datasets.copy]", '[datasets.copy]\nomega = "tune"')
    document = matched.build(text)
    assert set(ran(document)) <= {"model", *LOSSES}
    found = document["matching"]["search"]
    assert found["passes"][0]["importances"] == {"add": 1.0, "copy": 1.0}
    assert "Importances that were tried" in (matched.home / "out" / "tiny" / "report.html").read_text()
    assert 1 < len(found["passes"]) <= 3
    assert document["omega"] == found["passes"][found["kept"]]["importances"]
    # What is kept is what those importances give where they are written down.
    kept = document["omega"]["copy"]
    again = matched.build(MATCHED.replace("[datasets.copy]", f"[datasets.copy]\nomega = {kept}"))
    assert again["model_digest"] == document["model_digest"]


AUTO = (
    MATCHED.replace('method = "match"', 'method = "auto"').replace('"base"]', '"base", "match", "even"]')
    + '\n[baselines.even]\nmethod = "uniform"\n\n[tune]\nmax_samples = 8\nsearch = "coordinate"\n'
)


def test_a_choice_keeps_the_model_that_is_best_on_validation_rows(matched):
    document = matched.build(AUTO)
    # What is matched was there: it is the same action under another name.
    assert {"model", "tune", "tune:layers", "model:sum", "model:layers"} <= set(ran(document))
    assert not {"vector:add", "model:match", "loss:match:add"} & set(ran(document))
    found = document["choice"]
    scores = {name: one["score"] for name, one in found["candidates"].items()}
    assert scores[found["chosen"]] == min(scores.values())
    names = ("model", f"model:{found['chosen']}")
    shown = [json.loads(matched.call("show", "tiny.toml", n, "--json").stdout)["outputs"] for n in names]
    assert shown[0] == shown[1]
    assert set(document["results"]) == {"composed", "base", "match", "even"}
    assert ("matching" in document) == (found["chosen"] == "match")
    assert "Which way to compose" in (matched.home / "out" / "tiny" / "report.html").read_text()


def test_a_choice_takes_the_room_of_what_it_chooses_from(matched):
    disk = {}
    for dtype in ("bfloat16", "float32"):
        asked = AUTO.replace('method = "auto"', f'method = "auto"\ndtype = "{dtype}"\nsalt = "{dtype}"')
        estimates = {e["name"]: e["disk"] for e in planned(matched, asked)["estimates"]}
        assert estimates["model"] == estimates["model:match"]
        disk[dtype] = estimates["model"]
    assert disk["float32"] == 2 * disk["bfloat16"]


def test_more_rows_of_one_dataset_train_that_vector_alone(matched):
    """The last of these tests: it changes the data."""
    rows = matched.home / "data" / "copy.jsonl"
    rows.write_text(rows.read_text() + '{"prompt": "say one more:", "completion": " one more"}\n')
    found = due(matched, MATCHED)
    assert {"data:copy", "vector:copy", "model"} <= found
    assert not {"data:add", "vector:add", "base"} & found
