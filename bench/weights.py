"""Random models and vectors for the benchmarks, and a project whose vectors are recorded without training them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dem_build.checkpoint.delta import write_delta
from dem_build.checkpoint.floats import to_bfloat16
from dem_build.checkpoint.header import TensorSpec
from dem_build.checkpoint.writer import weights_writer
from dem_build.plan import decide
from dem_build.session.session import Call, open_session
from dem_build.store import Record

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "samples"))
from tiny import make_base, make_data

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["SMOL", "Shapes", "count", "delta_tensors", "project", "record_vectors", "shapes", "write_weights"]

Shapes = dict[str, tuple[int, ...]]

SMOL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""The config of SmolLM2-135M's shape."""

BLOCK = 1 << 20
BASE_SCALE, DELTA_SCALE = 0.05, 0.001


def shapes(config: dict[str, Any]) -> Shapes:
    """Return the tensors of a Llama."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    made: Shapes = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        made["lm_head.weight"] = (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[f"{layer}{name}.weight"] = (hidden,)
        for name, rows in (("q", hidden), ("k", keys), ("v", keys), ("o", hidden)):
            made[f"{layer}self_attn.{name}_proj.weight"] = (rows, hidden)
        for name in ("gate", "up"):
            made[f"{layer}mlp.{name}_proj.weight"] = (inner, hidden)
        made[f"{layer}mlp.down_proj.weight"] = (hidden, inner)
    return made


def count(config: dict[str, Any]) -> int:
    """Return the parameters of a Llama."""
    return sum(int(np.prod(shape)) for shape in shapes(config).values())


def write_weights(folder: Path, config: dict[str, Any], seed: int, shard: int = 5_000_000_000) -> None:
    """Write random bfloat16 weights as a folder that mergekit and transformers load."""
    made = shapes(config)
    specs = [TensorSpec(name, "BF16", shape) for name, shape in made.items()]
    with weights_writer(folder, specs, shard) as writer:
        for name, values in delta_tensors(made, seed, BASE_SCALE):
            writer.write(name, 0, to_bfloat16(values.reshape(-1)))
    (folder / "config.json").write_text(json.dumps(config))


def delta_tensors(
    made: Shapes, seed: int, scale: float = DELTA_SCALE
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield random tensors; each is drawn alone, so no more than one is in memory."""
    for i, (name, shape) in enumerate(made.items()):
        rng = np.random.default_rng((seed, i))
        block = rng.standard_normal(min(int(np.prod(shape)), BLOCK), np.float32) * np.float32(scale)
        # A large tensor repeats a block: what is measured does not depend on it, and drawing takes long.
        yield name, np.resize(block, shape)


def project(folder: Path, config: dict[str, Any], omegas: list[float], shard: int = 5_000_000_000) -> Path:
    """Write a recipe, its data and a random base of the shape `config`; return the recipe."""
    make_base(folder / "base")  # for its tokenizer
    (folder / "base" / "model.safetensors").unlink()
    write_weights(folder / "weights", config, 0, shard)
    for path in (folder / "weights").iterdir():
        path.replace(folder / "base" / path.name)
    rows = (make_data(folder / "data", 40) / "add.jsonl").read_text().splitlines()
    text = '[base]\nmodel = "base"\n[train]\nmax_steps = 1\n[compose]\ndtype = "bfloat16"\n'
    for i, omega in enumerate(omegas):
        (folder / "data" / f"d{i}.jsonl").write_text("".join(f"{r[:-2]} {i}{r[-2:]}\n" for r in rows))
        text += f'[datasets.d{i}]\npath = "data/d{i}.jsonl"\nomega = {omega}\n'
    (folder / "recipe.toml").write_text(text)
    return folder / "recipe.toml"


def record_vectors(recipe: Path, config: dict[str, Any]) -> list[Path]:
    """Record a random vector for each dataset of a recipe whose base and data are built; return their files."""
    session = open_session(str(recipe), Call())
    known = {n: v.record.outputs for n, v in session.plan.verdicts.items() if v.record is not None}
    made = []
    for action in [a for a in session.plan.graph if a.kind.name == "finetune"]:
        verdict = decide(action, known, session.store.records, session.plan.history)
        assert verdict.key is not None
        file = session.store.work.new(verdict.key) / "out" / "delta"
        base = known["base"]["weights"].digest
        write_delta(file, base, shapes(config), delta_tensors(shapes(config), len(made) + 1), "bfloat16")
        stored = session.store.objects.put(file)
        session.store.records.publish(
            Record(verdict.key, action.kind.name, verdict.preimage, {"delta": stored}, {})
        )
        session.store.work.drop(verdict.key)
        made.append(session.store.objects.open(stored))
    return made
