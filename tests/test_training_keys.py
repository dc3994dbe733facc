"""What of `[train]` reaches a vector's key, and what it takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dem_build.action import Action
from dem_build.digest import Output, of_bytes
from dem_build.graph import build_graph
from dem_build.lock.lock import Lock, LockedBase
from dem_build.plan import preimage_of
from dem_build.recipe import load_recipe

OUTPUTS = ("weights", "config", "train", "validation")
RECIPE = """\
[base]
model = "base"

[train]
{train}

[datasets.math]
path = "math.jsonl"
omega = 0.5
"""


@pytest.fixture
def vector_of(tmp_path: Path):
    """The vector's action, given lines of `[train]` and of what follows the dataset."""
    (tmp_path / "base").mkdir()

    def make(*lines: str, dataset: str = "") -> Action:
        path = tmp_path / "recipe.toml"
        path.write_text(RECIPE.format(train="\n".join(lines)) + dataset)
        lock = Lock(LockedBase("directory", ()), {"math": (), "code": ()})
        return build_graph(load_recipe(path), lock).actions["vector:math"]

    return make


def document(action: Action) -> str:
    """What its key is the hash of, where each output has the digest of its name."""
    known = {
        edge.action: {name: Output(of_bytes(f"{edge.action}/{name}".encode()), 1) for name in OUTPUTS}
        for edge in (taken.at for taken in action.takes)
    }
    return json.dumps(preimage_of(action, known), sort_keys=True)


def test_the_longest_sequence_counts_where_rows_are_packed(vector_of):
    """Unpacked, it reaches the vector through the rows that it leaves."""
    assert document(vector_of("max_length = 256")) == document(
        vector_of("max_length = 512", "packing = false")
    )
    packed = [document(vector_of(f"max_length = {n}", "packing = true")) for n in (256, 512)]
    assert len({*packed, document(vector_of())}) == 3


def test_adams_numbers_count_where_adam_trains(vector_of):
    assert document(vector_of('optim = "adamw_8bit"')) != document(
        vector_of('optim = "adamw_8bit"', "adam_beta1 = 0.8")
    )
    assert "adam_" not in document(vector_of('optim = "adafactor"'))


def test_the_warm_up_counts_where_the_rate_changes(vector_of):
    scheduled = [document(vector_of(f"warmup_steps = {n}")) for n in (1, 2)]
    assert len({*scheduled, document(vector_of())}) == 3
    constant = document(vector_of('lr_scheduler_type = "constant"'))
    assert "warmup_steps" not in constant
    # [train] sets it for the datasets whose rate changes.
    own = '[datasets.math.train]\nlr_scheduler_type = "constant"\n'
    others = '[datasets.code]\npath = "code.jsonl"\nomega = 0.5\n'
    assert document(vector_of("warmup_steps = 2", dataset=own + others)) == constant


def test_looking_on_changes_no_document(vector_of):
    """The validation loss is told, and nothing follows from it."""
    often, seldom = vector_of("eval_steps = 1"), vector_of("eval_steps = 100")
    assert {document(often), document(seldom)} == {document(vector_of())}
    assert (often.watching, seldom.watching) == ({"eval_steps": 1}, {"eval_steps": 100})
    assert "data:math" in often.upstream


@pytest.mark.parametrize("choice", ["load_best_model_at_end = true", "early_stopping_patience = 2"])
def test_choosing_by_the_validation_loss_takes_the_validation_rows(vector_of, choice):
    chosen = [vector_of(f"eval_steps = {n}", choice) for n in (1, 100)]
    assert len({document(a) for a in [*chosen, vector_of()]}) == 3
    assert all("data/validation" in document(a) and not a.watching for a in chosen)


def test_a_choice_that_never_looks_changes_no_document(vector_of):
    """[train] sets it for the datasets that do look."""
    own = "[datasets.math.train]\neval_steps = 0"
    assert document(vector_of("eval_steps = 5", "load_best_model_at_end = true", dataset=own)) == document(
        vector_of()
    )


LORA_KEYS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")


def params_of(action: Action) -> dict[str, object]:
    """The parameters that are hashed."""
    found: dict[str, object] = json.loads(document(action))["params"]
    return found


def test_what_adapters_need_reaches_the_vectors_that_have_them_alone(vector_of):
    full, lora = params_of(vector_of()), params_of(vector_of('method = "lora"'))
    assert full["method"] == "full"
    assert not full.keys() & set(LORA_KEYS)
    assert lora.keys() == (full.keys() - {"vector_dtype"}) | set(LORA_KEYS)
    # Factors are in float32 whatever vectors of all weights are stored in.
    assert "vector_dtype" not in lora
    made = [document(vector_of('method = "lora"', line)) for line in ("", "lora_r = 8", "lora_alpha = 64.0")]
    assert len(set(made)) == 3


def test_target_modules_are_a_set(vector_of):
    first, second = (
        document(vector_of('method = "lora"', f"lora_target_modules = {names}"))
        for names in ('["q_proj", "v_proj"]', '["v_proj", "q_proj", "v_proj"]')
    )
    assert first == second


def test_adapters_have_a_learning_rate_of_their_own_where_none_is_written(vector_of):
    assert params_of(vector_of())["learning_rate"] == 2e-5
    assert params_of(vector_of('method = "lora"'))["learning_rate"] == 2e-4
    assert params_of(vector_of('method = "lora"', "learning_rate = 1e-5"))["learning_rate"] == 1e-5
    own = vector_of("learning_rate = 1e-5", dataset='train = { method = "lora" }\n')
    assert params_of(own)["learning_rate"] == 1e-5
