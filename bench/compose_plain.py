"""The plain loop that bench/compose.py runs: torch and safetensors, a thread a core, nothing checked or recorded.

python bench/compose_plain.py BASE OUT DELTA=OMEGA...
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def main() -> None:
    """Compose a folder's single file of weights with vectors."""
    base, out, *terms = sys.argv[1:]
    torch.set_num_threads(1)
    with ExitStack() as stack:
        theta = stack.enter_context(safe_open(Path(base) / "model.safetensors", "pt"))
        split = [term.rpartition("=") for term in terms]
        vectors = [(stack.enter_context(safe_open(path, "pt")), float(omega)) for path, _, omega in split]

        def compose(name: str) -> tuple[str, torch.Tensor]:
            total = theta.get_tensor(name).float()
            for vector, omega in vectors:
                total += vector.get_tensor(name).float() * omega
            return name, total.bfloat16()

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            composed = dict(pool.map(compose, theta.keys()))
    save_file(composed, Path(out) / "plain.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main()
