#!/usr/bin/env bash
# `dvc repro --dry` says that a stage is cached and skipped whose dependency has changed; `dvc repro` then runs it.
#
# Version: dvc 3.67.1.
# Guess before looking: a dry run names the stages that would run, and "is cached" is said where the run cache has a result of the
# same command and the same dependencies.
# Seen: after any edit of a dependency, to content that was never there, the dry run prints both, "Stage 'train' is cached - skipping
# run, checking out outputs" and "Running stage 'train'". The run prints the second alone. In dvc/stage/cache.py a dry run leaves out
# to take the dependencies' digests anew before it asks the run cache: it asks for those of the last run, which are there.
# Why it matters: a plan that looks a result up has to look under the key that a run would. docs/coming-from.md sets `dem plan` beside it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check dvc==3.67.1
fi
dvc() { DVC_NO_ANALYTICS=1 "$env/bin/python" -m dvc "$@"; }
export HOME="$work"
mkdir "$work/project"
cd "$work/project"
git init --quiet
dvc init --quiet
echo one > data
cat > dvc.yaml <<'YAML'
stages:
  train:
    cmd: sha256sum data > vector
    deps: [data]
    outs: [vector]
YAML
dvc repro > "$work/log" 2>&1
before=$(cat vector)
echo two > data
echo "dvc $(dvc --version)"
echo "--- dvc repro --dry, after an edit of its dependency:"
dvc repro --dry 2>&1 | tee "$work/dry"
echo "--- dvc repro:"
dvc repro 2>&1 | tee "$work/run"
[ "$before" != "$(cat vector)" ]   # it was no result of before
grep --quiet "Stage 'train' is cached - skipping run" "$work/dry"
grep --quiet "Running stage 'train'" "$work/run"
if grep --quiet "is cached" "$work/run"; then exit 1; fi
echo "as described: the dry run calls cached what then runs"
