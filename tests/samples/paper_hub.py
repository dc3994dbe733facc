"""A hub on loopback with what the recipes of the paper name: a few rows of each dataset, with its real columns."""

from __future__ import annotations

import io
import json
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from hub_server import HubServer

__all__ = ["BASES", "fill_data", "fill_models", "fill_tasks", "write_instructdial"]

BASES = {
    "openlm-research/open_llama_3b_v2": (3200, 8640, 26, 32),
    "openlm-research/open_llama_7b_v2": (4096, 11008, 32, 32),
    "openlm-research/open_llama_13b": (5120, 13824, 40, 40),
}
"""Base → hidden size, size of the feed-forward layers, layers and heads; 32,000 tokens each."""
VOCABULARY = 32_000
CONVERTED = "refs/convert/parquet"
WORDS = ("oak", "elm", "fir", "ash", "yew", "box")


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def fill_models(hub: HubServer) -> None:
    """The three bases: their real shapes, and weights that nobody can load."""
    for name, (hidden, inner, layers, heads) in BASES.items():
        shape = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
        config = {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "num_attention_heads": heads,
        } | shape
        config |= {"vocab_size": VOCABULARY, "max_position_embeddings": 2048, "dtype": "float16"}
        config |= {"tie_word_embeddings": False, "hidden_act": "silu", "rms_norm_eps": 1e-6}
        parameters = (
            2 * VOCABULARY * hidden + layers * (4 * hidden**2 + 3 * hidden * inner + 2 * hidden) + hidden
        )
        index = {
            "metadata": {"total_size": 2 * parameters},
            "weight_map": {"lm_head.weight": "model-1.safetensors"},
        }
        hub.commit("models", name, {
            "config.json": json.dumps(config).encode(),
            "model.safetensors.index.json": json.dumps(index).encode(),
            "model-1.safetensors": name.encode(),
            "tokenizer.model": b"no vocabulary",
            "tokenizer_config.json": b'{"tokenizer_class": "LlamaTokenizer"}',
        })  # fmt: skip


def fill_data(hub: HubServer, rows: int = 30) -> None:
    """The four datasets of the recipes that are on the hub."""
    prompts = {
        f"{task}_{how}": ("train", "test") for task, how in product(("glue_mrpc", "cos_e"), ("a", "b"))
    }
    prompts |= {"glue_mrpc_score_eval": ("train",), "held_out_of_training": ("test",)}
    files = {"README.md": _card(prompts, rows)}
    for config, splits in prompts.items():
        for split in splits:
            made = [{"inputs": [3, i], "inputs_pretokenized": f"{config}: is {WORDS[i % 6]} {i} a tree?",
                     "targets": [4], "targets_pretokenized": f" {WORDS[i % 6]} is"} for i in range(rows)]  # fmt: skip
            for shard in (0, 1):
                files[f"{config}/{split}-0000{shard}-of-00002.parquet"] = parquet(made[shard::2])
    hub.commit("datasets", "bigscience/P3", files)
    tasks = [{"task_name": f"task{i % 3:03}_{WORDS[i % 3]}", "id": f"{i}", "definition": "Name what grows.",
              "inputs": f"{WORDS[i % 6]} {i}", "targets": WORDS[i % 6]} for i in range(3 * rows)]  # fmt: skip
    hub.commit("datasets", "Muennighoff/natural-instructions", {"README.md": b"", "train/a.jsonl": b"{}\n"})
    hub.commit("datasets", "Muennighoff/natural-instructions", {
        "default/train/0000.parquet": parquet(tasks[::2]), "default/train/0001.parquet": parquet(tasks[1::2]),
        "default/test/0000.parquet": parquet(tasks[:3])}, CONVERTED)  # fmt: skip
    steps = [{"inputs": f"What is {i} and {i}?", "targets": f"Twice {i}: {2 * i}", "_template_idx": i,
              "_task_source": "CoT", "_task_name": f"cot_{i % 2}", "_template_type": "zs_opt"}
             for i in range(2 * rows)]  # fmt: skip
    hub.commit("datasets", "Open-Orca/FLAN", {
        "README.md": b"", "cot_zsopt_data/part.0.parquet": parquet(steps[::2]), "t0_zsopt_data/part.0.parquet": b"",
        "cot_fsopt_data/part.0.parquet": parquet(steps[1::2])})  # fmt: skip
    hub.commit("datasets", "regisss/math_qa", {
        f"data/{split}-00000-of-00001.parquet": parquet(_sums(first, rows))
        for split, first in (("train", 0), ("validation", 1000), ("test", 2000))})  # fmt: skip


def _sums(first: int, rows: int) -> list[dict[str, Any]]:
    return [
        {"Problem": f"what is {i} + 1 ?", "Rationale": f"add one : {i + 1}", "correct": "abcde"[i % 5],
         "options": " , ".join(f"{letter} ) {i + 1 + j - i % 5}" for j, letter in enumerate("abcde")),
         "annotated_formula": f"add({i}, 1)", "linear_formula": f"add(n0,n1)|{i}", "category": "general"}
        for i in range(first, first + rows)
    ]  # fmt: skip


def _card(configs: dict[str, tuple[str, ...]], rows: int) -> bytes:
    lines = ["---", "dataset_info:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  splits:"]
        lines += [f"  - name: {split}\n    num_examples: {rows}" for split in splits]
    lines.append("configs:")
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        lines += [f"  - split: {split}\n    path: {config}/{split}-*" for split in splits]
    return "\n".join([*lines, "---", ""]).encode()


def fill_tasks(hub: HubServer, names: set[str]) -> None:
    """The datasets that tasks read, as names alone: their rows are asked for when a task runs."""
    for name in names - {name for _, name in hub.repositories}:
        hub.commit("datasets", name, {"README.md": b""})


def write_instructdial(folder: Path, rows: int = 30) -> None:
    """What InstructDial's scripts write: a task, a prompt and an output a line, and more beside."""
    folder.mkdir(parents=True)
    made = [{"prompt": f"Instruction: answer.\n\nInput: hello {WORDS[i % 6]} {i}", "output": f"hello {i}", "text": "",
             "all_outputs": [f"hello {i}"], "split": "train", "dataset": "talk", "task": f"answer_{i % 2}", "index": i}
            for i in range(2 * rows)]  # fmt: skip
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
