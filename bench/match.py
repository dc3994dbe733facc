"""Composes by output matching: wall time and peak memory, and time against a search for ω on the same vectors.

python bench/match.py [--sizes NAME,...] [--layers N,...] [--rows N] [--tokens N] [--threads N] [--search]
                      [--folder WHERE]

Random models and vectors, and rows of random tokens of which the second half counts. `smol` is SmolLM2-135M's shape
with five vectors, `2b` a model of 2B parameters (24 layers, 2048 wide, 8192 within, a small vocabulary) with three,
and `tiny` and `narrow` small ones that show whether all of this works. All is bfloat16. `--layers` has a size once for
each depth: a deeper model shall take no more memory. `--search` also searches ω of the vectors, on 64 validation rows
of each dataset, by gradients: the default.

Memory is sampled in /proc while a process of its own matches: what the kernel could not drop, so without the mapped
files of base and vectors. It holds Python, torch and transformers too, which is told as the row `libraries`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from contest import Memory
from weights import SMOL, count, delta_tensors, shapes, write_weights

from dem_build.actions.match import run as match
from dem_build.actions.tune import run as tune
from dem_build.checkpoint.delta import write_delta
from dem_build.data.arrays import RowsWriter
from dem_build.machine import Machine
from dem_build.step import Context, Group, Inputs

BIG = SMOL | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 4096,
}
TINY = SMOL | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
NARROW = TINY | {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 30, "vocab_size": 4096}
SIZES = {"smol": (SMOL, 5, 1.5), "2b": (BIG, 3, 4.0), "narrow": (NARROW, 5, None), "tiny": (TINY, 2, None)}
DIGEST = "b" * 64
SEARCH = {
    "search": "gradient",
    "objective": "gain",
    "granularity": "model",
    "max_samples": 64,
    "bounds": [0.0, 2.0],
    "dtype": "bfloat16",
}


def main() -> None:
    """Make what is composed, compose it, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=lambda text: text.split(","), default=["smol", "2b"])
    parser.add_argument("--layers", type=lambda text: [int(n) for n in text.split(",")], default=[None])
    parser.add_argument("--rows", type=int, default=32, help="of each dataset")
    parser.add_argument("--tokens", type=int, default=84, help="of a row, in the mean")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--search", action="store_true", help="search ω of the vectors too")
    parser.add_argument("--folder", type=Path, help="where to make the scratch folder")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*json.loads(options.work))
        return
    print("| what | seconds | peak memory, MiB | aim |\n|---|---|---|---|", flush=True)
    for size in options.sizes:
        for layers in options.layers:
            with tempfile.TemporaryDirectory(prefix="bench-match-", dir=options.folder) as folder:
                measure(size, layers, Path(folder), options)
    print(f"\nload average now: {os.getloadavg()[0]:.1f}")


def measure(size: str, layers: int | None, home: Path, options: argparse.Namespace) -> None:
    """Print the rows of one size, of another depth where `layers` is given."""
    config, vectors, aim = SIZES[size]
    config = config | ({"num_hidden_layers": layers} if layers else {})
    make(home, config, vectors, options)
    shape = f"{count(config) / 1e6:.0f}M, {config['num_hidden_layers']} layers"
    label = f"{size}, {shape}, {vectors} vectors, {options.rows} rows each"
    for what in ("libraries", "match", *(["tune"] if options.search else [])):
        arguments = json.dumps([what, str(home), vectors, options.rows, options.threads])
        command = [sys.executable, __file__, "--work", arguments]
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        memory = Memory(process)
        told = process.communicate()[0]
        memory.join()
        if process.returncode:
            sys.exit(told)
        seconds = json.loads(told.splitlines()[-1])["seconds"] or time.perf_counter() - begun
        aims = f"{aim} GB" if what == "match" and aim and not layers else ""
        print(f"| {label}: `{what}` | {seconds:.1f} | {memory.peak / 2**20:.0f} | {aims} |", flush=True)


def make(home: Path, config: dict[str, object], vectors: int, options: argparse.Namespace) -> None:
    """Write a base, its vectors and their rows."""
    write_weights(home / "weights", config, 0)
    (home / "weights" / "config.json").replace(home / "config")
    (home / "tokenizer").mkdir()
    (home / "generation_config").write_text("{}")
    made = shapes(config)
    for j in range(vectors):
        write_delta(home / f"delta-{j}", DIGEST, made, delta_tensors(made, j + 1), "bfloat16")
        draw = np.random.default_rng(j)
        with RowsWriter(home / "spool") as rows:
            for _ in range(max(options.rows, SEARCH["max_samples"])):
                length = int(draw.integers(options.tokens // 2, options.tokens * 3 // 2 + 1))
                ids = draw.integers(3, config["vocab_size"], length).astype(np.int32)
                rows.append(
                    ids, np.where(np.arange(length) < length // 2, -100, ids).astype(np.int32), bytes(16)
                )
            rows.save(home / f"rows-{j}")


def work(what: str, home: str, vectors: int, rows: int, threads: int) -> None:
    """Run one action, and print its seconds."""
    folder = Path(home)
    (folder / what).mkdir()
    out = Path(tempfile.mkdtemp(dir=folder / what))
    context = Context(out, out / "out", Machine(), threads)
    context.out.mkdir()
    tag = "data/sample" if what == "match" else "data/validation"
    groups = tuple(
        Group(
            f"d{j}",
            {"importance": 1.0},
            {"delta": folder / f"delta-{j}", tag: folder / f"rows-{j}"},
            {"delta": f"{j}" * 64, tag: f"{j}" * 64},
        )
        for j in range(vectors)
    )
    parts = ("weights", "config", "tokenizer", "generation_config")
    inputs = Inputs(
        {f"base/{part}": folder / part for part in parts}, {"base/weights": DIGEST}, groups=groups
    )
    begun = time.perf_counter()
    told = {}
    if what == "match":
        told = match.run(inputs, {"dtype": "bfloat16", "rows": rows, "ridge": 0.03, "prior": 1.0}, context)
    elif what == "tune":
        told = tune.run(inputs, SEARCH, context)
    print(json.dumps({"seconds": time.perf_counter() - begun, "told": str(told)[:2000]}))


if __name__ == "__main__":
    main()
