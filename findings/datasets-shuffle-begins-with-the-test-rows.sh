#!/usr/bin/env bash
# The first rows of datasets' `shuffle(seed=s)` are the test rows of `train_test_split(seed=s)`, in the same order: a subset drawn with
# the seed of the split is a subset of the test set.
#
# Versions: datasets 5.2.0, pyarrow 26.0.1.
# Guess before looking: `ds.shuffle(seed=42).select(range(1000))` of 10,000 rows has about 100 of the 1,000 rows that
# `ds.train_test_split(test_size=1000, seed=42)` holds out, as with another seed.
# Seen: all 1,000, in the same order; of a split of 200 rows all 200, of one of 3,000 the first 1,000. With seed 43: 98.
# Both draw `default_rng(seed).permutation(rows)`; `shuffle` keeps it all, the split takes its test rows from its front. Their
# docstrings do not say so. We found no report.
# Why it matters: a smaller training set for a first try, or rows to calibrate on, drawn from the whole with the seed that everybody uses,
# are rows of the test set, all of them where it is as large. `dem` puts a row on its side by a hash of its prompt, and no seed decides.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
fi
cd "$work"
HF_HOME=$work/home HF_HUB_OFFLINE=1 "$env/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

from datasets import Dataset

rows = Dataset.from_dict({"row": list(range(10_000))})
print("datasets", version("datasets"))
overlaps = {}
for seed, held_out in ((42, 1000), (42, 200), (42, 3000), (7, 1000), (43, 1000)):
    test = rows.train_test_split(test_size=held_out, seed=42 if seed == 43 else seed)["test"]["row"][:]
    subset = rows.shuffle(seed=seed).select(range(1000))["row"][:]
    overlaps[seed, held_out] = common = len(set(subset) & set(test))
    both = min(len(subset), len(test))
    in_order = subset[:both] == test[:both]
    print(f"subset of 1000 by seed {seed}, {held_out:4} test rows by seed {42 if seed == 43 else seed:2}:", common, "in both, same order:", in_order)
whole = all(overlaps[seed, size] == min(1000, size) for seed, size in ((42, 1000), (42, 200), (42, 3000), (7, 1000)))
sys.exit(not (whole and overlaps[43, 1000] < 150))
PYTHON
