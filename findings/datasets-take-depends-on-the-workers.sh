#!/usr/bin/env bash
# The first n rows of a streamed dataset, `take(n)`, are other rows when a DataLoader has workers, and `skip(n)` moves with them:
# a held-out set by take and skip overlaps the training rows as soon as the two loaders differ in their workers.
#
# Versions: datasets 5.2.0, torch 2.13.0 (CPU).
# Guess before looking: take(n) has the same rows for any number of workers, as it says "only the first `n` elements"; only their
# order changes.
# Seen, of 20 rows in 4 shards: take(6) is 0 to 5 without workers, and 0, 1, 2, 5, 6, 7 or the like with 2: each worker takes its
# part of n of its own shards. With a held-out loader without workers and a training loader with 2, rows are in both and others in
# neither. Nothing is logged.
# Promised: the documentation of streaming splits a dataset into train and validation by skip and take, and does not name workers.
# Why it matters: what is held out depends on a setting that people change for speed, and a loss on rows that were trained on looks
# too good. `dem` draws held-out rows by the digest of their text, before any loader.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 datasets==5.2.0
fi
cd "$work"
cat > try.py <<'PYTHON'
import sys
from importlib.metadata import version

from datasets import Dataset
from torch.utils.data import DataLoader


def rows(dataset, workers):
    return sorted(int(n) for batch in DataLoader(dataset, num_workers=workers) for n in batch["row"])


if __name__ == "__main__":
    stream = Dataset.from_dict({"row": list(range(20))}).to_iterable_dataset(num_shards=4)
    held = {workers: rows(stream.take(6), workers) for workers in (0, 2)}
    trained = {workers: rows(stream.skip(6), workers) for workers in (0, 2)}
    both = sorted({*held[0]} & {*trained[2]})
    neither = sorted({*range(20)} - {*held[0]} - {*trained[2]})
    print("datasets", version("datasets"))
    for workers in (0, 2):
        print(f"{workers} workers: take(6) {held[workers]}  skip(6) {trained[workers]}")
    print("held out by 0 workers, trained by 2: in both", both, "in neither", neither)
    as_seen = held[0] == [0, 1, 2, 3, 4, 5] and held[2] != held[0] and both and neither
    sys.exit(not as_seen)
PYTHON
"$env/bin/python" -W ignore try.py
