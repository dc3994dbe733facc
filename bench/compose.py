"""Composes a random 135M-parameter base with four random vectors, as a whole process; mergekit beside it if asked.

python bench/compose.py [--mergekit PATH/TO/mergekit-yaml] [--threads N] [--repeat N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dem_build.checkpoint import TensorSpec, from_bfloat16, to_bfloat16, weights_writer, write_delta
from dem_build.machine import Machine
from dem_build.steps import compose as step
from dem_build.steps.api import Context, Inputs, Term

BASE_DIGEST = "b" * 64
OMEGAS = (0.25, 0.5, 0.3, 0.4)
HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY, KEY_VALUE = 576, 1536, 30, 49152, 192
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": True,
}


def shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of SmolLM2-135M."""
    made: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[f"{layer}{name}.weight"] = (HIDDEN,)
        for name, rows in (
            ("q_proj", HIDDEN),
            ("k_proj", KEY_VALUE),
            ("v_proj", KEY_VALUE),
            ("o_proj", HIDDEN),
        ):
            made[f"{layer}self_attn.{name}.weight"] = (rows, HIDDEN)
        for name in ("gate_proj", "up_proj"):
            made[f"{layer}mlp.{name}.weight"] = (INTERMEDIATE, HIDDEN)
        made[f"{layer}mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
    return made


def write_model(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write bfloat16 weights as a folder that mergekit and transformers load."""
    with weights_writer(folder, [TensorSpec(n, "BF16", t.shape) for n, t in tensors.items()]) as writer:
        for name, values in tensors.items():
            writer.write(name, 0, to_bfloat16(values).reshape(-1))
    (folder / "config.json").write_text(json.dumps(CONFIG))


def prepare(home: Path, fine_tuned: bool) -> None:
    """Write the base, the vectors and, for mergekit, the fine-tuned models."""
    rng = np.random.default_rng(0)
    base = {n: rng.standard_normal(s, np.float32) * np.float32(0.05) for n, s in shapes().items()}
    write_model(home / "base" / "weights", base)
    (home / "base" / "tokenizer").mkdir()
    (home / "base" / "config").write_text(json.dumps(CONFIG))
    (home / "base" / "generation_config").write_text("{}")
    for i in range(len(OMEGAS)):
        delta = {n: rng.standard_normal(s, np.float32) * np.float32(0.001) for n, s in shapes().items()}
        write_delta(home / f"delta-{i}", BASE_DIGEST, shapes(), iter(delta.items()), "bfloat16")
        if fine_tuned:
            rounded = {n: from_bfloat16(to_bfloat16(t)) for n, t in base.items()}
            write_model(home / f"tuned-{i}", {n: t + delta[n] for n, t in rounded.items()})


def compose(home: Path, threads: int) -> None:
    """Run the compose step in this process; print what it reports and its memory."""
    work = Path(tempfile.mkdtemp(dir=home))
    (work / "out").mkdir()
    context = Context(work=work, out=work / "out", machine=Machine(), threads=threads)
    paths = {f"base/{n}": home / "base" / n for n in ("weights", "config", "tokenizer", "generation_config")}
    terms = tuple(Term(home / f"delta-{i}", f"{i}" * 64, omega) for i, omega in enumerate(OMEGAS))
    inputs = Inputs(paths, {"base/weights": BASE_DIGEST}, terms)
    told = step.run(inputs, {"method": "dem", "dtype": "bfloat16"}, context)
    # Not getrusage: a process that was forked inherits its parent's peak.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) // 1024
    print(
        f"  step {told['seconds']} s, peak resident {peak} MiB, rounding {told['relative_rounding_error']:.1%}"
    )


def timed(command: list[str]) -> float:
    """Run a process; return its wall time in seconds."""
    started = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - started


def mergekit_command(home: Path, executable: str) -> list[str]:
    """Return the command of the same sum in mergekit."""
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(home / "base-model"),
        "models": [
            {"model": str(home / f"tuned-{i}"), "parameters": {"weight": w}} for i, w in enumerate(OMEGAS)
        ],
        "parameters": {"normalize": False},
        "dtype": "bfloat16",
    }
    (home / "base-model").symlink_to(home / "base" / "weights")
    (home / "merge.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    return [executable, "--no-copy-tokenizer", "--quiet", str(home / "merge.yaml"), str(home / "merged")]


def main() -> None:
    """Prepare, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mergekit", help="the mergekit-yaml executable")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        compose(args.child, args.threads)
        return
    with tempfile.TemporaryDirectory(prefix="bench-compose-") as folder:
        home = Path(folder)
        prepare(home, bool(args.mergekit))
        runs = {"dem": [sys.executable, __file__, "--child", folder, "--threads", str(args.threads)]}
        if args.mergekit:
            runs["mergekit"] = mergekit_command(home, args.mergekit)
        report(runs, args.repeat)


def report(runs: dict[str, list[str]], repeat: int) -> None:
    """Run the commands in turn and print what they took."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeat):
        for name, command in runs.items():
            seconds[name].append(timed(command))
    for name, values in seconds.items():
        median = statistics.median(values)
        ratio = median / statistics.median(seconds["dem"])
        print(f"{name:<9} {median:6.2f} s  {ratio:5.2f} x  ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
