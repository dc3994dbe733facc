#!/usr/bin/env bash
# torch turns an infinity into 448 as it casts to `float8_e4m3fn`, and every overflow with it; to its three other float8 formats it does not.
#
# Versions: torch 2.13.0 (CPU), ml_dtypes 0.6.0.
# Guess before looking: NaN, what the format has for what it cannot hold, as ml_dtypes casts, and as `float8_e4m3fnuz` does.
# Seen: 500, 1e9 and infinity all become 448, and NaN stays NaN. `float8_e5m2` makes infinity of what is too large, `float8_e4m3fnuz`
# and `float8_e5m2fnuz` make NaN of it; ml_dtypes makes NaN of it in `float8_e4m3fn`.
# Promised: that finite overflow saturates was meant (pytorch/pytorch#178817); of infinity it does not speak.
# Why it matters: `isfinite` after the cast says yes of weights that overflowed long before, so a check of a quantised checkpoint has to come
# ahead of the cast, and one tensor quantised by torch and by ml_dtypes (as exporters by way of numpy do) is two.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 ml_dtypes==0.6.0 numpy
fi
cd "$work"
"$env/bin/python" -W ignore - 2> "$work/log" <<'PYTHON' || { tail -n 5 "$work/log"; exit 1; }
import sys
from importlib.metadata import version

import ml_dtypes
import numpy
import torch

values = torch.tensor([448.0, 500.0, 1e9, float("inf"), float("nan")])
print("torch", version("torch"), "ml_dtypes", version("ml_dtypes"))
print(f"{'':26}", values.tolist())
seen = {}
for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"):
    seen["torch", name] = values.to(getattr(torch, name)).float().tolist()
    seen["ml_dtypes", name] = values.numpy().astype(getattr(ml_dtypes, name)).astype(numpy.float32).tolist()
    for library in ("torch", "ml_dtypes"):
        print(f"{library:9} {name:16}", seen[library, name])
nan, inf = float("nan"), float("inf")
wanted = {
    ("torch", "float8_e4m3fn"): [448.0, 448.0, 448.0, 448.0, nan],
    ("ml_dtypes", "float8_e4m3fn"): [448.0, nan, nan, nan, nan],
    ("torch", "float8_e5m2"): [448.0, 512.0, inf, inf, nan],
    ("torch", "float8_e4m3fnuz"): [nan] * 5,
    ("torch", "float8_e5m2fnuz"): [448.0, 512.0, nan, nan, nan],
}
sys.exit(any(str(seen[key]) != str(found) for key, found in wanted.items()))
PYTHON
