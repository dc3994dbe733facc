#!/usr/bin/env bash
# lm-eval's `coqa`, and seven more families of its tasks, import `transformers.data.metrics.squad_metrics`, which transformers 5 no
# longer has: they fail when they are run, and lm-eval's metadata allow both together.
#
# Versions: lm-eval 0.4.13, transformers 5.23.0.
# Guess before looking: a task of lm-eval runs with each transformers that lm-eval's own metadata allow.
# Seen: ModuleNotFoundError: No module named 'transformers.data.metrics', at the first document, after the model was loaded.
# Why it matters: an evaluation comes after the trainings. `recipes/paper/` names CoQA for HELM's dialogue, so it has a task file
# of its own (`tasks/coqa.yaml`).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps lm-eval==0.4.13 transformers==5.23.0
fi
"$env/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import files, requires, version

has = {name: {str(f) for f in files(name)} for name in ("transformers", "lm-eval")}
allowed = [r for r in requires("lm-eval") if r.startswith("transformers")]
print("transformers", version("transformers"), "lm-eval", version("lm-eval"), "which asks for", allowed)
there = "transformers/data/metrics/squad_metrics.py" in has["transformers"]
tasks = [f for f in files("lm-eval") if f.name.endswith(".py") and "transformers.data.metrics" in f.read_text()]
print("transformers.data.metrics.squad_metrics is there:", there)
for task in sorted(map(str, tasks)):
    print("imports it:", task)
sys.exit(int(there or not tasks))
PYTHON
