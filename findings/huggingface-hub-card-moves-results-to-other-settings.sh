#!/usr/bin/env bash
# Two results of a model card that differ in the arguments of their dataset (0 and 5 shots), their source or their task's name are
# written under the first one's: read again, both are of 0 shots.
#
# Versions: huggingface_hub 2.4.0.
# Guess before looking: each result keeps what it was given, as results of other splits, configurations and revisions do.
# Seen: of 0.25 at `num_few_shot` 0 and 0.5 at 5, from two sources, the card says that both are of 0 shots and of the first source; in
# the other order, that both are of 5. Nothing is raised or logged.
# Promised: `dataset_args` are an attribute of a result, and `unique_identifier` names an evaluation uniquely; it leaves them out.
# Since September 2026 it is the client's issue 4975, closed; 2.4.0 still does it.
# Why it matters: a leaderboard or a reader takes a result of 5 shots for one of none. `dem` writes a task's name and its split, which
# are kept apart, and no arguments.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check huggingface_hub==2.4.0
fi
cd "$work"
HF_HUB_OFFLINE=1 "$env/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

from huggingface_hub import EvalResult, ModelCard, ModelCardData


def result(shots, value, **other):
    task = {"task_type": "text-generation", "dataset_type": "arc", "dataset_name": "ARC", "metric_type": "acc"}
    source = {"source_name": f"run{shots}", "source_url": f"https://example.org/run{shots}"}
    return EvalResult(**task, **source, dataset_args={"num_few_shot": shots}, metric_value=value, **other)


def read_again(*results):
    """Write the results into a card, and read value, shots and source from its text."""
    data = ModelCardData(model_name="tiny", eval_results=list(results))
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n")
    return [(r.metric_value, r.dataset_args["num_few_shot"], r.source_name) for r in card.data.eval_results]


print("huggingface_hub", version("huggingface_hub"))
forth = read_again(result(0, 0.25), result(5, 0.5))
back = read_again(result(5, 0.5), result(0, 0.25))
apart = read_again(result(0, 0.25, dataset_split="test"), result(5, 0.5, dataset_split="validation"))
print("0 shots first:", forth)
print("5 shots first:", back)
print("with splits:  ", apart)
as_seen = forth == [(0.25, 0, "run0"), (0.5, 0, "run0")] and back == [(0.5, 5, "run5"), (0.25, 5, "run5")]
sys.exit(not (as_seen and apart == [(0.25, 0, "run0"), (0.5, 5, "run5")]))
PYTHON
