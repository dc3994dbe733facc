#!/usr/bin/env bash
# A column of a JSON file whose strings all look like dates is read by datasets as times: its answers reach a template as another text
# than that of the file, also where `features` asks for strings; and one row that is no date turns all of them back.
#
# Versions: datasets 5.2.0, pyarrow 26.0.1, jinja2 3.1.6.
# Guess before looking: JSON has no dates, so a quoted value stays the string that it is; with `features` of strings in any case.
# Seen: "1066-10-14" becomes timestamp[s], and a Jinja template (as lm-eval and chat templates are) writes "1066-10-14 00:00:00"; so it
# does with `features=Features({"answer": Value("string")})`, where the time is written as text. The same in turns of a conversation. Of
# "2024-01-02T03:04:05+02:00" the zone is lost and the clock moved to 01:04:05. With one more row, "unknown", all stay strings, as they
# do in CSV.
# Promised: that features are inferred, and that `features=` says what they are.
# Why it matters: a question whose answer is a date is scored against a text that no model writes, and a model trained on it learns
# the clock. `dem` reads JSON of datasets itself, as the text that it is; lm-eval reads the data of a task by datasets, so that dates of
# a task of one's own belong into CSV or Parquet.
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
from datasets import Features, Value, disable_progress_bars, load_dataset

disable_progress_bars()
TEMPLATE = jinja2.Template("The answer is {{ answer }}.")


def written(name, *rows, **how):
    """Return what a template writes of the rows' answers, read from a file of JSON lines."""
    path = Path(f"{name}.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = load_dataset("json", data_files=str(path), split="train", **how)
    texts = [TEMPLATE.render(answer=row["answer"] if "answer" in row else row["messages"][-1]["content"]) for row in read]
    print(f"{name:15}", texts)
    return texts


print("datasets", version("datasets"), "pyarrow", version("pyarrow"))
DATES = {"answer": "1066-10-14"}, {"answer": "1969-07-20"}
CLOCKS = ["The answer is 1066-10-14 00:00:00.", "The answer is 1969-07-20 00:00:00."]
as_seen = written("dates", *DATES) == CLOCKS
as_seen &= written("asked as string", *DATES, features=Features({"answer": Value("string")})) == CLOCKS
as_seen &= written("turns", {"messages": [{"role": "assistant", "content": "1066-10-14"}]}) == CLOCKS[:1]
as_seen &= written("zones", {"answer": "2024-01-02T03:04:05+02:00"}) == ["The answer is 2024-01-02 01:04:05."]
as_seen &= written("mixed", *DATES, {"answer": "unknown"})[0] == "The answer is 1066-10-14."
sys.exit(not as_seen)
PYTHON
