#!/usr/bin/env bash
# Of documents that are picked by number (`--samples`, `samples={task: [2, 0]}`), lm-eval names each result by the list's
# order and asks in the data's: of a list that is not sorted, a logged sample has one document and another one's `doc_id`.
# And a document that is picked alone is asked with other few-shot examples than among all.
#
# Versions: lm_eval 0.4.13, datasets 5.2.0.
# Guess before looking: none; its source was read first. One would expect that item 17 alone is
# item 17 of the whole evaluation, prompt and number.
# Seen: with [2, 0] the sample called 2 holds document 0, and the one called 0 document 2; with one example a prompt, the
# prompt of document 2 alone is another one than when all were asked, as it gets the first draw of the generator.
# Why it matters: whoever asks one item again, to see why a model fails on it, asks something else. `dem blame` writes the
# prompts of all documents before it, and answers its own alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check lm_eval==0.4.13 datasets==5.2.0
fi
cd "$work"
cat >ask.py <<'PYTHON'
import sys
from importlib.metadata import version

from datasets import Dataset
from lm_eval import simple_evaluate
from lm_eval.api.task import ConfigurableTask


def asked(shots, picked):
    documents = Dataset.from_dict({"number": list(range(8))})
    task = ConfigurableTask(
        config={
            "task": "numbers",
            "custom_dataset": lambda **_: {"test": documents, "train": documents},
            "test_split": "test",
            "fewshot_split": "train",
            "num_fewshot": shots,
            "output_type": "multiple_choice",
            "doc_to_text": "Which number? {{number}}",
            "doc_to_choice": [str(n) for n in range(8)],
            "doc_to_target": "number",
        }
    )
    more = {} if picked is None else {"samples": {"numbers": picked}}
    found = simple_evaluate(model="dummy", tasks=[task], log_samples=True, bootstrap_iters=0, **more)
    return {s["doc_id"]: (s["doc"]["number"], s["arguments"]) for s in found["samples"]["numbers"]}


picked = {number: of for number, (of, _) in asked(0, [2, 0]).items()}
print("lm_eval", version("lm_eval"), "datasets", version("datasets"))
print("of samples [2, 0], doc_id → the document's own number:", picked)
alone, among = (asked(1, which)[2][1] for which in ([2], None))
print("document 2 with one example, alone and among all: the same prompt:", alone == among)
sys.exit(not (picked == {2: 0, 0: 2} and alone != among))
PYTHON
export TQDM_DISABLE=1 HF_HUB_OFFLINE=1
"$env/bin/python" ask.py 2>log || { cat log >&2; exit 1; }
