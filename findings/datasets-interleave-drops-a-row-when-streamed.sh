#!/usr/bin/env bash
# datasets' `interleave_datasets` gives other rows for the same datasets and arguments when they are streamed: without
# probabilities, `first_exhausted` ends in the middle of a round, so that the later datasets have a row less.
#
# Versions: datasets 5.2.0, pyarrow 26.0.1.
# Guess before looking: both kinds of dataset give the same rows in the same order (with probabilities and a seed they do).
# Seen: of 3 and 10 rows the map-style result has 6 rows (3 and 3), the streamed one 5 (3 and 2).
# Why it matters: proportions of a mixture that somebody else made by streaming differ from those made in memory. `dem` draws
# its mixtures itself, from prepared rows.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
fi
"$env/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

from datasets import Dataset, interleave_datasets

short = Dataset.from_dict({"row": [f"a{i}" for i in range(3)]})
long = Dataset.from_dict({"row": [f"b{i}" for i in range(10)]})


def rows(**how):
    in_memory = list(interleave_datasets([short, long], **how)["row"])
    streamed = interleave_datasets([short.to_iterable_dataset(), long.to_iterable_dataset()], **how)
    return in_memory, [item["row"] for item in streamed]


plain = rows(stopping_strategy="first_exhausted")
drawn = rows(stopping_strategy="first_exhausted", probabilities=[0.5, 0.5], seed=1)
print("datasets", version("datasets"))
print("in memory:", *plain[0])
print("streamed: ", *plain[1])
print("with probabilities the same:", drawn[0] == drawn[1])
as_seen = plain == (["a0", "b0", "a1", "b1", "a2", "b2"], ["a0", "b0", "a1", "b1", "a2"]) and drawn[0] == drawn[1]
sys.exit(not as_seen)
PYTHON
