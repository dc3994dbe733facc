"""An adapter's vector is its formula, scale · B A, computed here in float64; peft is asked nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import COMMON, FAMILIES
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
    core_model_loading,
)
from weight_samples import run_extract as run

from dem_build.errors import CheckpointError

RANK, ALPHA = 2, 8.0
SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
SHARED = {"shared_expert_intermediate_size": 20, "intermediate_size": 24}
CONFIGS = {
    "qwen3": Qwen3MoeConfig(**SMALL, **EXPERTS, head_dim=8),
    "qwen2": Qwen2MoeConfig(**SMALL, **EXPERTS, **SHARED),
    "mixtral": MixtralConfig(**SMALL, intermediate_size=12, num_local_experts=3),
}
GATES = {"qwen3": ("gate_proj", "up_proj"), "qwen2": ("gate_proj", "up_proj"), "mixtral": ("w1", "w3")}


class Base:
    """A random base: its weights as they are published, and in a store's folder in one of two layouts."""

    def __init__(self, config, folder: Path, *, published: bool) -> None:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        # Layers of no effect would hide a mistake.
        for parameter in model.parameters():
            parameter.data.normal_(std=0.1)
        for layout, apart in (("published", True), ("own", False)):
            model.save_pretrained(folder / layout, save_original_format=apart)
        self.published = load_file(folder / "published" / "model.safetensors")
        self.model, self.folder = model, folder
        stored = folder / ("published" if published else "own")
        (folder / "imported" / "weights").mkdir(parents=True)
        (folder / "imported" / "weights" / "model.safetensors").symlink_to(stored / "model.safetensors")
        (folder / "imported" / "config").symlink_to(stored / "config.json")
        self.stored = load_file(stored / "model.safetensors")

    def adapter(self, tensors, folder: Path, **config) -> Path:
        folder.mkdir()
        named = {f"base_model.model.{name}": t.contiguous() for name, t in tensors.items()}
        save_file(named, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, **config}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder

    def vector(self, adapter: Path, folder: Path) -> dict[str, torch.Tensor]:
        return load_file(run(self.folder / "imported", folder, adapter, source="adapter")[0])

    def refusal(self, adapter: Path, folder: Path) -> CheckpointError:
        with pytest.raises(CheckpointError) as caught:
            self.vector(adapter, folder)
        return caught.value

    def in_its_layout(self, changed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return published weights as transformers itself would store them in the base's layout."""
        if self.stored.keys() == changed.keys():
            return changed
        loaded = type(self.model).from_pretrained(None, config=self.model.config, state_dict=changed)
        return {name: loaded.state_dict()[name] for name in self.stored}


def pair(rows: int, columns: int, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rank, columns) * 0.1, torch.randn(rows, rank) * 0.1


def check(vector, base: Base, expected: dict[str, torch.Tensor]) -> None:
    """Compare a vector with what the base's published weights become: in float64, tensor by tensor."""
    right = base.in_its_layout(base.published | expected)
    assert vector.keys() == base.stored.keys()
    moved = 0
    for name, values in base.stored.items():
        want = right[name].double() - values.double()
        assert (vector[name].double() - want).abs().max() < 1e-6, name
        moved += bool(want.any())
    assert moved


def per_expert(base: Base, ranks=lambda _: RANK, only=(".experts.", ".shared_expert.")):
    """Return an adapter of each expert by itself, the shared one too, as transformers 4 had them, and its products."""
    torch.manual_seed(1)
    tensors, products = {}, {}
    for name, weight in base.published.items():
        stem = name.removesuffix(".weight")
        if weight.dim() == 2 and any(part in name for part in only):
            a, b = pair(*weight.shape, ranks(stem))
            tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
            products[name] = b.double() @ a.double()
    return tensors, products


@pytest.fixture(params=[False, True], ids=["fused", "published"])
def published(request):
    return request.param


@pytest.mark.parametrize("kind", CONFIGS)
class TestExperts:
    @pytest.fixture
    def base(self, kind, published, tmp_path):
        return Base(CONFIGS[kind], tmp_path / "base", published=published)

    def targets(self, tensors) -> list[str]:
        return sorted({name.split(".lora_")[0].rsplit(".", 1)[1] for name in tensors})

    @pytest.mark.parametrize(("rslora", "alpha"), [(False, {}), (True, {}), (False, "gate"), (True, "layer")])
    def test_an_adapter_of_each_expert_is_alpha_over_its_rank(self, base, kind, tmp_path, rslora, alpha):
        tensors, products = per_expert(base)
        if alpha == "gate":
            alpha = dict.fromkeys(GATES[kind], 32.0)
        elif alpha == "layer":
            alpha = {r"model\.layers\.1\..*": 3.0}
        adapter = base.adapter(
            tensors,
            tmp_path / "a",
            use_rslora=rslora,
            alpha_pattern=alpha,
            target_modules=self.targets(tensors),
        )

        def scale(name):
            stem = name.removesuffix(".weight")
            mine = next(
                (v for k, v in alpha.items() if k in stem or (k[0] == "m" and "layers.1" in stem)), ALPHA
            )
            return mine / (RANK**0.5 if rslora else RANK)

        expected = {n: base.published[n].double() + scale(n) * p for n, p in products.items()}
        check(base.vector(adapter, tmp_path / "run"), base, {n: w.float() for n, w in expected.items()})

    def test_ranks_by_pattern_and_experts_left_out_are_heeded(self, base, kind, tmp_path):
        wide = GATES[kind][1]
        tensors, products = per_expert(base, ranks=lambda stem: 3 if stem.endswith(wide) else RANK)
        gone = GATES[kind][0]  # of the two that transformers 5 makes one, one alone is adapted
        tensors = {n: t for n, t in tensors.items() if f".{gone}." not in n}
        products = {n: p for n, p in products.items() if f".{gone}." not in n}
        adapter = base.adapter(
            tensors, tmp_path / "a", rank_pattern={wide: 3}, target_modules=self.targets(tensors)
        )
        expected = {
            n: base.published[n].double() + ALPHA / (3 if f".{wide}." in n else RANK) * p
            for n, p in products.items()
        }
        check(base.vector(adapter, tmp_path / "run"), base, {n: w.float() for n, w in expected.items()})

    def test_dora_of_each_expert_has_the_lengths_that_it_learned(self, base, tmp_path):
        tensors, products = per_expert(base)
        expected = {}
        for name, product in products.items():
            magnitude = torch.rand(len(product)) + 0.5
            tensors[name.replace(".weight", ".lora_magnitude_vector")] = magnitude
            moved = base.published[name].double() + ALPHA / RANK * product
            expected[name] = (magnitude.double() / moved.norm(dim=1))[:, None] * moved
        adapter = base.adapter(tensors, tmp_path / "a", use_dora=True, target_modules=self.targets(tensors))
        check(base.vector(adapter, tmp_path / "run"), base, {n: w.float() for n, w in expected.items()})

    @pytest.mark.parametrize("rslora", [False, True])
    def test_parameters_of_all_experts_together_are_each_experts_own_product(
        self, base, kind, tmp_path, rslora
    ):
        state = base.model.state_dict()
        tensors, products, expected = {}, {}, {}
        torch.manual_seed(1)
        for layer in (0, 1):
            stem = f"model.layers.{layer}.mlp.experts"
            for inner, name in ((".base_layer", "gate_up_proj"), ("", "down_proj")):
                experts, rows, columns = state[f"{stem}.{name}"].shape
                a, b = torch.randn(experts * RANK, columns) * 0.1, torch.randn(rows, experts * RANK) * 0.1
                tensors |= {f"{stem}{inner}.lora_A.weight": a, f"{stem}{inner}.lora_B.weight": b}
                # peft has an expert's rows of A together, and its columns of B apart, one of each rank at a time.
                products[f"{stem}.{name}"] = [
                    b[:, expert::experts].double() @ a[expert * RANK : (expert + 1) * RANK].double()
                    for expert in range(experts)
                ]
        scale = ALPHA / (RANK**0.5 if rslora else RANK)
        for name, each in products.items():
            stem, which = name.rsplit(".", 1)
            names = ("w1", "w3", "w2") if kind == "mixtral" else ("gate_proj", "up_proj", "down_proj")
            old = stem.replace("mlp", "block_sparse_moe") if kind == "mixtral" else stem
            for expert, product in enumerate(each):
                made = product.chunk(2) if which == "gate_up_proj" else (product,)
                for part, own in zip(made, names[:2] if len(made) == 2 else names[2:], strict=True):
                    at = f"{old}.{expert}.{own}.weight"
                    expected[at] = (base.published[at].double() + scale * part).float()
        adapter = base.adapter(
            tensors,
            tmp_path / "a",
            use_rslora=rslora,
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        )
        check(base.vector(adapter, tmp_path / "run"), base, expected)

    def test_a_router_that_was_a_linear_layer_is_one(self, base, tmp_path):
        tensors, products = per_expert(base, only=("gate.weight",))
        tensors = {n: t for n, t in tensors.items() if "shared" not in n}
        products = {n: p for n, p in products.items() if "shared" not in n}
        adapter = base.adapter(tensors, tmp_path / "a", target_modules=["gate"])
        expected = {n: base.published[n].double() + ALPHA / RANK * p for n, p in products.items()}
        check(base.vector(adapter, tmp_path / "run"), base, {n: w.float() for n, w in expected.items()})

    def test_one_expert_without_its_weights_is_refused_by_name(self, base, tmp_path):
        tensors, _ = per_expert(base)
        targets = self.targets(tensors)
        lost = sorted({n.split(".lora_")[0] for n in tensors})[4]
        tensors = {n: t for n, t in tensors.items() if not n.startswith(f"{lost}.")}
        error = base.refusal(base.adapter(tensors, tmp_path / "a", target_modules=targets), tmp_path / "run")
        assert lost in error.what
        assert "asks for" in error.what


class TestDense:
    @pytest.fixture
    def llama(self, tmp_path):
        config = LlamaConfig(**SMALL, intermediate_size=24, attention_bias=True)
        return Base(config, tmp_path / "base", published=False)

    def one(self, base: Base, name: str, rank: int = RANK):
        a, b = pair(*base.published[f"{name}.weight"].shape, rank)
        return {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, b.double() @ a.double()

    @pytest.mark.parametrize("alpha", [8, 0.5, {"q_proj": 12.0}, {"layers.0.self_attn.q_proj": 12.0}])
    @pytest.mark.parametrize("rslora", [False, True])
    def test_a_pattern_goes_before_alpha(self, llama, tmp_path, alpha, rslora):
        name = "model.layers.0.self_attn.q_proj"
        tensors, product = self.one(llama, name)
        pattern = alpha if isinstance(alpha, dict) else {"k_proj": 99.0}
        number = 12.0 if isinstance(alpha, dict) else alpha
        told = {"alpha_pattern": pattern, "use_rslora": rslora, "layers_to_transform": [0]}
        if not isinstance(alpha, dict):
            told["lora_alpha"] = alpha
        adapter = llama.adapter(tensors, tmp_path / "a", target_modules=["q_proj"], **told)
        scale = number / (RANK**0.5 if rslora else RANK)
        right = (llama.published[f"{name}.weight"].double() + scale * product).float()
        check(llama.vector(adapter, tmp_path / "run"), llama, {f"{name}.weight": right})

    @pytest.mark.parametrize(
        ("alphas", "first", "told"),
        [
            (
                {"layers.0.self_attn.q_proj": 12.0, "q_proj": 3.0},
                12.0,
                True,
            ),  # as peft saves them, whatever was first
            ({"q_proj": 3.0, "layers.0.self_attn.q_proj": 12.0}, 3.0, False),  # as peft never saves them
            ({"layers.0.self_attn.q_proj": 12.0, "q_proj": 12.0}, 12.0, False),
            ({"k_proj": 3.0, "q_proj": 12.0}, 12.0, False),
        ],
    )
    def test_of_two_patterns_of_one_module_the_first_counts_and_where_that_is_in_doubt_it_is_said(
        self, llama, tmp_path, alphas, first, told
    ):
        name = "model.layers.0.self_attn.q_proj"
        tensors, product = self.one(llama, name)
        config = {"target_modules": ["q_proj"], "layers_to_transform": [0], "alpha_pattern": alphas}
        adapter = llama.adapter(tensors, tmp_path / "a", **config)
        made, _, warnings = run(llama.folder / "imported", tmp_path / "run", adapter, source="adapter")
        right = (llama.published[f"{name}.weight"].double() + first / RANK * product).float()
        check(load_file(made), llama, {f"{name}.weight": right})
        said = [w for w in warnings if f"both match {name}, with two values: the first counts" in w]
        assert len(said) == told

    def test_its_rank_is_that_of_its_config(self, llama, tmp_path):
        tensors, _ = self.one(llama, "model.layers.0.self_attn.q_proj", rank=4)
        told = {"target_modules": ["q_proj"], "layers_to_transform": 0}
        error = llama.refusal(llama.adapter(tensors, tmp_path / "a", **told), tmp_path / "run")
        assert "has rank 4, and its config says r = 2" in error.what

    def test_biases_that_it_adds_and_biases_that_it_replaces(self, llama, tmp_path):
        name = "model.layers.1.self_attn.v_proj"
        tensors, product = self.one(llama, name)
        tensors[f"{name}.lora_B.bias"] = torch.randn(8)
        replaced = torch.randn(16)
        tensors["model.layers.0.self_attn.q_proj.bias"] = replaced
        told = {"target_modules": ["v_proj"], "layers_to_transform": [1], "lora_bias": True, "bias": "all"}
        adapter = llama.adapter(tensors, tmp_path / "a", **told)
        scale = ALPHA / RANK
        bias = llama.published[f"{name}.bias"].double() + scale * tensors[f"{name}.lora_B.bias"].double()
        expected = {
            f"{name}.weight": (llama.published[f"{name}.weight"].double() + scale * product).float(),
            f"{name}.bias": bias.float(),
            "model.layers.0.self_attn.q_proj.bias": replaced,
        }
        check(llama.vector(adapter, tmp_path / "run"), llama, expected)

    def test_a_bias_where_the_base_has_none_is_refused(self, llama, tmp_path):
        tensors, _ = self.one(llama, "model.layers.0.mlp.up_proj")
        tensors["model.layers.0.mlp.up_proj.lora_B.bias"] = torch.randn(24)
        told = {"target_modules": ["up_proj"], "layers_to_transform": 0, "lora_bias": True}
        error = llama.refusal(llama.adapter(tensors, tmp_path / "a", **told), tmp_path / "run")
        assert "the base has no model.layers.0.mlp.up_proj.bias" in error.what

    @pytest.mark.parametrize("rslora", [False, True])
    def test_embeddings_are_the_product_transposed(self, llama, tmp_path, rslora):
        a, b = torch.randn(RANK, 64) * 0.1, torch.randn(16, RANK) * 0.1
        tensors = {
            "model.embed_tokens.lora_embedding_A": a,
            "model.embed_tokens.lora_embedding_B": b,
            "model.embed_tokens.base_layer.weight": llama.published["model.embed_tokens.weight"],
        }
        told = {"target_modules": ["embed_tokens"], "use_rslora": rslora}
        adapter = llama.adapter(tensors, tmp_path / "a", **told)
        scale = ALPHA / (RANK**0.5 if rslora else RANK)
        name = "model.embed_tokens.weight"
        right = llama.published[name].double() + scale * (b.double() @ a.double()).T
        check(llama.vector(adapter, tmp_path / "run"), llama, {name: right.float()})

    @pytest.mark.parametrize("dora", [False, True])
    @pytest.mark.parametrize("square", [False, True])
    def test_weights_that_are_stored_transposed(self, tmp_path, dora, square):
        config = GPT2Config(
            vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=32, tie_word_embeddings=False
        )
        base = Base(config, tmp_path / "base", published=False)
        name = f"transformer.h.0.attn.{'c_proj' if square else 'c_attn'}"
        weight = base.published[f"{name}.weight"].double()
        a, b = pair(weight.shape[1], weight.shape[0])
        tensors = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
        right = weight + ALPHA / RANK * (b.double() @ a.double()).T
        if dora:
            magnitude = torch.rand(len(b)) + 0.5
            tensors[f"{name}.lora_magnitude_vector"] = magnitude
            right = magnitude.double() / right.norm(dim=0) * right
        told = {"target_modules": [name], "fan_in_fan_out": True, "use_dora": dora}
        adapter = base.adapter(tensors, tmp_path / "a", **told)
        check(base.vector(adapter, tmp_path / "run"), base, {f"{name}.weight": right.float()})

    def test_a_module_that_was_trained_whole_is_whole(self, llama, tmp_path):
        told = {"target_modules": ["q_proj"], "modules_to_save": ["o_proj"]}
        torch.manual_seed(2)
        tensors = {}
        for layer in (0, 1):
            tensors |= self.one(llama, f"model.layers.{layer}.self_attn.q_proj")[0]
            tensors[f"model.layers.{layer}.self_attn.o_proj.weight"] = torch.randn(16, 16)
        error = llama.refusal(llama.adapter(tensors, tmp_path / "a", **told), tmp_path / "1")
        assert "o_proj.bias" in error.what

    def test_weights_of_another_module_than_its_config_says_are_refused(self, llama, tmp_path):
        tensors, _ = self.one(llama, "model.layers.0.self_attn.q_proj")
        more, _ = self.one(llama, "model.layers.0.self_attn.k_proj")
        told = {"target_modules": ["q_proj"], "layers_to_transform": [0]}
        error = llama.refusal(llama.adapter(tensors | more, tmp_path / "a", **told), tmp_path / "run")
        assert "no place for 1 of its weights" in error.what


def test_a_tied_head_follows_the_embeddings_where_the_adapter_ties_them(tmp_path):
    config = LlamaConfig(**SMALL | {"tie_word_embeddings": True}, intermediate_size=24)
    base = Base(config, tmp_path / "base", published=False)
    a, b = torch.randn(RANK, 64) * 0.1, torch.randn(16, RANK) * 0.1
    tensors = {"model.embed_tokens.lora_embedding_A": a, "model.embed_tokens.lora_embedding_B": b}
    told = {"target_modules": ["embed_tokens"]}
    assert "ties" in base.refusal(base.adapter(tensors, tmp_path / "a", **told), tmp_path / "1").what
    tying = base.adapter(tensors, tmp_path / "b", ensure_weight_tying=True, **told)
    name = "model.embed_tokens.weight"
    right = base.published[name].double() + ALPHA / RANK * (b.double() @ a.double()).T
    check(base.vector(tying, tmp_path / "2"), base, {name: right.float()})


@pytest.mark.parametrize("part", ["self_attn.q_proj", "mlp.up_proj"])
def test_of_several_tensors_that_are_one_in_the_files_one_is_changed_and_the_others_are_as_they_were(
    published, tmp_path, part
):
    config = AutoConfig.for_model("hrm_text", **COMMON | FAMILIES["hrm_text"])
    base = Base(config, tmp_path / "base", published=published)
    name = f"model.H_module.layers.1.{part}"
    weight = base.model.state_dict()[f"{name}.weight"]
    torch.manual_seed(1)
    a, b = pair(*weight.shape)
    tensors = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    found = base.vector(base.adapter(tensors, tmp_path / "a", target_modules=[name]), tmp_path / "run")
    product = ALPHA / RANK * (b.double() @ a.double())
    weight.data.copy_(weight.double() + product)
    base.model.save_pretrained(tmp_path / "right", save_original_format=published)
    right = load_file(tmp_path / "right" / "model.safetensors")
    assert found.keys() == right.keys()
    for tensor, values in base.stored.items():
        assert torch.allclose(found[tensor], right[tensor] - values, rtol=0, atol=1e-6), tensor
    [(changed, values)] = [(n, v) for n, v in found.items() if v.any()]
    assert (changed == f"{name}.weight") is not published
    assert int(values.any(dim=1).sum()) == len(b)


def test_one_tensor_of_the_files_that_is_several_of_the_model(published, tmp_path):
    config = AutoConfig.for_model("hrm_text", **COMMON | FAMILIES["hrm_text"])
    base = Base(config, tmp_path / "base", published=published)
    name = "model.L_module.layers.0.attn.gqkv_proj"
    torch.manual_seed(1)
    a, b = pair(*base.published[f"{name}.weight"].shape)
    tensors = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    right = base.published[f"{name}.weight"].double() + ALPHA / RANK * (b.double() @ a.double())
    adapter = base.adapter(tensors, tmp_path / "a", target_modules=[name])
    check(base.vector(adapter, tmp_path / "run"), base, {f"{name}.weight": right.float()})


def test_a_conversion_that_loses_something_is_refused_by_name(published, tmp_path, monkeypatch):
    base = Base(CONFIGS["qwen3"], tmp_path / "base", published=published)
    exact = core_model_loading.Chunk.convert

    def rounded(self, tensors, *args, **kwargs):
        return {n: t.bfloat16().float() for n, t in exact(self, tensors, *args, **kwargs).items()}

    monkeypatch.setattr(core_model_loading.Chunk, "convert", rounded)
    name = "model.layers.0.mlp.experts"
    if published:  # an adapter in the other layout than the base
        a, b = pair(24, 16, 3 * RANK)
        tensors = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
        config = {"target_parameters": ["layers.0.mlp.experts.gate_up_proj"]}
    else:
        tensors, _ = per_expert(base)
        config = {"target_modules": ["gate_proj", "up_proj", "down_proj"]}
    error = base.refusal(base.adapter(tensors, tmp_path / "a", **config), tmp_path / "run")
    assert f"transformers changes {name}" in error.what
    assert "gate" in error.what


def test_a_head_under_its_published_name_is_refused_where_the_base_ties_it(tmp_path):
    config = GPTNeoXConfig(**SMALL | {"tie_word_embeddings": True}, intermediate_size=24)
    base = Base(config, tmp_path / "base", published=True)
    head = base.published["gpt_neox.embed_in.weight"]
    other = base.adapter({"embed_out.weight": head + 1}, tmp_path / "a")
    assert "ties" in base.refusal(other, tmp_path / "1").what
    names = ("embed_out.weight", "gpt_neox.embed_in.weight")
    same = base.adapter({names[0]: head + 1, names[1]: head + 1}, tmp_path / "b")
    check(base.vector(same, tmp_path / "2"), base, {"gpt_neox.embed_in.weight": head + 1})
