#!/usr/bin/env bash
# A float64 that is rounded to bfloat16, float16 or float8 by torch, or to bfloat16 or float8 by ml_dtypes (JAX's and numpy's
# bfloat16), is rounded twice: first to float32, then to the target. The result can be the wrong neighbour.
#
# Versions: torch 2.13.0 (CPU), ml_dtypes 0.6.0, numpy 2.4.6.
# Guess before looking: one rounding, to the nearest; numpy's float64 -> float16 does that.
# Seen: 1 + 2^-8 + 2^-30 lies above the middle of 1 and 1 + 2^-7, the neighbours in bfloat16. Both libraries give 1.0. The same
# happens in float16 (torch; numpy is right) and in float8 e4m3 (both).
# Why it matters: "the sum in float64, rounded to bfloat16" is the usual oracle of a merging tool, and it is itself one unit off
# wherever the float32 in between lands on a tie. `dem`'s tests measure the distance to the float64 sum, before any rounding.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 ml_dtypes==0.6.0 numpy==2.4.6
fi
"$env/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import ml_dtypes
import numpy as np
import torch

cases = [  # name, value a hair above the middle, the right neighbour, the other neighbour
    ("bfloat16", 1 + 2**-8 + 2**-30, 1 + 2**-7, torch.bfloat16, ml_dtypes.bfloat16, True),
    ("float16", 1 + 2**-11 + 2**-40, 1 + 2**-10, torch.float16, np.float16, False),
    ("float8_e4m3fn", 1 + 2**-4 + 2**-40, 1 + 2**-3, torch.float8_e4m3fn, ml_dtypes.float8_e4m3fn, True),
]
changed = False
for name, value, right, in_torch, in_numpy, numpy_wrong in cases:
    wide = torch.tensor([value], dtype=torch.float64)
    by_torch = wide.to(in_torch).to(torch.float64).item()
    by_numpy = float(np.array([value]).astype(in_numpy).astype(np.float64)[0])
    print(f"{name:14} right {right:<10} torch {version('torch')}: {by_torch:<6} numpy / ml_dtypes {version('ml_dtypes')}: {by_numpy}")
    changed |= by_torch != 1.0 or by_numpy != (1.0 if numpy_wrong else right)
sys.exit(int(changed))
PYTHON
