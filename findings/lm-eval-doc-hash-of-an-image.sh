#!/usr/bin/env bash
# lm-eval's `doc_hash` of a document with an image is another one in each run, and so is the task's hash in the results:
# what the JSON encoder does not know is hashed as `str()`, and an image's text holds its address in memory.
#
# Versions: lm_eval 0.4.13, datasets 5.2.0, pillow 13.0.0.
# Guess before reading its source: a hash of the document is a hash of its content, equal wherever the same data are evaluated.
# Seen: of three documents, whose text alone is asked for, all three hashes differ between two runs; without the image
# column they are equal, and the metric is equal in both.
# Why it matters: runs are paired by `doc_hash` where rows were added or taken away, and "the same data" is read off
# `task_hashes`. `dem` records what it pairs by, and pairs by position while the pinned data are the same.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check lm_eval==0.4.13 datasets==5.2.0 pillow==13.0.0
fi
cd "$work"
cat >task.py <<'PYTHON'
import json
import sys

from datasets import load_from_disk
from lm_eval import simple_evaluate
from lm_eval.api.task import ConfigurableTask

folder = sys.argv[1]
task = ConfigurableTask(
    config={
        "task": "colours",
        "custom_dataset": lambda **_: {"test": load_from_disk(folder)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Which number? {{number}}",
        "doc_to_choice": ["0", "1", "2"],
        "doc_to_target": "number",
    }
)
found = simple_evaluate(model="dummy", tasks=[task], log_samples=True, random_seed=1, bootstrap_iters=0)
print(json.dumps([sample["doc_hash"] for sample in found["samples"]["colours"]]))
PYTHON
cat >data.py <<'PYTHON'
from datasets import Dataset
from PIL import Image

pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
Dataset.from_dict({"number": [0, 1, 2]}).save_to_disk("text")
Dataset.from_dict({"number": [0, 1, 2], "image": pictures}).save_to_disk("image")
PYTHON
export TQDM_DISABLE=1 HF_HUB_OFFLINE=1
"$env/bin/python" data.py
run() { "$env/bin/python" task.py "$1" 2>>log | tail -n 1; }
text=$(run text) text_again=$(run text)
image=$(run image) image_again=$(run image)
"$env/bin/python" - "$text" "$text_again" "$image" "$image_again" <<'PYTHON'
import json
import sys
from importlib.metadata import version

text, text_again, image, image_again = map(json.loads, sys.argv[1:])
print("lm_eval", version("lm_eval"), "datasets", version("datasets"), "pillow", version("pillow"))
print("text alone, equal hashes in two runs:", sum(a == b for a, b in zip(text, text_again)), "of", len(text))
print("with an image, equal hashes in two runs:", sum(a == b for a, b in zip(image, image_again)), "of", len(image))
print("one document:", image[0][:16], "and", image_again[0][:16])
sys.exit(not (len(text) == len(image) == 3 and text == text_again and not {*image} & {*image_again}))
PYTHON
