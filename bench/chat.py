"""How long `dem chat` takes to compose anew in memory: 135M random parameters, five vectors, another ω each time.

    python bench/chat.py [--rounds 5] [--vectors 5]

Nothing is trained: vectors are random and recorded as if they had been. The model is that which talks, in bfloat16; its
weights are compared with what a build of the same ω composes.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from contest import timed
from weights import SMOL, project, record_vectors

from dem_build.cli.chat.chat import _models
from dem_build.session.session import Call

DEM = [sys.executable, "-m", "dem_build", "build"]


def cpu() -> float:
    """Return the CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Prepare, move ω, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vectors", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-chat-") as folder:
        run(Path(folder), options)


def run(home: Path, options: argparse.Namespace) -> None:
    """Do all of it in a folder."""
    os.environ["DEM_HINTS"] = str(home / "hints")
    recipe = project(home, SMOL, [0.3] * options.vectors)
    datasets = [f"data:d{i}" for i in range(options.vectors)]
    timed([*DEM, str(recipe), "--", "base", *datasets])
    record_vectors(recipe, SMOL)
    with ExitStack() as held:
        models = _models(str(recipe), Call(), held)
        begun, used = time.perf_counter(), cpu()
        models.load(["composed"])
        print(f"load and compose: {time.perf_counter() - begun:.2f} s, {cpu() - used:.2f} s of CPU")
        rows = []
        for turn in range(options.rounds):
            used = cpu()
            wall = models.move({f"d{turn % options.vectors}": 0.3 + (turn + 1) / 64}) or 0.0
            rows.append((wall, cpu() - used))
            print(f"  ω of one vector moved: {rows[-1][0]:.2f} s, {rows[-1][1]:.2f} s of CPU", flush=True)
        wall, used = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"compose anew, median of {options.rounds}: {wall:.2f} s, {used:.2f} s of CPU (aim: 2 s)")
        same(models, recipe, home)


def same(models: object, recipe: Path, home: Path) -> None:
    """End with an error unless the model in memory is what a build makes of its ω."""
    import torch  # noqa: PLC0415  models have loaded it
    from safetensors.torch import load_file  # noqa: PLC0415  as above

    omega: dict[str, float] = models.omega  # type: ignore[attr-defined]
    moved = [word for name, value in omega.items() for word in ("--set", f"datasets.{name}.omega={value}")]
    timed([*DEM, str(recipe), *moved])
    [file] = home.glob("out/*/model/model.safetensors")
    found = models._loaded["composed"].model.state_dict()  # type: ignore[attr-defined]  # noqa: SLF001
    if any(not torch.equal(found[name], tensor) for name, tensor in load_file(file).items()):
        sys.exit("the model in memory is not the one that a build composes")
    print("the same weights as a build composes, bit for bit")


if __name__ == "__main__":
    main()
