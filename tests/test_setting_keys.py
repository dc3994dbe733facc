"""Each setting of a recipe reaches the key of something that it makes: a result is never taken for another one's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dem_build.action import SourceFile
from dem_build.digest import Output, of_bytes
from dem_build.graph import build_graph
from dem_build.lock.lock import Lock, LockedBase, LockedTask
from dem_build.plan import preimage_of
from dem_build.recipe import load_recipe
from dem_build.recipe.schema import Base, Baseline, Compose, Dataset, DatasetPart, Heal, Probe, Trunk, Vector
from dem_build.recipe.sections import Analysis, Evaluate, Task, Train, Tune

RECIPE = """\
[base]
model = "base"
{base}
[train]
{train}
{top}
[datasets.math]
path = "math.jsonl"
{dataset}
[datasets.chat]
{part}
[probes.safe]
path = "safe.jsonl"
{probe}
{vectors}
{vector}
[compose]
{compose}
[tune]
{tune}
[analysis]
{analysis}
[evaluate]
models = ["composed", "base", "mix", "mean"]
tasks = [{{ name = "arc_easy"{task} }}]
{evaluate}
[baselines.mix]
method = "mixing"
{baseline}
[baselines.mean]
method = "interpolation"
{mean}
"""
LORA = 'method = "lora"\n'
TRUNK = '[trunk]\ndatasets = ["math", "chat"]\ntrain = { max_steps = 3 }\n'
HEAL = "[heal]\ntrain = { max_steps = 3 }\n"
CODE = '[vectors.code]\ncheckpoint = "tuned"\n'
PART = '[[datasets.chat.parts]]\npath = "chat.jsonl"\n'
OTHER = PART.replace("chat.jsonl", "other.jsonl")
TIES, DARE = ('method = "ties"\n', 'method = "dare"\n')
# Place in the recipe, setting, another value, and what has to be said beside it.
SETTINGS = [
    ("base", "pad_token", '"x"', ""),
    ("base", "added_tokens", '["<t>"]', ""),
    ("base", "dtype", '"float32"', ""),
    ("train", "method", '"lora"', ""),
    ("train", "lora_r", "4", LORA),
    ("train", "lora_alpha", "3.0", LORA),
    ("train", "lora_dropout", "0.1", LORA),
    ("train", "lora_target_modules", '["q_proj"]', LORA),
    ("train", "optim", '"adafactor"', ""),
    ("train", "adam_beta1", "0.8", ""),
    ("train", "adam_beta2", "0.8", ""),
    ("train", "adam_epsilon", "1e-7", ""),
    ("train", "learning_rate", "1e-3", ""),
    ("train", "num_train_epochs", "2.0", ""),
    ("train", "max_steps", "3", ""),
    ("train", "global_batch_size", "4", ""),
    ("train", "max_length", "77", ""),
    ("train", "packing", "true", ""),
    ("train", "bf16", "false", ""),
    ("train", "torch_compile", "true", ""),
    ("train", "lr_scheduler_type", '"linear"', ""),
    ("train", "warmup_steps", "5", ""),
    ("train", "weight_decay", "0.1", ""),
    ("train", "max_grad_norm", "2.0", ""),
    ("train", "eval_steps", "5", "load_best_model_at_end = true\neval_steps = 3\n"),
    ("train", "load_best_model_at_end", "true", "eval_steps = 5\n"),
    ("train", "early_stopping_patience", "2", "eval_steps = 5\n"),
    ("train", "vector_dtype", '"float32"', ""),
    ("train", "seed", "3", ""),
    ("dataset", "format", '"text"', ""),
    ("dataset", "columns", '{ prompt = "q" }', ""),
    ("dataset", "chat", "false", ""),
    ("dataset", "system", '"s"', ""),
    ("dataset", "loss", '"all"', ""),
    ("dataset", "on_overflow", '"truncate"', ""),
    ("dataset", "max_samples", "4", ""),
    ("dataset", "validation", "0.1", ""),
    ("dataset", "test", "0.1", ""),
    ("dataset", "group_by", '"g"', ""),
    ("dataset", "omega", "0.4", ""),
    ("dataset", "train", "{ seed = 2 }", ""),
    ("part", "parts", '[{ path = "chat.jsonl" }]', ""),
    ("part", "columns", '{ prompt = "q" }', PART),
    ("part", "by", '"task"', PART),
    ("part", "max_samples", "7", PART),
    ("part", "share", "0.5", f"{OTHER}share=1.0\n{PART}share = 1.0\n"),
    ("probe", "max_loss_increase", "0.1", ""),
    ("vector", "rows", '"code.jsonl"', ""),
    ("vector", "omega", "0.2", ""),
    ("vector", "vector_dtype", '"float32"', ""),
    ("compose", "method", '"ties"', ""),
    ("compose", "dtype", '"float32"', ""),
    ("compose", "density", "0.3", TIES),
    ("compose", "scale", "2.0", TIES),
    ("compose", "seed", "3", DARE),
    ("compose", "rows", "8", 'method = "match"\n'),
    ("compose", "ridge", "3.0", 'method = "match"\n'),
    ("compose", "prior", "0.5", 'method = "match"\n'),
    ("compose", "saliency", "true", 'method = "match"\n'),
    ("tune", "search", '"grid"', ""),
    ("tune", "objective", '"mean"', ""),
    ("tune", "granularity", '"layer"', ""),
    ("tune", "max_samples", "4", ""),
    ("tune", "bounds", "[0.0, 1.0]", ""),
    ("tune", "importance", "{ math = 2.0 }", ""),
    ("analysis", "response", "[0.5]", ""),
    ("analysis", "ladder", "false", ""),
    ("analysis", "tsne", "false", ""),
    ("analysis", "max_samples", "5", ""),
    ("task", "num_fewshot", "2", ""),
    ("task", "limit", "2", ""),
    ("task", "apply_chat_template", "true", ""),
    ("evaluate", "loss", "false", ""),
    ("evaluate", "prompts", "2", ""),
    ("evaluate", "max_new_tokens", "5", ""),
    ("baseline", "proportions", '"uniform"', ""),
    ("baseline", "alpha", "0.5", ""),
    ("baseline", "train", "{ max_steps = 5 }", ""),
    ("mean", "omega", "{ math = 0.5, chat = 0.5 }", ""),
    ("trunk", "datasets", '["math"]', TRUNK),
    ("trunk", "proportions", '"natural"', TRUNK),
    ("trunk", "train", "{ max_steps = 4 }", TRUNK),
    ("trunk", "dtype", '"float32"', TRUNK),
    ("heal", "datasets", '["math"]', HEAL),
    ("heal", "proportions", '"natural"', HEAL),
    ("heal", "train", "{ max_steps = 4 }", HEAL),
]
# Which files and which actions there are; `test_salts.py` has salts, and the lock what a hub has.
NAMES = {
    *("model", "revision", "chat_template", "path", "hub", "config", "split", "files", "max_files"),
    *("checkpoint", "adapter", "salt"),
}
OF = {
    "base": (Base,),
    "train": (Train,),
    "dataset": (Dataset,),
    "part": (DatasetPart,),
    "probe": (Probe,),
    "vector": (Vector,),
    "compose": (Compose,),
    "tune": (Tune,),
    "analysis": (Analysis,),
    "task": (Task,),
    "evaluate": (Evaluate,),
    "baseline": (Baseline,),
    "trunk": (Trunk,),
    "heal": (Heal,),
}
ELSEWHERE = {
    "dataset": {"parts"},
    "probe": {*Dataset.model_fields},  # a source is one, whoever has it
    "task": {"name"},
    "evaluate": {"tasks", "models", "include_path"},
    "baseline": {"method", "omega"},
}


@pytest.fixture
def documents(tmp_path: Path):
    """Action → what its key hashes, where an output's digest is of its name."""
    (tmp_path / "base").mkdir()

    def make(**said: str) -> dict[str, str]:
        places = (
            dict.fromkeys([*OF, "top", "mean"], "") | {"part": 'path = "chat.jsonl"', "vectors": CODE} | said
        )
        path = tmp_path / "recipe.toml"
        path.write_text(RECIPE.format(**places))
        recipe = load_recipe(path)
        files = {
            n: (
                SourceFile(
                    "0/:jsonl" if said.get("part") and n == "chat" else "jsonl", of_bytes(n.encode()), Path(n)
                ),
            )
            for n in recipe.sources
        }
        task = LockedTask("0.4.13", local=False, files=())
        lock = Lock(LockedBase("directory", ()), files, {"arc_easy": task}, {"code": ()})
        graph = build_graph(recipe, lock)
        known = {
            a.name: {o: Output(of_bytes(f"{a.name}/{o}".encode()), 1) for o in a.kind.outputs} for a in graph
        }
        return {a.name: json.dumps(preimage_of(a, known), sort_keys=True) for a in graph}

    return make


def said(place: str, setting: str, value: str, beside: str) -> tuple[dict[str, str], dict[str, str]]:
    """What a recipe says without a setting, and with it."""
    line = f"{setting} = {value}\n"
    others = "".join(old for old in beside.splitlines(keepends=True) if not old.startswith(f"{setting} ="))
    if place == "trunk":  # with which no vector from elsewhere goes
        return {"top": beside, "vectors": ""}, {"top": others + line, "vectors": ""}
    if place == "heal":
        return {"top": beside}, {"top": others + line}
    if place == "task":
        return {}, {"task": f", {setting} = {value}"}
    if setting == "parts":
        return {}, {"part": line}
    matched = {"vector": "omega = 0\n"} if "match" in beside else {}
    given = {"dataset": "omega = 1\n"} if "match" in beside else {}
    return {place: beside} | matched | given, {place: others + line} | matched | given


@pytest.mark.parametrize(
    ("place", "setting", "value", "beside"), SETTINGS, ids=lambda text: text[:12].strip()
)
def test_a_setting_reaches_a_key(documents, place, setting, value, beside):
    without, with_it = said(place, setting, value, beside)
    assert documents(**with_it) != documents(**without)


def test_all_settings_are_tried():
    tried = {(place, setting) for place, setting, _, _ in SETTINGS}
    there = {
        (place, name)
        for place, tables in OF.items()
        for table in tables
        for name in table.model_fields.keys() - NAMES - ELSEWHERE.get(place, set())
    }
    assert there - tried == set()
