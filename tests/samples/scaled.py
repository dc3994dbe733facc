"""A recipe of any number of datasets, and made-up results of all of its actions: nothing is trained."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save
from tiny import make_base

from dem_build.engine.outcome import Outcome
from dem_build.plan import decide, levels
from dem_build.session.session import Call, open_session
from dem_build.store import Record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dem_build.action import Kind

BASELINES = 6
"""Models that are evaluated beside the composed one and the base: with them a dataset has ten actions."""
HEAD = """\
[base]
model = "base"
[train]
max_steps = 1
global_batch_size = 4
[compose]
dtype = "float32"
[evaluate]
prompts = 0
models = ["composed", "base", {names}]
"""
DATASET = '[datasets.d{0}]\npath = "data/d{0}.jsonl"\ntest = 0.3\nomega = {1}\n'
BASELINE = '[baselines.b{0}]\nmethod = "interpolation"\nomega = {{ {1} }}\n'
FOLDERS = ("weights", "tokenizer")
"""Outputs that are folders."""
ROWS = 12
"""Of a test split."""


def scaled_project(folder: Path, datasets: int, baselines: int = BASELINES) -> Path:
    """Write a recipe with its base and data; return the recipe."""
    make_base(folder / "base")
    (folder / "data").mkdir()
    for i in range(datasets):
        (folder / "data" / f"d{i}.jsonl").write_text(f'{{"prompt": "{i}?", "completion": "{i}!"}}\n' * ROWS)
    text = HEAD.format(names=", ".join(f'"b{b}"' for b in range(baselines)))
    text += "".join(DATASET.format(i, 1 / datasets) for i in range(datasets))
    for b in range(baselines):  # each with other ω, which sum to 1
        shares = np.arange(1, datasets + 1) ** (b / baselines)
        shares /= shares.sum()
        text += BASELINE.format(b, ", ".join(f"d{i} = {share:.12g}" for i, share in enumerate(shares)))
    recipe = folder / "recipe.toml"
    recipe.write_text(text)
    return recipe


def make_up(
    kind: Kind, name: str, folder: Path, rng: np.random.Generator, given: Mapping[str, bytes] | None = None
) -> None:
    """Write every output of an action of a kind.

    Args:
        kind: The kind.
        name: What tells its bytes from those of others.
        folder: Where they go.
        rng: What they are drawn from.
        given: Output → what it holds instead.
    """
    for output in kind.outputs:
        file = folder / output / "part" if output in FOLDERS else folder / output
        file.parent.mkdir(exist_ok=True)
        file.write_bytes((given or {}).get(output) or _made_up(name, output, rng))


def told_of(kind: Kind, parameters: int | None) -> dict[str, object]:
    """What a run of a kind says of itself."""
    told: dict[str, object] = {"device_seconds": 1.0, "device": "cpu (made up)"}
    if kind.name == "import":
        told["parameters"] = parameters
    if kind.name == "prepare":
        counts = {"rows": ROWS, "tokens": 7 * ROWS, "trained_tokens": 7 * ROWS, "longest": 7}
        told["splits"] = dict.fromkeys(kind.outputs, counts)
    return told


def _made_up(name: str, output: str, rng: np.random.Generator) -> bytes:
    """The bytes of an output that is read by what shows results; of all others any bytes."""
    if output == "rows":
        tokens = np.full(ROWS, 7, np.int32)
        return save({"nll": rng.uniform(5, 20, ROWS).astype(np.float32), "tokens": tokens})
    if output in ("train", "validation", "test", "sample"):
        prompts = rng.integers(0, 256, (ROWS, 16), np.uint8)  # no two datasets share one
        ids = np.ones(7 * ROWS, np.int32)
        return save({"input_ids": ids, "labels": ids, "offsets": np.arange(ROWS + 1) * 7, "prompts": prompts})
    if output == "metrics":
        loss = {"loss": float(rng.uniform(1, 3)), "loss_stderr": 0.1, "tokens": 7 * ROWS, "rows": ROWS}
        return json.dumps(loss).encode()
    return f"{name} {output}".encode() if output != "generation_config" else b"{}"


def record_made_up(recipe: Path, base: bytes | None = None, parameters: int | None = None) -> int:
    """Record made-up results for every action of a recipe; return how many actions there are.

    Args:
        recipe: Its file.
        base: The config of the base.
        parameters: How many parameters the base has.
    """
    session = open_session(str(recipe), Call())
    session.store.make()
    store, known = session.store, {}
    rng = np.random.default_rng(0)
    for ready in levels(
        session.plan.graph
    ):  # all outputs of a level at once: thousands of small flushes else
        verdicts = [decide(action, known, store.records, session.plan.history) for action in ready]
        made: dict[tuple[str, str], Path] = {}
        for verdict in verdicts:
            action = verdict.action
            assert verdict.key is not None
            folder = store.work.new(verdict.key) / "out"
            given = {"config": base} if base and action.name == "base" else None
            make_up(action.kind, action.name, folder, rng, given)
            made |= {(action.name, name): folder / name for name in action.kind.outputs}
        put = store.objects.put_all({"\0".join(at): path for at, path in made.items()}, {})
        for verdict in verdicts:
            action, key = verdict.action, verdict.key
            assert key is not None
            outputs = {name: put[f"{action.name}\0{name}"] for name in action.kind.outputs}
            known[action.name] = outputs
            told = {"seconds": 1.0, "host": os.uname().nodename} | told_of(action.kind, parameters)
            store.records.publish(Record(key, action.kind.name, verdict.preimage, outputs, told))
            store.work.drop(key)
    session.save_lock()
    session.save_root(Outcome({}))
    return len(known)
