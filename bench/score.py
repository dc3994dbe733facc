"""What `dem score` predicts of a vector, against what adding it then does: each vector of a recipe held out in turn.

python bench/score.py RECIPE [--cache DIR] [--omega 0.4] [--rows 32] [--sample 64] [--write FILE]

For each dataset i of a recipe that is built, the model is the base plus ω times every other vector, in float32. From it
and rows of i's train split alone the change of each skill's validation loss is predicted; the truth is that loss after
ω times the vector of i is added, less before. Nothing is written to the cache.

Directions that are tried: the gradient (P = 1), its sign, and Adam's first steps m / √v of four batches.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dem_build.actions.score.gradients import Along, add_gradient
from dem_build.data.arrays import TokenRows
from dem_build.model.likelihood import row_losses
from dem_build.model.live import ModelFiles, load_live
from dem_build.session.session import Call, open_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

BATCHES = 4  # of which the second moments are taken
PART = 4  # rows of a backward pass
SEEN = ("gradient", "sign", "adam", "vector")


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


def directions_of(model: PreTrainedModel, rows: TokenRows, sample: int) -> list[dict[str, torch.Tensor]]:
    """The directions against which training on some rows would go: gradient, sign, Adam's."""
    which = chosen(rows, sample)
    total = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    squares = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    count = 0
    for part in np.array_split(which, BATCHES):
        tokens = add_gradient(model, rows, part.tolist(), 4)
        count += tokens
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            total[name] += parameter.grad
            squares[name].addcmul_(parameter.grad / tokens, parameter.grad / tokens)
        model.zero_grad(set_to_none=True)
    gradient = {n: t.div_(count) for n, t in total.items()}
    sign = {n: t.sign() for n, t in gradient.items()}
    adam = {n: gradient[n] / ((s / BATCHES).sqrt_() + 1e-8) for n, s in squares.items()}
    return [gradient, sign, adam]


def main() -> None:
    """Measure, and write what was found."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))  # as trainings do
        measure(stack)


def measure(stack: ExitStack) -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--cache")
    parser.add_argument("--omega", type=float, default=0.4)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--sample", type=int, default=64)
    parser.add_argument("--write", type=Path, required=True)
    asked = parser.parse_args()
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
    live = stack.enter_context(
        closing(load_live(base, {d.digest: objects.open(d) for d in delta.values()}, "float32"))
    )
    model, found = live.model, {"omega": asked.omega, "names": names, "held_out": {}}

    def all_losses() -> dict[str, list[float]]:
        return {n: losses(model, split["validation"][n], asked.rows).tolist() for n in names}

    def become(left_out: str | None, omega: float) -> None:
        live.become("dem", {}, {delta[n].digest: omega for n in names if n != left_out and omega})

    began = time.perf_counter()
    found["base"] = all_losses()
    become(None, asked.omega)
    found["all"] = all_losses()
    print(f"base and all: {time.perf_counter() - began:.0f} s", flush=True)
    for held_out in names:
        become(None, asked.omega)
        vector = {n: p.detach().clone() for n, p in model.named_parameters()}
        become(held_out, asked.omega)
        for name, parameter in model.named_parameters():
            vector[name].sub_(parameter.detach()).neg_()  # as the others: training goes against it
        directions = [*directions_of(model, split["train"][held_out], asked.sample), vector]
        print(f"{held_out}: gradient at {time.perf_counter() - began:.0f} s", flush=True)
        skills = {}
        with Along(model, directions) as along:
            for name in names:
                rows = split["validation"][name]
                got = along.measure(rows, parts_of(rows, asked.rows, PART))
                skills[name] = {
                    "nll": got.nll.tolist(),
                    "tokens": got.tokens.tolist(),
                    "slopes": got.slopes.tolist(),
                }
        norms = [
            float(torch.stack([v.double().square().sum() for v in d.values()]).sum().sqrt())
            for d in directions
        ]
        dots = [float(sum((a[n] * vector[n]).sum(dtype=torch.float64) for n in vector)) for a in directions]
        found["held_out"][held_out] = {"skills": skills, "norms": norms, "dots_with_vector": dots}
        asked.write.write_text(json.dumps(found))
        print(f"{held_out}: done at {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
