"""Composes 2B parameters and two vectors through `dem build`: peak memory, and time against moving the same bytes.

python bench/compose_large.py [--rounds N] [--layers N] [--folder WHERE]

A random base in shards of 1 GB, 4 GB in all, and two vectors of 4 GB, all bfloat16. In each round only `model` is
due. The yardstick, in the same round, reads the base and the vectors, hashes what a model has, and writes and flushes
as many bytes: in turn, by one thread, with nothing computed. It is set against the action `model`; the whole of
`dem build` against the same and one more copy, as `dem build` also copies the model into `out/`.

Memory is the sum over `dem`'s processes of RssAnon and RssShmem in /proc, sampled: what the kernel could not drop. It
needs Linux and 30 GB of disk under `--folder`; the folder is removed at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contest import Memory, spread, timed
from weights import SMOL, count, project, record_vectors

from dem_build.store.files import sync_file

CONFIG = SMOL | {
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "num_attention_heads": 20,
    "num_key_value_heads": 5,
}
OMEGAS = [0.5, 0.4]
SHARD = 1_000_000_000
BLOCK = 8 << 20
DEM = [sys.executable, "-m", "dem_build", "build"]


def build(recipe: Path, omega: float) -> tuple[float, float, int]:
    """Build with another ω; return the seconds of all of it and of the action `model`, and the peak memory."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [*DEM, str(recipe), "--json", "--set", f"datasets.d0.omega={omega}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    memory = Memory(process)
    told = json.loads(process.communicate()[0])
    seconds = time.perf_counter() - begun
    memory.join()
    if process.returncode:
        sys.exit(told["error"])
    [model] = [action for action in told["actions"] if action["status"] == "ran"]
    return seconds, model["seconds"], memory.peak


def move(sources: list[Path], output: int, scratch: Path) -> tuple[float, float]:
    """Read the sources, hash and write `output` bytes of them; return the seconds, and those with one more copy."""
    begun = time.perf_counter()
    buffer = memoryview(bytearray(BLOCK))
    digest = hashlib.sha256()
    with scratch.open("xb", buffering=0) as out:
        for source in sources:
            with source.open("rb", buffering=0) as file:
                while read := file.readinto(buffer):
                    part = buffer[: min(read, output)]
                    output -= len(part)
                    digest.update(part)
                    out.write(part)
        os.fsync(out.fileno())
    moved = time.perf_counter() - begun
    copy = scratch.with_name("copy")
    shutil.copyfile(scratch, copy)
    sync_file(copy)
    copied = time.perf_counter() - begun
    copy.unlink()
    scratch.unlink()
    return moved, copied


def drop_model(home: Path) -> None:
    """Delete the last model from the cache, so that rounds do not fill the disk; its record is a miss then."""
    for weights in (home / "out").glob("*/model/*.safetensors"):
        with weights.open("rb") as file:
            name = hashlib.file_digest(file, "sha256").hexdigest()
        (home / "cache" / "cas" / "sha256" / name[:2] / name).unlink()


def main() -> None:
    """Prepare, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layers", type=int, default=27, help="27 have 2.0B parameters")
    parser.add_argument("--folder", type=Path, help="where to make the scratch folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-large-", dir=options.folder) as folder:
        run(Path(folder), CONFIG | {"num_hidden_layers": options.layers}, options.rounds)


def run(home: Path, config: dict[str, object], rounds: int) -> None:
    """Do all of it in a folder."""
    os.environ["DEM_HINTS"] = str(home / "hints")
    recipe = project(home, config, OMEGAS, SHARD)
    seconds, _ = timed([*DEM, str(recipe), "--", "base", *(f"data:d{i}" for i in range(len(OMEGAS)))])
    print(f"{count(config) / 1e9:.2f}B parameters; import of the base and two datasets: {seconds:.1f} s")
    vectors = record_vectors(recipe, config)
    base = sorted((home / "base").glob("*.safetensors"))
    output = sum(path.stat().st_size for path in base)
    found: dict[str, list[float]] = {name: [] for name in ("moving", "model", "moving and copying", "build")}
    peaks = []
    for turn in range(rounds + 1):
        moved, copied = move([*base, *vectors], output, home / "scratch")
        whole, model, peak = build(recipe, OMEGAS[0] + (turn + 1) / 64)
        drop_model(home)
        if turn:  # the first round finds files that were just written
            peaks.append(peak / 2**20)
            for name, value in zip(found, (moved, model, copied, whole), strict=True):
                found[name].append(value)
    print(f"| {rounds} rounds | seconds | times the line above |\n|---|---|---|")
    for ours, yardstick in (("model", "moving"), ("build", "moving and copying")):
        ratios = [a / b for a, b in zip(found[ours], found[yardstick], strict=True)]
        print(f"| {yardstick} | {spread(found[yardstick], 1)} | |")
        print(f"| `{ours}` | {spread(found[ours], 1)} | {spread(ratios)} |")
    print(f"\nload average now: {os.getloadavg()[0]:.1f}")
    print(f"\npeak memory of dem without mapped files: {spread(peaks, 0)} MiB (aim: 1500 MB)")


if __name__ == "__main__":
    main()
