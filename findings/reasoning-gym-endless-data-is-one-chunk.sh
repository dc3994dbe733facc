#!/usr/bin/env bash
# reasoning-gym's `ReseedingDataset`, which makes a task endless, gives one new puzzle a chunk: 10,000 rows are 519 puzzles. For the same
# reason a test set made with the next seed is the training set, shifted by one.
#
# Versions: reasoning-gym 0.1.25.
# Guess before looking: a chunk with a seed of its own has other puzzles than the chunk before it, and so has a dataset of seed 43 beside one of 42;
# equal ones by chance alone, as between far seeds.
# Seen of leg_counting, in chunks of 500: 10,000 rows have 519 different questions, of seeds 42 + 0 to 42 + 518. Of 1,000 rows of seed 43, 999 are
# among 1,000 of seed 42, and 942 of those of seed 100; of seed 1,000,042 none. A composite of two tasks: 199 of 200.
# Example i of seed s is made with the random seed s + i, and the next chunk has the seed s + 1. So it was, in a try with 12 rows each that is not
# repeated below, in 93 of 98 families; not in acre, codeio, gsm_symbolic, knight_swap and list_functions. We found no report.
# Why it matters: RL on "infinite" puzzles trains on a few hundred, each seen hundreds of times, and a held-out set by the next seed, or by
# any that is nearer than the rows are many, measures what was learnt by heart. `dem` makes its demo's puzzles with seeds a million apart.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check reasoning-gym==0.1.25
fi
cd "$work"
"$env/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version
from itertools import islice

import reasoning_gym
from reasoning_gym.composite import DatasetSpec
from reasoning_gym.dataset import ReseedingDataset


def questions(name, seed, size=1000, **config):
    return [row["question"] for row in reasoning_gym.create_dataset(name, seed=seed, size=size, **config)]


print("reasoning-gym", version("reasoning-gym"))
task = reasoning_gym.create_dataset("leg_counting", seed=42, size=500)
endless = [row["question"] for row in islice(ReseedingDataset(task, chunk_size=500), 10_000)]
print("endless, in chunks of 500:", len(endless), "rows,", len(set(endless)), "different questions")
longer = questions("leg_counting", 42, 519)
as_seen = set(endless) == set(longer) and len(set(longer)) == 519
as_seen &= len(set(questions("leg_counting", 42, 10_000))) > 9_000
print("one dataset of 10,000 rows:", len(set(questions("leg_counting", 42, 10_000))), "different questions")

trained = questions("leg_counting", 42)
common = {seed: sum(question in set(trained) for question in questions("leg_counting", seed)) for seed in (43, 100, 1_000_042)}
print("of 1,000 rows, in 1,000 of seed 42:", *(f"{rows} of seed {seed}" for seed, rows in common.items()))
as_seen &= questions("leg_counting", 43)[:-1] == trained[1:] and common[100] >= 942 and common[1_000_042] < 20

both = [DatasetSpec(name=name, weight=1, config={}) for name in ("leg_counting", "family_relationships")]
mixed, following = (questions("composite", seed, 200, datasets=both) for seed in (42, 43))
shared = sum(question in set(mixed) for question in following)
print("of 200 rows of a composite:", shared)
sys.exit(not (as_seen and shared >= 199))
PYTHON
