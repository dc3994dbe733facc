"""Print the tables of docs/study.md from what is recorded of its builds.

    .venv/bin/python recipes/study/table.py sweep    validation losses, every arm at every learning rate
    .venv/bin/python recipes/study/table.py          test losses, gain recovered and tokens, every model

Gain recovered has the constants of the first seed's study in every row: L_base - L_single of each dataset's own vector,
on the same test rows. Errors are standard errors over test rows, of differences paired by rows.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load

from dem_build.cli.session import Call, Session, open_session
from dem_build.search.problem import ratio_stderr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dem_build.store import Record

HERE = Path(__file__).parent
DATASETS = ("gsm8k", "cot", "aqua", "family", "reverse")
RATES = ("3e-5", "1e-4", "3e-4")
ALIKE = RATES[:2]
"""Rates that all vectors were composed at, too, in place of those of their lowest validation losses."""
MIXTURES = ("natural", "even", "fitted")


def own_rate(name: str, rate: str) -> str:
    """Return the setting by which the training on a dataset, or of a mixture, has a learning rate."""
    table = "datasets" if name in DATASETS else "baselines"
    return f"{table}.{name}.train.learning_rate={rate}"


def at_rate(rate: str) -> tuple[str, str]:
    """Return the settings by which every single training has a learning rate."""
    return f"train.learning_rate={rate}", own_rate("family", rate)


BUILDS = {
    "": ("study.toml", ()),
    "layers": ("study.toml", ("name=study-layers", "tune.granularity=layer")),
    "seed 43": ("study.toml", ("name=study-seed", "train.seed=43")),
    **{rate: ("study.toml", (f"name=study-{rate}", *at_rate(rate))) for rate in ALIKE},
    "mixtures at 1e-4": ("study.toml", tuple(own_rate(n, "1e-4") for n in MIXTURES)),
    "healed": (
        "study.toml",
        (
            "name=study-healed",
            "heal.train.max_steps=24",
            "heal.train.learning_rate=3e-5",
            "heal.train.eval_steps=0",
        ),
    ),
    "trunk": ("trunk.toml", ()),
}
SINGLES = tuple(f"vector:{name}" for name in DATASETS)


@dataclass(frozen=True)
class Arm:
    """A row of the table: a model of a build, and the trainings of that build and of the first one that it took."""

    label: str
    model: str
    trainings: tuple[str, ...] = ()
    build: str = ""
    first: tuple[str, ...] = ()


ARMS = (
    Arm("base", "base"),
    *(Arm(f"{name} alone", name, (f"vector:{name}",)) for name in DATASETS),
    *(Arm(f"mixture, {name}", name, (f"vector:{name}",)) for name in MIXTURES),
    *(Arm(f"mixture, {n}, at 1e-4", n, (f"vector:{n}",), "mixtures at 1e-4") for n in MIXTURES),
    *(Arm(f"mixture, {n}, × tuned α", f"{n}_scaled", (f"vector:{n}",)) for n in MIXTURES[:2]),
    Arm("uniform 1/n", "mean", SINGLES),
    Arm("DEM, ω a vector", "composed", SINGLES),
    Arm("DEM, ω a layer", "composed", (), "layers", SINGLES),
    Arm("DEM, ω a vector, healed", "composed", ("vector:heal",), "healed", SINGLES),
    Arm("trunk of three alone", "trunk", ("vector:trunk",), "trunk"),
    Arm("DEM on that trunk", "composed", ("vector:trunk", *SINGLES), "trunk"),
    *(Arm(f"DEM, ω a vector, all at {rate}", "composed", SINGLES, rate) for rate in ALIKE),
    Arm("DEM, ω a vector, second seed", "composed", SINGLES, "seed 43"),
    *(Arm(f"mixture, {n}, second seed", n, (f"vector:{n}",), "seed 43") for n in MIXTURES),
)


@cache
def session(build: str, *settings: str) -> Session:
    """Return the plan of a build; nothing runs."""
    recipe, own = BUILDS[build]
    return open_session(str(HERE / recipe), Call(overrides=(*own, *settings)))


def record(build: str, action: str, *settings: str) -> Record | None:
    """Return what is recorded of an action, None where nothing is."""
    verdict = session(build, *settings).plan.verdicts.get(action)
    return verdict.record if verdict else None


def rows(arm: Arm, dataset: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the summed loss and the tokens of each test row."""
    found = record(arm.build, f"loss:{arm.model}:{dataset}")
    if found is None:
        return None
    stored = load(session(arm.build).store.objects.read_bytes(found.outputs["rows"]))
    return stored["nll"].astype(float), stored["tokens"].astype(float)


def ratio(sums: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """Return Σ sums / Σ tokens and its standard error."""
    return sums.sum() / tokens.sum(), float(ratio_stderr(sums[None], tokens[None])[0])


def gained(arm: Arm, against: Arm) -> tuple[float, float] | None:
    """Return the mean gain recovered above that of another arm, and its standard error."""
    shares = []
    for name in DATASETS:
        mine, theirs, base, single = (rows(one, name) for one in (arm, against, ARMS[0], alone(name)))
        if mine is None or theirs is None or base is None or single is None:
            return None
        scale, error = ratio(base[0] - single[0], base[1])
        share = ratio(theirs[0] - mine[0], mine[1])
        shares.append([part / max(scale, 2 * error) for part in share])
    values, errors = np.array(shares).T
    return float(values.mean()), float(np.sqrt((errors**2).sum()) / len(errors))


def alone(dataset: str) -> Arm:
    """Return the arm of a dataset's own vector."""
    return ARMS[1 + DATASETS.index(dataset)]


def trained(arm: Arm) -> int:
    """Return the tokens that were trained on."""
    made = [(arm.build, name) for name in arm.trainings] + [("", name) for name in arm.first]
    found = [one for build, name in made if (one := record(build, name)) is not None]
    return sum(one.count("tokens", "seen") or 0 for one in found)


def tried(arm: Arm) -> int:
    """Return the tokens of the same trainings at every learning rate that was tried.

    Those of another seed, whose rates are those that the first one's sweep found, count once.
    """
    own = _made(record(arm.build, name) for name in arm.trainings)
    swept = _swept((*arm.first, *arm.trainings))
    if not own.keys() <= swept.keys():
        swept = _swept(arm.first)
    return sum(one.count("tokens", "seen") or 0 for one in (swept | own).values())


def _swept(names: Iterable[str]) -> dict[str, Record]:
    """Return trainings of the first build at every learning rate that was tried."""
    return _made(record("", name, setting) for name in names for setting in _rates(name))


def _made(found: Iterable[Record | None]) -> dict[str, Record]:
    return {one.key: one for one in found if one is not None}


def _rates(name: str) -> list[str]:
    """Return the settings that a training of the first build was tried with."""
    plain = name.removeprefix("vector:")
    return [own_rate(plain, rate) for rate in RATES] if plain in (*DATASETS, *MIXTURES) else []


def models() -> None:
    """Print a row for each model."""
    columns = ("mean gain recovered", "less than DEM by", "tokens", "with all rates tried")
    print("| model | " + " | ".join((*DATASETS, *columns)) + " |")
    print("|---|" + "---:|" * (len(DATASETS) + len(columns)))
    composed = next(arm for arm in ARMS if arm.model == "composed")
    for arm in ARMS:
        losses = [ratio(*found)[0] if (found := rows(arm, name)) else math.nan for name in DATASETS]
        if all(map(math.isnan, losses)):
            continue
        cells = ["" if math.isnan(loss) else f"{loss:.3f}" for loss in losses]
        cells += [shown(gained(arm, ARMS[0])), shown(gained(composed, arm)) if arm is not composed else ""]
        cells += [f"{count(arm) / 1000:.0f}k" for count in (trained, tried)]
        print(f"| {arm.label} | {' | '.join(cells)} |")


def shown(found: tuple[float, float] | None) -> str:
    """Return a value with its standard error."""
    return "" if found is None else f"{found[0]:.3f} ±{found[1]:.3f}"


def sweep() -> None:
    """Print the lowest validation loss of every training at every learning rate, and at which step of how many."""
    print("| trained on | " + " | ".join(RATES) + " |")
    print("|---|" + "---:|" * len(RATES))
    for name in (*DATASETS, *MIXTURES):
        print(f"| {name} | " + " | ".join(lowest(name, rate) for rate in RATES) + " |")


def lowest(name: str, rate: str) -> str:
    """Return the lowest validation loss, and where it was."""
    if name in MIXTURES and name not in session("").recipe.baselines:
        return ""
    found = record("", f"vector:{name}", own_rate(name, rate))
    if found is None:
        return ""
    best = found.provenance["validation"]["lowest"]
    return f"{best['loss']:.3f} at {best['step']} of {found.provenance['steps']}"


if __name__ == "__main__":
    sweep() if sys.argv[1:] == ["sweep"] else models()
