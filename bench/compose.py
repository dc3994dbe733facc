"""Composes 135M parameters and four vectors through `dem build`, whole processes; mergekit and a plain loop beside it.

python bench/compose.py [--mergekit PATH/TO/mergekit-yaml] [--rounds N]

A random base and four random vectors in bfloat16. In each round one ω is another one, so only `model` is due in
`dem build`: it verifies what it reads, composes, hashes, flushes, records, and publishes `out/`. mergekit does the same
sum as `task_arithmetic` of four fine-tuned models; the plain loop is torch and safetensors on threads, without any of
what surrounds dem's; another script moves the same bytes and sums nothing. At the end, dem's result is compared with a
composition in float64.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from contest import contest, table, timed
from safetensors.torch import load_file, save_file
from weights import SMOL, project, record_vectors

OMEGAS = [0.25, 0.5, 0.3, 0.4]
DEM = [sys.executable, "-m", "dem_build", "build"]


def write_tuned(base: Path, delta: Path, folder: Path) -> None:
    """Write base plus vector as a fine-tuned model for mergekit."""
    theta, difference = load_file(base / "model.safetensors"), load_file(delta)
    folder.mkdir()
    tuned = {name: (t.float() + difference[name].float()).bfloat16() for name, t in theta.items()}
    save_file(tuned, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(SMOL))


def mergekit_command(home: Path, executable: str) -> list[str]:
    """Return the command of the same sum in mergekit."""
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(home / "base"),
        "models": [
            {"model": str(home / f"tuned-{i}"), "parameters": {"weight": w}} for i, w in enumerate(OMEGAS)
        ],
        "parameters": {"normalize": False},
        "dtype": "bfloat16",
    }
    (home / "merge.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    return [executable, "--no-copy-tokenizer", "--quiet", str(home / "merge.yaml"), str(home / "merged")]


def ulp(values: np.ndarray) -> np.ndarray:
    """Return the distance between neighbouring bfloat16 at each value."""
    exponent = np.frexp(np.abs(values))[1] - 1
    return np.ldexp(1.0, np.maximum(exponent, -126) - 7)


def largest_error(base: Path, deltas: list[Path], omegas: list[float], composed: Path) -> float:
    """Return the largest error against a sum in float64, in bfloat16 ulps of the element's largest term.

    Where the sum is larger than each of its terms, of the sum: terms of one sign sum to several times the largest one,
    and no bfloat16 is nearer to that than half an ulp of its own.
    """
    theta, found = load_file(base / "model.safetensors"), load_file(composed / "model.safetensors")
    vectors = [load_file(path) for path in deltas]
    worst = 0.0
    for name, tensor in theta.items():
        terms = [tensor.double().numpy()]
        terms += [w * v[name].double().numpy() for w, v in zip(omegas, vectors, strict=True)]
        exact = np.sum(terms, axis=0)
        largest = np.max(np.abs([*terms, exact]), axis=0)
        worst = max(worst, float((np.abs(found[name].double().numpy() - exact) / ulp(largest)).max()))
    return worst


def main() -> None:
    """Prepare, run, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mergekit", help="the mergekit-yaml executable")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="prepare here and leave it there, for a profiler")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-compose-") as folder:
        run(options.keep or Path(folder), options)


def run(home: Path, options: argparse.Namespace) -> None:
    """Do all of it in a folder."""
    os.environ["DEM_HINTS"] = str(home / "hints")
    recipe = project(home, SMOL, OMEGAS)
    datasets = [f"data:d{i}" for i in range(len(OMEGAS))]
    timed([*DEM, str(recipe), "--", "base", *datasets])
    deltas = record_vectors(recipe, SMOL)
    omegas = list(OMEGAS)

    def dem(turn: int) -> tuple[float, float]:
        omegas[0] = OMEGAS[0] + (turn + 1) / 64
        return timed([*DEM, str(recipe), "--set", f"datasets.d0.omega={omegas[0]}"])

    runs = {"dem build": dem}
    if options.mergekit:
        for i, delta in enumerate(deltas):
            write_tuned(home / "base", delta, home / f"tuned-{i}")
        command = mergekit_command(home, options.mergekit)
        runs["mergekit-yaml"] = lambda _: timed(command)
    plain = [sys.executable, str(Path(__file__).with_name("compose_plain.py")), str(home / "base"), str(home)]
    plain += [f"{delta}={omega}" for delta, omega in zip(deltas, OMEGAS, strict=True)]
    runs["plain threaded loop"] = lambda _: timed(plain)
    moving = [
        sys.executable,
        str(Path(__file__).with_name("compose_moving.py")),
        str(home / "base"),
        str(home),
    ]
    moving += map(str, deltas)
    runs["moving the same bytes"] = lambda _: timed(moving)
    found = contest(runs, options.rounds)
    print(table(found))
    model = next((home / "out").glob("*/model"))
    worst = largest_error(home / "base", deltas, omegas, model)
    print(f"\nlargest error against float64: {worst:.4f} bfloat16 ulp of the largest term (aim: 1)")
    if worst > 1:
        sys.exit("the composed model is wrong")


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    main()
