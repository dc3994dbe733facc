"""Loading a model: the whole of it in the type that was asked for, or an error that names what is wrong."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tiny import make_base
from transformers import AutoModelForCausalLM

from dem_build.errors import CheckpointError
from dem_build.model.load import load_model

CPU = torch.device("cpu")


def apart(base, folder, **config):
    """Lay out a base as the store holds it: weights in one place, the config in another, under any name."""
    (folder / "weights").mkdir(parents=True)
    for file in base.glob("model*"):
        shutil.copy(file, folder / "weights")
    known = json.loads((base / "config.json").read_text())
    (folder / "some-object").write_text(json.dumps(known | config))
    return folder / "weights", folder / "some-object"


@pytest.mark.parametrize(("tied", "shards"), [(True, 1), (False, 3)])
def test_weights_and_config_make_the_model_that_transformers_loads(tmp_path, tied, shards):
    base = make_base(tmp_path / "base", tied=tied, shards=shards)
    model = load_model(*apart(base, tmp_path / "apart"), dtype=torch.float32, device=CPU)
    expected = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    assert not model.training
    assert model.dtype == torch.float32
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_the_attention_kernel_is_the_one_asked_for(tiny_base, tmp_path):
    parts = apart(tiny_base, tmp_path)
    model = load_model(*parts, dtype=torch.bfloat16, device=CPU, attn_implementation="eager")
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_hidden_layers": 3}, "missing: model.layers.2"),
        ({"num_hidden_layers": 1}, "unexpected: model.layers.1"),
        ({"intermediate_size": 64}, "mismatched: .*down_proj"),
        ({"model_type": "no-such-model"}, "no-such-model"),
    ],
)
def test_weights_of_another_model_are_refused(tiny_base, tmp_path, config, message):
    with pytest.raises(CheckpointError, match=message):
        load_model(*apart(tiny_base, tmp_path, **config), dtype=torch.float32, device=CPU)


def test_loading_says_nothing(tiny_base, tmp_path, capfd):
    load_model(*apart(tiny_base, tmp_path), dtype=torch.float32, device=CPU)
    assert capfd.readouterr() == ("", "")
