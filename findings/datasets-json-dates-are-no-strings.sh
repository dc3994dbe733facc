#!/usr/bin/env bash
# A column of a JSON file whose strings all look like dates is no column of strings for datasets: its answers reach a template as
# another text than that of the file, and one row that is no date turns all of them back.
#
# Versions: datasets 5.2.0, pyarrow 26.0.1, jinja2 3.1.6.
# Guess before looking: JSON has no dates, so a quoted value stays the string that it is.
# Seen: "1066-10-14" becomes timestamp[s], and a Jinja template (as lm-eval and chat templates are) writes "1066-10-14 00:00:00"; of
# "2024-01-02T03:04:05+02:00" the zone is lost and the clock moved to 01:04:05. With one more row, "unknown", both stay strings.
# Whole numbers of 2**63 and more become floats the same way: 9223372036854775809 is read as 9.223372036854775808e18.
# Promised: nothing; the guide to loading JSON says that features are inferred, and that `features=` may be given.
# Why it matters: a question whose answer is a date is scored against a text that no model writes, and a model trained on it learns
# the clock. `dem` reads JSON itself, as the text that it is; in a task of lm-eval, give `features` in `dataset_kwargs`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 jinja2==3.1.6
fi
cd "$work"
HF_HOME=$work/home HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$env/bin/python" -W ignore - <<'PYTHON'
import json
import sys
from importlib.metadata import version
from pathlib import Path

import jinja2
from datasets import disable_progress_bars, load_dataset

disable_progress_bars()
TEMPLATE = jinja2.Template("The answer is {{ answer }}.")


def written(name, *answers):
    """Return what a template writes of the answers, read from a file of JSON lines."""
    path = Path(f"{name}.jsonl")
    path.write_text("".join(json.dumps({"answer": answer}) + "\n" for answer in answers))
    read = load_dataset("json", data_files=str(path), split="train")
    print(f"{name:12} {read.features['answer'].dtype:14}", texts := [TEMPLATE.render(answer=a) for a in read["answer"]])
    return texts


print("datasets", version("datasets"), "pyarrow", version("pyarrow"))
dates = written("dates", "1066-10-14", "1969-07-20")
zones = written("zones", "2024-01-02T03:04:05+02:00")
mixed = written("mixed", "1066-10-14", "1969-07-20", "unknown")
large = written("large", 2**63 + 1)
as_seen = dates == ["The answer is 1066-10-14 00:00:00.", "The answer is 1969-07-20 00:00:00."]
as_seen &= zones == ["The answer is 2024-01-02 01:04:05."] and mixed[0] == "The answer is 1066-10-14."
as_seen &= large == ["The answer is 9.223372036854776e+18."]
sys.exit(not as_seen)
PYTHON
