"""What the tests of tuning share: three skills of a tiny model, each with rows and a vector that was really trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import numpy as np
import torch
from tiny import make_base
from weight_samples import DIGEST, import_base, make_context, store_vector

from dem_build.actions.tune import run as tune
from dem_build.checkpoint.delta import delta_shapes
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.data.arrays import RowsWriter, TokenRows
from dem_build.digest import of_bytes
from dem_build.model.batches import collate
from dem_build.model.likelihood import token_nll
from dem_build.model.load import load_model
from dem_build.step import Group, Inputs

PARAMS = {
    "search": "gradient",
    "objective": "gain",
    "granularity": "model",
    "max_samples": 64,
    "bounds": [0.0, 1.5],
    "dtype": "float32",
}
# A skill: the next token is a fixed function of this one. Skills disagree, so no ω serves all of them fully.
SKILLS = {"up": lambda t: t + 1, "down": lambda t: t - 1, "leap": lambda t: t + 7}
FIRST, LAST = 40, 90


@dataclass(frozen=True)
class Skill:
    """Rows and a vector."""

    train: Path
    validation: Path
    delta: Path


torch.set_num_threads(1)  # models this small only wait for more


@cache
def base() -> Path:
    """The imported base, in a folder of its own for the whole run."""
    home = Path(mkdtemp(prefix="dem-tune-"))
    return import_base(make_base(home / "base"), home / "imported")


@cache
def skill(name: str) -> Skill:
    """A skill, trained for a few steps with plain SGD."""
    home = Path(mkdtemp(prefix=f"dem-tune-{name}-"))
    train = write_rows(home / "train", name, seed=1, count=48)
    validation = write_rows(home / "validation", name, seed=2, count=16)
    return Skill(train, validation, store_vector(home / "delta", trained(train), "float32"))


def write_rows(path: Path, name: str, seed: int, count: int) -> Path:
    """Write rows in which each token follows from the one before, most of the time."""
    rng = np.random.default_rng([seed, *name.encode()])
    with RowsWriter(path.with_suffix(".spool")) as writer:
        for i in range(count):
            row = [int(rng.integers(FIRST, LAST))]
            for _ in range(int(rng.integers(5, 12))):
                follows = SKILLS[name](row[-1]) if rng.random() < 0.8 else int(rng.integers(FIRST, LAST))
                row.append(min(max(follows, FIRST), LAST))
            ids = np.array(row, np.int32)
            writer.append(ids, ids, bytes.fromhex(of_bytes(f"{name} {seed} {i}".encode())))
        writer.save(path)
    return path


def model() -> torch.nn.Module:
    return load_model(base() / "weights", base() / "config", dtype=torch.float32, device=torch.device("cpu"))


def trained(train: Path, steps: int = 12) -> dict[str, np.ndarray]:
    """Return ΔΘ of a short training."""
    torch.manual_seed(0)
    made, start = model(), {n: p.detach().clone() for n, p in model().state_dict().items()}
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    rows = TokenRows.open(train)
    batch = collate([rows[i] for i in range(len(rows))])
    for _ in range(steps):
        optimizer.zero_grad()
        token_nll(made, **batch).mean().backward()
        optimizer.step()
    names = delta_shapes(open_checkpoint(base() / "weights"))
    state = made.state_dict()
    return {n: (state[n] - start[n]).detach().numpy().astype(np.float32) for n in names}


def noise() -> Path:
    """A vector of noise as long as a trained one."""
    home = Path(mkdtemp(prefix="dem-tune-noise-"))
    rng = np.random.default_rng(0)
    real = trained(skill("up").train)
    made = {n: (rng.standard_normal(t.shape) * t.std()).astype(np.float32) for n, t in real.items()}
    return store_vector(home / "delta", made, "float32")


def dataset(
    name: str, label: str | None = None, importance: float = 1.0, omega: float | None = None
) -> Group:
    made = skill(name)
    paths = {"delta": made.delta, "data/validation": made.validation, "data/train": made.train}
    return _group(label or name, {"importance": importance, "omega": omega}, paths)


def vector(label: str, path: Path, omega: float | None = None) -> Group:
    return _group(label, {"omega": omega}, {"delta": path})


@cache
def elsewhere() -> Path:
    """Rows of tokens that no skill has: what the base could do before."""
    path, rng = Path(mkdtemp(prefix="dem-tune-probe-")) / "rows", np.random.default_rng(5)
    with RowsWriter(path.with_suffix(".spool")) as writer:
        for i in range(16):
            ids = rng.integers(150, 200, 10).astype(np.int32)
            writer.append(ids, ids, bytes.fromhex(of_bytes(f"elsewhere {i}".encode())))
        writer.save(path)
    return path


def probe(limit: float | None) -> Group:
    return _group("before", {"limit": limit}, {"data/rows": elsewhere()})


def _group(name: str, params: dict, paths: dict[str, Path]) -> Group:
    return Group(name, params, paths, {tag: of_bytes(path.read_bytes()) for tag, path in paths.items()})


def run_tune(folder: Path, groups: list[Group], context=None, **params):
    """Tune; return ω by group, the trace and the provenance."""
    inputs = Inputs(
        paths={f"base/{part}": base() / part for part in ("weights", "config")},
        digests={"base/weights": DIGEST},
        groups=tuple(groups),
    )
    context = context or make_context(folder, threads=1)
    told = tune.run(inputs, PARAMS | params, context)
    omega = json.loads((context.out / "omega").read_text())["omega"]
    trace = json.loads((context.out / "trace").read_text())
    named = {g.name: omega[g.digests["delta"]] for g in groups if "delta" in g.digests}
    return SimpleNamespace(omega=named, trace=trace, told=told, out=context.out)
