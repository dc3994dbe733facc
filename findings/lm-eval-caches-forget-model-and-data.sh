#!/usr/bin/env bash
# Both caches of lm-eval answer for something else: `use_cache` gives a second model the first one's answers, and `cache_requests`
# asks a task's old questions after its data file has changed, and scores what it hears by the new ones.
#
# Versions: lm-eval 0.4.13, datasets 5.2.0.
# Guess before looking: the first keeps models apart, the second tasks whose data, or whose hash, differ.
# Seen: after a model that is always right, one that is always wrong has an accuracy of 1.0 with the same `use_cache`, and is asked
# nothing. After the file of 8 questions was replaced by 8 others, a model that knows the answers has 0.0 with `cache_requests`, and the
# samples that are logged show each new question beside the prompt of an old one.
# Promised: for one, that a (model, task) pair need not be run again; for the other, that building requests is faster. That neither
# knows the model is lm-eval's issue 2715; nothing says that data may change.
# Why it matters: a table of models in which two are equal, or a benchmark that got worse by editing it. `dem` uses neither: its own
# records are keyed by model, task, data and settings.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check lm-eval==0.4.13 datasets==5.2.0
fi
cd "$work"
export HF_HOME=$work/home LM_HARNESS_CACHE_PATH=$work/requests HF_HUB_OFFLINE=1 TQDM_DISABLE=1
cat > toy.yaml <<YAML
task: toy
dataset_path: json
dataset_kwargs: {data_files: {test: $work/data.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{metric: acc}]
YAML
"$env/bin/python" -W ignore - 2> "$work/log" <<'PYTHON' || { tail -n 5 "$work/log"; exit 1; }
import json
import sys
from importlib.metadata import version
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager


class Model(LM):
    """Finds the sum likely, or unlikely; counts what it is asked."""

    tokenizer_name = "none"

    def __init__(self, right):
        super().__init__()
        self.right, self.asked = right, 0

    def loglikelihood(self, requests):
        self.asked += len(requests)
        said = [sum(map(int, q.split("+"))) == int(a) for q, a in (request.args for request in requests)]
        return [(-1.0 if is_sum == self.right else -9.0, False) for is_sum in said]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError

    def generate_until(self, requests):
        raise NotImplementedError


def write(*pairs, gold):
    """Write sums as the task's data; of two choices the right one is at the place `gold`."""
    rows = [{"question": f"{a}+{b}", "choices": [str(a + b + abs(i - gold)) for i in (0, 1)], "gold": gold} for a, b in pairs]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def accuracy(model, **caching):
    tasks = TaskManager(include_path=".", include_defaults=False)
    found = simple_evaluate(model=model, tasks=["toy"], task_manager=tasks, bootstrap_iters=0, log_samples=True, **caching)
    return found["results"]["toy"]["acc,none"], found["samples"]["toy"]


print("lm-eval", version("lm-eval"), "datasets", version("datasets"))
write(*((i, i) for i in range(8)), gold=0)
right, wrong = Model(True), Model(False)
uncached = accuracy(right)[0], accuracy(wrong)[0]
right.asked = wrong.asked = 0
shared = accuracy(right, use_cache="answers")[0], accuracy(wrong, use_cache="answers")[0]
print("without a cache: right", uncached[0], "wrong", uncached[1])
print("with use_cache:  right", shared[0], "wrong", shared[1], f"(asked {right.asked} and {wrong.asked} questions)")

accuracy(right, cache_requests=True)
write(*((i, 40 + i) for i in range(8)), gold=1)
fresh, stale = accuracy(right)[0], accuracy(right, cache_requests=True)
pairs = [(sample["doc"]["question"], sample["arguments"][0][0]) for sample in stale[1]]
print("new data: without a cache", fresh, "with cache_requests", stale[0], "question and prompt of the first sample:", *pairs[0])
as_seen = uncached == (1.0, 0.0) and shared == (1.0, 1.0) and wrong.asked == 0
as_seen &= fresh == 1.0 and stale[0] == 0.0 and all(question != prompt for question, prompt in pairs)
sys.exit(not as_seen)
PYTHON
