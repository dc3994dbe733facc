"""How much of what vectors gain alone is kept, and how long composing takes, the more of them there are.

    .venv/bin/python recipes/growth/table.py FOLDER            a row for each number of skills that is built
    .venv/bin/python recipes/growth/table.py FOLDER targets    what to build of growth-20.toml to have it measured

Gain recovered is (L_base - L) / (L_base - L_single) on test rows, of each dataset's own vector. Errors are standard
errors over prompts, of differences paired by rows; seconds are those that were recorded when the model was made.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from make_growth import SIZES, SKILLS

from dem_build.session.session import Call, Session, open_session

sys.path.insert(0, str(Path(__file__).parent.parent))
from measured import gain, mean, record, rows, shown

ALL = max(SIZES)
WAYS = {"composed": ("matched", "model"), "sum": ("Σ ΔΘ / n", "model:sum")}
"""Model in results → what it is called here, and the action that makes it."""


@cache
def session(folder: Path, count: int) -> Session:
    """The plan of a build; nothing runs."""
    return open_session(str(folder / f"growth-{count}.toml"), Call())


def gained(folder: Path, count: int, model: str, dataset: str) -> tuple[float, float] | None:
    """The gain recovered on a dataset, and its standard error; None where something is not measured."""
    mine, base = (rows(session(folder, count), name, dataset) for name in (model, "base"))
    return gain(mine, base, base, rows(session(folder, ALL), dataset, dataset))


def table(folder: Path) -> None:
    """Print a row for each number of skills and way to compose."""
    columns = (
        "n",
        "composed by",
        "mean gain recovered",
        f"of the first {min(SIZES)} skills",
        "worst skill",
        "seconds",
    )
    print(f"| {' | '.join(columns)} |\n|---:|---|---:|---:|---:|---:|")
    for count in SIZES:
        names = list(SKILLS)[:count]
        for model, (label, action) in WAYS.items():
            found = {name: one for name in names if (one := gained(folder, count, model, name))}
            made = record(session(folder, count), action)
            if len(found) < count or made is None:
                continue
            worst = min(found, key=lambda name: found[name][0])
            first = shown(mean([found[name] for name in names[: min(SIZES)]]))
            cells = [
                str(count),
                label,
                shown(mean(list(found.values()))),
                first,
                f"{worst} {found[worst][0]:.3f}",
            ]
            seconds = made.amount("seconds") or 0
            print(f"| {' | '.join([*cells, f'{seconds:.1f}'])} |")


def targets() -> None:
    """Print the actions of the largest recipe that the table is made of: each vector on its own dataset alone."""
    measured = [f"loss:{model}:{name}" for name in SKILLS for model in (*WAYS, "base", name)]
    print(*(f"{action}" for action in measured))


if __name__ == "__main__":
    targets() if sys.argv[2:] == ["targets"] else table(Path(sys.argv[1]))
