"""Extracting: the vector is fine-tune minus base, whole and exact, and what is no fine-tune of the base is refused."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import make_base
from transformers import AutoModelForCausalLM
from weight_samples import DIGEST, import_base, load, make_context, run_compose
from weight_samples import run_extract as run

from dem_build.action import SourceFile
from dem_build.actions.extract import merge
from dem_build.actions.extract import run as extract
from dem_build.checkpoint import delta
from dem_build.checkpoint.delta import open_delta
from dem_build.checkpoint.header import TensorSpec
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.checkpoint.writer import weights_writer
from dem_build.errors import CheckpointError, InterruptedBuildError
from dem_build.step import Inputs

IDS = torch.arange(3, 35).reshape(2, 16)


@pytest.fixture(scope="module")
def imported(tmp_path_factory, tiny_base):
    return import_base(tiny_base, tmp_path_factory.mktemp("imported") / "import")


def fine_tune(base: Path, folder: Path, share: float = 0.02, **saving) -> Path:
    """Write a copy of a base, each weight moved a little, as a training would."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += share * parameter.data.square().mean().sqrt() * noise
    dtype = saving.pop("dtype", torch.float32)
    model.to(dtype).save_pretrained(folder, **saving)
    return folder


def adapt(base: Path, folder: Path, scale: float = 0.01, **config) -> Path:
    """Write a LoRA adapter of a base with random weights."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, **config}))
    torch.manual_seed(5)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or ".modules_to_save." in name:
            parameter.data += scale * torch.randn_like(parameter)
    adapted.save_pretrained(folder)
    return folder


def refusal(imported, folder, tuned, **options) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        run(imported, folder, tuned, **options)
    assert not list((folder / "out").glob("*")) or "fine-tune" in caught.value.what
    return caught.value


class TestCheckpoint:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_base_and_vector_make_the_fine_tune_bit_for_bit(self, tmp_path, tiny_base, imported, dtype):
        tuned = fine_tune(tiny_base, tmp_path / "tuned", dtype=dtype)
        made, _, warnings = run(imported, tmp_path / "run", tuned)
        found, expected = load_file(made), load_file(tuned / "model.safetensors")
        base = load_file(imported / "weights" / "model.safetensors")
        for name, values in expected.items():
            assert torch.equal(found[name], values.float() - base[name].float())
        assert warnings == []

    def test_composed_at_one_it_answers_as_the_fine_tune(self, tmp_path, tiny_base, imported):
        tuned = fine_tune(tiny_base, tmp_path / "tuned")
        made, _, _ = run(imported, tmp_path / "run", tuned)
        composed = run_compose(imported, tmp_path / "composed", [(made, 1.0)], dtype="float32")
        with torch.no_grad():
            found = load(composed.out, tmp_path / "model", dtype=torch.float32)(IDS).logits
            expected = AutoModelForCausalLM.from_pretrained(tuned, dtype=torch.float32)(IDS).logits
        assert (found - expected).abs().max() < 1e-5

    def test_neither_shards_nor_chunks_reach_a_byte(self, tmp_path, tiny_base, imported, monkeypatch):
        whole = run(imported, tmp_path / "1", fine_tune(tiny_base, tmp_path / "whole"), dtype="bfloat16")
        sharded = fine_tune(tiny_base, tmp_path / "sharded", max_shard_size="100KB")
        assert len(list(sharded.glob("*.safetensors"))) > 1
        monkeypatch.setattr(delta, "CHUNK", 1000)
        parts = run(imported, tmp_path / "2", sharded, dtype="bfloat16")
        assert whole[0].read_bytes() == parts[0].read_bytes()

    def test_one_file_counts_before_an_index_and_its_shards(self, tmp_path, tiny_base, imported):
        tuned = fine_tune(tiny_base, tmp_path / "tuned")
        whole = run(imported, tmp_path / "1", tuned)
        older = fine_tune(tiny_base, tmp_path / "older", max_shard_size="100KB")
        shutil.copy(tuned / "model.safetensors", older)
        for shard in older.glob("model-*"):
            shard.unlink()  # the index alone is left
        parts = run(imported, tmp_path / "2", older)
        assert whole[0].read_bytes() == parts[0].read_bytes()

    def test_the_rounding_of_the_stored_vector_is_measured(self, tmp_path, tiny_base, imported):
        tuned = fine_tune(tiny_base, tmp_path / "tuned")
        exact, found, _ = run(imported, tmp_path / "1", tuned)
        rounded, said, _ = run(imported, tmp_path / "2", tuned, dtype="bfloat16")
        one, other = load_file(exact), load_file(rounded)
        error = sum(float(((one[n] - other[n].float()) ** 2).sum()) for n in one) ** 0.5
        assert found["vector"]["rounding_error"] == 0
        assert said["vector"]["rounding_error"] == pytest.approx(error, rel=1e-4)
        assert said["vector"]["norm"] == found["vector"]["norm"] > 0
        assert 0.015 < found["moved"]["median"] < 0.025

    def test_it_is_a_vector_of_this_base_alone(self, tmp_path, tiny_base, imported):
        made, _, _ = run(imported, tmp_path / "run", fine_tune(tiny_base, tmp_path / "tuned"))
        base = open_checkpoint(imported / "weights")
        assert open_delta(made, base, DIGEST, "code").tensors.keys() == base.tensors.keys()
        with pytest.raises(CheckpointError, match="was made for the base"):
            open_delta(made, base, "c" * 64, "code")

    def test_a_checkpoint_that_is_the_base_is_told(self, tmp_path, tiny_base, imported):
        _, provenance, [warning] = run(imported, tmp_path / "run", tiny_base)
        assert "the vector is zero" in warning
        assert provenance["vector"]["norm"] == 0

    def test_a_checkpoint_that_moved_far_is_told(self, tmp_path, tiny_base, imported):
        tuned = fine_tune(tiny_base, tmp_path / "tuned", share=0.5)
        assert "0.5 times" in run(imported, tmp_path / "run", tuned)[2][0]

    def test_a_tensor_that_was_trained_anew_is_named(self, tmp_path, tiny_base, imported):
        tuned = fine_tune(tiny_base, tmp_path / "tuned")
        tensors = load_file(tuned / "model.safetensors")
        name = "model.layers.1.mlp.up_proj.weight"
        tensors[name] = torch.randn_like(tensors[name])
        save_file(tensors, tuned / "model.safetensors")
        [warning] = run(imported, tmp_path / "run", tuned)[2]
        assert name in warning

    def test_another_base_of_the_same_shapes_is_refused_with_its_distance(self, tmp_path, imported):
        error = refusal(imported, tmp_path / "run", make_base(tmp_path / "other", seed=1))
        assert "no fine-tune of this base" in error.what
        assert "1.4 times" in error.what

    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"layers": 3}, "9 of its tensors are not those of the base"),
            ({"vocab": 3}, "3 were added"),
            ({"tied": False}, "has a head of its own"),
        ],
    )
    def test_a_model_of_other_shapes_is_refused_before_a_tensor_is_read(
        self, tmp_path, imported, monkeypatch, changes, what
    ):
        monkeypatch.setattr("dem_build.checkpoint.reader.Checkpoint.read_into", None)
        other = make_base(tmp_path / "other", **changes)
        assert what in refusal(imported, tmp_path / "run", other).what

    def test_other_heads_of_the_same_shapes_are_refused(self, tmp_path, tiny_base, imported):
        tuned = fine_tune(tiny_base, tmp_path / "tuned")
        edit_config(tuned / "config.json", num_attention_heads=8, num_key_value_heads=4, head_dim=8)
        assert "num_attention_heads is 8" in refusal(imported, tmp_path / "run", tuned).what

    def test_settings_that_the_composed_model_will_not_have_are_told(self, tmp_path, tiny_base, imported):
        tuned = fine_tune(tiny_base, tmp_path / "tuned")
        edit_config(tuned / "config.json", rms_norm_eps=1e-5)
        [warning] = run(imported, tmp_path / "run", tuned)[2]
        assert "rms_norm_eps is 1e-05, the base's 1e-06" in warning

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite_are_refused_by_name(self, tmp_path, tiny_base, imported, value):
        tuned = fine_tune(tiny_base, tmp_path / "tuned")
        tensors = load_file(tuned / "model.safetensors")
        tensors["model.norm.weight"][3] = value
        save_file(tensors, tuned / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds values that are not finite"):
            run(imported, tmp_path / "run", tuned)

    @pytest.mark.parametrize("tied", [True, False])
    def test_tokens_that_the_recipe_adds_to_the_base_do_not_move(self, tmp_path, tied, monkeypatch):
        monkeypatch.setattr(delta, "CHUNK", 1000)
        base = make_base(tmp_path / "base", tied=tied)
        larger = import_base(base, tmp_path / "larger", added=["<tool>", "</tool>"])
        tuned = fine_tune(base, tmp_path / "tuned")
        made, _, warnings = run(larger, tmp_path / "run", tuned)
        found, expected = load_file(made), load_file(tuned / "model.safetensors")
        before = load_file(base / "model.safetensors")
        assert found["model.embed_tokens.weight"].shape[0] == before["model.embed_tokens.weight"].shape[0] + 2
        for name, values in found.items():
            rows = before[name].shape[0]
            assert torch.equal(values[:rows], expected[name].float() - before[name].float())
            assert not values[rows:].any()
        assert warnings == []
        assert "no rows for the last 2 tokens of the base" in (tmp_path / "run/work/events.jsonl").read_text()

    def test_rows_of_other_tokens_are_refused_where_the_base_has_more(self, tmp_path):
        base = make_base(tmp_path / "base")
        larger = import_base(base, tmp_path / "larger", added=["<tool>"])
        tuned = fine_tune(base, tmp_path / "tuned")
        tensors = load_file(tuned / "model.safetensors")
        name = "model.embed_tokens.weight"
        tensors[name] = tensors[name].flip(0).contiguous()
        save_file(tensors, tuned / "model.safetensors")
        with pytest.raises(CheckpointError, match="of which the first 259 are others"):
            run(larger, tmp_path / "run", tuned)

    def test_it_stops_on_request(self, tmp_path, tiny_base, imported):
        with pytest.raises(InterruptedBuildError):
            run(imported, tmp_path / "run", tiny_base, stopping=lambda: True)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks for what transformers renamed
@pytest.mark.filterwarnings("ignore::UserWarning")  # peft's, where a test adapts a tied head
class TestAdapter:
    @pytest.mark.parametrize(
        "config",
        [
            {"target_modules": "all-linear"},
            {"target_modules": ["q_proj", "v_proj"], "use_rslora": True},
            {"target_modules": ["up_proj"], "use_dora": True},
            {
                "target_modules": ["k_proj", "down_proj"],
                "rank_pattern": {"k_proj": 2},
                "alpha_pattern": {"down_proj": 32},
            },
            {"target_modules": ["o_proj"], "modules_to_save": ["norm"]},
        ],
        ids=["linear", "rslora", "dora", "patterns", "saved"],
    )
    def test_composed_at_one_it_answers_as_base_and_adapter(self, tmp_path, tiny_base, imported, config):
        adapter = adapt(tiny_base, tmp_path / "adapter", **config)
        made, provenance, warnings = run(imported, tmp_path / "run", adapter, source="adapter")
        composed = run_compose(imported, tmp_path / "composed", [(made, 1.0)], dtype="float32")
        base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
        with torch.no_grad():
            found = load(composed.out, tmp_path / "model", dtype=torch.float32)(IDS).logits
            plain = base(IDS).logits
            expected = PeftModel.from_pretrained(base, adapter)(IDS).logits
        assert (found - expected).abs().max() < 1e-5
        assert (found - plain).abs().max() > 1e-4
        assert provenance["vector"]["norm"] > 0
        assert warnings == []

    @pytest.mark.parametrize(
        "config",
        [
            {"target_modules": ["embed_tokens", "lm_head"]},
            {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
            {"target_modules": ["lm_head"], "use_dora": True},
        ],
        ids=["adapted", "saved", "dora"],
    )
    def test_tokens_that_the_recipe_adds_to_the_base_do_not_move(self, tmp_path, config):
        base = make_base(tmp_path / "base", tied=False)
        plain = import_base(base, tmp_path / "plain")
        larger = import_base(base, tmp_path / "larger", added=["<tool>"])
        adapter = adapt(base, tmp_path / "adapter", **config)
        expected = load_file(run(plain, tmp_path / "1", adapter, source="adapter")[0])
        found = load_file(run(larger, tmp_path / "2", adapter, source="adapter")[0])
        assert (tmp_path / "2/work/events.jsonl").read_text().count("for the last 1 tokens") > 0
        for name, values in expected.items():
            rows = len(values)
            assert (found[name][:rows] - values).abs().max() < 1e-7
            assert not found[name][rows:].any()
        assert found["lm_head.weight"].any()

    def test_weights_that_it_does_not_adapt_do_not_move(self, tmp_path, tiny_base, imported):
        adapter = adapt(tiny_base, tmp_path / "adapter", target_modules=["q_proj"])
        made, _, _ = run(imported, tmp_path / "run", adapter, source="adapter")
        moved = {name for name, values in load_file(made).items() if values.any()}
        assert moved == {f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)}

    @pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings")
    @pytest.mark.parametrize(
        "config",
        [{"target_modules": ["lm_head"]}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}],
        ids=["adapted", "saved"],
    )
    def test_a_head_that_the_base_ties_is_refused(self, tmp_path, tiny_base, imported, config):
        adapter = adapt(tiny_base, tmp_path / "adapter", scale=0.5, **config)
        with pytest.raises(CheckpointError) as caught:
            run(imported, tmp_path / "run", adapter, source="adapter")
        assert "ties" in caught.value.what

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            (lambda t: t.pop(next(iter(t))), "it lacks"),
            (lambda t: t.update(odd=torch.zeros(2)), "has no place for"),
            (lambda t: t.update({next(iter(t)): torch.zeros(4, 9)}), "and the base's is"),
            (lambda t: t.update({n: v * float("nan") for n, v in t.items()}), "not finite|NaN"),
        ],
        ids=["missing", "unknown", "shape", "nan"],
    )
    def test_weights_that_are_not_those_of_its_config_are_refused(
        self, tmp_path, tiny_base, imported, change, what
    ):
        adapter = adapt(tiny_base, tmp_path / "adapter", target_modules=["q_proj"])
        tensors = load_file(adapter / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, adapter / "adapter_model.safetensors")
        with pytest.raises(CheckpointError, match=what):
            run(imported, tmp_path / "run", adapter, source="adapter")

    def test_modules_that_the_base_has_not_are_refused(self, tmp_path, tiny_base, imported):
        adapter = adapt(tiny_base, tmp_path / "adapter", target_modules=["q_proj"])
        edit_config(adapter / "adapter_config.json", target_modules=["query_key_value"])
        with pytest.raises(CheckpointError, match="no place for 2 of its weights"):
            run(imported, tmp_path / "run", adapter, source="adapter")

    def test_its_config_imports_no_code(self, tmp_path, tiny_base, imported):
        adapter = adapt(tiny_base, tmp_path / "adapter", target_modules=["q_proj"])
        (tmp_path / "trap.py").write_text("raise SystemExit('ran')")
        auto = {"base_model_class": "Trap", "parent_library": "trap"}
        edit_config(adapter / "adapter_config.json", auto_mapping=auto, megatron_core="trap")
        assert run(imported, tmp_path / "run", adapter, source="adapter")[0].exists()

    def test_what_it_changes_too_much_is_told(self, tmp_path, tiny_base, imported):
        adapter = adapt(tiny_base, tmp_path / "adapter", scale=0.5, target_modules="all-linear")
        [warning] = run(imported, tmp_path / "run", adapter, source="adapter")[2]
        assert "lora_alpha" in warning


def edit_config(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_of_either_kind_may_move(tmp_path, tiny_base, imported):
    tuned = fine_tune(tiny_base, tmp_path / "tuned")
    first = run(imported, tmp_path / "1", tuned)[0].read_bytes()
    moved = Path(shutil.move(tuned, tmp_path / "elsewhere"))
    (moved / "README.md").write_text("A card.")
    assert run(imported, tmp_path / "2", moved)[0].read_bytes() == first
    assert np.frombuffer(first[:8], np.uint64)[0] > 0


def test_no_more_than_three_tensors_of_an_adapters_difference_are_held_at_once(tmp_path, monkeypatch):
    """A layer's experts are gigabytes: what is read of the base is let go before the next tensor is merged."""
    count, size = 4, 1 << 20
    names = [f"model.layers.{i}.w.weight" for i in range(count)]
    specs = [TensorSpec(name, "F32", (size // 1024, 1024)) for name in names]
    with weights_writer(tmp_path / "base", specs) as writer:
        for i, name in enumerate(names):
            writer.write(name, 0, np.full(size, i + 1, np.float32))

    def merged(_inputs, _config, _built, base, _note):
        for name in names:
            yield name, base.read(name) + np.float32(0.01)

    monkeypatch.setattr(merge, "merged_weights", merged)
    monkeypatch.setattr(extract, "architecture", lambda *_: SimpleNamespace(built=None))
    (tmp_path / "config").write_text("{}")
    source = SourceFile("adapter_config.json", "0" * 64, tmp_path / "config")
    paths = {"base/config": tmp_path / "config", "base/weights": tmp_path / "base"}
    inputs = Inputs(paths, {"base/weights": DIGEST}, sources=(source,))
    tracemalloc.start()
    try:
        extract._adapter(inputs, "bfloat16", make_context(tmp_path / "run"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3.5 * 4 * size
