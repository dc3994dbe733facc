"""What `dem score` predicts of a vector, against what adding it then does: each vector of a recipe held out in turn.

python bench/score.py RECIPE --write FILE [--cache DIR] [--omega 0.4] [--rows 32] [--sample 64] [--again]

For each dataset i of a recipe that is built, the model is the base plus ω times every other vector, in float32. From it
and rows of i's train split alone the change of each skill's validation loss is predicted; the truth is that loss after
ω times the vector of i is added, less before. Nothing is written to the cache.

Directions that are tried: the gradient (P = 1), its sign, and the very vector, which nobody has before its training.
What FILE has already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import spearmanr

from dem_build.actions.score.gradients import Along, Signs, add_gradient
from dem_build.checkpoint.delta import open_delta
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.data.arrays import TokenRows
from dem_build.model.likelihood import row_losses
from dem_build.model.live import ModelFiles, load_live
from dem_build.session.session import Call, open_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.checkpoint.reader import Checkpoint

PART = 4  # rows of a backward pass
SEEN = ("gradient", "sign", "vector")


def chosen(rows: TokenRows, most: int) -> list[int]:
    """The first rows by the hashes of their prompts, as judges take them."""
    return np.argsort(rows.prompt_numbers, kind="stable")[:most].tolist()


def parts_of(rows: TokenRows, most: int, size: int) -> list[list[int]]:
    """The chosen rows in parts of like length."""
    which = sorted(chosen(rows, most), key=lambda i: int(rows.lengths[i]))
    return [which[at : at + size] for at in range(0, len(which), size)]


@torch.inference_mode()
def losses(model: PreTrainedModel, rows: TokenRows, most: int) -> NDArray[np.float64]:
    """Summed loss of each chosen row."""
    picked = Picked(rows, chosen(rows, most))
    found = {i: loss for batch in row_losses(model, picked, 8) for i, (loss, _) in batch.items()}  # type: ignore[arg-type]
    return np.array([found[i] for i in range(len(picked))])


class Picked:
    """Some rows of a split, as a split."""

    def __init__(self, rows: TokenRows, which: Sequence[int]) -> None:
        self._rows, self._which, self.lengths = rows, which, rows.lengths[list(which)]

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, index: int) -> Any:
        return self._rows[self._which[index]]


def autocast() -> torch.autocast:
    """As trainings compute. Entered for each model anew: what it has rounded it keeps until it is left."""
    return torch.autocast("cpu", torch.bfloat16)


def scaled(path: Path, base: Checkpoint, digest: str, by: float) -> dict[str, torch.Tensor]:
    """A vector times a number, by parameter."""
    with open_delta(path, base, digest, path.name) as delta:
        return {
            n: torch.from_numpy(delta.floats(t, 0, math.prod(t.shape))).reshape(t.shape).mul(by)
            for n, t in delta.tensors.items()
        }


def product(one: torch.Tensor | None, other: torch.Tensor | None) -> float:
    """The inner product."""
    return 0.0 if one is None or other is None else float((one * other).sum(dtype=torch.float64))


@torch.no_grad()
def move(model: PreTrainedModel, step: dict[str, torch.Tensor], by: float) -> None:
    """Add a step to the parameters."""
    for name, parameter in model.named_parameters():
        parameter.add_(step[name], alpha=by)


def gradient_of(model: PreTrainedModel, rows: TokenRows, sample: int) -> dict[str, torch.Tensor]:
    """The gradient of the loss per token of some rows, taken out of the model."""
    tokens = add_gradient(model, rows, chosen(rows, sample), PART)
    found = {n: p.grad.div_(tokens) for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def changes(found: dict[str, Any], i: str) -> dict[str, dict[str, float]]:
    """What comes of each skill when the vector of i is added, and what each way foretells: way → skill → nats a token.

    `size` names what the step is scaled by: nothing, the gradient's length, or the loss that rows of i have to lose.
    """
    held, names = found["held_out"][i]["skills"], found["names"]
    total = {j: sum(held[j]["tokens"]) for j in names}
    now = {j: sum(held[j]["nll"]) / total[j] for j in names}
    told = {"came": {j: sum(found["all"][j]) / total[j] - now[j] for j in names}}
    fallen = float(np.median([1 - now[j] * total[j] / sum(found["base"][j]) for j in names if j != i]))
    for d, way in enumerate(SEEN):
        slope = {j: sum(row[d] for row in held[j]["slopes"]) / total[j] for j in names}
        told[way] = {j: -slope[j] for j in names}
        if way == "vector":
            continue  # the derivative along the very vector: no step of it is left to choose
        told[f"{way}, by its length"] = {j: -slope[j] / found["held_out"][i]["norms"][d] for j in names}
        told[f"{way}, by own loss"] = {j: -fallen * now[i] * slope[j] / abs(slope[i]) for j in names}
    return told


def report(found: dict[str, Any]) -> None:
    """Print what came and what was foretold of it, and how they go together."""
    held = {i: changes(found, i) for i in found["held_out"]}
    every = [(i, j) for i in held for j in found["names"]]
    others = [(i, j) for i, j in every if i != j]
    print(f"{len(held)} vectors held out; rank correlation, linear correlation, signs that are right")
    print(f"{'way':28} {'of all':^24} {'of other skills':^24} {'sums of others':>15}")
    for way in held[every[0][0]]:
        cells = []
        for pairs in (every, others):
            told, came = (np.array([held[i][w][j] for i, j in pairs]) for w in (way, "came"))
            right = int(((told < 0) == (came < 0)).sum())
            rank, linear = spearmanr(told, came).statistic, np.corrcoef(told, came)[0, 1]
            cells.append(f"{rank:8.2f} {linear:8.2f} {right:3}/{len(came):2}")
        sums = [[sum(held[i][w][j] for k, j in others if k == i) for i in held] for w in (way, "came")]
        print(f"{way:28} {' '.join(cells)} {spearmanr(*sums).statistic:15.2f}")
    for way in ("came", "gradient, by own loss", "sign, by own loss", "vector"):
        print(f"\n{way}: row i added, change of column j in nats per token")
        print(f"{'':10}" + "".join(f"{j:>10}" for j in found["names"]) + f"{'others':>10}")
        for i, told in held.items():
            rest = sum(told[way][j] for k, j in others if k == i)
            print(f"{i:10}" + "".join(f"{told[way][j]:10.3f}" for j in found["names"]) + f"{rest:10.3f}")
    print("\ncosine with the vector: " + ", ".join(SEEN[:2]))
    for i, one in found["held_out"].items():
        near = [
            d / (n * one["norms"][-1]) for d, n in zip(one["dots_with_vector"], one["norms"], strict=True)
        ]
        print(f"{i:10}" + "".join(f"{cosine:10.3f}" for cosine in near[:2]))


def main() -> None:
    """Measure, write what was found, and print it."""
    asked = arguments()
    if not asked.again:
        with ExitStack() as stack:
            measure(asked, stack)
    report(json.loads(asked.write.read_text()))


def arguments() -> argparse.Namespace:
    """What the user asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--cache")
    parser.add_argument("--omega", type=float, default=0.4)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--sample", type=int, default=64)
    parser.add_argument("--write", type=Path, required=True)
    parser.add_argument("--again", action="store_true", help="print what FILE has, and measure nothing")
    return parser.parse_args()


def measure(asked: argparse.Namespace, stack: ExitStack) -> None:
    """Measure, and write what was found."""
    torch.set_num_threads(1)
    session = open_session(asked.recipe, Call(cache=asked.cache, offline=True))
    records, objects = session.plan.records, session.store.objects
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-score-")))
    view = session.store.views.view
    origin = records[session.plan.graph.origin].outputs
    base = ModelFiles(
        view(origin["weights"], folder, "weights"), origin["weights"].digest, objects.open(origin["config"])
    )
    names = list(session.recipe.datasets)
    delta = {n: records[f"vector:{n}"].outputs["delta"] for n in names}
    split = {
        s: {n: TokenRows.open(objects.open(records[f"data:{n}"].outputs[s])) for n in names}
        for s in ("train", "validation")
    }
    opened = stack.enter_context(open_checkpoint(base.weights))
    live = stack.enter_context(
        closing(load_live(base, {d.digest: objects.open(d) for d in delta.values()}, "float32"))
    )
    model, found = live.model, {"omega": asked.omega, "names": names, "held_out": {}}
    if asked.write.exists():
        found = json.loads(asked.write.read_text())

    def all_losses() -> dict[str, list[float]]:
        with autocast():
            return {n: losses(model, split["validation"][n], asked.rows).tolist() for n in names}

    began = time.perf_counter()
    if "base" not in found:
        found["base"] = all_losses()
    live.become("dem", {}, {d.digest: asked.omega for d in delta.values()})
    if "all" not in found:
        found["all"] = all_losses()
    print(f"base and all: {time.perf_counter() - began:.0f} s", flush=True)
    for held_out in sorted(set(names) - found["held_out"].keys(), reverse=True):
        vector = scaled(objects.open(delta[held_out]), opened, base.digest, -asked.omega)
        move(model, vector, 1.0)
        with autocast():
            gradient = gradient_of(model, split["train"][held_out], asked.sample)
        print(f"{held_out}: gradient at {time.perf_counter() - began:.0f} s", flush=True)
        skills = {}
        with autocast(), Along(model, [gradient, Signs(gradient), vector]) as along:
            for name in names:
                rows = split["validation"][name]
                got = along.measure(rows, parts_of(rows, asked.rows, PART))
                skills[name] = {
                    "nll": got.nll.tolist(),
                    "tokens": got.tokens.tolist(),
                    "slopes": got.slopes.tolist(),
                }
        ways = [gradient, Signs(gradient), vector]
        norms = [math.sqrt(sum(product(w.get(n), w.get(n)) for n in vector)) for w in ways]
        dots = [sum(product(w.get(n), vector[n]) for n in vector) for w in ways]
        found["held_out"][held_out] = {"skills": skills, "norms": norms, "dots_with_vector": dots}
        move(model, vector, -1.0)
        asked.write.write_text(json.dumps(found))
        print(f"{held_out}: done at {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
