"""What models of 3B, 7B and 13B take by `dem`'s own formula, and what a search for ω holds, measured up to 0.3B.

python bench/large.py            tables of memory and disk; nothing runs
python bench/large.py --search   passes of a search for ω on random models, each in a process of its own
python bench/large.py --search "135M, derivatives" --tokens 1024 --again     of longer rows, layers computed again

Of several GPUs it is what each of the ranks takes, as a plan has it. Nothing of that was measured.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from weights import SMOL, count, delta_tensors, shapes, write_weights

from dem_build.checkpoint.delta import write_delta
from dem_build.data.arrays import RowsWriter
from dem_build.estimate import Shape, rank_memory, training_disk, training_memory
from dem_build.estimate.memory import (
    CHECKPOINTS,
    PROCESS,
    Judging,
    held_by_search,
    search_memory,
)
from dem_build.machine import Machine
from dem_build.slots import Slot

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "samples"))
from large_shapes import LLAMAS

PARAMS = {
    "optim": "adamw_torch_fused",
    "bf16": True,
    "global_batch_size": 32,
    "vector_dtype": "bfloat16",
    "packing": False,
}
SHARED = "adamw_torch_fused"
OPTIMS = ("adamw_torch_fused", "adamw_8bit", "adafactor")
LENGTH, ROWS = 1024, 4
GPUS = (1, 2, 4, 8)
WIDER = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "num_key_value_heads": 8}
SEARCHED = {
    "135M": SMOL,
    "162M, head of its own": SMOL | {"tie_word_embeddings": False},
    "286M": SMOL | WIDER | {"num_hidden_layers": 20},
}
VECTORS = 4
TOKENS, JUDGED = 256, 2
MACHINE = Machine(micro_batch=1, eval_batch_size=2)
EVERY = 0.05


def rank(shape: Shape, optim: str, machine: Machine, gpus: int) -> str:
    """The gigabytes of each GPU; none where several do not train it."""
    params = PARAMS | {"optim": optim}
    if gpus == 1:
        return f"{training_memory(shape, params, machine, LENGTH) / 1e9:.1f}"
    if optim != SHARED:
        return "refused"
    return f"{rank_memory(shape, params, machine, LENGTH, None, ranks=gpus) / 1e9:.1f}"


def tables() -> None:
    """Print memory by model, optimizer and number of GPUs, and what lies on disk."""
    print(f"| GB a GPU | recomputed | {' | '.join(f'{n} GPU' for n in GPUS)} | checkpoint | vector |")
    print(f"|---|---|{'---:|' * (len(GPUS) + 2)}")
    for name, config in LLAMAS.items():
        shape = Shape.of(config)
        assert shape is not None
        for optim in OPTIMS:
            vector, scratch = training_disk(shape, PARAMS | {"optim": optim})
            for again in (False, True):
                machine = Machine(micro_batch=ROWS, gradient_checkpointing=again)
                cells = [rank(shape, optim, machine, gpus) for gpus in GPUS]
                cells += [f"{scratch / CHECKPOINTS / 1e9:.0f}", f"{vector / 1e9:.1f}"]
                print(f"| {name}, {optim} | {'yes' if again else 'no'} | {' | '.join(cells)} |")
    print()
    print(
        "| search for ω, GB | model | with a pass | with derivatives | recomputed | base and 4 vectors, on disk |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for name, config in LLAMAS.items():
        shape = Shape.of(config)
        assert shape is not None
        one = Machine(micro_batch=1, eval_batch_size=1)
        again = one.model_copy(update={"gradient_checkpointing": True})
        ways = ((one, False), (one, True), (again, True))
        held = [search_memory(shape, machine, Judging(LENGTH, 128, slopes)) for machine, slopes in ways]
        sizes = [4 * shape.parameters, *held, 2 * shape.parameters * (1 + VECTORS)]
        print(f"| {name} | {' | '.join(f'{size / 1e9:.1f}' for size in sizes)} |")


def written(home: Path, config: dict[str, Any], tokens: int) -> None:
    """Write a random base, its vectors and a few rows."""
    write_weights(home / "weights", config, 0)
    (home / "weights" / "config.json").replace(home / "config.json")
    rng = np.random.default_rng(0)
    with RowsWriter(home / "spool") as writer:
        for row in range(JUDGED):
            ids = rng.integers(3, 1000, tokens).astype(np.int32)
            writer.append(ids, ids, bytes([row]) * 16)
        writer.save(home / "rows")
    for i in range(VECTORS):
        made = delta_tensors(shapes(config), i + 1)
        write_delta(home / f"delta{i}", "b" * 64, shapes(config), made, "bfloat16")


def judge(home: Path, machine: Machine, *, slopes: bool) -> None:
    """Take a pass of one candidate in this process, as each step of a search does."""
    # torch takes its settings from the child's environment.
    import dem_build.actions.finetune.run  # noqa: F401, PLC0415  a worker that searches has trained before
    from dem_build.actions.tune.candidates import resident  # noqa: PLC0415
    from dem_build.actions.tune.judges import judges  # noqa: PLC0415
    from dem_build.actions.tune.passes import Passes, begin  # noqa: PLC0415
    from dem_build.data.arrays import trained_prompts  # noqa: PLC0415
    from dem_build.step import Context, Group, Inputs  # noqa: PLC0415

    paths = {"base/weights": home / "weights", "base/config": home / "config.json"}
    group = Group("d", {}, {"data/validation": home / "rows"}, {"data/validation": "d" * 64})
    (home / "work" / "out").mkdir(parents=True, exist_ok=True)
    context = Context(work=home / "work", out=home / "work" / "out", machine=machine, threads=2)
    log = begin(context)
    deltas = {f"{i}" * 64: home / f"delta{i}" for i in range(VECTORS)}
    inputs = Inputs(paths, {"base/weights": "b" * 64, "base/config": "c" * 64})
    candidates = resident(inputs, deltas, context)
    found = judges({"d": group}, {"d": "data/validation"}, trained_prompts([]), JUDGED)
    print("loaded", flush=True)
    passes = Passes(candidates, found, "bfloat16", log)
    passes.take(np.full((VECTORS, len(candidates.layers)), 0.25), slopes=slopes)


def measured(words: list[str], most: float, tokens: int, *, again: bool) -> None:
    """Print what a pass held at its most, and what `dem plan` says of it."""
    names = ["model", "base and vectors", "a pass with", "planned", "resident", "of it mapped", "loading"]
    machine = MACHINE.model_copy(update={"gradient_checkpointing": again})
    print(f"| {' | '.join(names)} | planned / resident |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    for name, config in SEARCHED.items():
        with tempfile.TemporaryDirectory(prefix="bench-large-", dir=os.environ.get("TMPDIR")) as folder:
            home = Path(folder)
            for slopes in (False, True):
                told = f"{name}, {'derivatives' if slopes else 'losses alone'}"
                if not all(word in told for word in words):
                    continue
                if not (home / "weights").exists():
                    written(home, config, tokens)
                shape = Shape.of(config, count(config))
                assert shape is not None
                rows = 1 if slopes else JUDGED  # a pass with derivatives takes no batch of losses beside
                planned = held_by_search(shape, machine, Judging(tokens, rows, slopes)) + PROCESS
                resident, mapped, loading = watched(home, slopes=slopes, again=again, most=most)
                stored = 2 * count(config) * (1 + VECTORS)
                numbers = f"{planned / 1e6:,.0f} | {resident / 1e6:,.0f} | {mapped / 1e6:,.0f} | {loading / 1e6:,.0f}"
                with_ = "derivatives" if slopes else "losses alone"
                print(
                    f"| {name} | {stored / 1e6:,.0f} | {with_} | {numbers} | {planned / resident:.2f} |",
                    flush=True,
                )


def watched(home: Path, *, slopes: bool, again: bool, most: float) -> tuple[int, int, int]:
    """The bytes that a process held at its most once its model was loaded, those of mapped files then, and before."""
    said, begun = home / "said", time.monotonic()
    arguments = [sys.executable, __file__, "--child", str(home), *(["--slopes"] if slopes else [])]
    arguments += ["--again"] if again else []
    environment = {**os.environ, **Slot((), 2).environment(), "HF_HUB_OFFLINE": "1"}
    with said.open("w") as out:
        process = subprocess.Popen(arguments, stdout=out, stderr=out, env=environment)
    loading, peak = 0, (0, 0)
    while process.poll() is None and time.monotonic() - begun < most:
        lines = [line.split() for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()]
        found = {line[0]: int(line[1]) << 10 for line in lines if line and line[0].startswith("Rss")}
        now = sum(found.values()), found.get("RssFile:", 0)
        if "loaded" in said.read_text():
            peak = max(peak, now)
        else:
            loading = max(loading, now[0])
        time.sleep(EVERY)
    ended = process.poll()
    process.kill()
    if ended != 0:
        sys.exit(f"ended with {ended}: {said.read_text()}")
    return *peak, loading


def main() -> None:
    """Print the tables, or measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--search", nargs="*", metavar="WORD", help="of the rows that hold these words")
    parser.add_argument("--most", type=float, default=600.0, help="seconds, after which a pass is ended")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of a row")
    parser.add_argument("--again", action="store_true", help="layers are computed again for derivatives")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--slopes", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.child:
        machine = MACHINE.model_copy(update={"gradient_checkpointing": told.again})
        judge(told.child, machine, slopes=told.slopes)
    elif told.search is not None:
        measured(told.search, told.most, told.tokens, again=told.again)
    else:
        tables()


if __name__ == "__main__":
    main()
