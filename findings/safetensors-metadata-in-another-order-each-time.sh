#!/usr/bin/env bash
# Of the same tensors with the same metadata safetensors writes other bytes each time, as soon as there are two keys of metadata.
#
# Versions: safetensors 0.8.0, numpy 2.4.6.
# Guess before looking: the same file, byte for byte; tensors are sorted by the library on purpose, so that a digest names a model.
# Seen: of 16 files written by 8 processes all are the same with one key, and nearly all differ with six, two of one process too.
# Promised: nothing; the format's page calls metadata a map of strings. What users saw is safetensors' issue 584.
# Why it matters: a cache, a lock file or a hub that goes by content takes a model that was saved again for a new one. `dem` writes
# the files that have a digest itself, with keys in order.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
fi
cd "$work"
cat > save.py <<'PYTHON'
import hashlib
import sys

import numpy as np
from safetensors.numpy import save

metadata = {"format": "pt"} | {f"key{i}": "x" for i in range(int(sys.argv[1]) - 1)}
for _ in range(2):
    print(hashlib.sha256(save({"w": np.zeros((2, 2), np.float32), "v": np.ones(3, np.float32)}, metadata)).hexdigest())
PYTHON
one=$(for _ in {1..8}; do "$env/bin/python" save.py 1; done | sort -u | wc -l)
six=$(for _ in {1..8}; do "$env/bin/python" save.py 6; done | sort -u | wc -l)
echo "safetensors $("$env/bin/python" -c 'from importlib.metadata import version; print(version("safetensors"))')," \
  "16 files in 8 processes: $one digest with one key of metadata, $six digests with six"
[ "$one" -eq 1 ] && [ "$six" -gt 1 ]
