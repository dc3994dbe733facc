"""Print the table of docs/study.md from what is recorded of its builds, and the commands that make them.

    .venv/bin/python recipes/study/table.py             losses on test rows, gain recovered, tokens and seconds
    .venv/bin/python recipes/study/table.py --builds    the builds, command by command

    --cache DIR       where the store is
    --base gemma      of gemma.toml in the place of study.toml, and nothing of trunk.toml

Gain recovered has the constants of the first seed's study in every row: L_base - L_single of each dataset's own vector,
on the same test rows. Errors are standard errors over prompts, of differences paired by rows.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.action import OF_A_VECTOR
from dem_build.session.session import Call, Session, open_session

if TYPE_CHECKING:
    import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from measured import gain, mean, ratio, record, rows, shown  # noqa: E402

DATASETS = ("gsm8k", "cot", "aqua", "family", "reverse")
MIXTURES = {"natural": "mixture, natural", "even": "mixture, even", "slow": "mixture, even, at 3e-5"}
ROWS = (8, 20, 56)
SEEDS = (43, 44)
HEALING = ("heal.train.max_steps=24", "heal.train.learning_rate=3e-5", "heal.train.eval_steps=0")
SALIENCY = ("compose.saliency=true",)
BUILDS = {
    "": ("study.toml", ()),
    "sum": ("study.toml", ("compose.method=dem",)),
    "layers": ("study.toml", ("compose.method=dem", "tune.granularity=layer")),
    "regmean": ("study.toml", ("compose.method=regmean",)),
    **{f"rows-{n}": ("study.toml", (f"compose.rows={n}",)) for n in ROWS},
    "saliency": ("study.toml", SALIENCY),
    "healed": ("study.toml", HEALING),
    **{f"without-{name}": ("study.toml", (f"datasets.{name}.omega=0",)) for name in DATASETS},
    "trunk": ("trunk.toml", ()),
    "trunk-saliency": ("trunk.toml", SALIENCY),
    "trunk-sum": ("trunk.toml", ("compose.method=dem",)),
    **{f"seed-{seed}": ("study.toml", (f"train.seed={seed}",)) for seed in SEEDS},
    **{f"saliency-seed-{seed}": ("study.toml", (f"train.seed={seed}", *SALIENCY)) for seed in SEEDS},
    **{f"trunk-seed-{seed}": ("trunk.toml", (f"train.seed={seed}",)) for seed in SEEDS},
    **{f"trunk-saliency-seed-{seed}": ("trunk.toml", (f"train.seed={seed}", *SALIENCY)) for seed in SEEDS},
}
"""Build → recipe and settings, beside its name."""
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
    *(Arm(label, name, (f"vector:{name}",)) for name, label in MIXTURES.items()),
    Arm("uniform 1/n", "mean", SINGLES),
    Arm("DEM, ω a vector", "composed", (), "sum", SINGLES),
    Arm("DEM, ω a layer", "composed", (), "layers", SINGLES),
    Arm("RegMean", "composed", (), "regmean", SINGLES),
    *(Arm(f"matched, {n} rows", "composed", (), f"rows-{n}", SINGLES) for n in ROWS[:2]),
    Arm("matched, 32 rows", "composed", SINGLES),
    *(Arm(f"matched, {n} rows", "composed", (), f"rows-{n}", SINGLES) for n in ROWS[2:]),
    Arm("matched, 32 rows, saliency", "composed", (), "saliency", SINGLES),
    Arm("matched, healed", "composed", ("vector:heal",), "healed", SINGLES),
    Arm("trunk of three alone", "trunk", ("vector:trunk",), "trunk"),
    Arm("trunk and DEM", "composed", ("vector:trunk", *SINGLES), "trunk-sum"),
    Arm("trunk, matched", "composed", ("vector:trunk", *SINGLES), "trunk"),
    Arm("trunk, matched, saliency", "composed", ("vector:trunk", *SINGLES), "trunk-saliency"),
    *(
        arm
        for seed in SEEDS
        for arm in (
            Arm(f"mixture, even, seed {seed}", "even", ("vector:even",), f"seed-{seed}"),
            Arm(f"matched, 32 rows, seed {seed}", "composed", SINGLES, f"seed-{seed}"),
            Arm(f"matched, 32 rows, saliency, seed {seed}", "composed", SINGLES, f"saliency-seed-{seed}"),
            Arm(f"trunk, matched, seed {seed}", "composed", ("vector:trunk", *SINGLES), f"trunk-seed-{seed}"),
            Arm(
                f"trunk, matched, saliency, seed {seed}",
                "composed",
                ("vector:trunk", *SINGLES),
                f"trunk-saliency-seed-{seed}",
            ),
        )
    ),
    *(
        Arm(
            f"matched without {name}",
            "composed",
            (),
            f"without-{name}",
            tuple(set(SINGLES) - {f"vector:{name}"}),
        )
        for name in DATASETS
    ),
)
MATCHED = next(arm for arm in ARMS if arm.label == "matched, 32 rows")


@cache
def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--builds", action="store_true")
    parser.add_argument("--cache")
    parser.add_argument("--base", choices=("study", "gemma"), default="study")
    return parser.parse_args()


def settings(build: str) -> tuple[str, tuple[str, ...]]:
    """Return the recipe of a build and what is set in it; its name, and so its place in out/, is its own."""
    recipe, own = BUILDS[build]
    stem = arguments().base
    return recipe.replace("study", stem), ((f"name={stem}-{build}", *own) if build else own)


def is_of_the_base(build: str) -> bool:
    """Whether a build is of the base that is asked for."""
    return arguments().base == "study" or BUILDS[build][0] == "study.toml"


@cache
def session(build: str) -> Session:
    """Return the plan of a build; nothing runs."""
    recipe, own = settings(build)
    return open_session(str(HERE / recipe), Call(overrides=own, cache=arguments().cache))


def losses(arm: Arm, dataset: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The summed loss and the tokens of each test row."""
    return rows(session(arm.build), arm.model, dataset)


def gained(arm: Arm, against: Arm) -> tuple[float, float] | None:
    """Return the mean gain recovered above that of another arm, and its standard error."""
    shares = [gain(*(losses(one, name) for one in (arm, against, ARMS[0], alone(name)))) for name in DATASETS]
    return None if None in shares else mean([share for share in shares if share is not None])


def alone(dataset: str) -> Arm:
    """Return the arm of a dataset's own vector."""
    return ARMS[1 + DATASETS.index(dataset)]


def trained(arm: Arm) -> int:
    """Return the tokens that were trained on."""
    made = [(arm.build, name) for name in arm.trainings] + [("", name) for name in arm.first]
    found = [one for build, name in made if (one := record(session(build), name)) is not None]
    return sum(one.count("tokens", "seen") or 0 for one in found)


def composing(arm: Arm) -> float:
    """Return the seconds that composing took, with the search for ω where there was one."""
    if arm.model != "composed":
        return 0.0
    graph = session(arm.build).plan.verdicts
    names = [n for n in ("tune", "model", "model:unhealed") if n in graph] + [
        n for n in graph if n.partition(":")[0] in OF_A_VECTOR
    ]
    found = [one for name in names if (one := record(session(arm.build), name)) is not None]
    return sum(one.amount("seconds") or 0.0 for one in found)


def models() -> None:
    """Print a row for each model."""
    columns = ("mean gain recovered", "less than matched by", "dialogue", "tokens", "composing, s")
    print("| model | " + " | ".join((*DATASETS, *columns)) + " |")
    print("|---|" + "---:|" * (len(DATASETS) + len(columns)))
    for arm in ARMS:
        if not is_of_the_base(arm.build):
            continue
        means = [
            ratio(*found)[0] if (found := losses(arm, name)) else math.nan for name in (*DATASETS, "dialogue")
        ]
        if all(map(math.isnan, means)):
            continue
        *own, dialogue = ["" if math.isnan(loss) else f"{loss:.3f}" for loss in means]
        recovered = shown(gained(arm, ARMS[0]))
        less = "" if arm is MATCHED else shown(gained(MATCHED, arm))
        cells = [*own, recovered, less, dialogue, f"{trained(arm) / 1000:.0f}k", f"{composing(arm):.0f}"]
        print(f"| {arm.label} | {' | '.join(cells)} |")


def builds() -> None:
    """Print the command of each build."""
    for build in filter(is_of_the_base, BUILDS):
        recipe, own = settings(build)
        told = " ".join(f"--set {one}" for one in own)
        print(f".venv/bin/dem build recipes/study/{recipe} --trust-tasks {told}".rstrip())


if __name__ == "__main__":
    builds() if arguments().builds else models()
