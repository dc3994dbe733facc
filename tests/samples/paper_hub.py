"""A hub on loopback with what the recipes of the paper name: a few rows of each dataset, with its real columns."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny import make_base

from dem_build.lock.task_groups import asked, find_groups
from dem_build.lock.task_index import find, parse_task
from dem_build.lock.tasks import find_task
from dem_build.recipe import load_recipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hub_server import HubServer

    from dem_build.lock.task_groups import TaskGroup

__all__ = ["BASES", "LIMITS", "MINIATURE", "fill", "miniature_base", "write_instructdial"]

BASES = {
    "openlm-research/open_llama_3b_v2": (3200, 8640, 26, 32),
    "openlm-research/open_llama_7b_v2": (4096, 11008, 32, 32),
    "openlm-research/open_llama_13b": (5120, 13824, 40, 40),
}
"""Base → hidden size, size of the feed-forward layers, layers and heads; 32,000 tokens each."""
MINIATURE = "miniature/llama"
"""A base of 0.2M parameters that reads as many tokens as those; its weights are random."""
LIMITS = {
    "base.model": f'"{MINIATURE}"',
    "train.learning_rate": "1e-2",
    "train.max_steps": "2",
    "train.warmup_steps": "0",
    "train.max_length": "200",
    "train.global_batch_size": "2",
    "tune.max_samples": "2",
}
"""What a miniature of the recipes sets: another base, and trainings and a search that take moments."""
VOCABULARY = 32_000
END = 2
"""The token that ends a text."""
CONVERTED = "refs/convert/parquet"
WORDS = ("oak", "elm", "fir", "ash", "yew", "box")


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def fill(hub: HubServer, recipe: Path, miniature: Path | None = None) -> None:
    """What a recipe of the paper asks a hub for.

    Args:
        hub: Where it is put.
        recipe: One of the recipes: they name the same tasks.
        miniature: The folder of the miniature's base; absent where nothing is built.
    """
    evaluate = load_recipe(recipe).evaluate
    assert evaluate is not None
    assert evaluate.include_path is not None
    tasks = recipe.parent / evaluate.include_path
    groups: dict[str, TaskGroup] = {}
    for task in evaluate.tasks:
        groups |= find_groups(task.name, tasks)
    fill_models(hub, miniature)
    fill_data(hub)
    fill_tasks(hub, [task.name for task in asked(evaluate.tasks, groups)], tasks)


def miniature_base(folder: Path) -> Path:
    """Write the miniature's base. It ends every answer at once, as long as nothing trains it: answers cost most."""
    from safetensors.torch import load_file, save_file

    weights = make_base(folder, positions=2048) / "model.safetensors"
    tensors = load_file(weights)
    embedding = tensors["model.embed_tokens.weight"]
    embedding[:, 0] = 1.0  # the largest channel of all tokens, so of what the last norm makes as well
    embedding[END, 0] = 1.5
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


def fill_models(hub: HubServer, miniature: Path | None = None) -> None:
    """The three bases: their real shapes, and weights that nobody can load; and the folder of the miniature's base."""
    if miniature is not None:
        hub.commit("models", MINIATURE, miniature)
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
    files = {"README.md": _card({config: dict.fromkeys(splits, rows) for config, splits in prompts.items()})}
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


def _card(configs: Mapping[str, Mapping[str, int]]) -> bytes:
    lines = ["---", "dataset_info:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  splits:"]
        lines += [f"  - name: {split}\n    num_examples: {rows}" for split, rows in splits.items()]
    lines.append("configs:")
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        lines += [f"  - split: {split}\n    path: {config}/{split}-*" for split in splits]
    return "\n".join([*lines, "---", ""]).encode()


def fill_tasks(hub: HubServer, tasks: Iterable[str], include_path: Path, rows: int = 2) -> None:
    """The datasets that lm-eval's tasks read, with their columns: a few rows of each split.

    Args:
        hub: Where they are put; what is there stays.
        tasks: Names of tasks.
        include_path: Folder of the user's task files.
        rows: Of each split.
    """
    read: dict[str, set[str]] = {}
    for task in tasks:
        file = find(task, include_path)
        assert isinstance(file, Path)
        config, dataset = parse_task(file), find_task(task, include_path).dataset
        if dataset is not None:
            read.setdefault(dataset, set()).add(config.get("dataset_name") or NAMES.get(dataset, "default"))
    for dataset, names in read.items():
        if ("datasets", dataset) not in hub.repositories:
            made = ROWS[dataset](rows)
            files = {
                f"{name}/{split}-00000-of-00001.parquet": parquet(made[split])
                for name in names
                for split in made
            }
            sizes = {split: len(of_split) for split, of_split in made.items()}
            card = _card({name: dict(sizes) for name in sorted(names)})
            hub.commit("datasets", dataset, {"README.md": card} | files)


NAMES = {"nyu-mll/glue": "sst2", "skg/toxigen-data": "annotated", "mandarjoshi/trivia_qa": "rc.nocontext",
         "aps/super_glue": "boolq", "openai/gsm8k": "main"}  # fmt: skip
"""Configurations that a file names which a task includes."""

SHOTS = 6
"""More than the examples of any prompt."""

Splits = Callable[[int], dict[str, list[dict[str, Any]]]]


def _splits(*names: str, of: Callable[[int], dict[str, Any]]) -> Splits:
    """Rows of these splits: as many as are asked for, and where examples of prompts come from as many as these take."""
    return lambda rows: {
        name: [of(i) for i in range(SHOTS if name in ("dev", "train") else rows)] for name in names
    }


def _tree(i: int) -> str:
    return WORDS[i % len(WORDS)]


def _mmlu(i: int) -> dict[str, Any]:
    return {"question": f"Which of them is {_tree(i)}?", "subject": "trees", "answer": i % 4,
            "choices": [_tree(i + j - i % 4) for j in range(4)]}  # fmt: skip


def _drop(i: int) -> dict[str, Any]:
    date = {"day": "", "month": "", "year": ""}
    more = {"worker_id": [""], "hit_id": [""]}
    answer = {"number": f"{i}", "date": date, "spans": [""], "worker_id": "", "hit_id": ""}
    others = {"number": [f"{i}"], "date": [date], "spans": [[""]], **more}
    return {"section_id": f"s{i}", "query_id": f"q{i}", "passage": f"There are {i} of {_tree(i)}.",
            "question": f"How many of {_tree(i)}?", "answer": answer, "validated_answers": others}  # fmt: skip


def _toxigen(i: int) -> dict[str, Any]:
    return {
        "text": f"{_tree(i)} are tall",
        "target_group": "trees",
        "toxicity_ai": 1.0 + i % 5,
        "toxicity_human": 1.0,
    }


def _trivia(i: int) -> dict[str, Any]:
    answer = {"aliases": [_tree(i), _tree(i).upper()], "value": _tree(i)}
    return {"question": f"Which tree is {_tree(i)}", "question_id": f"{i}", "answer": answer}


def _coqa(i: int) -> dict[str, Any]:
    asked = {"input_text": ["What is it?", "Is it tall?"], "turn_id": [1, 2]}
    said = {"input_text": [_tree(i), "yes"], "turn_id": [1, 2]}
    return {"id": f"{i}", "source": "wood", "story": f"This {_tree(i)} is tall.", "questions": asked, "answers": said,
            "additional_answers": dict.fromkeys("012", said)}  # fmt: skip


ROWS: dict[str, Splits] = {
    "cais/mmlu": _splits("test", "validation", "dev", of=_mmlu),
    "SaylorTwift/bbh": _splits("test", of=lambda i: {"input": f"Is {_tree(i)} a tree?", "target": "yes"}),
    "EleutherAI/drop": _splits("train", "validation", of=_drop),
    "nyu-mll/glue": _splits(
        "train", "validation", of=lambda i: {"sentence": f"good {_tree(i)}", "label": 1, "idx": i}
    ),
    "skg/toxigen-data": _splits("train", "test", of=_toxigen),
    "google-research-datasets/nq_open": _splits(
        "train", "validation", of=lambda i: {"question": f"which tree is {_tree(i)}", "answer": [_tree(i)]}
    ),
    "mandarjoshi/trivia_qa": _splits("train", "validation", of=_trivia),
    "EleutherAI/coqa": _splits("train", "validation", of=_coqa),
    "aps/super_glue": _splits("train", "validation", of=lambda i: {
        "question": f"is {_tree(i)} a tree", "passage": f"{_tree(i)} is a tree.", "idx": i, "label": 1}),
    "openai/gsm8k": _splits("train", "test", of=lambda i: {
        "question": f"What is {i} and {i}?", "answer": f"Twice {i}.\n#### {2 * i}"}),
    "Muennighoff/babi": _splits("train", "valid", "test", of=lambda i: {
        "passage": f"{_tree(i)} stands here.\n", "question": "What stands here?", "answer": _tree(i), "task": 1}),
    "hails/agieval-lsat-ar": _splits("test", of=lambda i: {
        "query": f"Q: Which is {_tree(i)}? Choices: (A){_tree(i)} (B)none\nA:", "gold": [0],
        "choices": [f"(A){_tree(i)}", "(B)none"]}),
}  # fmt: skip
"""Dataset on the hub → its splits, with so many rows each; `regisss/math_qa` is in `fill_data`."""


def write_instructdial(folder: Path, rows: int = 30) -> None:
    """What InstructDial's scripts write: a task, a prompt and an output a line, and more beside."""
    folder.mkdir(parents=True)
    made = [{"prompt": f"Instruction: answer.\n\nInput: hello {WORDS[i % 6]} {i}", "output": f"hello {i}", "text": "",
             "all_outputs": [f"hello {i}"], "split": "train", "dataset": "talk", "task": f"answer_{i % 2}", "index": i}
            for i in range(2 * rows)]  # fmt: skip
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
